"""How a person gets a token: a one-time code, exchanged once, and the operators that came from it.

Owns the folder in which both lie, one small file each: a code as its SHA-256 with a name, roles and an end, an operator
as a file of the form that operators have anyway. Guarantees that a code is good once and until its end, that neither
code nor token is written down, and that the same exchange asked again gives the same answer. The program that makes a
code and the receiver that takes it share nothing but this folder, so a code can be made while the receiver is down.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from training.fleet.auth.identities import new_code
from training.fleet.files import replace_shared, write_new
from training.fleet.model.errors import InviteRefusedError

_OPERATOR: Final = "operator-"
_CODE: Final = "code-"


@dataclass(frozen=True, slots=True)
class LoginOffer:
    """What a code is good for.

    Attributes:
        name: How the history names the operator.
        roles: What it may do.
        expires_at: End of the code, seconds since the epoch.
        token_sha256: Digest of the token that it was exchanged for, empty before.
    """

    name: str
    roles: tuple[str, ...]
    expires_at: float
    token_sha256: str = ""


class Logins:
    """The codes and operators of one receiver.

    Args:
        folder: Where they lie; made when it is needed, for this user alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def offer(self, name: str, roles: tuple[str, ...], now: float, ttl_s: int) -> str:
        """Make a code and return it; what is written down is its digest."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget(now)
        code = new_code()
        write_new(self._path_of(code), _text(LoginOffer(name, roles, now + ttl_s)))
        return code

    def exchange(self, code: str, token_sha256: str, now: float) -> LoginOffer:
        """Take a code for a token, whose operator exists from then on; one of the same name is replaced.

        Args:
            code: The code.
            token_sha256: Digest of the token that the caller has made.
            now: Seconds since the epoch.

        Raises:
            InviteRefusedError: The code is unknown, too old, or was exchanged for another token.
        """
        with self._lock:
            path = self._path_of(code)
            offer = _read(path)
            if offer is None or offer.expires_at <= now or offer.token_sha256 not in ("", token_sha256):
                raise InviteRefusedError(
                    "the code is unknown, used or too old", "have `cis490-trainer-receiver operator NAME` make another"
                )
            done = LoginOffer(offer.name, offer.roles, offer.expires_at, token_sha256)
            # The code first: after a power cut between the two, the same exchange asked again makes the operator.
            replace_shared(path, _text(done))
            roles = ", ".join(f'"{role}"' for role in done.roles)
            lines = f'[operators.{done.name}]\ntoken_sha256 = "{token_sha256}"\nroles = [{roles}]\n'
            replace_shared(self._folder / f"{_OPERATOR}{done.name}.toml", lines.encode())
            return done

    def remove(self, name: str) -> bool:
        """End an operator and its unused codes; return True if there was any."""
        found = [path for path, offer in self._offers() if offer.name == name]
        found += [path for path in self.files() if path.name == f"{_OPERATOR}{name}.toml"]
        for path in found:
            path.unlink(missing_ok=True)
        return bool(found)

    def files(self) -> list[Path]:
        """Return the files of the operators, sorted."""
        return sorted(self._folder.glob(f"{_OPERATOR}*.toml"))

    def _forget(self, now: float) -> None:
        """Delete the codes that are too old."""
        for path, offer in self._offers():
            if offer.expires_at <= now:
                path.unlink(missing_ok=True)

    def _offers(self) -> Iterator[tuple[Path, LoginOffer]]:
        for path in self._folder.glob(f"{_CODE}*.json"):
            if (offer := _read(path)) is not None:
                yield path, offer

    def _path_of(self, code: str) -> Path:
        return self._folder / f"{_CODE}{hashlib.sha256(code.encode()).hexdigest()}.json"


def _text(offer: LoginOffer) -> bytes:
    return json.dumps(asdict(offer)).encode()


def _read(path: Path) -> LoginOffer | None:
    """Return what a file of a code says, None when there is none or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_bytes())
        return LoginOffer(
            str(found["name"]),
            tuple(map(str, found["roles"])),
            float(found["expires_at"]),
            str(found["token_sha256"]),
        )
    return None
