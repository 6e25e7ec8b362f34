"""`cis490-training-worker install`, `uninstall` and `status`: the worker as a service of this host.

Owns the flags. What is done on each system is left to `worker_linux` and `worker_windows`. The scripts
`install-training-worker.sh` and `install-training-worker-windows.ps1` find a Python and call this.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from training.fleet.install.enrolment import InviteWords
from training.fleet.install.programs import Programs
from training.fleet.install.steps import Steps, run_steps
from training.fleet.install.torch_build import KINDS, TorchChoice, index_address

PROGRAM: Final = "cis490-training-worker"
CODE: Final = "CIS490_INVITE"
WINDOWS: Final = os.name == "nt"
COMMANDS: Final = ("install", "uninstall", "status", *(("pause", "resume") if WINDOWS else ()))
CHECKOUT: Final = Path(__file__).resolve().parents[3]
_ABOUT: Final = {
    "install": "Install the worker on this host as a service, enrol it and start it; or upgrade what is installed.",
    "uninstall": "Remove service, code and secret; runs and settings stay.",
    "status": "Say whether the service runs and where its log is.",
    "pause": "Stop the worker and keep it stopped, over reboots as well.",
    "resume": "Let a paused worker work again.",
}


def run_installer(
    words: Sequence[str], environ: MutableMapping[str, str] = os.environ, programs: Programs | None = None
) -> int:
    """Run one of the commands.

    Args:
        words: The command and its flags.
        environ: Environment variables; the one-time code is taken out of them, so that no program sees it there.
        programs: What starts programs.

    Returns:
        0 when it is done, 2 for a wrong flag, 69 without what it needs, 77 without rights or enrolment, 78 for what a
        person has to change, else the status of the program that failed.
    """
    command = words[0]
    parser = _parser(command, environ)
    given = parser.parse_args(words[1:])
    if command == "install" and given.purge:
        parser.error("--purge belongs to uninstall")
    environ.pop(CODE, None)
    steps = Steps(dry_run=getattr(given, "dry_run", False))
    act = (_on_windows if WINDOWS else _on_linux)(command, given, steps, programs or Programs(), environ)
    return run_steps(f"{PROGRAM} {command}", steps, act)


def _parser(command: str, environ: MutableMapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {command}", description=_ABOUT[command], allow_abbrev=False)
    if command == "install":
        _add_install_flags(parser, environ)
    if command == "uninstall":
        parser.add_argument("--purge", action="store_true", help="remove settings and runs as well")
    if command != "status":
        parser.add_argument("--dry-run", action="store_true", help="print every change and make none")
    if not WINDOWS:
        parser.add_argument("--user", action="store_true", help="for the account that runs this, without root")
    return parser


def _add_install_flags(parser: argparse.ArgumentParser, environ: MutableMapping[str, str]) -> None:
    add = parser.add_argument
    add("--purge", action="store_true", help=argparse.SUPPRESS)  # so that it is said where it belongs
    add("--receiver", metavar="URL", type=_some, help="address of the receiver")
    add("--host", metavar="NAME", type=_some, help="name to enrol under [this machine's name]")
    add("--code", default=environ.get(CODE) or None, type=_some, help=f"one-time code; else from ${CODE}, or asked for")
    add("--ca-sha256", metavar="HEX", type=_some, help="fingerprint of the receiver's authority")
    add("--dataset", action="append", default=[], metavar="NAME=DIR", type=_some,
        help="a dataset of this host; repeat it for more, the first is also the default")  # fmt: skip
    trainer = parser.add_mutually_exclusive_group()
    trainer.add_argument("--without-trainer", action="store_const", const="", dest="trainer",
                         help="leave out the packages of the project's own trainer")  # fmt: skip
    add(
        "--torch",
        choices=KINDS,
        help="build of torch to install; auto decides by the card [auto, later the same]",
    )
    add("--torch-index", metavar="URL", type=_index, help="package index that torch comes from [pip's configuration]")
    if WINDOWS:
        return
    trainer.add_argument("--with-trainer", action="store_const", const="trainer", dest="trainer",
                         help="install them [at first; later what is there]")  # fmt: skip
    add("--python", default=environ.get("PYTHON") or None, metavar="PROGRAM", type=_some,
        help="the Python to use, 3.11 or newer [the first one found]")  # fmt: skip
    add("--wheels", type=Path, metavar="DIR", help="take packages from this folder, for a host without a package index")


def _some(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("found no value")
    return text


def _index(text: str) -> str:
    try:
        return index_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _torch(given: argparse.Namespace) -> TorchChoice | None:
    if given.torch is None and given.torch_index is None:
        return None
    return TorchChoice(given.torch or "auto", given.torch_index or "")


def _invite(given: argparse.Namespace) -> InviteWords:
    return InviteWords(given.receiver or "", given.host or "", given.code or "", given.ca_sha256 or "")


def _datasets(given: argparse.Namespace) -> tuple[str, ...]:
    return tuple(item for text in given.dataset for item in text.split(",") if item)


def _on_linux(
    command: str, given: argparse.Namespace, steps: Steps, programs: Programs, environ: MutableMapping[str, str]
) -> Callable[[], None]:
    from training.fleet.install.linux import Linux
    from training.fleet.install.worker_linux import PART, LinuxChoices, LinuxWorker

    worker = LinuxWorker(Linux(PART, steps, programs, environ, user=given.user))
    if command == "install":
        choices = LinuxChoices(
            CHECKOUT, _invite(given), _datasets(given), given.trainer, given.python or "", given.wheels, _torch(given)
        )
        return lambda: worker.install(choices)
    if command == "uninstall":
        return lambda: worker.uninstall(purge=given.purge)
    return worker.status


def _on_windows(
    command: str, given: argparse.Namespace, steps: Steps, programs: Programs, environ: MutableMapping[str, str]
) -> Callable[[], None]:
    from training.fleet.install.worker_windows import WindowsWorker

    worker = WindowsWorker(steps, programs, environ)
    if command == "install":
        with_trainer = given.trainer is None
        return lambda: worker.install(
            CHECKOUT, _invite(given), _datasets(given), with_trainer=with_trainer, torch=_torch(given)
        )
    if command == "uninstall":
        return lambda: worker.uninstall(purge=given.purge)
    return {"status": worker.status, "pause": worker.pause, "resume": worker.resume}[command]
