"""Which torch the script installs for the tests: real pip, with a folder of tiny wheels in place of a package index."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CPU, PLAIN = "2.13.0+cpu", "2.13.0"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the index has the CPU build itself")


def wheel(folder: Path, name: str, version: str) -> str:
    """Write a wheel of one empty module and return its hex digest."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    papers = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(f"{papers}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{papers}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{papers}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Checkout:
    """A folder with the script, an environment that has pip, and two indexes: one offers the CPU build as well."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        for name in ("scripts", "requirements"):
            (folder / name).mkdir()
        shutil.copy(root / "scripts" / "environment.sh", folder / "scripts")
        self.plain, self.rich = folder / "plain", folder / "rich"
        digests = {name: wheel(self.plain, name, PLAIN) for name in ("torch", "helper", "cuda")}
        shutil.copytree(self.plain, self.rich)
        wheel(self.rich, "torch", CPU)
        for file, names in (("dev", ""), ("torch", "helper"), ("torch-index", "torch helper cuda")):
            lines = [f"{name}=={PLAIN} --hash=sha256:{digests[name]}\n" for name in names.split()]
            (folder / "requirements" / f"{file}.txt").write_text("".join(lines))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True, timeout=60)
        (self.site,) = (folder / ".venv" / "lib").glob("python3.*/site-packages")
        pip = importlib.util.find_spec("pip")
        assert pip is not None
        assert pip.origin is not None
        (self.site / "pip").symlink_to(Path(pip.origin).parent)
        digest = hashlib.sha256((folder / "requirements" / "dev.txt").read_bytes()).hexdigest()
        (folder / ".venv" / "made-from-dev").write_text(f"{digest}  -\n")

    def make(self, index: Path, wanted: str = "no", path: Path | None = None, **environ: str) -> tuple[int, str]:
        """Make the environment and return the status and what was said."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "CI", "PYTHON"))}
        clean |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)} | environ
        if path is not None:
            clean["PATH"] = f"{path}:{clean['PATH']}"
        command = f". scripts/environment.sh; WITH_TORCH={wanted}; make_environment dev"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder, env=clean, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    def installed(self) -> list[str]:
        """Return what pip installed."""
        return sorted(path.name.removesuffix(".dist-info") for path in self.site.glob("*.dist-info"))


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Checkout:
    return Checkout(root, tmp_path)


@pytest.mark.parametrize("wanted", ["no", "yes"])
def test_the_cpu_build_is_installed_where_pip_finds_it(checkout: Checkout, wanted: str) -> None:
    assert checkout.make(checkout.rich, wanted) == (0, "installing torch for the CPU into .venv (once)\n")
    assert checkout.installed() == [f"helper-{PLAIN}", f"torch-{CPU}"]
    assert checkout.make(checkout.folder / "none", wanted) == (0, "")


@pytest.mark.parametrize(("wanted", "environ"), [("yes", {}), ("no", {"CI": "true"})], ids=["--torch", "CI"])
def test_the_build_of_the_index_is_installed_where_it_is_asked_for(
    checkout: Checkout, wanted: str, environ: dict[str, str]
) -> None:
    assert checkout.make(checkout.plain, wanted, **environ) == (
        0,
        "installing torch as the package index has it into .venv (once): 4.7 GB on disk, a minute on a fast line\n",
    )
    assert checkout.installed() == [f"cuda-{PLAIN}", f"helper-{PLAIN}", f"torch-{PLAIN}"]
    assert not (checkout.folder / ".venv" / "tmp").exists()
    assert checkout.make(checkout.folder / "none", wanted, **environ) == (0, "")


def test_elsewhere_nothing_is_installed_and_the_index_is_asked_once(checkout: Checkout) -> None:
    assert checkout.make(checkout.plain) == (0, "")
    assert checkout.installed() == []
    assert checkout.make(checkout.rich) == (0, "")
    assert checkout.installed() == []
    assert checkout.make(checkout.plain, "yes")[0] == 0
    assert f"torch-{PLAIN}" in checkout.installed()


def test_other_pins_are_installed_over_the_older_ones(checkout: Checkout) -> None:
    assert checkout.make(checkout.rich)[0] == 0
    older = (checkout.site / f"torch-{CPU}.dist-info").rename(checkout.site / "torch-2.12.0+cpu.dist-info")
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.12.0+cpu\n")
    assert checkout.make(checkout.rich) == (0, "")
    with (checkout.folder / "requirements" / "torch-index.txt").open("a") as file:
        file.write("# changed\n")
    assert checkout.make(checkout.rich) == (0, "installing torch for the CPU into .venv (once)\n")
    assert f"torch-{CPU}" in checkout.installed()


def test_a_torch_of_somebodys_own_stays(checkout: Checkout) -> None:
    (checkout.site / "torch").mkdir()
    (checkout.site / "torch" / "__init__.py").touch()
    assert checkout.make(checkout.rich, "yes") == (0, "")
    assert checkout.installed() == []


def test_a_torch_that_was_deleted_is_installed_again_when_it_is_asked_for(checkout: Checkout) -> None:
    assert checkout.make(checkout.plain, "yes")[0] == 0
    for name in ("torch", f"torch-{PLAIN}.dist-info"):
        shutil.rmtree(checkout.site / name)
    assert checkout.make(checkout.plain) == (0, "")
    assert checkout.installed() == [f"cuda-{PLAIN}", f"helper-{PLAIN}"]
    assert checkout.make(checkout.plain, "yes")[0] == 0
    assert f"torch-{PLAIN}" in checkout.installed()


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(checkout: Checkout, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (small / "df").write_text("#!/bin/sh\necho Filesystem\necho /dev/disk 9000000 4000000 5000000 45% /\n")
    (small / "df").chmod(0o755)
    assert checkout.make(checkout.plain, "yes", small) == (
        1,
        "bash: torch needs 8 GB while it is installed, and the disk of .venv has 5 GB free; free some, or point pip's "
        "find-links at the CPU build of torch 2.13.0; then run this again\n",
    )
    assert checkout.installed() == []
    assert not (checkout.folder / ".venv" / "torch").exists()


def test_a_torch_that_cannot_be_fetched_is_told_and_tried_again(checkout: Checkout) -> None:
    status, said = checkout.make(checkout.folder / "none", "yes")
    assert (status, said.splitlines()[-1]) == (
        1,
        "bash: pip could not install requirements/torch-index.txt; is the package index reachable? Then run this again",
    )
    assert checkout.make(checkout.plain, "yes")[0] == 0
    assert f"torch-{PLAIN}" in checkout.installed()


def test_the_version_of_the_script_is_the_one_that_is_pinned(root: Path) -> None:
    script = (root / "scripts" / "environment.sh").read_text()
    assert f"\nTORCH_VERSION={PLAIN}\n" in script
    for name in ("torch-index.in", "torch-index.txt"):
        assert f"\ntorch=={PLAIN}" in (root / "requirements" / name).read_text()
