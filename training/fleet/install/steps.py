"""What installing is made of: changes that are said before they are made, and how it ends when one cannot be made.

Guarantees that a dry run says every change and makes none, and that what stopped an installation is told with the step
it stopped at. Running the command again goes on from there, because each change is made only where it is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from training.fleet.model.errors import EX_FAILURE

_INTERRUPTED: Final = 130
"""Status after Ctrl-C, as shells have it."""


class StopError(Exception):
    """Installing cannot go on.

    Args:
        status: Exit status, as sysexits and the programs use them.
        message: What was found and what to do, for people.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ProgramError(Exception):
    """A program that installing needs ended badly; what it said stands above.

    Args:
        status: Its exit status.
        program: Its name and first words.
    """

    def __init__(self, status: int, program: str) -> None:
        super().__init__(f"{program} ended with status {status}")
        self.status = status


def say(line: str) -> None:
    """Show a line at once, so that it stands before what the next program prints."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Steps:
    """Makes the changes of one installation and counts them.

    Args:
        dry_run: Say each change and make none.

    Attributes:
        count: Changes so far.
        now: The step that is taken, for the message when it fails.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.count = 0
        self.now = "the start"

    def change(self, what: str, make: Callable[[], object] = lambda: None) -> None:
        """Say a change and make it, or say in a dry run what would be done."""
        self.now = what
        self.count += 1
        if self.dry_run:
            say(f"would {what}")
            return
        say(what)
        make()

    def sum_up(self) -> None:
        """Say that nothing was to be done, or that a dry run ends here."""
        if self.count == 0:
            say("nothing to change")
        elif self.dry_run:
            say(f"a dry run: {self.count} changes named, none made")


def run_steps(program: str, steps: Steps, act: Callable[[], object]) -> int:
    """Install or remove, and return the exit status; what stopped it is said on the standard error.

    Args:
        program: Name that messages begin with.
        steps: What counts the changes that `act` makes.
        act: Does it.
    """
    try:
        act()
    except StopError as stop:
        sys.stderr.write(f"{program}: {stop.message}\n")
        return stop.status
    except ProgramError as error:
        return _stopped(program, steps, str(error), error.status)
    except KeyboardInterrupt:
        return _stopped(program, steps, "told to stop", _INTERRUPTED)
    except OSError as error:
        return _stopped(program, steps, f"{error.strerror}: {error.filename}", EX_FAILURE)
    except Exception as error:  # noqa: BLE001 - a person gets one line, never a traceback
        fault = f"a fault of the installer itself, please report it: {type(error).__name__}: {error}"
        return _stopped(program, steps, fault, EX_FAILURE)
    return 0


def _stopped(program: str, steps: Steps, why: str, status: int) -> int:
    sys.stderr.write(
        f"{program}: stopped at: {steps.now}: {why}; what was done so far stays; fix what stands above and run the "
        "same command again, it goes on where it stopped\n"
    )
    return status
