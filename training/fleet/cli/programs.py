"""The trainer's programs, which this command starts: fleet and trainer share no code, so they meet as processes.

Guarantees that a program is the file that belongs to this installation and never one of the current folder, and that
it gets nothing secret.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from training import needs
from training.fleet.model.errors import FleetError

_SECRETS: Final = "CIS490_"
"""What the names of variables begin with that hold tokens or lead to them."""


def demand(name: str, here: str) -> Path:
    """Return the file of one of the trainer's programs.

    Args:
        name: The program.
        here: What the caller has brought so far, for people.

    Raises:
        FleetError: This installation holds no trainer: it is the single file.
    """
    path = Path(needs.__file__).with_name("trainer") / f"{name}.py"
    if not path.is_file():
        raise FleetError(
            f"found no trainer beside this command; {here}",
            f"where the project is installed with the extra `trainer`, `python -m training.trainer.{name}` takes it",
        )
    return path


def run(program: Path, arguments: Sequence[str], output: int | None = None) -> int:
    """Run a program on this terminal, or in this pipe, and return its exit status.

    Args:
        program: What `demand` returned.
        arguments: Its arguments.
        output: Where its standard output goes, None for this one's.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    words = [sys.executable, str(program), *arguments]
    # No shell, and the program is a file of this installation; the arguments are those of the person who types.
    status = subprocess.run(words, env=environ, stdout=output, check=False).returncode  # noqa: S603
    return status if status >= 0 else 128 - status
