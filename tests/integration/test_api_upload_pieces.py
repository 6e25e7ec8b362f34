"""How the body of an upload is written while it arrives: in batches, in order, under a lease that lives."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, manifest

from training.fleet.api.handlers import uploads as work

LIMIT = 8 * 2**20


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(1), max_artifact_bytes=str(LIMIT)) as live:
        yield live


@pytest.fixture
def lease(receiver: LiveReceiver) -> dict[str, Any]:
    found: dict[str, Any] = receiver.claim()
    return found


def test_memory_stays_flat_while_a_slow_disk_takes_the_upload(
    receiver: LiveReceiver, lease: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is held back: no more than two batches are ever in memory."""
    held: list[int] = []
    write = work._write

    def slow(stored: Any, batch: list[bytes]) -> None:
        held.append(sum(map(len, batch)))
        time.sleep(0.02)  # a slow disk: pieces come faster than it writes
        write(stored, batch)

    monkeypatch.setattr(work, "_write", slow)
    data = os.urandom(LIMIT)
    assert receiver.upload(lease, data).status == 201
    assert sum(held) == LIMIT
    assert max(held) < 2 * work.UPLOAD_BATCH_BYTES
    assert len(held) <= LIMIT // work.UPLOAD_BATCH_BYTES + 1  # and no more calls than batches


def test_batches_are_written_one_after_the_other_however_long_one_takes(
    receiver: LiveReceiver, lease: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits a moment for the next one to overtake it, which must not happen, and neither must the end."""
    write, begun, overtaken = work._write, list[threading.Event](), list[bool]()

    def slow(stored: Any, batch: list[bytes]) -> None:
        mine = threading.Event()
        for before in begun:
            before.set()
        begun.append(mine)
        overtaken.append(mine.wait(0.2))
        write(stored, batch)

    monkeypatch.setattr(work, "_write", slow)
    assert receiver.upload(lease, os.urandom(work.UPLOAD_BATCH_BYTES * 2 + 1000)).status == 201
    assert len(overtaken) >= 2
    assert not any(overtaken)


def test_the_lease_of_an_upload_is_looked_at_before_and_after_its_body_and_not_at_each_piece(
    receiver: LiveReceiver, lease: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    look = receiver.fleet.queue.artifacts.lease_for_upload

    def counted(tx: Any, lease_id: str, sha256: str) -> Any:
        looks.append(sha256)
        return look(tx, lease_id, sha256)

    monkeypatch.setattr(receiver.fleet.queue.artifacts, "lease_for_upload", counted)
    assert receiver.upload(lease, os.urandom(3 * 2**20)).status == 201
    assert len(looks) == 3
