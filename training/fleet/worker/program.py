"""The command `cis490-training-worker`: flags, signals, one worker per folder, exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from training.fleet import __version__, system
from training.fleet.capability.checkout import PACKED
from training.fleet.capability.detect import detect
from training.fleet.client import Client
from training.fleet.install.worker import COMMANDS, run_installer
from training.fleet.model.capability import Capability
from training.fleet.model.errors import EX_CONFIG, EX_FAILURE, ConfigurationError, FleetError, UpgradeRequiredError
from training.fleet.service import Service
from training.fleet.settings import add_flags, full_path
from training.fleet.worker import selftest
from training.fleet.worker.certificate import OwnCertificate
from training.fleet.worker.doctor import run_doctor
from training.fleet.worker.enrol import enrol_host
from training.fleet.worker.identity import OwnSecret, session, visit
from training.fleet.worker.journal import Journal
from training.fleet.worker.loop import Worker
from training.fleet.worker.options import TABLE, TOKEN, Options, options
from training.fleet.worker.work_folder import make_work_folder

PROGRAM = "cis490-training-worker"
_ACTIONS = ("self_test", "json", "once", "wait")
_DONE = b"\0"
_PATS = 4
"""Pats within the watchdog's patience, so that a busy machine may miss some."""
_STOP = b"\xff"
_HANG_UP = b"\1"
"""The number of SIGHUP, as the wake-up socket brings it. A terminal that is closed sends it, often twice."""
STOP_FILE: Final = "stop"
"""Name of the file in the work folder that stops a worker on systems where no signal can."""
LOG_BYTES: Final = 2**20
"""Size beyond which the worker's own log makes way at its start."""
_LATE = ("training.contracts.dataset_folder", "training.fleet.bundle", "training.trainer.hyper")
"""Modules that are otherwise loaded when first needed."""
_STOPPING = ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker's command.

    Args:
        argv: Arguments without the program's name; None takes the process's.

    Returns:
        0 when it was told to stop, or when `--once`, `--self-test` or `doctor` went well; 1 when those did not; 2 for
        a wrong flag; 69 without a receiver, 77 when it refuses this host, 78 for settings that no restart corrects.
    """
    _open_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["enrol"]:
        return enrol_host(words[1:])
    if words[:1] == ["doctor"]:
        return run_doctor(words[1:])
    if words and words[0] in COMMANDS:
        return run_installer(words)
    if words == ["session"]:
        sys.stdout.write(f"{visit()}\n")
        return 0
    parsed = _parsed(words)
    actions = {name: parsed.pop(name) for name in _ACTIONS}
    try:
        chosen = options(parsed, os.environ)
        make_work_folder(chosen.work_dir)
        return _self_test(chosen, actions) if actions["self_test"] else _work(chosen, actions)
    except UpgradeRequiredError as error:
        return _said(error.message, EX_CONFIG)
    except FleetError as error:
        return _said(error.message, error.exit_status)
    except OSError as error:
        return _said(f"{error.strerror}: {error.filename}; check the folder and its owner", EX_CONFIG)
    except Exception as error:  # noqa: BLE001 - a person gets one line, never a traceback
        return _said(f"a fault of the worker itself, please report it: {_where(error)}", EX_FAILURE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Asks a receiver for training jobs and runs them on this host.",
        epilog="The worker's own secret comes from the file that --worker-secret-file names; "
        f"`{PROGRAM} enrol` makes it. On the receiver's own machine ${TOKEN} or ${TOKEN}_FILE may stand in for it. "
        f"`{PROGRAM} doctor` says what is wrong with this host. "
        f"`{PROGRAM} install`, `uninstall` and `status` are for the worker as a service of this host. "
        f"`{PROGRAM} session` prints what a program that fetches with the worker's secret sends as X-Worker-Session.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--self-test", action="store_true", help="print what this host can do and whether it can train")
    parser.add_argument("--json", action="store_true", help="print the self-test as JSON")
    parser.add_argument("--once", action="store_true", help="run one job and exit: 0 completed, 1 not, or none came")
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="seconds --once waits for a job [0]")
    add_flags(parser, TABLE)
    return parser


def _parsed(argv: Sequence[str] | None) -> dict[str, Any]:
    """Return the flags; one that would go unheard ends the program with 2."""
    parser = _parser()
    parsed = vars(parser.parse_args(argv))
    for flag, belongs_to in (("json", "self_test"), ("wait", "once")):
        if parsed[flag] and not parsed[belongs_to]:
            parser.error(f"--{flag} belongs to --{belongs_to.replace('_', '-')}; give both or neither")
    if parsed["once"] and parsed["self_test"]:
        parser.error("--once runs a job and --self-test runs none; give one of them")
    return parsed


def _open_streams() -> None:
    """Let lines go nowhere where there is no console (pythonw)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives


def _log_to(path: Path | None) -> None:
    """Let a file take what goes to standard error; one that has grown makes way, so two of them bound the disk."""
    if path is None:
        return
    path = full_path(path)
    if path.is_file() and path.stat().st_size > LOG_BYTES:
        system.replace(path, path.with_name(f"{path.name}.old"))
    sys.stderr = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)


def _said(message: str, status: int) -> int:
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    return status


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"


def _client(chosen: Options, own: OwnSecret | None = None, here: str | None = None) -> Client:
    """Return a connection; with the worker's own secret it follows what becomes of it and says where it runs.

    Without that it is a visit, which leaves the identity to the worker that runs here.
    """
    more = {"session": visit()} if own is None else {"session": here, "listen": own.listen}
    token = chosen.token if own is None else own.token
    return Client(
        chosen.receiver,
        token,
        ca_file=chosen.ca_file,
        certificate=chosen.certificate,
        proxy=chosen.proxy,
        **more,
    )


