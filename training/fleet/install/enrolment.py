"""Who a host enrols as: what an operator's invite says, handed to `cis490-training-worker enrol`.

Guarantees that the one-time code is no argument of a program that is started here and stands in no environment: it goes
through a pipe. Checking whom the code is sent to is left to `enrol`.
"""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class InviteWords:
    """What an invite says.

    Attributes:
        receiver: Address of the receiver; empty to enrol no host now.
        host: Name to enrol under; empty for the machine's own.
        code: The one-time code, empty when it is to be asked for.
        ca_sha256: Fingerprint of the receiver's certificate authority, empty when the invite has none.
    """

    receiver: str
    host: str
    code: str
    ca_sha256: str

    def flags(self) -> list[str]:
        """Return the flags for `enrol`; the code is none of them."""
        named = {"--receiver": self.receiver, "--host": self.host, "--ca-sha256": self.ca_sha256}
        return [word for flag, value in named.items() if value for word in (flag, value)]

    def line(self, *, ask: bool) -> str:
        """Return what `enrol` reads: the line with the code, empty when there is none.

        Args:
            ask: Ask the person for a code that was not given.
        """
        code = self.code
        if not code and ask and sys.stdin is not None and sys.stdin.isatty():
            code = getpass.getpass("One-time code: ")
        return f"{code}\n" if code else ""


def is_enrolled(settings: Path, secret: Path) -> bool:
    """Return True if the host has the settings that enrolling writes, and the secret that they name.

    A host that was uninstalled keeps the settings alone.
    """
    if not settings.exists():
        return False
    return secret.exists() or str(secret) not in settings.read_text(encoding="utf-8", errors="replace").replace(
        "\\\\", "\\"
    )
