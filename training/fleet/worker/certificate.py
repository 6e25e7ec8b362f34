"""This worker's certificate: when to ask for the next one, and putting it in place.

Owns the file, which holds certificate and key so that both change at once. Guarantees that at every moment there is a
whole pair in it, and that the next one is asked for when two thirds of its life have passed, again and again until it
comes. New connections show the new one; leases and runs are not touched. A certificate that does not say when to renew
it is not the receiver's, and is left to the one who made it.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from training.fleet.client import Client
from training.fleet.files import write_whole
from training.fleet.model.errors import FleetError, UnavailableError
from training.fleet.wire.identities import RENEW_AT
from training.fleet.worker.journal import Journal

LOOK_S: Final = 3600.0
"""Longest pause between two looks at the clock, which may be set meanwhile."""
RETRY_S: Final = 300.0
"""Pause after a try that failed."""
_LINE: Final = re.compile(rf"^{RENEW_AT}(\S+)$", re.MULTILINE)
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+-----BEGIN PRIVATE KEY-----", re.DOTALL)


class OwnCertificate:
    """Renews the certificate of this worker.

    Args:
        path: Its file.
        connect: Makes a connection to the receiver.
        journal: Where to say what happens.
        retry_s: Pause after a try that failed.
    """

    def __init__(
        self, path: Path, connect: Callable[[], Client], journal: Journal, *, retry_s: float = RETRY_S
    ) -> None:
        self._path = path
        self._connect = connect
        self._journal = journal
        self._retry_s = retry_s
        self._end = threading.Event()

    def follow(self) -> None:
        """Renew it from now on, in a thread of its own."""
        threading.Thread(target=self._serve, name="certificate", daemon=True).start()

    def stop(self) -> None:
        """Renew it no more."""
        self._end.set()

    def _serve(self) -> None:
        pause_s = 0.0
        while not self._end.wait(pause_s):
            due = renew_at(self._path)
            if due is None:
                return
            pause_s = min(LOOK_S, max(0.0, due - time.time()))
            if not pause_s and not (self.renew() and self._is_early()):
                pause_s = self._retry_s * (0.75 + random.random() / 2)  # noqa: S311

    def _is_early(self) -> bool:
        """Return True if nothing is due yet. After a renewal it can be: where this host's clock is far ahead."""
        due = renew_at(self._path)
        return due is None or due > time.time()

    def renew(self) -> bool:
        """Ask for the next certificate and put it in place; say whether that went well."""
        client = self._connect()
        try:
            _, answer = client.post("/v1/worker/certificate")
            write_whole(self._path, together(answer or {}).encode(), private=True)
        except (FleetError, OSError) as error:
            self._journal.note_once("the certificate was not renewed", why=str(error))
            return False
        finally:
            client.close()
        self._journal.note("certificate renewed", file=str(self._path))
        return True


def together(answer: dict[str, object]) -> str:
    """Return certificate and key of an answer as one text.

    Raises:
        UnavailableError: They are not there: the program that answered is no receiver.
    """
    text = f"{answer.get('certificate_pem', '')}{answer.get('key_pem', '')}"
    if not _PEM.search(text):
        raise UnavailableError(
            "the receiver's answer holds no certificate and key", "update the receiver if it is older than this worker"
        )
    return text


def renew_at(path: Path) -> float | None:
    """Return when to renew a certificate, seconds since the epoch; None where its file does not say."""
    try:
        found = _LINE.search(path.read_text(encoding="ascii", errors="replace"))
        return None if found is None else datetime.fromisoformat(found[1]).timestamp()
    except (OSError, ValueError):
        return None
