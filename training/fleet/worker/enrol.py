"""`cis490-training-worker enrol`: exchange a one-time code for this host's own secret.

Guarantees that it may be run again at any moment: a run that was cut off goes on with the key it had made, and a host
that is enrolled stays so. The code comes from the standard input or the environment, never from a flag, so that no
process list shows it. What the receiver answers is written before success is told.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from training.fleet.auth.identities import digest_of, new_key, secret_of
from training.fleet.client import Client, address, certificate_files
from training.fleet.client.pinning import MAX_CA_BYTES, pinned
from training.fleet.files import write_whole
from training.fleet.model.errors import (
    EX_CONFIG,
    AuthenticationError,
    ConfigurationError,
    FleetError,
    ForbiddenError,
    IdentityInUseError,
    UnavailableError,
)
from training.fleet.model.names import is_host_name, is_sha256
from training.fleet.settings import full_path, secret, state_folder
from training.fleet.worker.certificate import together
from training.fleet.worker.identity import FORM, show_secret, visit
from training.fleet.worker.options import SECRET, settings_path
from training.fleet.worker.work_folder import demand_own_way, make_private

PROGRAM: Final = "cis490-training-worker enrol"
CODE: Final = "CIS490_INVITE"
"""The variable that may hold the one-time code."""
PATIENCE_S: Final = 10.0
"""How long a receiver that does not answer is asked again."""
CODE_CHARS: Final = 32
"""Characters of the codes that receivers make."""
CODE_FORM: Final = re.compile(r"[0-9A-Za-z_-]{22,64}")
"""What receivers take for a code."""
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{32,128}")


@dataclass(frozen=True, slots=True)
class EnrolOrder:
    """What is to be done.

    Attributes:
        receiver: Address of the receiver.
        host: Name to enrol under.
        ca_sha256: SHA-256 of the receiver's certificate authority (DER), hex; None to trust the system's or `ca_file`.
        ca_file: Where the authority is kept or is to be written.
        secret_file: Where the secret is to be written.
        settings_file: Where the worker's settings are to be written.
    """

    receiver: str
    host: str
    ca_sha256: str | None
    ca_file: Path
    secret_file: Path
    settings_file: Path


def enrol_host(words: Sequence[str], environ: Mapping[str, str] = os.environ, stdin: TextIO | None = None) -> int:
    """Run the command.

    Args:
        words: Arguments after "enrol".
        environ: Environment variables.
        stdin: Where the code may come from; the process's own when None.

    Returns:
        0 when the host is enrolled, now or before; else the exit status of what stood in the way.
    """
    try:
        order = _order(_parser(environ).parse_args(words))
        for line in _enrolled(order, environ, sys.stdin if stdin is None else stdin):
            sys.stdout.write(f"{line}\n")
    except FleetError as error:
        sys.stderr.write(f"{PROGRAM}: {error.message}\n")
        return error.exit_status
    except OSError as error:
        sys.stderr.write(f"{PROGRAM}: {error.strerror}: {error.filename}; check the folder and its owner\n")
        return EX_CONFIG
    return 0


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    state = state_folder(environ)
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Exchange a one-time code for this host's own secret.",
        epilog=f"The code comes from the standard input or ${CODE}; `cis490-jobs invite HOST` makes one.",
        allow_abbrev=False,
    )
    parser.add_argument("--receiver", required=True, metavar="URL", help="address of the receiver")
    parser.add_argument("--host", default=socket.gethostname().lower(), metavar="NAME", help="name to enrol under")
    parser.add_argument("--ca-sha256", metavar="HEX", help="fingerprint of the receiver's certificate authority")
    parser.add_argument("--ca-file", type=Path, default=state / "ca.pem", metavar="FILE", help="where it is kept")
    parser.add_argument(
        "--secret-file", type=Path, default=state / "worker.secret", metavar="FILE", help="where the secret is kept"
    )
    parser.add_argument(
        "--settings-file", type=Path, default=settings_path(environ), metavar="FILE", help="settings to write"
    )
    return parser


def _order(given: argparse.Namespace) -> EnrolOrder:
    if not is_host_name(given.host):
        raise ConfigurationError(
            f"found the host name {given.host[:80]!a}",
            expected="the one of the invite, of a-z, 0-9, dots, dashes and underscores",
        )
    fingerprint = given.ca_sha256 and given.ca_sha256.lower().replace(":", "")
    if fingerprint is not None and not is_sha256(fingerprint):
        raise ConfigurationError("--ca-sha256 is no fingerprint", expected="the 64 hex digits of the invite")
    paths = (full_path(path) for path in (given.ca_file, given.secret_file, given.settings_file))
    return EnrolOrder(address(given.receiver).url, given.host, fingerprint, *paths)


def _enrolled(order: EnrolOrder, environ: Mapping[str, str], stdin: TextIO) -> list[str]:
    """Return what was done, for people."""
    # An authority that is only read may lie in a folder of somebody else, whom this user trusts with it.
    written = (order.secret_file, order.settings_file, *(() if order.ca_sha256 is None else (order.ca_file,)))
    for path in written:
        demand_own_way(path)
        make_private(path.parent)
    ca_file = _trusted(order)
    if _is_enrolled(order, ca_file):
        return [f"already enrolled as {order.host}: {order.secret_file} is good at {order.receiver}"]
    code = _code(order, environ, stdin)
    waiting = order.secret_file.with_name(order.secret_file.name + ".new")
    key = _key(waiting)
    answer = _exchange(order, ca_file, code, key)
    _keep(order, secret_of(str(answer["id"]), key), ca_file, together(answer) if answer.get("certificate_pem") else "")
    waiting.unlink(missing_ok=True)
    return [
        f"enrolled as {order.host} at {order.receiver}",
        f"secret: {order.secret_file} (for this user alone)",
        f"settings: {order.settings_file}",
        "start the worker: cis490-training-worker",
    ]


# ---- what is there already ------------------------------------------------------------------------------------------


def _is_enrolled(order: EnrolOrder, ca_file: Path | None) -> bool:
    """Say whether the host has a secret for this receiver and name that the receiver takes."""
    settings = _settings(order.settings_file)
    if (settings.get("name"), settings.get("receiver")) != (order.host, order.receiver):
        return False
    if not order.secret_file.is_file():
        return False
    token = secret(SECRET, {f"{SECRET}_FILE": str(order.secret_file)})
    if token is None or not FORM.fullmatch(token):
        return False
    try:
        shown = certificate_files(*(_path(settings.get(name)) for name in ("client_certificate", "client_key")))
        client = Client(
            order.receiver, token, ca_file=ca_file, certificate=shown, deadline_s=PATIENCE_S, session=visit()
        )
    except ConfigurationError:
        return False  # the certificate is lost; a new enrolment brings another
    try:
        # Who learns that another machine uses the identity has shown a secret that is good.
        with contextlib.suppress(IdentityInUseError):
            show_secret(client, order.host)
    except (AuthenticationError, ForbiddenError):
        return False
    finally:
        client.close()
    return True


def _path(value: object) -> Path | None:
    return Path(value) if isinstance(value, str) and value else None


def _settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the settings {path} cannot be read ({error})", "correct or remove the file"
        ) from None


def _key(path: Path) -> str:
    """Return the key that an earlier run has made and not exchanged, or a new one that is on disk before it is used."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = path.read_text(encoding="ascii").strip()
        if _KEY.fullmatch(found):
            return found
    made = new_key()
    write_whole(path, f"{made}\n".encode(), private=True)
    return made


