"""What happens where the Python is too old or a package is missing: one plain line and a status, in every program."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from training import needs
from training.fleet.single_file import INSTALLER, JOBS, WORKER, build

ROOT = Path(__file__).resolve().parents[2]
LAB = "data/lab"
BUNDLE = ("--bundle", "none", "--data", "none.csv")

PROGRAMS: dict[str, tuple[str, ...] | None] = {
    "bench": ("--quick", "pairs"),
    "bench.against": None,
    "bench.boosting": (),
    "bench.grouped": ("0", "none"),
    "bench.inhaler": ("0", "none", "hash"),
    "bench.load": None,
    "bench.naive": ("0", "none"),
    "bench.preparing": (),
    "bench.stepping": (),
    "tools/build_worker.py": None,
    "tools/cis490_jobs.py": None,
    "tools/demo.py": (),
    "tools/record_telemetry.py": ("--out", "none"),
    "tools.telemetry.host": None,
    "tools.telemetry.switch": None,
    "training.fleet.cli": None,
    "training.fleet.manifest": None,
    "training.fleet.receiver": (),
    "training.fleet.worker": None,
    "training.trainer.accuracy": ("--data", LAB),
    "training.trainer.datasets": ("import", "smd", "none", "none"),
    "training.trainer.evaluate": BUNDLE,
    "training.trainer.export": ("--bundle", "none", "--out", "none.onnx"),
    "training.trainer.predict": BUNDLE,
    "training.trainer.run": ("--job", "JOB", "--out", "OUT"),
    "training.trainer.train": ("gbt", "--data", LAB, "--out", "OUT"),
    "training.trainer.unpack": None,
    "training/trainer/evaluate.py": BUNDLE,
    "training/trainer/export.py": ("--bundle", "none", "--out", "none.onnx"),
    "training/trainer/predict.py": BUNDLE,
    "training/trainer/run.py": ("--job", "JOB", "--out", "OUT"),
    "training/trainer/train.py": ("gbt", "--data", LAB, "--out", "OUT"),
    "training/trainer/unpack.py": None,
}
"""Each program with words for which it needs a package; None where the standard library is enough."""

PACKED = {program.name: program for program in (WORKER, JOBS, INSTALLER)}
"""Programs that are handed out as one file."""

CHILDREN = {"training/fleet/worker/process/shim.py"}
"""Started with the Python of the worker alone, which was looked at; it must load next to nothing."""
OLD = """
import sys
sys.version_info = (3, 10, 13, "final", 0)
"""


def found_programs() -> set[str]:
    """Return everything that can be started, by the name of its module, by its path, or both."""
    found = set()
    for path in sorted(path for folder in ("training", "tools", "bench") for path in (ROOT / folder).rglob("*.py")):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if name in CHILDREN:
            continue
        if path.name == "__main__.py":
            found.add(name.removesuffix("/__main__.py").replace("/", "."))
        elif 'if __name__ == "__main__":' in text:
            if "sys.path" in text or path.parent == ROOT / "tools":
                found.add(name)
            if path.parent != ROOT / "tools":
                found.add(name.removesuffix(".py").replace("/", "."))
    return found


def status_of(program: str) -> int:
    """A worker takes 78 from a trainer as the word that no host can do the job, so a trainer ends with 75 instead."""
    return 75 if "trainer" in program else 78


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a Python that says that it is older than it is."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "sitecustomize.py").write_text(OLD)
    return clean() | {"PYTHONPATH": str(folder)}


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "CIS490_"))}


def ended(
    python: Path | str, program: str, words: tuple[str, ...], environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    start = [program] if program.endswith((".py", ".pyz")) else ["-m", program]
    return subprocess.run(
        [str(python), *start, *words],
        cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_every_program_stands_in_the_table() -> None:
    """So that a new one is looked at as the others are."""
    assert found_programs() == set(PROGRAMS)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {entry.removesuffix(":main") for entry in scripts.values()} <= set(PROGRAMS)


@pytest.mark.parametrize("program", [*PROGRAMS, *PACKED])
def test_an_old_python_ends_every_program_with_one_line(program: str, old: dict[str, str], tmp_path: Path) -> None:
    if program in PACKED:
        data = build(ROOT, PACKED[program])
        program = str(tmp_path / program)
        Path(program).write_bytes(data)
    done = ended(sys.executable, program, ("--help",), old)
    assert (done.returncode, done.stdout) == (status_of(program.removeprefix(str(tmp_path))), "")
    assert done.stderr == (
        f"this needs Python 3.11 or newer, and {sys.executable} is Python 3.10.13; install a newer one (Debian 12: "
        "apt-get install python3) and start this with it\n"
    )


@pytest.mark.parametrize("program", [name for name, words in PROGRAMS.items() if words is not None])
def test_a_missing_package_ends_every_program_with_one_line(program: str, python: Path, tmp_path: Path) -> None:
    spec = {"model": "gbt", "mode": "oracle", "hyper": {}, "split_recipe": "hosts", "train_hosts": ["*"], "seed": 1}
    job = {"v": 1, "spec": spec, "dataset": {"name": "lab", "path": str(ROOT / LAB)}, "threads": 1, "device": "cpu"}
    (tmp_path / "job.json").write_text(json.dumps(job))
    places = {"JOB": str(tmp_path / "job.json"), "OUT": str(tmp_path / "out")}
    done = ended(python, program, tuple(places.get(word, word) for word in PROGRAMS[program] or ()), clean())
    assert (done.returncode, done.stdout) == (status_of(program), "")
    assert re.search(r"\b(msgspec|numpy|lightgbm|pyarrow|starlette|torch)\b", done.stderr)
    assert re.fullmatch(rf".*; in the checkout, run: {re.escape(str(python))} -m pip install \S+\n", done.stderr)


@pytest.mark.parametrize("program", [name for name, words in PROGRAMS.items() if words is None])
def test_the_other_programs_load_the_standard_library_alone(program: str, python: Path) -> None:
    if program.endswith(".py"):
        assert ended(python, program, ("--help",), clean()).returncode == 0
        return
    module = f"{program}.__main__" if (ROOT / program.replace(".", "/") / "__main__.py").exists() else program
    code = f"import sys; sys.argv = ['it', '--help']; import {module}"
    done = subprocess.run(
        [str(python), "-c", code], cwd=ROOT, env=clean(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("program", sorted(name for name in PROGRAMS if name.endswith(".py")))
def test_a_file_that_is_started_by_its_path_can_be_read_by_an_old_python(program: str) -> None:
    """Such a file is read as a whole before its first line runs."""
    demand_old_syntax(ROOT / program)


@pytest.mark.parametrize("package", ["training", "training.fleet", "training.trainer", "bench", "tools.telemetry"])
def test_what_looks_at_the_python_can_be_read_by_an_old_one(package: str) -> None:
    demand_old_syntax(ROOT / "training" / "needs.py")
    demand_old_syntax(ROOT / package.replace(".", "/") / "__init__.py")


def demand_old_syntax(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))
    futures = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert futures == []  # annotations are not known before 3.7


def test_a_missing_package_without_an_environment_is_told_with_one_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert needs.missing(ModuleNotFoundError("none", name="lightgbm.sklearn")) == (
        "this needs the package lightgbm, which /usr/bin/python3 lacks; in the checkout, run: /usr/bin/python3 -m venv "
        "env && env/bin/python -m pip install '.[trainer]'; then start this with env/bin/python"
    )


def test_a_fault_of_a_program_keeps_its_traceback(tmp_path: Path) -> None:
    """Only packages that an extra brings are a matter of installation."""
    for line in ("import training.no_such_module", "import no_such_package", "1 / 0"):
        code = f"import training.fleet\n{line}\n"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=clean(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (1, True)


def test_somebody_elses_hook_for_exceptions_stays() -> None:
    code = "import sys; sys.excepthook = print; import training.fleet; assert sys.excepthook is print"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean(), check=True)


def test_every_imported_package_is_one_that_an_extra_brings() -> None:
    known = {name for names in needs.EXTRAS.values() for name in names}
    imported = set()
    for path in (path for folder in ("training", "tools", "bench") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {item.name.partition(".")[0] for item in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) - {"training", "tools", "bench", "compression"} <= known
