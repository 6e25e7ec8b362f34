"""Makes images of a disk after power cuts, recovers each with the real code and compares with what was answered.

    python crash_check.py SCENE IMAGES [SEED] [FAULT] [OFFSET/N]

Prints one JSON object. A FAULT spoils the steps first, to show that this program can find something. OFFSET/N cuts the
power only after every Nth step from OFFSET on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import crash_program
from crash_disk import Disk, Image, choice
from crash_scenes import Scene
from crash_trace import Step

from tests.helpers.todays_part import WHOLE, in_part
from training.fleet.blobs import open_blobs
from training.fleet.database.sqlite import upkeep
from training.fleet.database.sqlite.opening import prepare
from training.fleet.database.sqlite.pages import sums_path
from training.fleet.database.sqlite.upkeep import DatabaseFile
from training.fleet.files import make_folder
from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.fsck import fsck
from training.fleet.maintenance.restore import RestoreTarget, restore
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import FleetError
from training.fleet.receiver.run import _open_database
from training.fleet.store import Index, index_lines

FSCK_EVERY: Final = 25
"""Of so many images one is checked with the whole of fsck."""
MAX_FAULTS: Final = 5
MAX_ROUNDS: Final = 400
"""How often a cut is looked for at each step at most."""

# ---- what was promised


class Promises:
    """What answers have promised so far; only grows."""

    def __init__(self) -> None:
        self.leases: dict[str, str] = {}
        self.started: set[str] = set()
        self.ended: dict[str, str] = {}
        self.artifacts: dict[str, int] = {}
        self.parts: set[tuple[str, str, str]] = set()
        self.completed: dict[str, str] = {}
        self.events: set[tuple[str, str]] = set()
        self.jobs = 0
        self.backups: set[str] = set()
        self.count = 0

    def take(self, exchange: tuple[str, str, Any, int, Any]) -> None:
        """Take up one answer."""
        method, path, asked, status, said = exchange
        parts = path.partition("?")[0].strip("/").split("/")
        known: dict[tuple[str, str], Callable[[str, Any, Any], None]] = {
            ("POST", "claim"): self._claimed,
            ("POST", "heartbeat"): lambda _id, asked, _said: self.started.add(asked["lease_id"]),
            ("PUT", parts[-1]): self._stored if "file" not in parts else self._brought(parts[-1]),
            ("POST", "complete"): self._completed,
            ("POST", "fail"): self._failed,
            ("POST", "cancel"): lambda job, _asked, _said: self.events.add((job, "cancel")),
            ("POST", "requeue"): lambda job, _asked, _said: self.events.add((job, "requeue")),
            ("POST", "reload"): self._loaded,
            ("GET", "chore"): self._kept,
        }
        take = known.get((method, parts[-1]))
        if take is not None and status != 204:
            self.count += 1
            take(parts[2] if len(parts) > 2 else "", asked, said)

    def _claimed(self, _id: str, _asked: Any, said: Any) -> None:
        self.leases[said["lease_id"]] = said["job_id"]

    def _stored(self, sha256: str, _asked: Any, said: Any) -> None:
        self.artifacts[sha256] = said["size_bytes"]

    def _brought(self, name: str) -> Callable[[str, Any, Any], None]:
        return lambda sha256, _asked, said: self.parts.add((sha256, name, said["sha256"]))

    def _completed(self, job: str, asked: Any, _said: Any) -> None:
        self.completed[job] = asked["artifact"]
        self.ended[asked["lease_id"]] = "completed"

    def _failed(self, _job: str, asked: Any, _said: Any) -> None:
        self.ended[asked["lease_id"]] = "failed"

    def _loaded(self, _id: str, _asked: Any, said: Any) -> None:
        self.jobs = max(self.jobs, said["counts"]["added"] + said["counts"]["unchanged"] + said["counts"]["changed"])

    def _kept(self, _id: str, _asked: Any, said: Any) -> None:
        if said["kind"] == "backup" and said["state"] == "done":
            self.backups.add(Path(said["path"]).name)

    def broken(self, rows: Rows, image: Image) -> Iterator[str]:
        """Yield what was promised and is not there."""
        yield from (
            f"lease {lease} was granted and is not there" for lease in self.leases.keys() - rows.attempts.keys()
        )
        for lease in self.started & rows.attempts.keys():
            if rows.attempts[lease][1] is None:
                yield f"lease {lease} was begun and is not"
        for lease, outcome in self.ended.items():
            if lease in rows.attempts and rows.attempts[lease][2] not in (outcome, "cancelled"):
                yield f"lease {lease} ended as {outcome} and is {rows.attempts[lease][2]}"
        for job, artifact in self.completed.items():
            if rows.jobs.get(job) != ("completed", artifact):
                yield f"job {job} was completed and is {rows.jobs.get(job)}"
        if len(rows.jobs) < self.jobs:
            yield f"{self.jobs} jobs were loaded and {len(rows.jobs)} are there"
        yield from (f"{event} was answered and did not happen" for event in self.events - rows.events)
        found = {key.sha256 for key in rows.artifacts}
        yield from (f"artifact {sha256} was stored and has no row" for sha256 in self.artifacts.keys() - found)
        brought = {(key.sha256, name, sha256) for key, name, sha256 in rows.parts}
        yield from (f"the file {part} was stored and has no row" for part in self.parts - brought)
        for name in self.backups:
            yield from _broken_backup(name, image)


def _broken_backup(name: str, image: Image) -> Iterator[str]:
    folder = f"backups/{name}"
    try:
        files = json.loads(image.files[f"{folder}/backup.json"])["files"]
    except (KeyError, ValueError) as error:
        yield f"backup {name} was done and is not there ({error!r})"
        return
    for file, entry in files.items():
        if _digest(image.files.get(f"{folder}/{file}", b"")) != entry["sha256"]:
            yield f"backup {name} was done and its {file} is not whole"


_digests: dict[bytes, str] = {}


def _digest(data: bytes) -> str:
    if data not in _digests:
        _digests[data] = hashlib.sha256(data).hexdigest()
    return _digests[data]


# ---- recovery


class Rows:
    """What a recovered database says, as far as promises are concerned."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        attempts = connection.execute("SELECT lease_id, started_at, outcome FROM attempt")
        self.attempts = {row[0]: tuple(row) for row in attempts}
        self.jobs = {row[0]: tuple(row[1:]) for row in connection.execute("SELECT id, status, artifact FROM job")}
        happened = connection.execute("SELECT DISTINCT j.id, e.action FROM event AS e JOIN job AS j ON j.seq = e.job")
        self.events = set(map(tuple, happened))
        artifacts = connection.execute("SELECT sha256, model, mode, size_bytes FROM artifact ORDER BY seq")
        self.artifacts = {ArtifactKey(*names): size_bytes for *names, size_bytes in artifacts}
        parts = connection.execute(
            "SELECT a.sha256, a.model, a.mode, p.name, p.sha256 FROM part AS p JOIN artifact AS a ON a.seq = p.artifact"
        )
        self.parts = {(ArtifactKey(*names), name, sha256) for *names, name, sha256 in parts}
        self.index = b"".join(index_lines(self.artifacts.items()))


