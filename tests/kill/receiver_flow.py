"""The receiver as it is started by its service manager, and what workers and an operator ask of it over HTTP.

The whole program runs, sockets, threads and all; the askers keep what they were answered, as real ones do, and ask
again whatever was not answered.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boundary import Boundary, Ran
from trial import Trial, sound_backup, wrong_after_failed_sync, wrong_answers, wrong_in_files

from training.fleet import receiver
from training.fleet.blobs import open_blobs
from training.fleet.maintenance.artifacts import Places

TOKEN = "an-operator-token-for-tests"
HEAD = """\
[manifest]
schema = 1
[defaults]
split_recipe = "hosts"
[hosts.default]
"""
HOSTS = ("ant", "bee", "cat", "dog", "elk", "ant", "elk")
"""Who may run job 0, 1, ...: so every claim gets the same job in every run."""
LARGE, SMALL = b"large bundle" * 60_000, b"small bundle" * 10
TERMS = ("--ack-s", "3600", "--backoff-s", "3600", "--backoff-cap-s", "3600", "--floor-bytes", "0", "--drain-s", "1")
LIMIT_S = 30.0
MOST_ERRORS = 200
JOBS_SAY = ("seed", "status", "attempts_used", "cancel_requested", "artifact", "priority")


def manifest(more: str = "") -> str:
    return HEAD + "".join(
        f'[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {seed}\nallowed_hosts = ["{host}"]\n{more}'
        for seed, host in enumerate(HOSTS)
    )


LONGER = manifest("priority = 1\n") + '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = 7\nallowed_hosts = ["fox"]\n'


class GoneError(Exception):
    """The receiver has ended."""


class RefusedError(Exception):
    """The receiver refuses for good what it should do."""


@dataclass
class Askers:
    """Workers and operator. One step is one request whose answer they rely on.

    Attributes:
        folder: The receiver's.
        last: Number of the step after which they are content.
        done: How many steps were answered.
        heard: Answers that were errors: request, status, code.
        leases: Lease by name.
        backups: Folders of backups that were said to be done.
        orders: How many backups were asked for.
        wrong: What must not be, empty when all is well.
        recorded: Where to write down what the jobs look like; None compares them with what they should.
    """

    folder: Path
    last: int
    done: int = 0
    heard: list[tuple[str, int, str]] = field(default_factory=list)
    leases: dict[str, Any] = field(default_factory=dict)
    backups: list[str] = field(default_factory=list)
    orders: int = 0
    wrong: list[str] = field(default_factory=list)
    recorded: list[Any] | None = None
    _link: http.client.HTTPConnection | None = None

    def later(self, last: int) -> Askers:
        """Return the same askers, who want more."""
        return Askers(self.folder, last, self.done, [], dict(self.leases), list(self.backups), self.orders)

    def begin(self, address: str) -> None:
        self._link = http.client.HTTPConnection(address, timeout=LIMIT_S)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return the answer to one request.

        Raises:
            GoneError: The receiver ended before it answered.
        """
        assert self._link is not None
        sent = {"X-Operator-Token": TOKEN, **headers}
        data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        try:
            self._link.request(method, path, data, sent)
            answer = self._link.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._link.close()
            raise GoneError(path) from error
        if answer.status < 400:
            return json.loads(text) if text else None
        problem = json.loads(text)
        name = re.sub("[0-9a-f]{64}", "ID", path)
        self.heard.append((f"{method} {name}", answer.status, problem["code"]))
        if "Traceback" in text.decode():
            self.wrong.append(f"a traceback reached the asker of {name}")
        raise RefusedError(f"{method} {name}: {answer.status} {problem['code']}: {problem['detail']}")

    def jobs(self) -> list[Any]:
        """What the jobs look like to people, without what differs from run to run."""
        return [[job[name] for name in JOBS_SAY] for job in self.ask("GET", "/v1/jobs?limit=500")["jobs"]]

    # ---- the steps

    def claim(self, host: str, name: str, held: tuple[str, ...] = ()) -> None:
        capability = {"hostname": host, "ram_bytes": 2**34, "version": "0.1.0"}
        leases = [self.leases[other]["lease_id"] for other in held]
        claim_id = f"claim-of-{name.replace(' ', '-')}"
        message = {"claim_id": claim_id, "worker": host, "capability": capability, "held_leases": leases}
        self.leases[name] = self.ask("POST", "/v1/job/claim", message)

    def tell(self, what: str, name: str, **more: Any) -> None:
        lease = self.leases[name]
        self.ask("POST", f"/v1/job/{lease['job_id']}/{what}", {"lease_id": lease["lease_id"], **more})

    def upload(self, name: str, data: bytes) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        stored = self.ask("PUT", f"/v1/model/{sha256}", data, **{"X-Lease-Id": self.leases[name]["lease_id"]})
        assert stored["size_bytes"] == len(data)

    def bring_part(self, name: str, artifact: bytes, file: str, data: bytes) -> None:
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        headers = {"X-Lease-Id": self.leases[name]["lease_id"], "Repr-Digest": f"sha-256=:{digest}:"}
        stored = self.ask("PUT", f"/v1/model/{hashlib.sha256(artifact).hexdigest()}/file/{file}", data, **headers)
        assert stored["size_bytes"] == len(data)

    def complete(self, name: str, data: bytes) -> None:
        self.tell("complete", name, artifact=hashlib.sha256(data).hexdigest(), metrics={"auroc": 0.75})

    def operate(self, what: str, name: str) -> None:
        self.ask("POST", f"/v1/job/{self.leases[name]['job_id']}/{what}")

    def reload(self) -> None:
        (self.folder.parent / "manifest.toml").write_text(LONGER)
        self.ask("POST", "/v1/manifest/reload", {})

    def back_up(self) -> None:
        self.orders += 1
        self._chore("backup", {"label": f"order-{self.orders}", "artifacts": True})
        self.backups.append(self.ask("GET", "/v1/chore")["path"])

    def check(self) -> None:
        self._chore("fsck", {})
        found = self.ask("GET", "/v1/chore")["findings"]
        if any("cannot be read" in finding["found"] for finding in found):
            raise RefusedError("a file could not be read just now")
        if found:
            self.wrong.append(f"the check of the running receiver found {found}")

    def prune(self) -> None:
        order = {"older_than_s": 0}
        plan = self.ask("POST", "/v1/prune/plan", order)
        if plan["artifacts"]:
            self._chore("prune", {**order, "if_digest": plan["digest"]})

    def _chore(self, kind: str, order: Any) -> None:
        self.ask("POST", f"/v1/{kind}", order)
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            chore = self.ask("GET", "/v1/chore")
            if chore["state"] == "failed":
                self.heard.append((kind, 0, "failed"))
                raise RefusedError(f"{kind}: {chore['error']}")
            if chore["state"] == "done":
                return
            time.sleep(0.002)
        raise RefusedError(f"the {kind} has no end")

    # ---- going on

    def go_on(self) -> None:
        """Check that what was answered is still true, then take all steps that are left, again where need be."""
        self._look(self.done, self.done + 1)
        for path in self.backups:
            self.wrong += sound_backup(Path(path))
        for step in list(_steps(self))[self.done : self.last]:
            self._take(step)
            self.done += 1
            if self.recorded is not None or self.done == self.last:
                self._look(self.done)
        self.hang_up()

    def hang_up(self) -> None:
        assert self._link is not None
        self._link.close()

    def _look(self, *after: int) -> None:
        """Compare the jobs with what they should look like after a step, or after the next, which may have been done
        without an answer."""
        found = self.jobs()
        if self.recorded is not None:
            self.recorded.append(found)
        elif found not in (may_be := [REFERENCE[step] for step in after if step < len(REFERENCE)]):
            self.wrong.append(f"after {self.done} steps the jobs are {found}, expected one of {may_be}")

    def _take(self, step: Callable[[], None]) -> None:
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                return step()
            except RefusedError:
                if time.monotonic() > end or len(self.heard) > MOST_ERRORS:
                    raise
                time.sleep(0.005)


