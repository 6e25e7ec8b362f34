"""`cis490-trainer-receiver doctor`: what is wrong with this receiver and what to do about it.

Owns the command and the checks of the program itself; its files are those of `belongings`. Guarantees that it may be
run while the receiver runs, that it changes nothing, that no secret is printed, and that it ends. `--check` prints the
settings and judges them alone.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import json
import os
import resource
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from training.fleet import settings
from training.fleet.auth import TOKENS, demand_wide_tokens, is_loopback
from training.fleet.checks import (
    Ask,
    Check,
    Look,
    Seen,
    ask,
    clock_keeper,
    exit_status,
    fail,
    made,
    of_settings,
    ok,
    python,
    show,
    unit,
    warn,
)
from training.fleet.manifest import load
from training.fleet.model.errors import ConfigurationError, ManifestError
from training.fleet.receiver import belongings, options
from training.fleet.receiver.operators import credentials_of
from training.fleet.receiver.server import SPARE_FILES
from training.fleet.settings import Settings
from training.fleet.tls import serving
from training.needs import installing

SERVICE: Final = "cis490-trainer-receiver"
NEEDED: Final = ("uvicorn", "msgspec")
EXTRA: Final = ("httptools", "uvloop", "cryptography")
SQLITE_GOOD: Final = (3, 51, 3)
SQLITE_MENDED: Final = ((3, 50, 7), (3, 44, 6))
FEW_FILES: Final = 1024
MANIFEST_S: Final = 60.0
TRY_S: Final = 3.0
READY_WORDS: Final = ("ready", "not ready")
MAX_FAULTS: Final = 20
BEGUN_AT: Final = 1704067200.0


def run_doctor(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the command.

    Args:
        words: Arguments after "doctor".
        environ: Environment variables.

    Returns:
        0 when nothing fails, 1 when something does, 78 when the settings cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog=f"{SERVICE} doctor",
        description="Look at everything that the receiver needs and say how to correct what is wrong.",
        epilog="It changes nothing. Give it the settings, the user and the environment of the receiver it is about.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    table = options.table(environ)
    settings.add_flags(parser, table)
    flags = vars(parser.parse_args(words))
    as_json = flags.pop("json")
    checks = examined(flags, environ)
    status = exit_status(checks)
    show(checks, status, sys.stdout, as_json=as_json, environ=environ)
    return status


def examined(flags: Mapping[str, Any], environ: Mapping[str, str]) -> list[Check]:
    """Look at everything; without settings only at what needs none."""
    first = [Look("python", python), Look("packages", packages), Look("sqlite", sqlite), Look("clock", clock)]
    try:
        chosen = settings.read(options.table(environ), flags, environ)
        options.address(chosen["listen_addr"])
    except ConfigurationError as error:
        return [*made([*first, Look("service", lambda: unit(SERVICE))]), Check("settings", *of_settings(error))]
    return made([*first, *_looks(chosen, environ)])


def _looks(chosen: Settings, environ: Mapping[str, str]) -> list[Look]:
    running = listener(chosen)
    return [
        Look("settings", lambda: in_force(chosen)),
        Look("tokens", lambda: tokens(chosen, environ)),
        Look("address", lambda: address(chosen, running)),
        Look("open files", open_files),
        Look("manifest", lambda: manifest(chosen), limit_s=MANIFEST_S),
        *belongings.looks(chosen, runs=lambda: running is not None),
        Look("service", lambda: unit(SERVICE)),
    ]


# ---- the program ----------------------------------------------------------------------------------------------------


def packages() -> Seen:
    """Say which packages are here, in which version."""
    found = {name: version for name in (*NEEDED, *EXTRA) if (version := _version(name))}
    missing = [name for name in NEEDED if name not in found]
    if missing:
        return fail(f"{', '.join(missing)} not installed", installing(""))
    return ok(", ".join(f"{name} {version}" for name, version in found.items()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Seen:
    """Compare SQLite with the versions whose write-ahead log is repaired.

    Source: https://www.sqlite.org/wal.html#walresetbug.
    """
    shown = ".".join(map(str, version))
    if version >= SQLITE_GOOD or version in SQLITE_MENDED:
        return ok(shown)
    return warn(
        f"{shown} can damage a database that several connections write; the receiver uses one alone",
        "let no other program open the database; a Python with SQLite 3.51.3 or newer does not do that",
    )


def clock(run: Ask = ask) -> Seen:
    """Check that the clock was set and is kept in step."""
    kept, remedy = clock_keeper(run)
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < BEGUN_AT:
        return fail(f"says {said}, so it was never set", remedy)
    if kept is False:
        return warn(f"says {said}, and nothing keeps it in step", remedy)
    return ok(f"says {said}" + (", and is kept in step" if kept else ""))


def open_files(limit: int | None = None) -> Seen:
    """Compare the limit of open files with what connections need."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    said = f"at most {soft}, so {max(16, soft - SPARE_FILES)} connections"
    if soft < FEW_FILES:
        return warn(said, "ulimit -n 16384 before the start; the unit sets LimitNOFILE=16384")
    return ok(said)