def _connected(db: Path) -> sqlite3.Connection:
    """Connect as `Sqlite.open` does, without its thread."""
    return sqlite3.connect(db, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=512)


class Receiver:
    """Starts on images as the receiver does and compares.

    The database is recovered once for images whose database files are alike, and the store once for those whose store
    and rows are: neither looks at anything else.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._site = bench.site
        self._places = _places(self._site)
        self._databases: dict[int, tuple[Rows, list[str]]] = {}
        self._stores: dict[tuple[Any, ...], list[str]] = {}
        self._wholes = 0

    @property
    def recoveries(self) -> int:
        """How many databases and stores were recovered."""
        return len(self._databases) + len(self._stores)

    def check(self, image: Image, promises: Promises) -> Iterator[str]:
        """Yield what is wrong with an image."""
        state, rest = image.part("state"), image.part("data", "lists")
        if state.key() not in self._databases:
            self._databases[state.key()] = self._database(state)
        rows, faults = self._databases[state.key()]
        yield from faults
        known = rest.key(), rows.index, frozenset(rows.parts)
        if known not in self._stores:
            self._stores[known] = [*self._store(rest, rows), *self._wholly(image)]
        yield from self._stores[known]
        yield from promises.broken(rows, image)

    def _database(self, state: Image) -> tuple[Rows, list[str]]:
        self._bench.lay_out(state)
        db = self._site / "state/queue.db"
        make_folder(db.parent)
        with contextlib.closing(DatabaseFile(db)) as file, contextlib.closing(_connected(db)) as connection:
            prepare(connection, file, self._site / "backups")
            connection.row_factory = sqlite3.Row
            rows = Rows(connection)
        return rows, [f"pages {file.damaged} are not what their sums say"] if file.damaged else []

    def _store(self, rest: Image, rows: Rows) -> Iterator[str]:
        self._bench.lay_out(rest)
        self._places.blobs.prepare()
        index = Index(self._places.index)
        index.open()
        index.rebuild(index_lines(rows.artifacts.items()))
        if self._places.index.read_bytes() != rows.index:
            yield "the index is not what the rows say"
        if any(self._places.blobs.leftovers()):
            yield "leftovers of uploads stay"
        for key in rows.artifacts:
            bundle = rest.files.get(f"data/store/{key.model}_{key.mode}/{key.sha256}/bundle.tar.zst")
            if bundle is None or _digest(bundle) != key.sha256:
                yield f"artifact {key.sha256} has a row and no whole file"

        for key, name, sha256 in rows.parts:
            if _digest(rest.files.get(f"data/store/{key.file(name)}", b"")) != sha256:
                yield f"{name} of artifact {key.sha256} has a row and no whole file"

    def _wholly(self, image: Image) -> Iterator[str]:
        """Check one of many images with fsck, before and after its recovery."""
        self._wholes += 1
        if self._wholes % FSCK_EVERY:
            return
        self._bench.lay_out(image.part("state", "data", "lists"))
        db = self._site / "state/queue.db"
        _open_database(db, self._site / "backups").close()
        yield from (
            f"fsck: {fault}"
            for fault in fsck(db, self._places, CheckOptions(repair=True)).findings
            if "index" not in str(fault)
        )


def _places(site: Path) -> Places:
    return Places(open_blobs(site / "data/store", site / "data/incoming"), site / "lists/index.jsonl")


def check_restore(_image: Image, site: Path) -> Iterator[str]:
    """Repeat the restore and look whether all is there."""
    files = _places(site)
    restore(site / "backup", RestoreTarget(site / "state/queue.db", files), replace=True, progress=lambda *_: None)
    yield from (f"fsck: {fault}" for fault in fsck(site / "state/queue.db", files, CheckOptions(repair=True)).findings)


def check_restored(_image: Image, site: Path) -> Iterator[str]:
    """Look whether all is there once the restore has said that it is done."""
    files = _places(site)
    yield from (f"fsck: {fault}" for fault in fsck(site / "state/queue.db", files, CheckOptions()).findings)


def check_upgrade(_image: Image, site: Path) -> Iterator[str]:
    """Open the database once more with the newer tables; every copy that has its name is whole."""
    for path in (site / "backups").rglob("queue.db.schema-*"):
        if not path.name.endswith(".part"):
            with contextlib.closing(sqlite3.connect(path)) as copy:
                if copy.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                    yield f"the copy {path.name} is damaged"
                yield from _broken_jobs(copy)
    database = _open_database(site / "state/queue.db", site / "backups" / "copies")
    database.close()
    if database.damaged:
        yield f"pages {database.damaged} are not what their sums say"
    with contextlib.closing(sqlite3.connect(site / "state/queue.db")) as connection:
        if connection.execute("PRAGMA user_version").fetchone()[0] != max(crash_program.LATER):
            yield "the tables are not up to date"
        yield from _broken_jobs(connection)
    if not list((site / "backups").rglob("queue.db.schema-1.*Z")):
        yield "the tables were brought up to date without a copy"


def _broken_jobs(connection: sqlite3.Connection) -> Iterator[str]:
    if (found := connection.execute("SELECT count(*) FROM job").fetchone()[0]) != 7:
        yield f"{found} jobs of 7 are there"


def check_forgotten(image: Image, _site: Path) -> Iterator[str]:
    """The sums are gone for good."""
    if sums_path(Path("state/queue.db")).as_posix() in image.files:
        yield "sums that were given up have come back"


# ---- images


class Bench:
    """A folder in which images are laid out one after the other."""

    def __init__(self, folder: Path) -> None:
        self.site = folder

    def lay_out(self, image: Image) -> None:
        """Make the folder what the image is."""
        if self.site.exists():
            shutil.rmtree(self.site)
        self.site.mkdir()
        for path in image.folders:
            os.mkdir(f"{self.site}/{path}")  # noqa: PTH102 - twenty thousand times
        for path, data in image.files.items():
            with open(f"{self.site}/{path}", "wb", buffering=0) as file:  # noqa: PTH123
                file.write(data)


def spoil(steps: list[Step], fault: str) -> list[Step]:
    """Return the steps of a program that is less careful."""
    syncs = ("begin-sync", "end-sync")
    drop: dict[str, Callable[[Step], bool]] = {
        "": lambda _step: False,
        "no sync of the log": lambda step: step.kind in syncs and step.path.endswith("-wal"),
        "no sync of the database": lambda step: step.kind in syncs and step.path == "state/queue.db",
        "no sync of the sums": lambda step: step.kind in syncs and "-sums" in step.path,
        "no sync of bundles": lambda step: step.kind in syncs and ".part" in step.path and "incoming" in step.path,
        "no sync of folders": lambda step: step.kind in syncs and step.path.startswith("data/store"),
    }
    if fault == "answers before the sync":
        return _hasty(steps)
    if fault == "rows before the rename":
        return _late(steps)
    return [step for step in steps if not drop[fault](step)]


def _hasty(steps: list[Step]) -> list[Step]:
    """Return the steps with each answer before the last sync of the log that it waited for."""
    found: list[Step] = []
    last = 0
    for step in steps:
        if step.kind == "answer":
            found.insert(last, step)
        else:
            if step.kind == "begin-sync" and step.path.endswith("-wal"):
                last = len(found)
            found.append(step)
    return found


def _late(steps: list[Step]) -> list[Step]:
    """Return the steps with each bundle renamed only right before its upload is answered."""
    found: list[Step] = []
    waiting: list[Step] = []
    for step in steps:
        if step.kind == "rename" and step.path.startswith("data/incoming") and step.other.endswith("bundle.tar.zst"):
            waiting.append(step)
            continue
        if step.exchange is not None and step.exchange[0] == "PUT":
            found += waiting
            waiting = []
        if step.path not in {late.other for late in waiting}:
            found.append(step)
    return found


def images(scene: Scene, steps: list[Step], seed: int, part: str) -> Iterator[tuple[Image, Promises, int]]:
    """Yield images without end, each with what was promised by then and the number of the step before the cut."""
    round_ = 0
    cut = set(in_part(range(scene.facts.get("first", 0), len(steps)), part))
    while True:
        disk, promises = Disk(Path(scene.before) if scene.before else None), Promises()
        for number, step in enumerate(steps):
            disk.do(step)
            if step.exchange is not None:
                promises.take(step.exchange)
            if number in cut:
                chosen = choice(disk.loose(), seed * len(steps) + number, round_)
                yield disk.image(chosen), promises, number
        round_ += 1


def looker(scene: Scene, bench: Bench) -> tuple[Callable[[Image, Promises], Iterator[str]], Callable[[], int]]:
    """Return what checks an image, and what says how many recoveries that took."""
    if scene.name == "receiver":
        receiver = Receiver(bench)
        return receiver.check, lambda: receiver.recoveries
    checks = {
        "restore": check_restore,
        "restored": check_restored,
        "upgrade": check_upgrade,
        "forget": check_forgotten,
    }
    done = []

    def look(image: Image, _promises: Promises) -> Iterator[str]:
        done.append(image)
        bench.lay_out(image)
        yield from checks[scene.name](image, bench.site)

    return look, lambda: len(done)


def check(scene: Scene, count: int, seed: int, fault: str, part: str) -> dict[str, Any]:
    """Check so many different images and say what was found; with a fault, up to the first that shows it."""
    steps = spoil(scene.steps, fault)
    seen: set[tuple[int, int]] = set()
    contents: set[int] = set()
    faults: list[str] = []
    broken = tried = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        look, recoveries = looker(scene, Bench(Path(folder) / "site"))
        for image, promises, number in images(scene, steps, seed, part):
            tried += 1
            if len(contents) >= count or tried > MAX_ROUNDS * len(steps):
                break
            content = image.key()
            if (content, promises.count) in seen:
                continue
            seen.add((content, promises.count))
            contents.add(content)
            found = _looked(look, image, promises)
            broken += bool(found)
            faults += [f"after step {number} ({steps[number].kind} {steps[number].path}): {word}" for word in found]
            del faults[MAX_FAULTS:]
            if found and fault:
                break
        spent = round(time.process_time(), 1)
        done = {"images": len(contents), "checks": len(seen), "recoveries": recoveries(), "broken": broken}
    return {**done, "faults": faults, "cpu_s": spent}


def _looked(look: Callable[[Image, Promises], Iterator[str]], image: Image, promises: Promises) -> list[str]:
    try:
        return list(look(image, promises))
    except (FleetError, OSError, sqlite3.Error) as error:
        return [f"recovery ends with {error!r}"]


def main(words: list[str]) -> None:
    path, count, *more = words
    seed, fault, part = (*more, *("1", "", WHOLE)[len(more) :])
    logging.disable(logging.CRITICAL)
    scene: Scene = pickle.loads(Path(path).read_bytes())
    if scene.name == "upgrade":
        upkeep.MIGRATIONS = crash_program.LATER
    sys.stdout.write(json.dumps(check(scene, int(count), int(seed), fault, part)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