REFERENCE: list[Any] = []
"""What the jobs look like at the start and after each step."""


def _steps(who: Askers) -> Iterator[Callable[[], None]]:
    yield lambda: who.claim("ant", "ant")
    yield lambda: who.tell("heartbeat", "ant")
    yield lambda: who.tell("heartbeat", "ant", progress={"step": 1, "steps": 2})
    yield lambda: who.upload("ant", LARGE)
    yield lambda: who.bring_part("ant", LARGE, "card.md", SMALL)
    yield lambda: who.complete("ant", LARGE)
    yield lambda: who.claim("bee", "bee")
    yield lambda: who.tell("heartbeat", "bee")
    yield lambda: who.tell("fail", "bee", kind="trainer_error", exit_status=1, error="it broke", log_tail="why")
    yield lambda: who.claim("cat", "cat")
    yield lambda: who.tell("heartbeat", "cat")
    yield lambda: who.tell("fail", "cat", kind="preempted")
    yield lambda: who.claim("dog", "dog")
    yield lambda: who.tell("heartbeat", "dog")
    yield lambda: who.operate("cancel", "dog")
    yield lambda: who.tell("fail", "dog", kind="preempted")
    yield lambda: who.operate("requeue", "dog")
    yield lambda: who.claim("elk", "elk")
    yield lambda: who.claim("elk", "elk again")
    yield lambda: who.claim("ant", "ant again")
    yield lambda: who.tell("heartbeat", "ant again")
    yield lambda: who.upload("ant again", SMALL)
    yield lambda: who.complete("ant again", SMALL)
    yield who.reload
    yield who.back_up
    yield who.check
    yield who.prune


