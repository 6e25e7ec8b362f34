"""Who this worker is: its secret, how it changes, and where it runs.

Owns the file of the secret. Guarantees that the file appears whole, for its user alone; that at every moment of a
change, killed or not, the secret in the file is one that the receiver takes; and that the key itself never leaves this
host: the receiver gets its digest.

A change goes so: the new secret is written beside the old one (`.next`), its digest is sent, the file is renamed over
the old one, and the new secret is used. The receiver takes the old one until then. A worker killed in between is asked
again, finds what it had written, and goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TextIO

from training.fleet import system
from training.fleet.auth.identities import digest_of, id_of, key_of, new_key, secret_of
from training.fleet.auth.sessions import HOST_DIGITS, PLACE_DIGITS
from training.fleet.client import Client
from training.fleet.client.answer import Answer
from training.fleet.files import sync_folder, write_whole
from training.fleet.model.errors import FleetError, NotFoundError
from training.fleet.wire.worker import Heartbeat
from training.fleet.worker.journal import Journal

ASKED: Final = "x-rotate-secret"
"""Header field of an answer that asks for a new key."""
FORM: Final = re.compile(r"cis490w\.[0-9a-f]{8,64}\.[0-9A-Za-z_-]{32,128}")
REST_S: Final = 30.0
"""How long an answer that asks for a new key again is taken for one that was under way."""
_NOBODYS_JOB: Final = "0" * 64
_PROCESS: Final = re.compile(r"[0-9a-f]{32}")
BOOT: Final = "CIS490_BOOT_ID"
"""Variable in which the unit says which boot of the host this is."""
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class OwnSecret:
    """The secret of this worker. Any thread may call any method.

    Args:
        token: The secret as it is now, None for a worker without one.
        path: Its file, None where it cannot be changed from here.
        journal: Where to say what happens.
    """

    def __init__(self, token: str | None, path: Path | None, journal: Journal) -> None:
        self._token = token
        self._path = path
        self._journal = journal
        self._connect: Callable[[], Client] | None = None
        self._guard = threading.Lock()
        self._busy = False
        self._renewed_s = 0.0

    def token(self) -> str | None:
        """Return the secret to show now."""
        return self._token

    def connect_with(self, connect: Callable[[], Client]) -> None:
        """Say how to reach the receiver when a new key is asked for."""
        self._connect = connect

    def listen(self, headers: Mapping[str, str]) -> None:
        """Make a new key in a thread of its own when the receiver asks for one."""
        if ASKED not in headers or self._connect is None:
            return
        with self._guard:
            just_done = self._renewed_s and time.monotonic() - self._renewed_s < REST_S
            if self._busy or just_done:
                return
            self._busy = True
        threading.Thread(target=self._change, args=(self._connect,), name="secret", daemon=True).start()

    def _change(self, connect: Callable[[], Client]) -> None:
        try:
            self._renew(connect())
        except (FleetError, OSError) as error:
            self._journal.note_once("the secret was not changed", why=str(error))
        finally:
            with self._guard:
                self._busy = False

    def _renew(self, client: Client) -> None:
        """Change the secret; safe to begin again after whatever it was cut off by."""
        path, old = self._path, self._token
        if path is None or old is None:
            self._journal.note_once("the receiver asks for a new secret, and this one is not in a file of the worker")
            return
        following = path.with_name(path.name + ".next")
        new = _written(following, id_of(old))
        message = {"secret_sha256": digest_of(key_of(new))}
        try:
            client.post("/v1/secret", message)
            system.replace(following, path)
            sync_folder(path.parent)
            self._token, self._renewed_s = new, time.monotonic()
            client.post("/v1/secret", message)  # the first use: from now on the old one is worth nothing
        finally:
            client.close()
        self._journal.note("secret changed", file=str(path))


def _written(path: Path, public_id: str) -> str:
    """Return the next secret from its file, which is made when it is not there or not whole."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = path.read_text(encoding="ascii").strip()
        if FORM.fullmatch(found) and id_of(found) == public_id:
            return found
    new = secret_of(public_id, new_key())
    write_whole(path, f"{new}\n".encode(), private=True)
    return new


def session(lock: TextIO) -> str:
    """Return where this worker runs and which start it is, for the receiver to tell two machines apart.

    The place is the same for every worker that is started in this folder until the machine is booted again, and differs
    in a copy of the folder or of the whole disk. The lock of the folder lets one worker in at a time.

    Args:
        lock: The open lock of the work folder.
    """
    found = os.fstat(lock.fileno())
    folder = _digits(f"folder {_machine()} {found.st_dev} {found.st_ino}", PLACE_DIGITS - HOST_DIGITS)
    return f"{_host()}{folder}.{secrets.token_hex(16)}"


def process_id(work_dir: Path) -> str:
    """Return which of the processes under its name this worker is.

    It stays the same for a worker that is started again in its folder, so that what the one before it lost is known at
    once; the lock of the folder lets one in at a time. A copy of the folder on another host is another one.

    Args:
        work_dir: The locked work folder.

    Raises:
        OSError: It cannot be written down; nothing depends on it but how soon a lost lease ends.
    """
    path, kept = work_dir / "process", ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        kept = path.read_text(encoding="ascii").strip()
    if not _PROCESS.fullmatch(kept):
        kept = secrets.token_hex(16)
        write_whole(path, kept.encode())
    return _digits(f"process {kept} {platform.node()}", 32)


def visit() -> str:
    """Return what another program on this host says of itself: it looks, and leaves the identity to the worker here.

    It names the host alone, because such a program may not know the worker's folder, or not be let into it.
    """
    return f"{_host()}.visit"


def show_secret(client: Client, worker: str, *, deadline_s: float | None = None) -> Answer | None:
    """Show the receiver the secret and return what it says of this worker; nothing changes there.

    Args:
        client: The way to the receiver, with the secret and a visit.
        worker: The worker's name.
        deadline_s: Longest time spent on repeats.

    Returns:
        Its answer; None from a receiver that takes the secret and is too old to say more.

    Raises:
        FleetError: It refuses the secret, or cannot be reached.
    """
    with contextlib.suppress(NotFoundError):
        return client.request("GET", f"/v1/worker/self?worker={worker}", deadline_s=deadline_s)
    with contextlib.suppress(NotFoundError):
        client.heartbeat(_NOBODYS_JOB, Heartbeat("a-visit"), deadline_s=deadline_s)
    return None


def _host() -> str:
    return _digits(f"host {_machine()}", HOST_DIGITS)


def _machine() -> str:
    """Return what other hosts cannot know of this boot of this one.

    Source: Linux, random(4), boot_id; systemd.unit(5), specifier %b, and systemd.exec(5), ProtectProc.
    """
    # A container may have a boot id of its own, mounted over the kernel's. The unit's ProtectProc mounts another /proc
    # without it, so the service would read the id of the machine around and every other program that of the container.
    with contextlib.suppress(ValueError):
        return str(uuid.UUID(os.environ.get(BOOT, "")))
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return f"{uuid.getnode():012x}"


def _digits(text: str, count: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:count]
