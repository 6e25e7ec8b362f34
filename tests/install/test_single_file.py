from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from training.fleet import single_file

OPTIONAL = {"backports"}
"""Used where a host has it; imported by name in a `try`."""
GONE = {
    "aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "distutils", "imghdr", "imp",
    "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau", "telnetlib",
    "uu", "xdrlib",
}  # fmt: skip
"""Modules that Python 3.12 or 3.13 no longer has."""


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere, a name from a package as `package.name` as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(root: Path, program: single_file.PackedProgram = single_file.WORKER) -> list[Path]:
    return [root / name for name in single_file.members(root, program) if name != "__main__.py"]


def test_the_same_source_gives_the_same_bytes_whoever_builds_it_where(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "training", tmp_path / "training", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "training").rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        path.chmod(0o700)
        os.utime(path, (0, 0))
    made = []
    for folder, zone, mask in ((root, "UTC", 0o022), (tmp_path, "Asia/Tokyo", 0o077)):
        out = tmp_path / f"out-{mask}" / "worker.pyz"
        subprocess.run(
            [sys.executable, folder / "tools/build_worker.py", out],
            env={"PATH": os.environ["PATH"], "TZ": zone}, umask=mask, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        made.append(out.read_bytes())
    assert made[0] == made[1] == single_file.own_single_file().data


@pytest.mark.parametrize("program", [single_file.WORKER, single_file.JOBS], ids=lambda program: program.name)
def test_nothing_that_a_program_imports_is_missing(root: Path, program: single_file.PackedProgram) -> None:
    found = sources(root, program)
    names = {path.relative_to(root).with_suffix("").as_posix().replace("/", ".") for path in found}
    names |= {name.removesuffix(".__init__") for name in names}
    wanted = set().union(*(imports(path) for path in found))
    here = {name for name in wanted if name.startswith("training") and _is_module(root, name)}
    assert here - names == set()


def _is_module(root: Path, name: str) -> bool:
    path = root / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_it_imports_nothing_beyond_the_standard_library_of_any_python_from_3_11_to_3_13(root: Path) -> None:
    tops = {name.partition(".")[0] for path in sources(root) for name in imports(path)}
    assert tops - {"training"} - set(sys.stdlib_module_names) - OPTIONAL == set()
    assert tops & GONE == set()


@pytest.mark.parametrize("program", [single_file.WORKER, single_file.JOBS], ids=lambda program: program.name)
def test_every_module_in_it_loads_without_any_package(tmp_path: Path, program: single_file.PackedProgram) -> None:
    target = tmp_path / program.name
    target.write_bytes(single_file.own_single_file(program).data)
    names = [name for name in zipfile.ZipFile(target).namelist() if name != "__main__.py"]
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    loaded = [name for name in names if not name.endswith((".windows", ".__main__"))]
    code = (
        f"import sys, importlib; sys.path.insert(0, {str(target)!r})\nfor n in {loaded!r}: importlib.import_module(n)"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd=tmp_path)


def test_it_runs_by_itself_and_tells_its_version(tmp_path: Path) -> None:
    target = tmp_path / "worker.pyz"
    target.write_bytes(single_file.own_single_file().data)
    told = subprocess.run([sys.executable, "-I", "-S", target, "--version"], capture_output=True, text=True, check=True)
    from training.fleet import __version__

    assert told.stdout == f"{__version__}\n"


def test_its_members_are_sorted_undated_and_not_compressed(tmp_path: Path) -> None:
    target = tmp_path / "worker.pyz"
    target.write_bytes(single_file.own_single_file().data)
    entries = zipfile.ZipFile(target).infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.external_attr >> 16 for entry in entries} == {0o644}


def test_a_module_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="training"):
        single_file.build(tmp_path)