# ---- one life of the receiver


def program(folder: Path) -> Callable[[], int]:
    def run() -> int:
        os.environ.update(NOTIFY_SOCKET=str(folder.parent / "notify"), CIS490_OPERATOR_TOKEN=TOKEN)
        names = ("db", "store_root", "incoming_root", "index_path", "backup_root")
        places = ("queue.db", "store", "incoming", "index.jsonl", "backups")
        flags = [word for name, place in zip(names, places, strict=True) for word in _flag(name, folder / place)]
        manifest = str(folder.parent / "manifest.toml")
        return receiver.main(["--listen-addr", "127.0.0.1:0", "--manifest", manifest, *flags, *TERMS])

    return run


def _flag(name: str, place: Path) -> tuple[str, str]:
    return f"--{name.replace('_', '-')}", str(place)


class Life:
    """One life of the receiver, and what the askers do in it."""

    def __init__(self, who: Askers) -> None:
        self.who = who
        self.refused = ""
        self._notes = who.folder.parent / "notify"

    def run(self, boundary: Boundary, at: int = 0, error: int = 0, *, watched: bool = True) -> Ran:
        with contextlib.suppress(FileNotFoundError):
            self._notes.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
            notes.bind(str(self._notes))
            notes.settimeout(0.01)

            def beside(process: int, ended: threading.Event) -> None:
                address = _address(notes, ended)
                if address:
                    self._work(process, address)

            return boundary.run(program(self.who.folder), self.who.folder, at, error, beside, watched=watched)

    def _work(self, process: int, address: str) -> None:
        self.who.begin(address)
        try:
            self.who.go_on()
        except GoneError:
            return
        except RefusedError as refused:
            self.refused = str(refused)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def _address(notes: socket.socket, ended: threading.Event) -> str:
    """Wait until the receiver says where it listens; empty when it ends before."""
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            if found := re.search(r"listening on http://(\S+)", notes.recv(4096).decode()):
                return found[1]
    return ""


# ---- trials

SYNCED = "/queue[.]db(-wal)?|/(incoming|store)/.*"
"""What answers depend on; the sums, the index and the kept manifest are made anew."""
SYNCED_FIRST = "/queue[.]db-wal"
"""The same before there are tables: until SQLite has a log, it syncs the empty file itself once more to undo."""
PARTS = {"first start": 0, "work": 23, "reload": 24, "backup and check": 26, "prune": 27}
"""What the receiver lives through, and how many steps were answered at the end of each part."""


