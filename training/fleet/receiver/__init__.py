"""The receiver: reads one manifest, keeps the queue, hands out leases and stores artifacts.

Owns the program: settings, start order, signals and end. Guarantees that a configuration that no restart corrects ends
it with status 78 and one clear line, that everything answered was durable, and that it ends in order when asked to.
Leaves the rules to `queue`, `store` and `manifest` and the HTTP edge to `api`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from training.fleet import __version__, settings
from training.fleet.api.front import Front
from training.fleet.auth import TOKENS, Credentials, demand_wide_tokens
from training.fleet.model.errors import EX_CONFIG, ConfigurationError, FleetError
from training.fleet.receiver import logs, options
from training.fleet.receiver.doctor import run_doctor
from training.fleet.receiver.offline import run_fsck, run_restore
from training.fleet.receiver.operators import credentials_of, run_operator
from training.fleet.receiver.reloading import run_reload
from training.fleet.receiver.run import run
from training.fleet.settings import Settings
from training.fleet.tls import serving
from training.needs import installing

PROXY_TOKEN = "CIS490_PROXY_TOKEN"  # noqa: S105 - the name of the variable
PROGRAM = "cis490-trainer-receiver"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the receiver until it is asked to end.

    Args:
        argv: Arguments after the program's name; the process's own when None.

    Returns:
        0 after an orderly end, 78 for a configuration that a restart cannot correct, 1 when something failed.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if words[:1] == ["fsck"]:
            return run_fsck(words[1:])
        if words[:1] == ["restore"]:
            return run_restore(words[1:])
        if words[:1] == ["reload"]:
            return run_reload(words[1:])
        if words[:1] == ["operator"]:
            return run_operator(words[1:])
        if words[:1] == ["doctor"]:
            return run_doctor(words[1:])
        if words[:1] == ["init"]:
            return _init(words[1:])
        return _run(words)
    except FleetError as error:
        return _refuse(error)


def _init(words: Sequence[str]) -> int:
    """Make keys and tokens. Only this needs the package `cryptography`, so only this loads it."""
    try:
        from training.fleet.receiver.init import run_init
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"init needs the package {error.name}, which is not installed", f"{installing('tls')}"
        ) from None
    return run_init(words)


def _run(words: Sequence[str]) -> int:
    table = options.table(os.environ)
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Keep the job queue of a training fleet.",
        epilog=f"`{PROGRAM} init` makes keys and tokens, `{PROGRAM} operator NAME` a token for an operator. "
        f"`{PROGRAM} doctor` says what is wrong with it, `{PROGRAM} reload` lets it read its manifest again. "
        f"While it does not run: `{PROGRAM} fsck` checks its files, `{PROGRAM} restore` brings a backup back.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--check", action="store_true", help="print the effective settings with their source and end")
    settings.add_flags(parser, table)
    flags = vars(parser.parse_args(words))
    try:
        chosen = settings.read(table, flags, os.environ)
        tokens = {role: settings.secret(variable, os.environ) for role, variable in TOKENS.items()}
        credentials = _judged(chosen, tokens)
        front = Front(chosen["trusted_proxies"], settings.secret(PROXY_TOKEN, os.environ))
        if flags["check"]:
            sys.stdout.write("\n".join([*chosen.lines(), *_secret_lines(tokens)]) + "\n")
            return 0
        logs.start(chosen["log_level"], chosen["log_format"])
        return run(chosen, credentials, os.environ, lambda: credentials_of(chosen, tokens), front)
    except FleetError as error:
        return _refuse(error)


def _judged(chosen: Settings, tokens: Mapping[str, str | None]) -> Credentials:
    """Return the credentials; refuse settings that cannot be served together."""
    host, _ = options.address(chosen["listen_addr"])
    demand_wide_tokens(host, tokens, operators=chosen["operators"] is not None, fronted=bool(chosen["trusted_proxies"]))
    credentials = credentials_of(chosen, tokens)
    if "://" in str(chosen["db"]) or ":/" in str(chosen["db"]):
        raise ConfigurationError(
            f"db is {str(chosen['db'])!r}",
            "give a path with --db; other databases cannot be used",
            expected="the path of a file",
        )
    serving.judge(chosen)
    return credentials


def _secret_lines(tokens: Mapping[str, str | None]) -> list[str]:
    return [f"{TOKENS[role]} = {'set' if token else 'not set'}" for role, token in tokens.items()]


def _refuse(error: FleetError) -> int:
    """Say on one line what is wrong, with the faults below it, and return the exit status."""
    sys.stderr.write(f"{PROGRAM}: " + "\n".join(error.lines) + "\n")
    return EX_CONFIG if isinstance(error, ConfigurationError) else error.exit_status
