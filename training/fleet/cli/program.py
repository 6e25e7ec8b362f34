"""The program `cis490-jobs`: its command line, its settings and its exit statuses.

Guarantees that every error is one line on standard error without a traceback, that data go to standard output alone,
and that a closed pipe or Ctrl-C ends it without a message.

Exit statuses: 0 done; 1 refused or failed; 2 wrong usage; 3 `plan --exit-code` found changes; 69 receiver unreachable;
75 receiver busy, try again; 77 not permitted; 78 bad configuration; 130 interrupted; 141 output closed.

Source: sysexits.h for 69 to 78.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO

from training.fleet import __version__
from training.fleet.cli import bulk, commands, listing, machines, manifests, pruning, result_options, results, trail
from training.fleet.cli.completion import SHELLS
from training.fleet.cli.contexts import Context, Contexts
from training.fleet.cli.instants import FORMS, is_instant
from training.fleet.cli.login import add_commands
from training.fleet.cli.remote import Remote, is_id_prefix
from training.fleet.cli.text import Terminal, silence
from training.fleet.cli.usage import Parser
from training.fleet.client import DEFAULT_RECEIVER, Client, certificate_files
from training.fleet.model.errors import EX_FAILURE, AuthenticationError, FleetError, UnreachableError
from training.fleet.model.jobs import MODES, STATUSES
from training.fleet.model.names import is_host_name, is_sha256
from training.fleet.settings import full_path, secret

PATIENCE_S: Final = 3.0
"""Seconds for which a command tries again when the receiver does not answer or is busy."""
EX_INTERRUPTED: Final = 130
EX_CLOSED: Final = 141
_NEXT: Final = "Start one with `cis490-trainer-receiver`, or name another with --receiver URL or $CIS490_RECEIVER."
_OPERATOR_COMMANDS: Final = frozenset(
    {
        "cancel",
        "requeue",
        "reload",
        "plan",
        "apply",
        "manifest",
        "backup",
        "fsck",
        "prune",
        "invite",
        "identity",
        "worker",
    }
)
_LOOKS: Final = frozenset({"list", "history", "show", "diff"})
"""Actions of such commands that only look."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    options = parser().parse_args(argv)
    terminal = Terminal.of(sys.stdout, os.environ, utc=options.utc)
    console = commands.Console(sys.stdout, sys.stderr, terminal, options.json)
    try:
        status = _run(options, console)
    except UnreachableError as fault:
        # Where something answers, starting a receiver would change nothing.
        console.complain(fault if fault.answered else UnreachableError(fault.found, f"{fault.remedy} {_NEXT}".strip()))
        return fault.exit_status
    except FleetError as fault:
        console.complain(fault)
        return fault.exit_status
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except BrokenPipeError:
        return _closed(sys.stdout)
    except OSError as fault:
        console.complain(FleetError(f"cannot write the output: {fault.strerror}", "look at where it goes"))
        return EX_FAILURE
    return status


def _run(options: argparse.Namespace, console: commands.Console) -> int:
    if "alone" in options:
        console.lines(options.alone(options, os.environ))
        return 0
    remote = _remote(options, os.environ)
    try:
        status: int = options.run(commands.Call(remote, console, options))
        console.out.flush()
    finally:
        remote.close()
    return status


def _closed(stream: TextIO) -> int:
    silence(stream)
    return EX_CLOSED


def _remote(options: argparse.Namespace, environ: Mapping[str, str]) -> Remote:
    named = options.receiver or environ.get("CIS490_RECEIVER") or None
    context = None if options.command == "completion" else Contexts(environ).in_use(named)
    ca_file = options.ca_file or _file(environ, "CIS490_CA_FILE")
    if ca_file is None and context is not None and context.has_authority:
        ca_file = context.path
    client = Client(
        named or (context.receiver if context is not None else DEFAULT_RECEIVER),
        token=None if options.command == "completion" else secret("CIS490_READ_TOKEN", environ),
        operator_token=_operator_token(options, environ, context),
        ca_file=ca_file,
        certificate=certificate_files(
            options.client_certificate or _file(environ, "CIS490_CLIENT_CERTIFICATE"),
            options.client_key or _file(environ, "CIS490_CLIENT_KEY"),
        ),
        deadline_s=PATIENCE_S,
    )
    return Remote(client, client.address.url)


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    return full_path(Path(environ[name])) if environ.get(name) else None


