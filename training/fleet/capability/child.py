"""Short-lived child programs with a time limit: whatever can crash or hang is asked in one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.fleet import system

TOOL_TIMEOUT_S = 10.0
"""Longest time for a tool that normally answers at once: nvidia-smi, git, a trainer's `--describe`."""
_NOT_STARTED = -1000  # below every number of a signal, so that no ending of a child can be mistaken for it


def run(
    command: Sequence[str], timeout_s: float, home: Path | None = None, extra: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Run a program and return its status and output.

    Args:
        command: The program and its arguments.
        timeout_s: Time after which it is killed.
        home: Folder to run in, which then comes first where Python looks for modules.
        extra: Variables that it gets besides those of this process.

    Returns:
        The exit status (None when it had to be killed, a number that `ending` knows when it could not start), and what
        it printed on both its outputs.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("CIS490_", "GIT_"))}
    environ |= extra or {}
    if home is not None:
        environ["PYTHONPATH"] = str(home)  # not what happens to lie where the worker was started
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs with fixed arguments
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout_s, env=environ, cwd=home, check=False, creationflags=system.HIDDEN,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, ""
    except OSError as error:
        return _NOT_STARTED, brief(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def ending(status: int | None, timeout_s: float) -> str:
    """Return how a child ended, as the rest of a sentence."""
    if status is None:
        return f"did not end within {timeout_s:g} s and was killed"
    if status == _NOT_STARTED:
        return "could not be started"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def last_line(text: str) -> str:
    """Return the last line that a child printed: what a program prints last says mostly why it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def brief(error: BaseException) -> str:
    """Return an error in at most 300 characters."""
    return (str(error) or type(error).__name__)[:300]
