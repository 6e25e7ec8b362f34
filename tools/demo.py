#!/usr/bin/env python3
"""Train the models of a manifest on this machine, with a real receiver and a real worker, and show the results.

`scripts/demo.sh` makes the environment and starts this. Everything it makes lies below one state folder, `.demo`, so a
second run finds the finished jobs and trains nothing again. It leaves no process behind, also after Ctrl-C, SIGTERM or
a failure. Standard library and the fleet's own client only; the processes it starts are the ones an operator starts.

Exit statuses: 0 every job is completed; 1 a job or a process failed; 2 wrong usage; 78 a package or a newer Python is
missing; 130 stopped from outside.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import training.fleet  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
import contextlib
import fcntl
import itertools
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from tools.demo_screen import DONE, ROOT, Screen, failures, results, shown
from training.fleet.cli.remote import Remote, read
from training.fleet.cli.text import Terminal, clean
from training.fleet.client import Client
from training.fleet.model.errors import EX_FAILURE, FleetError
from training.fleet.wire.people import JobPage, JobView, Why
from training.needs import demand_packages

EX_STOPPED: Final = 130
START_S: Final = 60.0
"""Longest wait for the receiver's address and first answer."""
STOP_S: Final = 30.0
"""Longest wait for a process that was asked to stop; then it is killed."""
STUCK_S: Final = 120.0
"""Longest time without any change before the demo asks why and gives up."""
MOST_RETRIES: Final = 8
"""Repeated attempts over all jobs after which the demo gives up; a fault of the host costs a job no attempt."""
LOOK_S: Final = 0.25
"""Seconds between two looks at the jobs."""
QUICK: Final = ("--heartbeat-s", "0.5", "--lease-s", "60", "--ack-s", "20", "--backoff-s", "2")
"""The receiver's terms are made for trainings of hours; these suit one of seconds."""


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The folder of the demo.

    Attributes:
        folder: Where everything lies.
    """

    folder: Path

    @property
    def operator_token(self) -> Path:
        """File with the operator's token."""
        return self.folder / "operator.token"

    @property
    def worker_token(self) -> Path:
        """File with the worker's token."""
        return self.folder / "worker.token"

    @property
    def store(self) -> Path:
        """Folder of the artifacts."""
        return self.folder / "store"

    def log(self, program: str) -> Path:
        """File with what a program wrote."""
        return self.folder / f"{program}.log"

    def make(self) -> None:
        """Make the folder and the tokens; keep what is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.operator_token, self.worker_token):
            if not path.exists():
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(secrets.token_urlsafe(32) + "\n")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second demo off this folder.

        Raises:
            FleetError: Another one runs there.
        """
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FleetError(
                    f"another demo uses {shown(self.folder)}",
                    "stop it with Ctrl-C there, or name another folder with --state",
                ) from None
            yield


@dataclass(slots=True)
class DemoProgram:
    """A process of the demo, in a session of its own so that Ctrl-C reaches only the demo.

    Attributes:
        name: What it is, for people.
        log: Where its output goes.
        process: The process.
    """

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, name: str, state: DemoFolder, module: str, arguments: Sequence[str], token: tuple[str, Path]
    ) -> Self:
        """Start a module of the fleet with its output in a fresh log."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CIS490_")}
        environ |= {token[0]: str(token[1]), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with state.log(name).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - modules of this project, arguments made here
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=ROOT,
                start_new_session=True,
            )
        return cls(name, state.log(name), process)

    def check(self) -> None:
        """Raise when the process has ended.

        Raises:
            FleetError: It has; the message holds the end of its log.
        """
        status = self.process.poll()
        if status is not None and status < 0:
            raise FleetError(f"the {self.name} was killed by {signal.Signals(-status).name}", "run the demo again")
        if status is not None:
            raise FleetError(
                f"the {self.name} ended with exit status {status}: {self._last_words()}",
                f"its log is {shown(self.log)}",
            )

    def _last_words(self) -> str:
        """Return its message for people where it wrote one beside its structured log, else its last line.

        The single faults stand below the message, each on an indented line of its own.
        """
        lines = self.text().strip().splitlines() or ["it wrote nothing"]
        first = next((number for number, line in enumerate(lines) if line.startswith("cis490-")), len(lines) - 1)
        faults = itertools.takewhile(lambda line: line.startswith("  "), lines[first + 1 :])
        return "; ".join([lines[first], *map(str.strip, faults)])

    def text(self) -> str:
        """Return what it wrote so far."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """Ask it to stop, wait, and kill what is left of its session."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(slots=True)
