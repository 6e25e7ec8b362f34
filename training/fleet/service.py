"""The talk with the service manager.

Owns the notification socket. Does nothing where there is none, so receiver and worker run the same in a terminal.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping


class Service:
    """The service manager as a program sees it.

    Args:
        environ: Environment variables; `NOTIFY_SOCKET` names the socket, `WATCHDOG_USEC` the watchdog's patience.

    Attributes:
        watchdog_s: Seconds after which the service manager takes a silent program for dead, 0 when it does not watch.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        micros = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(micros) / 1e6 if micros.isdecimal() and mine else 0.0

    def ready(self, status: str) -> None:
        """Say that work is taken, and how it stands; may be said again."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the manifest is read again; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._tell("STOPPING=1", "STATUS=draining")

    def alive(self) -> None:
        """Pat the watchdog."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if sys.platform == "win32" or not self._address:
            return
        # A service manager that does not listen must not stop the program.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.connect(self._address)
            link.send("\n".join(lines).encode())