class ReceiverFlow:
    """One part of the receiver's life.

    Args:
        boundary: The watcher.
        scratch: Folder for its files.
        part: Name of the part.
    """

    def __init__(self, boundary: Boundary, scratch: Path, part: str) -> None:
        self._boundary = boundary
        self._scratch = scratch
        self._folder = scratch / "receiver"
        self._last = PARTS[part]
        self._before = scratch.with_name("before")
        self._asked = self._lead_up(part)

    def _lead_up(self, part: str) -> Askers:
        """Live through all parts undisturbed, and keep the files as they were before this one."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (self._scratch / "manifest.toml").write_text(manifest())
        who = found = Askers(self._folder, 0)
        for name, last in PARTS.items():
            if name == part:
                shutil.rmtree(self._before, ignore_errors=True)
                shutil.copytree(self._scratch, self._before, ignore=shutil.ignore_patterns("notify"))
                found = who
            who = who.later(last)
            who.recorded = []
            life = Life(who)
            ran = life.run(self._boundary, watched=False)
            assert (ran.status, life.refused, who.heard) == (0, "", []), (ran, life.refused)
            REFERENCE[who.done - len(who.recorded) + 1 :] = who.recorded
        return found

    def trial(self, at: int = 0, error: int = 0) -> Trial:
        """Disturb one life of the receiver, start it again, let everybody finish, and look at all of it."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.copytree(self._before, self._scratch)
        who = self._asked.later(self._last)
        life = Life(who)
        ran = life.run(self._boundary, at, error)
        trial = Trial(ran, heard=list(who.heard), step=who.done, refused=life.refused)
        trial.wrong += wrong_answers(ran, error, who.heard)
        if error == errno.EIO:
            trial.wrong += wrong_after_failed_sync(ran, at, SYNCED if self._last else SYNCED_FIRST)
        if ran.status != 0 and (self._last or not _has_no_tables(self._folder / "queue.db")):
            trial.wrong += _after_a_kill(self._folder)
        # A line that could not be added to the index is there after the next start.
        unlisted = bool(error) and any("/index.jsonl" in call.place for call in ran.calls[at - 1 : at])
        if who.done < self._last or ran.status != 0 or unlisted:
            again = Life(who)
            trial.again = again.run(self._boundary, watched=False)
            if trial.again.status != 0 or again.refused:
                trial.wrong.append(f"started again: status {trial.again.status}, {again.refused}, {trial.again.said}")
        trial.wrong += who.wrong + self._at_the_end(who)
        return trial

    def _at_the_end(self, who: Askers) -> list[str]:
        wrong = wrong_in_files(self._folder / "queue.db", _places(self._folder))
        if who.done != self._last:
            wrong.append(f"{who.done} of {self._last} steps were answered")
        wrong += [f"leftover {path}" for path in (self._folder / "incoming").iterdir()]
        accepted = _asked(self._folder, "SELECT job, count(*) FROM event WHERE action = 'complete' GROUP BY job")
        if [count for _, count in accepted] != [1] * (2 if self._last else 0):
            wrong.append(f"completions accepted: {accepted}")
        return wrong + [word for path in who.backups for word in sound_backup(Path(path))]


def _after_a_kill(folder: Path) -> list[str]:
    """Before it is started again, only what is derived may be behind."""
    return [fault for fault in wrong_in_files(folder / "queue.db", _places(folder)) if "index.jsonl" not in fault]


def _has_no_tables(database: Path) -> bool:
    """Tell whether a first start was cut off before it had made any table, so that there is nothing to check yet."""
    copy = database.parent.with_name("looked-at.db")
    for end in ("", "-wal"):
        copy.with_name(f"{copy.name}{end}").unlink(missing_ok=True)
        if (source := database.with_name(f"{database.name}{end}")).exists():
            shutil.copyfile(source, copy.with_name(f"{copy.name}{end}"))
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        return not connection.execute("SELECT 1 FROM sqlite_schema").fetchall()


def _places(folder: Path) -> Places:
    return Places(open_blobs(folder / "store", folder / "incoming"), folder / "index.jsonl")


def _asked(folder: Path, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "queue.db")) as connection:
        return connection.execute(statement).fetchall()
