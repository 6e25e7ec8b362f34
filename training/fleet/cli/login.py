"""`cis490-jobs login` and `context`: to which receivers a person is logged in.

Guarantees that nothing secret goes to a receiver that is not the one of the fingerprint, and that a token never is an
argument, a variable or a line on the screen: it is made here, and the receiver gets its SHA-256.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import os
import re
import secrets
import ssl
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from training.fleet.cli.contexts import NAME, Contexts
from training.fleet.cli.remote import read
from training.fleet.cli.text import clean
from training.fleet.cli.typed import program
from training.fleet.client import Client, address
from training.fleet.client.pinning import pinned
from training.fleet.model.errors import AuthenticationError, ConfigurationError, FleetError
from training.fleet.model.names import is_sha256
from training.fleet.wire.identities import LoggedIn, Login

CODE: Final = "CIS490_LOGIN_CODE"
"""The variable that may hold the one-time code."""
PATIENCE_S: Final = 10.0
_CODE_FORM: Final = re.compile(r"[0-9A-Za-z_-]{22,64}")


def add_commands(groups: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `login` and `context`, which speak to no receiver as somebody who is logged in already."""
    about = "log in to a receiver with the line that its operator got"
    sub: argparse.ArgumentParser = groups.add_parser("login", help=about, description=about, allow_abbrev=False)
    sub.add_argument("receiver", metavar="URL", help="address of the receiver")
    sub.add_argument("--code", help=f"the one-time code; else from ${CODE}, or asked for")
    sub.add_argument("--ca-sha256", metavar="HEX", help="fingerprint of the receiver's authority")
    sub.add_argument("--name", metavar="NAME", help="how you call this receiver [its host name]")
    sub.set_defaults(alone=log_in, json=False)
    about = "list the receivers that you are logged in to, use another one, or forget one"
    sub = groups.add_parser("context", help=about, description=about, allow_abbrev=False)
    sub.add_argument("action", choices=("list", "use", "rm"), nargs="?", default="list")
    sub.add_argument("name", metavar="NAME", nargs="?")
    sub.set_defaults(alone=change_context, json=False)


def log_in(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Exchange the code, keep the token, and return what was done, for people.

    Raises:
        FleetError: The receiver cannot be reached, is another one, or refuses the code.
    """
    where, contexts = address(options.receiver), Contexts(environ)
    name = options.name or where.host.replace(":", "-")
    if not NAME.fullmatch(name):
        raise ConfigurationError(f"found the name {ascii(name)[:80]}", expected="a-z, 0-9, dots, dashes, underscores")
    authority = _authority(options, where.secure)
    code, token = _code(options, environ), secrets.token_urlsafe(32)
    done = _exchanged(where.url, authority, Login(code, hashlib.sha256(token.encode()).hexdigest()))
    path = contexts.keep(name, where.url, token, authority)
    return [
        f"logged in to {where.url} as {clean(done.name)}, who may {', '.join(map(clean, done.roles))}",
        f"kept in {path}, for this user alone; `{program()} status` shows the fleet",
    ]


def _authority(options: argparse.Namespace, secure: bool) -> str:
    """Return the certificate to trust in PEM, empty for the system's."""
    if options.ca_sha256 is None or not secure:
        return ""
    wanted = options.ca_sha256.lower().replace(":", "")
    if not is_sha256(wanted):
        raise ConfigurationError("--ca-sha256 is no fingerprint", expected="64 hex digits")
    return ssl.DER_cert_to_PEM_cert(pinned(address(options.receiver), wanted))


def _code(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    given = options.code or environ.get(CODE) or ""
    if not given and sys.stdin is not None and sys.stdin.isatty():
        given = getpass.getpass("One-time code: ")
    if not given:
        raise AuthenticationError("found no code", f"give --code, or set ${CODE}")
    if not _CODE_FORM.fullmatch(given.strip()):
        raise ConfigurationError(
            f"the code has {len(given.strip())} characters", "copy it whole", expected="32 of a-z, A-Z, 0-9, - and _"
        )
    return given.strip()


def _exchanged(receiver: str, authority: str, message: Login) -> LoggedIn:
    with tempfile.TemporaryDirectory(prefix="cis490-") as folder:
        ca_file = None
        if authority:
            ca_file = Path(folder, "ca.pem")
            ca_file.write_text(authority, encoding="ascii")
        client = Client(receiver, ca_file=ca_file)
        body = {"code": message.code, "token_sha256": message.token_sha256}
        try:
            _, answer = client.post("/v1/login", body, deadline_s=PATIENCE_S)
        finally:
            client.close()
    if not answer:
        raise FleetError(
            f"{receiver} gave no answer to a login", "update the receiver if it is older than this command"
        )
    return read(LoggedIn, answer)


def change_context(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> list[str]:
    """List the logins, use another one, or delete one; return lines for people.

    Raises:
        FleetError: There is no such login.
    """
    contexts, name = Contexts(environ), options.name
    if options.action == "list":
        return _listed(contexts, name)
    if name is None:
        raise ConfigurationError(f"`context {options.action}` needs a name", "`cis490-jobs context` shows all")
    if options.action == "use":
        contexts.use(name)
        return [f"{name} is used from now on"]
    contexts.remove(name)
    return [f"forgot {name}; to end its token: cis490-trainer-receiver operator NAME --remove, on the receiver"]


def _listed(contexts: Contexts, name: str | None) -> list[str]:
    current = contexts.current()
    lines = []
    for each in contexts.names() if name is None else [name]:
        try:
            shown = clean(contexts.get(each).receiver)
        except ConfigurationError as fault:
            shown = clean(fault.message)
        lines.append(f"{'*' if each == current else ' '} {each}\t{shown}")
    return lines or ["not logged in anywhere; on the receiver, `cis490-trainer-receiver operator NAME` prints the line"]