def _operator_token(
    options: argparse.Namespace, environ: Mapping[str, str], context: Context | None = None
) -> str | None:
    """Return the operator token for a command that needs it, or that can read with it where there is no read token."""
    history = options.command == "events" or getattr(options, "action", "") in _LOOKS
    if options.command in _OPERATOR_COMMANDS and not history:
        return _needed(_own_token(environ, context))
    if history or (options.command != "completion" and secret("CIS490_READ_TOKEN", environ) is None):
        return _own_token(environ, context)
    return None


def _own_token(environ: Mapping[str, str], context: Context | None) -> str | None:
    """Return the token of the environment, else that of the login in use."""
    return secret("CIS490_OPERATOR_TOKEN", environ) or (None if context is None else context.token)


def _needed(token: str | None) -> str:
    if token is None:
        raise AuthenticationError(
            "this command needs the operator token and found none",
            "log in with the line that `cis490-trainer-receiver operator NAME` prints, or set CIS490_OPERATOR_TOKEN, "
            "or CIS490_OPERATOR_TOKEN_FILE to a file that only you can read",
        )
    return token


# ---- the command line -----------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole: argparse.ArgumentParser = Parser(
        prog="cis490-jobs",
        description="Look at the training fleet and steer it.",
        epilog="A job is named by the first 4 or more digits of its id, or by its name in the manifest.\n"
        "cancel, requeue, reload, plan, apply, manifest, backup, fsck, prune, invite and identity\n"
        "need a login or $CIS490_OPERATOR_TOKEN.\n"
        "`cis490-jobs COMMAND --help` has the options of a command, with examples.",
    )
    whole.add_argument("--version", action="version", version=f"cis490-jobs {__version__}")
    _common(whole, None)
    groups = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    _look(groups)
    result_options.add_commands(functools.partial(_command, groups), _results)
    _steer(groups)
    _keep(groups)
    _admit(groups)
    add_commands(groups)
    sub = _command(groups, "completion", "print the completion script of a shell", commands.complete)
    sub.add_argument("shell", choices=SHELLS)
    whole.set_defaults(parser=whole)
    return whole


def _common(target: argparse.ArgumentParser, default: object) -> None:
    """Add the options that stand before or after the command."""
    missing = argparse.SUPPRESS if default is argparse.SUPPRESS else None
    output = target.add_argument_group("output")
    output.add_argument("--json", action="store_true", default=missing or False, help="print the receiver's answer")
    output.add_argument("--utc", action="store_true", default=missing or False, help="show and take times in UTC")
    connection = target.add_argument_group("connection")
    connection.add_argument(
        "--receiver", metavar="URL", default=missing, help=f"address ($CIS490_RECEIVER, else {DEFAULT_RECEIVER})"
    )
    for flag, note in (
        ("--ca-file", "certificates to trust for https ($CIS490_CA_FILE)"),
        ("--client-certificate", "your own certificate; may hold its key too"),
        ("--client-key", "the key of your own certificate, if it has a file of its own"),
    ):
        connection.add_argument(flag, type=Path, metavar="FILE", default=missing, help=note)