class DemoFleet:
    """A receiver and, once started, a worker.

    Attributes:
        state: The folder of the demo.
        remote: The receiver.
        programs: What runs, in the order of starting.
    """

    state: DemoFolder
    remote: Remote
    programs: list[DemoProgram] = field(default_factory=list)

    def jobs(self) -> list[JobView]:
        """Return the jobs that the manifest names, in its order; raise when a process has ended."""
        for program in self.programs:
            program.check()
        page = read(JobPage, self.remote.collect("/v1/jobs", "jobs", {}))
        return [job for job in page.jobs if job.named]

    def start_worker(self) -> None:
        """Start the worker, once."""
        if len(self.programs) > 1:
            return
        arguments = ["--receiver", self.remote.address, "--work-dir", str(self.state.folder / "worker")]
        arguments += ["--dataset", f"lab={ROOT / 'data' / 'lab'}"]
        token = ("CIS490_WORKER_TOKEN_FILE", self.state.worker_token)
        self.programs.append(DemoProgram.start("worker", self.state, "training.fleet.worker", arguments, token))

    def stop(self) -> None:
        """Stop everything, the worker first, and let no second Ctrl-C get in between."""
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        self.remote.close()
        for program in reversed(self.programs):
            program.stop()


@contextlib.contextmanager
def fleet(state: DemoFolder, manifest: Path, port: int) -> Iterator[DemoFleet]:
    """Start a receiver, yield it once it answers, and stop everything afterwards.

    Args:
        state: The folder of the demo.
        manifest: The manifest it reads.
        port: TCP port on loopback, 0 for a free one.
    """
    folder = state.folder
    arguments = ["--listen-addr", f"127.0.0.1:{port}", "--manifest", str(manifest), "--db", str(folder / "queue.db")]
    arguments += ["--store-root", str(state.store), "--incoming-root", str(folder / "incoming")]
    arguments += ["--index-path", str(folder / "index.jsonl"), *QUICK]
    token = ("CIS490_OPERATOR_TOKEN_FILE", state.operator_token)
    receiver = DemoProgram.start("receiver", state, "training.fleet.receiver", arguments, token)
    try:
        address = _address(receiver)
        client = Client(address, operator_token=state.operator_token.read_text().strip(), deadline_s=START_S)
    except BaseException:
        receiver.stop()
        raise
    whole = DemoFleet(state, Remote(client, address), [receiver])
    try:
        whole.remote.health()
        yield whole
    finally:
        whole.stop()


