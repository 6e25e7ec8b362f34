"""The service of a part: its unit, and starting and stopping it by systemd, that of the machine or of a person."""

from __future__ import annotations

import fnmatch
import getpass
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from training.fleet.install.linux import Linux
from training.fleet.install.steps import say

_OF_A_PERSON: Final = re.compile(
    r"\[|Description|Documentation|StartLimit|Type|NotifyAccess|ExecReload|ExecStopPost|Restart|WatchdogSec|KillMode"
    r"|Timeout|OOMPolicy|NoNewPrivileges|UMask|LimitNOFILE"
)
"""Lines of a unit that a person's own service may have: it cannot change accounts and has no root to harden it."""
_LOOK_S: Final = 0.3


class Unit:
    """The service on a host.

    Args:
        host: The host.
    """

    def __init__(self, host: Linux) -> None:
        self._host = host
        self._name = host.part.unit
        self.path = host.at.units / f"{self._name}.service"

    # ---- commands with which a person does the same

    @property
    def control(self) -> str:
        """Return the command that controls services."""
        return "systemctl --user" if self._host.user else "sudo systemctl"

    @property
    def logs(self) -> str:
        """Return the command that shows what the service said."""
        return f"journalctl --user -u {self._name}" if self._host.user else f"sudo journalctl -u {self._name}"

    # ---- what is

    def is_running(self) -> bool:
        """Return True if the service is active."""
        return self._ask("is-active", "-q", self._name)[0] == 0

    def fact(self, name: str) -> str:
        """Return a property of the service."""
        return self._ask("show", self._name, "-p", name, "--value")[1]

    def await_status(self, pattern: str, limit_s: float) -> bool:
        """Wait until the service says so of itself; return False when it failed or the time is over."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if fnmatch.fnmatchcase(self.fact("StatusText"), pattern):
                return True
            if self.fact("ActiveState") == "failed":
                return False
            time.sleep(_LOOK_S)
        return False

    def show(self) -> None:
        """Show what the service manager says of it."""
        self._host.programs.show(self._words("--no-pager", "-n", "15", "status", self._name))

    # ---- what should be

    def want(self, checkout: Path) -> None:
        """Have the unit of the checkout, started at every boot."""
        before = self._host.steps.count
        self._host.want_file(self.path, 0o644, "root:root", self._text(checkout))
        if self._host.steps.count != before:
            self._change("tell systemd of the unit", "daemon-reload")
        if self._ask("is-enabled", "-q", self._name)[0] != 0:
            self._change(f"have {self._name} started at every boot", "enable", "-q", self._name)
        self._stay_after_logout()

    def want_running(self, since: int) -> None:
        """Start it, or start it again when something changed since there were so many changes."""
        if self.is_running() and self._host.steps.count == since:
            return
        if not self._host.steps.dry_run:
            self._ask("reset-failed", self._name)
        self._change(f"start {self._name}", "restart", self._name)

    def stop(self) -> None:
        """Stop it in order where it runs."""
        if self.is_running():
            self._change(f"stop {self._name} in order: {self._host.part.stops}", "stop", self._name)

    def drop(self) -> None:
        """Stop it and remove its unit."""
        if self.path.exists():
            self.stop()
            self._change(f"no longer start {self._name} at boot", "disable", "-q", self._name)
            self._host.drop(self.path)
            self._change("tell systemd of it", "daemon-reload")

    def _text(self, checkout: Path) -> str:
        lines = (checkout / "etc/systemd" / f"{self._name}.service").read_text(encoding="utf-8").splitlines()
        return "\n".join(self._lines_of_a_person(lines) if self._host.user else lines) + "\n"

    def _lines_of_a_person(self, lines: Iterable[str]) -> Iterable[str]:
        host = self._host
        more = {
            "[Service]": [
                f"EnvironmentFile=-{host.settings}",
                f"Environment=STATE_DIRECTORY={host.at.state}",
                f"WorkingDirectory={host.at.state}",
                f"ExecStart={host.at.python} -P -m {host.part.module}",
            ],
            "[Install]": ["WantedBy=default.target"],
        }
        for line in lines:
            if _OF_A_PERSON.match(line):
                yield from (line, *more.get(line, ()))

    def _stay_after_logout(self) -> None:
        """Let the services of a person run without a login."""
        programs, me = self._host.programs, getpass.getuser()
        if not self._host.user or programs.ask(["loginctl", "show-user", me, "-p", "Linger", "--value"])[1] == "yes":
            return
        if self._host.steps.dry_run:
            self._host.steps.change(f"let the services of {me} run without a login (loginctl enable-linger)")
        elif programs.ask(["loginctl", "enable-linger"])[0] != 0:
            say(
                f"it stops when you log out; to let it run, have an administrator run: sudo loginctl enable-linger {me}"
            )

    def _change(self, what: str, *words: str) -> None:
        self._host.steps.change(what, lambda: self._host.programs.demand(self._words(*words)))

    def _ask(self, *words: str) -> tuple[int, str]:
        return self._host.programs.ask(self._words(*words))

    def _words(self, *words: str) -> list[str]:
        return ["systemctl", "--user", *words] if self._host.user else ["systemctl", *words]
