"""The operators of a receiver: their file, and the command that makes a token for one.

Owns reading the file. Guarantees that a token is printed once and kept nowhere. Leaves its form to `auth`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.fleet.auth import RIGHTS, Credentials, Operator, is_loopback, operators_of
from training.fleet.auth.credentials import OPERATOR_NAME
from training.fleet.model.errors import ConfigurationError
from training.fleet.receiver import options
from training.fleet.settings import Settings

MAX_BYTES: Final = 2**20


def credentials_of(chosen: Settings, tokens: Mapping[str, str | None]) -> Credentials:
    """Return what the receiver compares with, the operators file as it is now.

    Raises:
        ConfigurationError: The file cannot be used, or two callers share a token.
    """
    path: Path | None = chosen["operators"]
    host, _ = options.address(chosen["listen_addr"])
    enrolled_only = chosen["enrolled_only"] or bool(chosen["trusted_proxies"]) or not is_loopback(host)
    found = Credentials.of(tokens, () if path is None else _read(path), enrolled_only=enrolled_only)
    return replace(found, certificate_wanted=chosen["tls_clients"] == "required")


def _read(path: Path) -> tuple[Operator, ...]:
    try:
        with path.open("rb") as file:
            if os.name != "nt" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IRWXO:
                raise ConfigurationError(
                    f"everybody on this host can use the operators file {path}",
                    f"run chmod o= {path}",
                    expected="a private file",
                )
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigurationError(f"the operators file {path} is larger than {MAX_BYTES} bytes", "make it smaller")
        return operators_of(data.decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the operators file {path} cannot be read ({error})", "correct --operators"
        ) from error


def run_operator(words: Sequence[str]) -> int:
    """Make a token for an operator, print it and the lines for the operators file.

    Args:
        words: Arguments after "operator".

    Returns:
        0 when it is done.

    Raises:
        ConfigurationError: The name or a role is none.
    """
    parser = argparse.ArgumentParser(
        prog="cis490-trainer-receiver operator",
        description="Make a token for an operator. It is shown once and kept nowhere.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="how the history names the operator")
    parser.add_argument(
        "--roles", default="read,operate", metavar="ROLES", help=f"some of {','.join(RIGHTS)} [read,operate]"
    )
    given = parser.parse_args(words)
    roles = given.roles.split(",")
    if not OPERATOR_NAME.fullmatch(given.name) or given.name == "operator":
        raise ConfigurationError(
            f"found the name {ascii(given.name)[:40]}",
            expected=(
                "a-z, 0-9, - and _, at most 32 characters, and not 'operator', which is who holds CIS490_OPERATOR_TOKEN"
            ),
        )
    if not all(role in RIGHTS for role in roles):
        raise ConfigurationError(f"found the roles {ascii(given.roles)[:80]}", expected=f"some of {', '.join(RIGHTS)}")
    token = secrets.token_urlsafe(32)
    shown = ", ".join(f'"{role}"' for role in roles)
    sys.stderr.write(f"Token of {given.name}, shown this once; it goes into their CIS490_OPERATOR_TOKEN_FILE:\n")
    sys.stdout.write(f"{token}\n")
    sys.stdout.flush()
    sys.stderr.write(
        f"Lines for the operators file; reload the receiver afterwards:\n\n[operators.{given.name}]\n"
        f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nroles = [{shown}]\n'
    )
    return 0
