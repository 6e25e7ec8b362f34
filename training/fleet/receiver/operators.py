"""The operators of a receiver: their files, and the command that lets one log in.

Owns reading the files. Guarantees that a code or token is printed once and kept nowhere. Leaves their form to `auth`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.fleet import settings
from training.fleet.auth import RIGHTS, Credentials, Logins, Operator, is_loopback, operators_of
from training.fleet.auth.credentials import OPERATOR_NAME
from training.fleet.model.errors import EX_FAILURE, ConfigurationError
from training.fleet.receiver import options
from training.fleet.settings import Settings
from training.fleet.single_file import JOBS, digest_of
from training.fleet.tls import serving

MAX_BYTES: Final = 2**20
ENV_NAME: Final = "trainer-receiver.env"
MACHINE_ENV: Final = Path("/etc/cis490") / ENV_NAME
MACHINE_STATE: Final = "/var/lib/cis490"
"""Settings and state of a receiver that is installed for the machine."""


def credentials_of(chosen: Settings, tokens: Mapping[str, str | None]) -> Credentials:
    """Return what the receiver compares with, the operators file as it is now.

    Raises:
        ConfigurationError: The file cannot be used, or two callers share a token.
    """
    path: Path | None = chosen["operators"]
    host, _ = options.address(chosen["listen_addr"])
    enrolled_only = chosen["enrolled_only"] or bool(chosen["trusted_proxies"]) or not is_loopback(host)
    named = () if path is None else _read(path)
    logged_in = tuple(one for file in Logins(chosen["logins_root"]).files() for one in _read(file))
    found = Credentials.of(tokens, (*named, *logged_in), enrolled_only=enrolled_only)
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


def run_operator(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Print the command with which an operator logs in, or end an operator, or print a token for the operators file.

    Args:
        words: Arguments after "operator".
        environ: Environment variables; settings of an installed receiver come from its file.

    Returns:
        0 when it is done, 1 when there is no such operator to end.

    Raises:
        ConfigurationError: The name or a role is none, or the settings cannot be used.
    """
    given = _parser().parse_args(words)
    roles = tuple(given.roles.split(","))
    if not OPERATOR_NAME.fullmatch(given.name) or given.name == "operator":
        raise ConfigurationError(
            f"found the name {ascii(given.name)[:40]}",
            expected=(
                "a-z, 0-9, - and _, at most 32 characters, and not 'operator', which is who holds CIS490_OPERATOR_TOKEN"
            ),
        )
    if not all(role in RIGHTS for role in roles):
        raise ConfigurationError(f"found the roles {ascii(given.roles)[:80]}", expected=f"some of {', '.join(RIGHTS)}")
    if given.token:
        return _print_token(given.name, roles)
    known = installed_environ(environ)
    chosen = settings.read(options.table(known), {}, known)
    logins = Logins(chosen["logins_root"])
    if given.remove:
        return _remove(logins, given.name)
    try:
        code = logins.offer(given.name, roles, time.time(), given.ttl)
        _give_all(chosen["logins_root"])
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {error.filename} ({error.strerror})",
            "run this as root or as who owns the receiver's files, with the settings of the receiver",
        ) from error
    sys.stderr.write(
        f"For {given.name} ({', '.join(roles)}), good once and for {given.ttl // 60} minutes; to be typed where they "
        "work, and not here:\n"
    )
    line = _login_line(chosen, code)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    sys.stderr.write(f"Where cis490-jobs is not installed, with nothing but Python 3.11:\n{_fetching(line)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cis490-trainer-receiver operator",
        description="Print the one command with which an operator logs in, with a code that is good once.",
        epilog="Run it on the receiver's machine, as root or as who the receiver runs as.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="how the history names the operator")
    parser.add_argument(
        "--roles", default="read,operate", metavar="ROLES", help=f"some of {','.join(RIGHTS)} [read,operate]"
    )
    parser.add_argument("--ttl", type=_ttl, default=900, metavar="SECONDS", help="how long the code is good [900]")
    parser.add_argument("--remove", action="store_true", help="end this operator; reload the receiver afterwards")
    parser.add_argument(
        "--token", action="store_true", help="print a token and its lines for the operators file, for a program"
    )
    return parser


def _ttl(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 60 <= int(text) <= 86400):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected from 60 to 86400 seconds")
    return int(text)


def installed_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the settings of the receiver that is installed here, which its service alone gets.

    A variable that is set wins. Where the caller has named a state folder, nothing is added.
    """
    if environ.get("STATE_DIRECTORY"):
        return dict(environ)
    own = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".config")
    for path, state in ((own / "cis490" / ENV_NAME, None), (MACHINE_ENV, MACHINE_STATE)):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"the settings {path} cannot be read ({error.strerror})", "run this with sudo"
            ) from error
        found = dict(line.split("=", 1) for line in lines if line.startswith("CIS490_") and "=" in line)
        unquoted = {name: value.strip().strip("\"'") for name, value in found.items()}
        return {**({"STATE_DIRECTORY": state} if state else {}), **unquoted, **environ}
    return dict(environ)


def _login_line(chosen: Settings, code: str) -> str:
    """Return the command for an operator: where the receiver is, the code, and whom to trust."""
    host, port = options.address(chosen["listen_addr"])
    words = ["cis490-jobs", "login"]
    name = next(iter(chosen["host_names"]), socket.gethostname().lower())
    if chosen["trusted_proxies"]:
        return " ".join([*words, f"https://{name}", "--code", code])
    if chosen["tls_certificate"] is None:
        shown = f"[{host}]" if ":" in host else host
        return " ".join([*words, f"http://{shown}:{port}", "--code", code])
    words += [f"https://{name}:{port}", "--code", code]
    authority = serving.shown_authority(chosen)[1]
    return " ".join([*words, *(["--ca-sha256", authority] if authority else [])])


def _fetching(line: str) -> str:
    """Return the login with a `cis490-jobs` that is fetched, and that runs only if it is the one of here."""
    words = line.split()[1:]
    file = JOBS.name
    return (
        f"curl -fsSk {words[1]}/v1/jobs.pyz -o {file} && echo '{digest_of(JOBS)}  {file}' | sha256sum -c && "
        f"python3 {file} {' '.join(words)}"
    )


def _give_all(folder: Path) -> None:
    """Give what root made to who owns the folder above it: the receiver's user."""
    if os.geteuid() != 0:
        return
    owner = folder.parent.stat()
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _remove(logins: Logins, name: str) -> int:
    if not logins.remove(name):
        sys.stderr.write(f"no operator {name} has logged in; those of the operators file are removed there\n")
        return EX_FAILURE
    sys.stdout.write(f"removed {name}; it holds after: sudo systemctl reload cis490-trainer-receiver\n")
    return 0


def _print_token(name: str, roles: Sequence[str]) -> int:
    token = secrets.token_urlsafe(32)
    shown = ", ".join(f'"{role}"' for role in roles)
    sys.stderr.write(f"Token of {name}, shown this once; it goes into their CIS490_OPERATOR_TOKEN_FILE:\n")
    sys.stdout.write(f"{token}\n")
    sys.stdout.flush()
    sys.stderr.write(
        f"Lines for the operators file; reload the receiver afterwards:\n\n[operators.{name}]\n"
        f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nroles = [{shown}]\n'
    )
    return 0
