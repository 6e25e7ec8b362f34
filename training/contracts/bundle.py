"""Owns the names and limits of a bundle, for the worker that packs it and for the trainer's reader that unpacks it.

A bundle is one zstd frame with a USTAR archive of regular files in it. What the writer may put in, the reader must take
out again on Linux, macOS and Windows alike; so both ask here. Needs the standard library alone, because a worker packs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 16
"""Folders above a file."""
MAX_TAR_BYTES: Final = 8 * 2**30 - 1
"""Largest archive before compression: a USTAR header has eleven octal digits for a file's size."""

_NAME: Final = re.compile(r"[0-9A-Za-z_.+=@,~ -]{1,100}")
"""A header has 100 bytes for a name. Left out are the signs that Windows forbids, and those that shells act on."""
_RESERVED: Final = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9]) *(\..*)?")
"""Names that Windows takes for devices, with any suffix. Source: Microsoft, Naming Files, Paths, and Namespaces."""


def is_plain_name(part: str) -> bool:
    """Return True if every system takes this name of a file or folder as it stands.

    Windows drops blanks and dots at the end of a name; programs take a dash at the beginning for an option.
    """
    if not _NAME.fullmatch(part) or _RESERVED.fullmatch(part):
        return False
    return part[0] not in " -" and part[-1] not in " ."


def paths_to(name: str) -> Iterator[str]:
    """Yield the folders above a file, the outermost first, and then the file: "a", "a/b", "a/b/c".

    Two paths that differ in case alone are one on Windows, so writer and reader both compare these.
    """
    parts = name.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
