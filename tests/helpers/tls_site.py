"""Certificates for tests: an authority, what it issued, and what it should not have."""

from __future__ import annotations

import time
from pathlib import Path

from training.fleet.files import write_whole
from training.fleet.tls.certificates import DAY_S, Authority, KeyPair, make_authority

NAMES = ("localhost", "127.0.0.1")


class Site:
    """A folder with an authority and the certificates asked for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca, self.ca_key = folder / "ca.pem", folder / "ca.key"
        pair = make_authority(time.time())
        self.fingerprint = pair.fingerprint
        write_whole(self.ca, pair.certificate_pem, private=True)
        write_whole(self.ca_key, pair.key_pem, private=True)
        self.authority = Authority.read(self.ca, self.ca_key)

    def server(self, label: str = "receiver", *, names: tuple[str, ...] = NAMES, **when: float) -> tuple[Path, Path]:
        """Return the files of a server's certificate; see `_moment` for `when`."""
        now, life_s = _moment(**when)
        return self.put(label, self.authority.server(names, now, life_s=life_s))

    def worker(self, name: str, uri: str, label: str = "", **when: float) -> tuple[Path, Path]:
        """Return the files of a worker's certificate."""
        now, life_s = _moment(**when)
        return self.put(label or name, self.authority.worker(name, uri, now, life_s=life_s))

    def put(self, label: str, pair: KeyPair) -> tuple[Path, Path]:
        paths = self.folder / f"{label}.pem", self.folder / f"{label}.key"
        write_whole(paths[0], pair.certificate_pem, private=True)
        write_whole(paths[1], pair.key_pem, private=True)
        return paths


def _moment(*, begins_s: float = -30 * DAY_S, ends_s: float = 60 * DAY_S) -> tuple[float, float]:
    """Return when to issue, and for how long, so that a certificate is good between two times from now."""
    now = time.time() + begins_s + 30 * DAY_S
    return now, time.time() + ends_s - now
