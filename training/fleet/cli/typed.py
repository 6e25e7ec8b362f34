"""How this command was typed, so that a command that it prints can be typed the same way."""

from __future__ import annotations

import sys
from typing import Final

INSTALLED: Final = "cis490-jobs"
_FILES: Final = ("cis490_jobs.py", ".pyz")
"""How the names end of what a person starts with Python: the command of a checkout, and the single file."""


def program(started: str | None = None) -> str:
    """Return the program and, where it is a file that Python was given, Python in front of it.

    A checkout and the single file have no `cis490-jobs` on the path, so its name alone would not be found there.

    Args:
        started: What the process was started as; None takes this one's.
    """
    file = sys.argv[0] if started is None else started
    if not file.endswith(_FILES):
        return INSTALLED
    python = "python" if sys.platform == "win32" else "python3"
    return f"{python} {shell_word(file)}"


def shell_word(text: str) -> str:
    """Return a path as a shell takes it."""
    return text if all(sign.isalnum() or sign in "/._-+=:@\\" for sign in text) else f"'{text}'"
