"""The project's code, as it lies in a checkout and is copied from there.

A service runs from a copy: it may not read a checkout in a home folder, and a pull must not change what runs.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.fleet.install.steps import StopError
from training.fleet.model.errors import EX_CONFIG

_NEEDED = ("training/fleet", "requirements")
"""What a checkout has and an installed package has not."""


def demand_checkout(folder: Path) -> None:
    """Refuse to install from anything but a checkout, which alone holds lists of packages and units.

    Raises:
        StopError: It is none.
    """
    if not all((folder / name).is_dir() for name in _NEEDED):
        raise StopError(
            EX_CONFIG,
            f"found no checkout of the project in {folder}; expected the folders {', '.join(_NEEDED)} there; clone the "
            "project and run the script in the clone",
        )


def code_files(checkout: Path) -> Iterator[Path]:
    """Yield the files of the code, relative to the checkout and in the same order on every host."""
    found = (path for path in (checkout / "training").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    yield from sorted(path.relative_to(checkout) for path in found)


def digest(checkout: Path, requirements: str, *more: str) -> str:
    """Return the SHA-256 (hex) of all that an installation is made from.

    Args:
        checkout: Where the code lies.
        requirements: Name of the list of packages, empty when there is none.
        more: What else it depends on.
    """
    total = hashlib.sha256()
    for path in code_files(checkout):
        content = hashlib.sha256((checkout / path).read_bytes()).hexdigest()
        total.update(f"{path.as_posix()} {content}\n".encode())
    if requirements:
        total.update(requirements_file(checkout, requirements).read_bytes())
    total.update("\n".join(more).encode())
    return total.hexdigest()


def requirements_file(checkout: Path, requirements: str) -> Path:
    """Return the list of packages of this name, each pinned by its hash."""
    return checkout / "requirements" / f"{requirements}.txt"


def pip_install(python: Path, requirements: Path, more: Iterable[str] = ()) -> list[str]:
    """Return the command that installs packages, each of which must have the hash in the list."""
    flags = ["--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    return [str(python), "-m", "pip", "install", *flags, *more, "-r", str(requirements)]


def copy_code(checkout: Path, target: Path) -> None:
    """Copy the code, with rights that the process's mask gives and not those of the checkout."""
    for path in code_files(checkout):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout / path, target / path)
