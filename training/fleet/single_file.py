"""Programs as one file each: the worker, `cis490-jobs`, and the installer of a worker.

Owns which modules belong to each and the form of the file: a zip that Python runs, with a line for the shell in front.
Guarantees the same bytes for the same source on every machine: names sorted, no times, no rights of the builder's
files, line feeds as on Linux, and nothing compressed, because compressors differ. Standard library only, as they.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "cis490-training-worker.pyz"
PACKAGES: Final = ("auth", "capability", "client", "install", "model", "system", "wire", "worker")
"""Packages of the fleet that the worker consists of, whole."""
MODULES: Final = (
    "training/__init__.py",
    "training/contracts/__init__.py",
    "training/contracts/bundle.py",
    "training/contracts/dataset.py",
    "training/contracts/dataset_folder.py",
    "training/fleet/__init__.py",
    "training/fleet/bundle.py",
    "training/fleet/checks.py",
    "training/fleet/files.py",
    "training/fleet/service.py",
    "training/fleet/settings.py",
    "training/fleet/single_file.py",
    "training/fleet/tls/__init__.py",
    "training/fleet/tls/trust.py",
    "training/needs.py",
    "training/trainer/__init__.py",
    "training/trainer/hyper.py",
)
"""What else it needs. The trainer is no part of it; `hyper` says how a declaration is digested."""
JOBS_MODULES: Final = (
    "training/__init__.py",
    "training/contracts/__init__.py",
    "training/contracts/bundle.py",
    "training/contracts/dataset.py",
    "training/fleet/__init__.py",
    "training/fleet/bundle.py",
    "training/fleet/files.py",
    "training/fleet/locks.py",
    "training/fleet/settings.py",
    "training/fleet/tls/__init__.py",
    "training/fleet/tls/trust.py",
    "training/needs.py",
    "training/trainer/__init__.py",
    "training/trainer/hyper.py",
)
"""What `cis490-jobs` needs beside its packages; `hyper` says which library a model of a host lacks."""
INSTALLED: Final = (
    "LICENSE",
    "etc/systemd/cis490-training-worker.service",
    "requirements/torch-index.in",
    "requirements/torch-index.txt",
    "requirements/torch.txt",
    "requirements/trainer.txt",
    "scripts/installing.py",
)
"""What the installer of a worker reads beside the code, which it holds whole."""
_SHELL_LINE: Final = b"#!/usr/bin/env python3\n"
_RUN: Final = "import sys\n\nfrom training.fleet.{} import main\n\nsys.exit(main())\n"
_UNPACK: Final = b"""import os
import subprocess
import sys
import tempfile
import zipfile

from training.needs import demand

demand(78)
with tempfile.TemporaryDirectory(prefix="cis490-") as folder:
    zipfile.ZipFile(os.path.dirname(os.path.abspath(__file__))).extractall(folder)
    script = os.path.join(folder, "scripts", "installing.py")
    sys.exit(subprocess.run([sys.executable, "-IB", script, "worker", *sys.argv[1:]]).returncode)
"""
_FIRST_INSTANT: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3
_RIGHTS: Final = 0o644 << 16


@dataclass(frozen=True, slots=True)
class PackedProgram:
    """A program that is offered as one file.

    Attributes:
        name: Name of the file.
        main: What runs.
        packages: Packages of the fleet in it, whole; empty for all of the code.
        files: What else is in it.
    """

    name: str
    main: bytes
    packages: tuple[str, ...]
    files: tuple[str, ...]


WORKER: Final = PackedProgram(NAME, _RUN.format("worker").encode(), PACKAGES, MODULES)
JOBS: Final = PackedProgram(
    "cis490-jobs.pyz", _RUN.format("cli").encode(), ("cli", "client", "model", "system", "wire"), JOBS_MODULES
)
INSTALLER: Final = PackedProgram("cis490-installer.pyz", _UNPACK, (), INSTALLED)


@dataclass(frozen=True, slots=True)
class SingleFile:
    """The file.

    Attributes:
        data: Its bytes.
        sha256: Hex digest of them.
    """

    data: bytes
    sha256: str


@functools.cache
def own_single_file(program: PackedProgram = WORKER) -> SingleFile:
    """Return a program of the code that runs here.

    Raises:
        OSError: A file cannot be read; an installed package has no lists of packages, so it has no installer.
    """
    data = build(Path(__file__).resolve().parents[2], program)
    return SingleFile(data, hashlib.sha256(data).hexdigest())


def digest_of(program: PackedProgram) -> str | None:
    """Return the SHA-256 (hex) of a program of the code that runs here, None where it cannot be made."""
    try:
        return own_single_file(program).sha256
    except OSError:
        return None


def build(root: Path, program: PackedProgram = WORKER) -> bytes:
    """Return the file.

    Args:
        root: Folder that holds the `training` package.
        program: Which program.

    Raises:
        OSError: A file cannot be read.

    Source:
        Python, `zipapp`: the format of such files.
    """
    out = io.BytesIO()
    out.write(_SHELL_LINE)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        for name in members(root, program):
            text = program.main if name == "__main__.py" else (root / name).read_bytes().replace(b"\r\n", b"\n")
            entry = zipfile.ZipInfo(name, _FIRST_INSTANT)
            entry.create_system, entry.external_attr = _UNIX, _RIGHTS
            archive.writestr(entry, text)
    return out.getvalue()


def members(root: Path, program: PackedProgram = WORKER) -> list[str]:
    """Return the names in the file, sorted."""
    return sorted(["__main__.py", *program.files, *_code(root, program)])


def _code(root: Path, program: PackedProgram) -> Iterable[str]:
    if program.packages:
        found = [path for name in program.packages for path in (root / "training" / "fleet" / name).rglob("*.py")]
    else:
        whole = (root / "training").rglob("*")
        found = [path for path in whole if path.is_file() and "__pycache__" not in path.parts]
    return (path.relative_to(root).as_posix() for path in found)
