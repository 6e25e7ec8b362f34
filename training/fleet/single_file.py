"""The worker as one file: `cis490-training-worker.pyz`.

Owns which modules belong to it and the form of the file: a zip that Python runs, with a line for the shell in front.
Guarantees the same bytes for the same source on every machine: names sorted, no times, no rights of the builder's
files, line feeds as on Linux, and nothing compressed, because compressors differ. Standard library only, as the worker.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
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
    "training/fleet/tls/__init__.py",
    "training/fleet/tls/trust.py",
    "training/needs.py",
    "training/trainer/__init__.py",
    "training/trainer/hyper.py",
)
"""What else it needs. The trainer is no part of it; `hyper` says how a declaration is digested."""
_SHELL_LINE: Final = b"#!/usr/bin/env python3\n"
_MAIN: Final = b"import sys\n\nfrom training.fleet.worker import main\n\nsys.exit(main())\n"
_FIRST_INSTANT: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3
_RIGHTS: Final = 0o644 << 16


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
def own_single_file() -> SingleFile:
    """Return the worker of the code that runs here.

    Raises:
        OSError: A module cannot be read.
    """
    data = build(Path(__file__).resolve().parents[2])
    return SingleFile(data, hashlib.sha256(data).hexdigest())


def build(root: Path) -> bytes:
    """Return the file.

    Args:
        root: Folder that holds the `training` package.

    Raises:
        OSError: A module cannot be read.

    Source:
        Python, `zipapp`: the format of such files.
    """
    out = io.BytesIO()
    out.write(_SHELL_LINE)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        for name in members(root):
            text = _MAIN if name == "__main__.py" else (root / name).read_bytes().replace(b"\r\n", b"\n")
            entry = zipfile.ZipInfo(name, _FIRST_INSTANT)
            entry.create_system, entry.external_attr = _UNIX, _RIGHTS
            archive.writestr(entry, text)
    return out.getvalue()


def members(root: Path) -> list[str]:
    """Return the names in the file, sorted."""
    found = ["__main__.py", *MODULES]
    for package in PACKAGES:
        folder = root / "training" / "fleet" / package
        found += [path.relative_to(root).as_posix() for path in folder.rglob("*.py")]
    return sorted(found)
