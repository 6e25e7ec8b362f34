"""The files of a receiver that does not run: jobs in every status, artifacts, an index; all real."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from queue_world import World, entry

from training.fleet.blobs import open_blobs
from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.fsck import fsck
from training.fleet.maintenance.report import Report
from training.fleet.model.artifact import ArtifactKey
from training.fleet.queue import StoredRows
from training.fleet.store import Index, Intake, Store

STATUSES = ["completed", "completed", "completed", "failed", "running", "claimed", "pending", "cancelled"]


class Site:
    """One receiver's folder, with three results and a job in each other status."""

    def __init__(self, folder: Path, fill: bool = True) -> None:
        self.folder = folder
        self.db = folder / "queue.db"
        self.store, self.incoming = folder / "store", folder / "incoming"
        self.places = Places(open_blobs(self.store, self.incoming), folder / "index.jsonl")
        self.ids: list[str] = []
        self.artifacts: list[str] = []
        if fill:
            folder.mkdir(parents=True, exist_ok=True)
            self._fill()

    def copied(self, folder: Path) -> Site:
        """Return a copy of it somewhere else."""
        shutil.copytree(self.folder, folder)
        other = Site(folder, fill=False)
        other.ids, other.artifacts = list(self.ids), list(self.artifacts)
        return other

    def _fill(self) -> None:
        self.places.blobs.prepare()
        world = World(self.db)
        try:
            jobs = [entry(number, max_attempts=1 if number == 3 else 3) for number in range(8)]
            self.ids = [job.id for job in jobs]
            world.load(jobs)
            for number in range(3):
                self._complete(world, b"bundle %d" % number * 100)
            world.fail(world.running("pi"), "trainer_error", "no such key", "a log")
            world.running("tower")
            world.claim("nas")
            world.cancel(jobs[7].id)
            assert [world.status(job) for job in self.ids] == STATUSES
        finally:
            world.database.close()

    def _complete(self, world: World, data: bytes) -> None:
        sha256, lease = hashlib.sha256(data).hexdigest(), world.running("pi")
        key, rows = ArtifactKey(sha256, "gbt", "realistic"), StoredRows(world.database, world.queue.artifacts)
        intake = Intake(Store(self.places.blobs), rows, Index(self.places.index))
        upload = intake.begin(key, len(data))
        upload.write(data)
        intake.finish(upload, key, len(data))
        world.complete(lease, sha256, store=False)
        self.artifacts.append(sha256)

    def bundle(self, number: int) -> Path:
        return self.store / "gbt_realistic" / self.artifacts[number] / "bundle.tar.zst"

    def fsck(self, **options: Any) -> Report:
        return fsck(self.db, self.places, CheckOptions(**options))

    def files(self) -> dict[str, bytes]:
        """Every file by name, to show that nothing changed."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def index(self) -> list[Any]:
        return [json.loads(line) for line in self.places.index.read_text().splitlines()]


def killed(site: Site, root: Path) -> None:
    """Run a receiver's database on the site and kill it, so that its log stays."""
    code = (
        "import os, signal, sys; from pathlib import Path; from training.fleet.database.sqlite import Sqlite\n"
        "database = Sqlite.open(Path(sys.argv[1]))\n"
        "for number in range(8):\n"
        "    database.submit(lambda tx: tx.run('remember', key=str(number), value='x' * 9000)).result()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(site.db)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