def in_force(chosen: Settings) -> Seen:
    """Say which settings are not the defaults, and where they come from."""
    serving.demand_fit(chosen)
    return ok(", ".join(chosen.given()) or "all are the defaults")


def tokens(chosen: Settings, environ: Mapping[str, str]) -> Seen:
    """Check that secrets are set, long enough for the address, and in private files."""
    found = {role: settings.secret(variable, environ) for role, variable in TOKENS.items()}
    host, _ = options.address(chosen["listen_addr"])
    fronted = bool(chosen["trusted_proxies"])
    demand_wide_tokens(host, found, operators=chosen["operators"] is not None, fronted=fronted)
    credentials = credentials_of(chosen, found)
    said = ", ".join(f"{TOKENS[role]} {'set' if token else 'not set'}" for role, token in found.items())
    if not credentials.operators:
        return warn(f"{said}: nobody may change the queue", f"set {TOKENS['operator']}, or operators; {SERVICE} init")
    return ok(said)


# ---- who listens ----------------------------------------------------------------------------------------------------


def listener(chosen: Settings) -> dict[str, Any] | None:
    """Return what the receiver that listens at the address says of itself, None when none does."""
    host, port = options.address(chosen["listen_addr"])
    if not port:
        return None
    there = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    for secure in (chosen["tls_certificate"] is not None, chosen["tls_certificate"] is None):
        found = _ready(there, port, secure=secure)
        if found is not None:
            return found
    return None


def _ready(host: str, port: int, *, secure: bool) -> dict[str, Any] | None:
    link = http.client.HTTPConnection(host, port, timeout=TRY_S)
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent
        link = http.client.HTTPSConnection(host, port, timeout=TRY_S, context=context)
    try:
        link.request("GET", "/readyz", headers={"Host": f"localhost:{port}"})
        body = json.loads(link.getresponse().read(2**16))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        link.close()
    return body if isinstance(body, dict) and body.get("status") in READY_WORDS else None


def address(chosen: Settings, running: Mapping[str, Any] | None) -> Seen:
    """Check that the address can be taken, or that it is this receiver that has it."""
    host, port = options.address(chosen["listen_addr"])
    shown = f"{chosen['listen_addr']} ({'this machine alone' if is_loopback(host) else 'other hosts as well'})"
    if running is not None:
        if running["status"] != READY_WORDS[0]:
            # The reasons are for readers alone, and the check sends no token to a program that it does not know.
            why = "".join(f": {problem}" for problem in running.get("problems", ())[:1])
            return fail(f"a receiver listens on {shown} and is not ready{why}", "cis490-jobs status has all of it")
        return ok(f"a receiver listens on {shown} and is ready")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.bind(place)
    except OSError as error:
        found = f"{shown} cannot be taken ({(error.strerror or str(error)).lower()})"
        return fail(
            found, f"sudo ss -ltnp 'sport = :{port}' names who has it; stop that, or give --listen-addr another"
        )
    return ok(f"{shown} is free; no receiver runs there")


# ---- the manifest ---------------------------------------------------------------------------------------------------


def manifest(chosen: Settings) -> Seen:
    """Read the manifest as a start would, and ask its trainer what it takes.

    Not as root for a receiver of another user: who writes the manifest would have a program of theirs run as root.
    """
    path: Path = chosen["manifest"]
    owner = belongings.existing(chosen["db"]).stat().st_uid
    asked = not (os.geteuid() == 0 != owner)
    try:
        found = load(path, ask_trainer=asked, schema_required=chosen["schema_required"])
    except ManifestError as error:
        faults = "; ".join(map(str, error.faults[:MAX_FAULTS])) or error.message
        more = f"; and {len(error.faults) - MAX_FAULTS} more" if len(error.faults) > MAX_FAULTS else ""
        return fail(f"{faults}{more}", f"correct {path}, then cis490-jobs plan")
    if not found.header.hosts:
        return warn(f"{path} names no host, so nobody may work", "add [hosts.NAME] or [hosts.default]")
    if not found.jobs:
        return warn(f"{path} is valid and names no job", "add [[jobs]]")
    valid = f"{path} is valid: {len(found.jobs)} jobs, {len(found.header.hosts)} hosts"
    if found.header.contract is None:
        return warn(
            f"{valid}; its trainer was not started, because this is root and the receiver is not",
            f"run doctor as the receiver's user: sudo -u '#{owner}' {SERVICE} doctor",
        )
    return ok(f"{valid}, and its trainer answers")
