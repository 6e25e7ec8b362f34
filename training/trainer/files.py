"""Owns how a file of the trainer reaches the disk: whole, under its final name, and synced."""

from __future__ import annotations

import os
from pathlib import Path


def partial_of(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(path.name + ".partial")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and rename it."""
    temporary = partial_of(path)
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def sync(path: Path) -> None:
    """Sync a file or, where the system allows it, a folder."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