def _command(
    groups: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    about: str,
    run: object,
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = groups.add_parser(name, aliases=aliases, help=about, description=about)
    _common(sub, argparse.SUPPRESS)
    sub.set_defaults(run=run)
    return sub


def _look(groups: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _command(groups, "status", "show counts, running jobs and the last failures", commands.status)
    sub.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=2.0,
        metavar="SECONDS",
        help="show it again every SECONDS [2]",
    )
    sub = _command(groups, "list", "list jobs, all of them or those that fit the options", listing.list_jobs)
    _filters(sub)
    sub.add_argument("--all", action="store_true", help="also jobs that were withdrawn from the manifest")
    sub.add_argument("--limit", type=_count, metavar="N", help="show at most N jobs")
    sub = _command(groups, "compare", "show mean and spread over seeds, oracle beside realistic", results.compare)
    _results(sub)
    sub = _command(groups, "best", "show the completed job with the best figure", results.best)
    _results(sub)
    sub.add_argument("--mode", choices=MODES, help="only results of this mode")
    sub = _command(groups, "show", "show everything about one job", commands.show)
    sub.add_argument("job", type=_prefix, metavar="JOB")
    sub = _command(groups, "why", "show why a job waits, and what would change that", commands.why)
    sub.add_argument("job", type=_prefix, metavar="JOB")
    _command(groups, "hosts", "list hosts, what they can do and what they may do", machines.hosts, ["workers"])
    sub = _command(groups, "host", "show everything about one host", machines.host)
    sub.add_argument("name", type=_host, metavar="HOST")
    sub = _command(groups, "events", "show the audit trail: who did what, newest first", trail.events)
    sub.add_argument("--job", type=_prefix, metavar="JOB", help="only events of this job")
    sub.add_argument("--worker", type=_host, metavar="HOST", help="only events by this host's worker or about it")
    _range(sub, "events")
    sub.add_argument("--limit", type=_count, default=50, metavar="N", help="show at most N events [50]")


def _steer(groups: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, about in (
        ("cancel", "stop jobs; only `requeue` lets them run again"),
        ("requeue", "let failed or cancelled jobs run again"),
    ):
        sub = _command(groups, name, about, bulk.change)
        sub.add_argument(
            "jobs", type=_prefix, nargs="*", metavar="JOB", help="jobs to change; or choose them by options"
        )
        _filters(sub)
        sub.add_argument("--yes", action="store_true", help="change what they choose; without it, only show that")
        sub.add_argument(
            "--if", dest="if_digest", type=_choice, metavar="DIGEST", help="change it if it is still what was shown"
        )
    sub = _command(groups, "plan", "show what a reload would change", manifests.plan)
    sub.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a manifest [the receiver's own file]")
    sub.add_argument("--exit-code", action="store_true", help="exit with 3 when there are changes")
    sub = _command(groups, "reload", "let the receiver read its own manifest again and apply it", manifests.reload)
    _terms(sub)
    sub = _command(groups, "apply", "hand a manifest in and apply it", manifests.apply)
    sub.add_argument("file", type=Path, metavar="FILE", help="a manifest on this machine")
    _terms(sub)
    _if_manifest(sub)
    about = "list the manifests that were in force, show one, compare two, or bring one back"
    sub = _command(groups, "manifest", about, manifests.manifest)
    sub.add_argument("action", choices=("history", "show", "diff", "rollback"))
    sub.add_argument("which", type=_manifest, nargs="*", metavar="N", help="a number or a digest that `history` shows")
    sub.add_argument("--plan", action="store_true", help="rollback: only show what it would change")
    _terms(sub)
    _if_manifest(sub)


def _terms(sub: argparse.ArgumentParser) -> None:
    """Add what an operator allows and expects when a manifest is applied."""
    sub.add_argument(
        "--if-plan", type=_digest, metavar="DIGEST", help="apply all that `plan` showed with this digest, or nothing"
    )
    sub.add_argument(
        "--allow-shrink", action="store_true", help="without --if-plan: it may declare fewer jobs than the one in force"
    )
    sub.add_argument(
        "--keep-dropped", action="store_true", help="jobs that it no longer names stay claimable, none is withdrawn"
    )


def _if_manifest(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--if-manifest", type=_digest, metavar="DIGEST", help="apply it only if this manifest is still in force"
    )


def _keep(groups: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _command(groups, "backup", "make a backup on the receiver's host", commands.backup)
    sub.add_argument("label", type=_label, nargs="?", metavar="LABEL", help="text added to the backup's name")
    sub.add_argument("--artifacts", action="store_true", help="include the artifacts")
    sub.add_argument(
        "--keep", type=_count, metavar="N", help="then remove older whole backups with this label until N are left"
    )
    sub = _command(groups, "prune", "remove the files of old results; their figures stay", pruning.prune)
    sub.add_argument("--older-than", type=_age, metavar="AGE", help=f"only results of this age: {pruning.AGES}")
    sub.add_argument(
        "--keep-best", type=_count, metavar="N", help="keep the best N of each model, mode and split, by the headline"
    )
    sub.add_argument("--unnamed", action="store_true", help="only results of jobs that the manifest no longer names")
    sub.add_argument("--dry-run", action="store_true", help="only show what would be removed; so it is without --yes")
    sub.add_argument("--yes", action="store_true", help="remove it at once")
    sub.add_argument(
        "--if", dest="if_digest", type=_choice, metavar="DIGEST", help="remove it if it is still what was shown"
    )
    sub = _command(groups, "fsck", "check the receiver's database, store and index", commands.fsck)
    sub.add_argument("--no-hash", action="store_true", help="only look whether artifacts are there, do not read them")


def _admit(groups: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _command(groups, "invite", "print the commands with which a host can enrol", trail.invite)
    sub.add_argument("host", type=_host, metavar="HOST", help="its name in the manifest")
    sub.add_argument(
        "--ttl", type=_ttl, default=900, metavar="TIME", help="how long the code is valid: 90s, 15m, 2h [15m]"
    )
    sub.add_argument(
        "--dataset", action="append", default=[], metavar="NAME=DIR", help="a dataset that the host holds; repeat it"
    )
    about = "list enrolled hosts, revoke one, change its key, or accept what it lost"
    sub = _command(groups, "identity", about, trail.identities, ["worker"])
    sub.add_argument("action", choices=("list", "revoke", "rotate", "accept"), metavar="list|revoke|rotate|accept")
    sub.add_argument("name", type=_host, nargs="?", metavar="HOST")


def _filters(sub: argparse.ArgumentParser) -> None:
    """Add the options that choose jobs."""
    sub.add_argument(
        "--status",
        type=_statuses,
        metavar="STATUS[,STATUS]",
        help=f"only these statuses: {', '.join(STATUSES)}",
    )
    sub.add_argument("--model", metavar="MODEL", help="only jobs of this model")
    sub.add_argument("--mode", choices=MODES, help="only jobs of this mode")
    sub.add_argument("--host", metavar="HOST", help="only jobs that run on this host or ran there last")
    sub.add_argument("--name", metavar="NAME", help="only jobs to which the manifest gives this name")
    sub.add_argument("--tag", metavar="TAG", help="only jobs with this tag")
    _range(sub, "jobs that changed")


def _range(sub: argparse.ArgumentParser, what: str) -> None:
    sub.add_argument("--since", type=_instant, metavar="TIME", help=f"only {what} from then on: {FORMS}")
    sub.add_argument("--until", type=_instant, metavar="TIME", help="only until then; a day with all its hours")


def _results(sub: argparse._ActionsContainer) -> None:
    """Add the options that choose results and the figure they are compared by."""
    sub.add_argument("--metric", metavar="METRIC", help="the figure to compare [the trainer's headline metric]")
    sub.add_argument("--lower", action="store_true", help="lower values of that figure are better")
    sub.add_argument("--model", metavar="MODEL", help="only results of this model")
    sub.add_argument("--split", metavar="SPLIT", help="only results of this split")
    sub.add_argument("--dataset", metavar="DATASET", help="only results on this dataset")
    sub.add_argument("--tag", metavar="TAG", help="only results of jobs with this tag")


def _host(text: str) -> str:
    if not is_host_name(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a host name: a-z, 0-9, dots, dashes, underscores")
    return text


def _ttl(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([smh]?)", text)
    value = int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0
    if not 60 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected from 60s to 24h, such as 15m")
    return value


def _label(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,40}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 1 to 40 of a-z, 0-9 and -")
    return text


def _prefix(text: str) -> str:
    if is_id_prefix(text.lower()):
        return text.lower()
    if re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.+-]{0,63}", text) and not re.fullmatch(r"[0-9a-fA-F]+", text):
        return text
    raise argparse.ArgumentTypeError(
        f"found {text!r}, expected the first 4 to 64 hex digits of a job id, or the name of a job"
    )


def _manifest(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,7}|[0-9a-fA-F]{8,64}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number, or 8 to 64 hex digits of a digest")
    return text


def _digest(text: str) -> str:
    if not is_sha256(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected the 64 hex digits that `plan` shows")
    return text


def _choice(text: str) -> str:
    if not re.fullmatch(f"[0-9a-f]{{{bulk.DIGEST_DIGITS}}}", text):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected the {bulk.DIGEST_DIGITS} hex digits that were shown"
        )
    return text


def _age(text: str) -> str:
    pruning.seconds_of(text)
    return text


def _instant(text: str) -> str:
    if not is_instant(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {FORMS}")
    return text


def _statuses(text: str) -> str:
    for name in text.split(","):
        if name not in STATUSES:
            raise argparse.ArgumentTypeError(f"found {name!r}, expected some of {', '.join(STATUSES)}")
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.2 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds from 0.2 to 86400")
    return value