# ---- self-test ------------------------------------------------------------------------------------------------------


def _self_test(chosen: Options, actions: dict[str, Any]) -> int:
    found = selftest.examine(chosen, _client(chosen) if chosen.receiver_is_set else None)
    if actions["json"]:
        sys.stdout.write(found.as_json())
    else:
        found.show(sys.stdout, os.environ)
    return 0 if found.ok else EX_FAILURE


# ---- work -----------------------------------------------------------------------------------------------------------


def _work(chosen: Options, actions: dict[str, Any]) -> int:
    if PACKED:
        for name in _LATE:  # a newer file may take this one's place while the worker runs
            importlib.import_module(name)
    lock = _locked(chosen.work_dir)
    _log_to(chosen.log_file)
    journal = Journal()
    try:
        own, here = OwnSecret(chosen.token, chosen.secret_file, journal), session(lock)

        def connect() -> Client:
            return _client(chosen, own, here)

        own.connect_with(connect)
        clients = connect()  # a bad address or token ends here
        service, url = Service(os.environ), clients.address.url
        worker = Worker(
            chosen,
            lambda: _detected(chosen, clients, journal),
            connect,
            journal,
            lambda: service.ready(f"listed at {url}"),
        )
        with _renewing(chosen, connect, journal):
            service.ready(f"looking at this host; {url} has not answered yet")
            status = _Signals(worker, actions, service, chosen.work_dir / STOP_FILE).run()
        journal.note("worker ended", status=status)
    finally:
        lock.close()
    return status


@contextlib.contextmanager
def _renewing(chosen: Options, connect: Callable[[], Client], journal: Journal) -> Iterator[None]:
    """Renew this host's certificate meanwhile, where it is one file that the receiver made."""
    files = chosen.certificate
    if files is None or files[0] != files[1]:
        yield
        return
    own = OwnCertificate(files[0], connect, journal)
    own.follow()
    try:
        yield
    finally:
        own.stop()


def _detected(chosen: Options, clients: Client, journal: Journal) -> Capability:
    found = detect(
        chosen.work_dir,
        name=chosen.name,
        datasets=chosen.datasets,
        probe_timeout_s=chosen.probe_timeout_s,
        trainer_dir=chosen.rules.trainer_dir,
    )
    journal.note("worker started", host=found.hostname, receiver=clients.address.url, version=__version__)
    for problem in found.problems:
        journal.note("found", problem=problem)
    return found


def _locked(work_dir: Path) -> TextIO:
    """Hold the folder for this process; the system lets go of it however the process ends.

    Raises:
        ConfigurationError: Another worker holds it.
    """
    lock = (work_dir / "lock").open("a", encoding="ascii")
    try:
        system.lock(lock)
    except OSError:
        lock.close()
        raise ConfigurationError(
            f"another worker uses {work_dir}", "stop it, or give this one its own folder with --work-dir"
        ) from None
    return lock


class _Signals:
    """Runs a worker in a thread while the main thread waits for signals and pats the watchdog."""

    def __init__(self, worker: Worker, actions: dict[str, Any], service: Service, stop_file: Path) -> None:
        self._worker = worker
        self._actions = actions
        self._service = service
        self._stop_file = stop_file
        stop_file.unlink(missing_ok=True)  # meant for an earlier worker
        self._status = EX_FAILURE
        self._error: BaseException | None = None
        self._news, self._notes = socket.socketpair()

    def run(self) -> int:
        """Return the exit status once the worker has ended."""
        self._notes.setblocking(False)
        self._news.settimeout(min(filter(None, (system.STOP_LOOK_S, self._service.watchdog_s / _PATS)), default=None))
        numbers = [number for name in _STOPPING if (number := getattr(signal, name, None)) and _is_wanted(name)]
        before = [signal.signal(number, _noted) for number in numbers]
        signal.set_wakeup_fd(self._notes.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._serve, name="worker", daemon=True)
        thread.start()
        stopping = hung_up = False
        while (news := self._heard()) != _DONE:
            hung_up = hung_up or news == _HANG_UP
            # Only a person's second signal means haste: a terminal hangs up for itself and once more for its shell.
            if news and not (stopping and news == _HANG_UP):
                stopping = True
                self._service.stopping()
                self._worker.stop()
        thread.join()
        signal.set_wakeup_fd(-1)
        for number, handler in zip(numbers, before, strict=True):
            # The terminal's second one may come after the last word, and must not turn a good end into a bad one.
            late = hung_up and number == _HANG_UP[0]
            signal.signal(number, signal.SIG_IGN if late else handler)
        self._news.close()
        self._notes.close()
        if self._error is not None:
            raise self._error
        return self._status

    def _heard(self) -> bytes:
        """Wait for a signal, a stop file or the worker's end; empty when there was none of them for a while."""
        with contextlib.suppress(TimeoutError):
            return self._news.recv(1)
        self._service.alive()
        try:
            self._stop_file.unlink()
        except OSError:
            return b""
        return _STOP

    def _serve(self) -> None:
        try:
            if self._actions["once"]:
                self._status = self._serve_once()
            else:
                self._worker.serve()
                self._status = 0
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._error = error
        finally:
            self._notes.send(_DONE)

    def _serve_once(self) -> int:
        outcome = self._worker.serve_once(self._actions["wait"])
        if outcome is None:
            return _said("no job for this host; `cis490-jobs why JOB` says what a job waits for", EX_FAILURE)
        return 0 if outcome == "completed" else EX_FAILURE


def _is_wanted(name: str) -> bool:
    """Return False for the signal of a closed terminal where nohup has the worker outlive it."""
    return name != "SIGHUP" or signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN


def _noted(_number: int, _frame: object) -> None:
    """Do nothing here: the wake-up socket tells the main thread."""