# ---- the exchange ---------------------------------------------------------------------------------------------------


def _code(order: EnrolOrder, environ: Mapping[str, str], stdin: TextIO) -> str:
    given = environ.get(CODE, "").strip()
    if not given:
        if stdin.isatty():
            sys.stderr.write("One-time code: ")
            sys.stderr.flush()
        given = stdin.readline(256).strip()
    if not given:
        raise AuthenticationError(
            f"this host has no secret that {order.receiver} takes for {order.host}, and no code came to get one",
            f"have an operator run `cis490-jobs invite {order.host}` and give the code on the standard input or in "
            f"${CODE}",
        )
    # Looked at here, because the receiver can only say that it is no code; its length never says what it is.
    if not CODE_FORM.fullmatch(given):
        odd = "" if re.fullmatch("[0-9A-Za-z_-]*", given) else ", some of which no code has"
        raise AuthenticationError(
            f"the one-time code has {len(given)} characters{odd}",
            "copy it whole",
            expected=f"{CODE_CHARS} of letters, digits, - and _",
        )
    return given


def _exchange(order: EnrolOrder, ca_file: Path | None, code: str, key: str) -> dict[str, Any]:
    client = Client(order.receiver, ca_file=ca_file)
    message = {"code": code, "worker": order.host, "secret_sha256": digest_of(key)}
    try:
        _, answer = client.post("/v1/enrol", message, deadline_s=PATIENCE_S)
    finally:
        client.close()
    if not answer or answer.get("worker") != order.host or not FORM.fullmatch(secret_of(str(answer.get("id")), key)):
        raise UnavailableError(
            f"{order.receiver} gave no answer to an enrolment", "update the receiver if it is older than this worker"
        )
    return answer


def _keep(order: EnrolOrder, own: str, ca_file: Path | None, certificate: str) -> None:
    """Write the secret and the certificate, then the settings that name them."""
    write_whole(order.secret_file, f"{own}\n".encode(), private=True)
    kept = {"receiver": order.receiver, "name": order.host, "worker_secret_file": str(order.secret_file)}
    if ca_file is not None:
        kept["ca_file"] = str(ca_file)
    # What JSON writes of texts, numbers and lists of them is TOML as well.
    whole = _settings(order.settings_file) | kept
    for name in ("client_certificate", "client_key"):
        whole.pop(name, None)
    if certificate:
        path = order.secret_file.with_name("worker.pem")
        write_whole(path, certificate.encode(), private=True)
        whole["client_certificate"] = str(path)
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in whole.items()]
    text = "\n".join(["# Written by `cis490-training-worker enrol`.", *lines, ""])
    write_whole(order.settings_file, text.encode(), private=True)


# ---- whom to trust --------------------------------------------------------------------------------------------------


def _trusted(order: EnrolOrder) -> Path | None:
    """Return the file of the authority to trust, None for the system's.

    Raises:
        ConfigurationError: The receiver's authority is not the one of the invite.
    """
    where = address(order.receiver)
    if not where.secure:
        return None
    if order.ca_sha256 is None:
        return order.ca_file if order.ca_file.is_file() else None
    import ssl  # only a host that enrols over https pays for it

    held = _held(order.ca_file)
    der = pinned(where, order.ca_sha256, held)
    # Written again from the bytes that were hashed, because TLS trusts whatever else stands in the file.
    pem = ssl.DER_cert_to_PEM_cert(der)
    if pem != held:
        write_whole(order.ca_file, pem.encode(), private=True)
    return order.ca_file


def _held(path: Path) -> str:
    """Return what stands in the file of the authority, empty when there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return stream.read(MAX_CA_BYTES + 1).decode("ascii", "replace")
