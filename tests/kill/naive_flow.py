"""A store as one writes it without thinking of kills: what the walk must find fault with.

The file is written under its final name, the row before it is there, and the list is added to before both.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from boundary import Boundary
from trial import Trial, wrong_answers, wrong_in_files

from training.fleet.blobs import open_blobs
from training.fleet.database.sqlite import Sqlite
from training.fleet.maintenance.artifacts import Places
from training.fleet.model.artifact import ArtifactKey
from training.fleet.queue import Queue
from training.fleet.store import index_line

PIECES = [bytes([number]) * 4096 for number in range(16)]


class NaiveFlow:
    """Three uploads to the naive store."""

    def __init__(self, boundary: Boundary, scratch: Path) -> None:
        self._boundary = boundary
        self._folder = scratch / "naive"
        self._store, self._index = self._folder / "store", self._folder / "index.jsonl"
        self._places = Places(open_blobs(self._store, self._folder / "incoming"), self._index)

    def trial(self, at: int = 0, error: int = 0) -> Trial:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        Sqlite.open(self._folder / "queue.db").close()
        ran = self._boundary.run(self._program, self._folder, at, error)
        trial = Trial(ran, wrong=wrong_answers(ran, error, []))
        trial.wrong += wrong_in_files(self._folder / "queue.db", self._places)
        return trial

    def _program(self) -> int:
        for number in range(3):
            data = b"".join(PIECES) + b"%d" % number
            sha256 = hashlib.sha256(data).hexdigest()
            key = ArtifactKey(sha256, "gbt", "oracle")
            with self._index.open("ab") as index:
                index.write(index_line(key, len(data)))
            self._note(key, len(data))
            self._put(self._store / key.path, data)
        return 0

    def _put(self, path: Path, data: bytes) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True)
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(data), 4096):
                file.write(data[start : start + 4096])
            os.fsync(file.fileno())

    def _note(self, key: ArtifactKey, size_bytes: int) -> None:
        database = Sqlite.open(self._folder / "queue.db")
        database.submit(lambda tx: Queue().artifacts.add(tx, key, size_bytes)).result()
        database.close()