def _address(receiver: DemoProgram) -> str:
    """Return the address the receiver says it listens on."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        found = re.search(r"127\.0\.0\.1:[1-9]\d*", receiver.text())
        if found:
            return f"http://{found[0]}"
        receiver.check()
        time.sleep(0.02)
    raise FleetError(f"the receiver did not start within {START_S:.0f} s", f"its log is {shown(receiver.log)}")


# ---- what happens while it trains -----------------------------------------------------------------------------------


def follow(whole: DemoFleet, terminal: Terminal) -> None:
    """Show the jobs until all of them ended.

    Raises:
        FleetError: Nothing moved for a long time; the message says why the first job waits.
    """
    screen = Screen(terminal, time.monotonic())
    seen: object = None
    moved = time.monotonic()
    try:
        while True:
            jobs, now = whole.jobs(), time.monotonic()
            screen.show(jobs, now)
            if all(job.status in (*DONE, "failed") for job in jobs):
                return
            if screen.retries > MOST_RETRIES:
                raise FleetError(f"gave up after {screen.retries} attempts", f"see {shown(whole.state.log('worker'))}")
            pulse = [(job.status, job.attempts_used, job.progress) for job in jobs]
            if pulse != seen:
                seen, moved = pulse, now
            elif now - moved > STUCK_S:
                raise FleetError(_stuck(whole, jobs))
            time.sleep(LOOK_S)
    finally:
        screen.finish()


def _stuck(whole: DemoFleet, jobs: Sequence[JobView]) -> str:
    waiting = next(job for job in jobs if job.status not in DONE)
    why = read(Why, whole.remote.why(waiting.id))
    log = shown(whole.state.log("worker"))
    return f"nothing moved for {STUCK_S:.0f} s: {waiting.id[:12]} is {why.status}, {why.summary}; see {log}"


# ---- what it says before and after ----------------------------------------------------------------------------------


def further(jobs: Sequence[JobView], state: DemoFolder) -> list[str]:
    """Return how to look further, and where the data came from."""
    path = next((state.store / job.artifact_path for job in jobs if job.artifact_path), None)
    lines = [
        "The telemetry is data/lab, recorded with tools/record_telemetry.py;",
        "data/lab/README.md says how, when and where, and what its limits are.",
        "",
        "Look further:",
    ]
    if path is not None:
        score = "python -m training.trainer.predict --data data/lab/lab.parquet --bundle"
        lines += ["  score telemetry with a model:", f"    .venv/bin/{score} {shown(path)}"]
    return [
        *lines,
        "  keep the fleet running, to look at it, to read model cards (`card best`)",
        "  and to take results home (`get best`):",
        "    scripts/demo.sh --keep",
        f"  everything lies in {shown(state.folder)}; without it the next run starts from nothing:",
        f"    rm -r {shown(state.folder)}",
        "  step by step: docs/tutorial.md",
    ]


def invitation(whole: DemoFleet) -> list[str]:
    """Return what to type in another terminal while the fleet runs."""
    command = "python3 tools/cis490_jobs.py"
    return [
        f"Receiver and worker keep running at {whole.remote.address} until Ctrl-C.",
        "In another terminal:",
        f"  cd {ROOT}",
        f"  export CIS490_RECEIVER={whole.remote.address}",
        f"  export CIS490_OPERATOR_TOKEN_FILE={shown(whole.state.operator_token)}",
        f"  {command} status --watch",
        f"  {command} list",
        f"  {command} card best",
        f"  {command} get best",
        f"  {command} plan etc/demo_manifest.toml",
    ]


# ---- the program ----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = _options(argv)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _stop)
    demand_packages("numpy", "lightgbm", "sklearn", "pyarrow", "msgspec", "uvicorn")
    state = DemoFolder(options.state.resolve())
    try:
        state.make()
        with state.held():
            return run(state, options)
    except KeyboardInterrupt:
        say(["", "stopped, nothing is left running; run it again and it goes on where it was"])
        return EX_STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_FAILURE
    except FleetError as fault:
        sys.stderr.write(f"demo: {clean(fault.message)}\n")
        return EX_FAILURE
    except OSError as fault:
        sys.stderr.write(f"demo: {fault.strerror}: {fault.filename}; look at rights and free space there\n")
        return EX_FAILURE


def run(state: DemoFolder, options: argparse.Namespace) -> int:
    """Train what is left to train, show the results, and stay if asked to."""
    terminal = Terminal.of(sys.stdout, os.environ)
    with fleet(state, options.manifest.resolve(), options.port) as whole:
        jobs = _begin(whole)
        if any(job.status not in DONE for job in jobs):
            whole.start_worker()
            follow(whole, terminal)
            jobs = whole.jobs()
        say(["", *results(jobs, state.store, terminal), "", *failures(jobs), *further(jobs, state)])
        if options.keep:
            _stay(whole)
    return 0 if all(job.status in DONE for job in jobs) else EX_FAILURE


def _begin(whole: DemoFleet) -> list[JobView]:
    """Say what there is to do, and give jobs that failed in an earlier run another try."""
    jobs = whole.jobs()
    for job in jobs:
        if job.status == "failed":
            whole.remote.change(job.id, "requeue")
    done = sum(job.status in DONE for job in jobs)
    if done == len(jobs):
        say([f"nothing to train: all {done} jobs were completed by an earlier run, and no job is trained twice"])
        return jobs
    kept = f"; {done} were completed by an earlier run and are not trained again" if done else ""
    say([f"training {len(jobs) - done} of {len(jobs)} jobs on this machine, receiver at {whole.remote.address}{kept}"])
    return whole.jobs()


def _stay(whole: DemoFleet) -> None:
    whole.start_worker()
    say(["", *invitation(whole)])
    while True:
        for program in whole.programs:
            program.check()
        time.sleep(1)


def say(lines: Sequence[str]) -> None:
    """Write lines for people."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Train the demo's jobs on this machine.")
    parser.add_argument("--keep", action="store_true", help="leave receiver and worker running until Ctrl-C")
    parser.add_argument(
        "--state", type=Path, default=ROOT / ".demo", metavar="DIR", help="where everything lies (.demo)"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="TCP port of the receiver on loopback; a free one by default"
    )
    manifest = ROOT / "etc" / "demo_manifest.toml"
    parser.add_argument("--manifest", type=Path, default=manifest, metavar="FILE", help="what to train")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
