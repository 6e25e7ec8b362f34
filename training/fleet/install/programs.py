"""Starting the programs that installing needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.fleet.install.steps import ProgramError

NOT_THERE = 127
"""Status of a program that cannot be started, as a shell has it."""


class Programs:
    """Starts programs, none of which reads what the person types."""

    def show(
        self, words: Sequence[str], *, environ: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> int:
        """Run a program whose output the person sees, and return its exit status.

        Args:
            words: Program and arguments.
            environ: Its whole environment; None for this process's own.
            folder: Where it runs; None for this process's own.
        """
        return self.run(words, environ, folder, "", None, None).returncode

    def ask(
        self,
        words: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        given: str = "",
        quiet: bool = True,
    ) -> tuple[int, str]:
        """Run a program and return its exit status and what it printed, without white space around it.

        Args:
            words: Program and arguments.
            environ: Its whole environment; None for this process's own.
            folder: Where it runs; None for this process's own.
            given: What it reads. A secret goes this way, because no process list shows it.
            quiet: Leave out its standard error; otherwise the person sees it.
        """
        done = self.run(words, environ, folder, given, subprocess.PIPE, subprocess.DEVNULL if quiet else None)
        return done.returncode, done.stdout.decode("utf-8", "replace").strip()

    def demand(
        self, words: Sequence[str], *, environ: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        """Run a program whose output the person sees.

        Raises:
            ProgramError: It ended with another status than 0.
        """
        if status := self.show(words, environ=environ, folder=folder):
            raise ProgramError(status, " ".join(words[:4]))

    def run(
        self,
        words: Sequence[str],
        environ: Mapping[str, str] | None,
        folder: Path | None,
        given: str,
        out: int | None,
        errors: int | None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Start a program and wait for its end: the one place where that is done, so that tests may stand in for it."""
        sys.stdout.flush()
        program = shutil.which(words[0])  # by the path of who installs; that in `environ` is the program's own
        if program is None:
            return subprocess.CompletedProcess(words, NOT_THERE, b"", b"")
        return subprocess.run(  # noqa: S603 - fixed programs, no shell
            [program, *words[1:]], env=environ, cwd=folder, input=given.encode(), stdout=out, stderr=errors, check=False
        )
