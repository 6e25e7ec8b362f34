"""Limits of the control group this process is in: memory and processor time.

A limit of any group above counts as well, so all of them are read, and the smallest one is the limit.

Source: Linux Documentation/admin-guide/cgroup-v2.rst (memory.max, cpu.max), cgroup-v1/memory.rst
(limit_in_bytes), scheduler/sched-bwc.rst (cfs_quota_us).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_UNLIMITED_BYTES = 1 << 60


def memory_bytes() -> int | None:
    """Return the smallest limit of memory in bytes, None without one."""
    found = [_text(folder / "memory.max") for folder in _groups("")]
    found += [_text(folder / "memory.limit_in_bytes") for folder in _groups("memory")]
    limits = [int(word) for word in found if word.isdigit() and 0 < int(word) < _UNLIMITED_BYTES]
    return min(limits, default=None)


def cores() -> int | None:
    """Return the smallest limit of processor time in whole cores, rounded up; None without one."""
    quotas = [_text(folder / "cpu.max").split() for folder in _groups("")]
    quotas += [[_text(folder / f"cpu.cfs_{what}_us") for what in ("quota", "period")] for folder in _groups("cpu")]
    limits = [
        -(-int(words[0]) // int(words[1]))
        for words in quotas
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[0]) > 0 and int(words[1]) > 0
    ]
    return min(limits, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of all above it.

    Args:
        controller: Of version 1, which has a tree of its own; empty for version 2.
    """
    top = ROOT / controller
    folder = top / _own(controller)
    # Within a container the path may be that of the host, of which nothing but the top is to be seen here.
    yield top
    while folder != top and top in folder.parents:
        yield folder
        folder = folder.parent


def _own(controller: str) -> str:
    for line in _text(OWN).splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if ".." not in path and (names == "" if controller == "" else controller in names.split(",")):
            return path.strip("/")
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
