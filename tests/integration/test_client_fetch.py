"""Fetching from a real receiver: through a network that cuts, after a kill, from a disk that refuses."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, manifest

from training.fleet.client import Client
from training.fleet.client.fetch import bundle_at, fetch, part_at
from training.fleet.model.errors import (
    ConfigurationError,
    DigestMismatchError,
    NotFoundError,
    StorageFullError,
    UnreachableError,
)

DATA = random.Random(490).randbytes(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
CARD = b"# A card\n"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path_factory.mktemp("receiver"), manifest(4)) as live:
        lease = live.claim()
        assert live.upload(lease, DATA).status == 201
        client = Client(f"http://127.0.0.1:{live.port}")
        assert client.upload_part(lease["lease_id"], SHA, "model_card.md", CARD).new
        client.close()
        yield live


@contextmanager
def calling(port: int, **options: Any) -> Iterator[Client]:
    client = Client(f"http://127.0.0.1:{port}", sleep=lambda _: None, **options)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def client(receiver: LiveReceiver) -> Iterator[Client]:
    with calling(receiver.port) as made:
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.tar.zst"


def part_of(target: Path, sha256: str = SHA) -> Path:
    return target.with_name(f".{target.name}.{sha256[:12]}.part")


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_bundle_and_a_card_are_fetched_whole(client: Client, target: Path) -> None:
    told: list[tuple[int, int]] = []
    assert fetch(client, bundle_at(SHA), SHA, target, progress=lambda done, total: told.append((done, total))) is True
    assert target.read_bytes() == DATA
    assert (told[-1], sorted(told)) == ((len(DATA), len(DATA)), told)
    card = target.with_name("card.md")
    assert fetch(client, part_at(SHA, "model_card.md"), hashlib.sha256(CARD).hexdigest(), card) is True
    assert card.read_bytes() == CARD
    assert names(target) == ["card.md", "model.tar.zst"]


def test_what_is_there_is_not_fetched_again_and_another_file_is_left_alone(client: Client, target: Path) -> None:
    target.write_bytes(DATA)
    assert fetch(client, bundle_at(SHA), SHA, target) is False
    target.write_bytes(b"somebody's")
    with pytest.raises(ConfigurationError, match="is another file; move it away"):
        fetch(client, bundle_at(SHA), SHA, target)
    assert (target.read_bytes(), names(target)) == (b"somebody's", ["model.tar.zst"])


@pytest.mark.parametrize("have", [1, 262_144, 1_500_001, len(DATA) - 1])
def test_a_fetch_goes_on_from_what_an_earlier_one_left(
    receiver: LiveReceiver, client: Client, target: Path, have: int
) -> None:
    part_of(target).write_bytes(DATA[:have])
    sent: list[int] = []
    fetch(client, bundle_at(SHA), SHA, target, progress=lambda done, _: sent.append(done))
    assert target.read_bytes() == DATA
    assert sent[0] > have, "the bytes that were there were fetched again"
    assert names(target) == ["model.tar.zst"]


def test_a_fetch_that_was_killed_before_its_last_step_needs_no_receiver(target: Path) -> None:
    part_of(target).write_bytes(DATA)
    with calling(1, deadline_s=0) as nobody:
        assert fetch(nobody, bundle_at(SHA), SHA, target) is True
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("left", [b"what somebody else wrote there", DATA + b"more"], ids=["other bytes", "too long"])
def test_what_is_left_and_wrong_never_becomes_the_file(client: Client, target: Path, left: bytes) -> None:
    part_of(target).write_bytes(left)
    if len(left) < len(DATA):
        with pytest.raises(DigestMismatchError, match="fetch it again"):
            fetch(client, bundle_at(SHA), SHA, target)
        assert names(target) == []
    fetch(client, bundle_at(SHA), SHA, target)
    assert target.read_bytes() == DATA


def test_a_link_in_the_place_of_what_came_harms_no_file_it_leads_to(
    client: Client, target: Path, tmp_path: Path
) -> None:
    """In a folder for all, somebody else could leave one."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"my own words")
    part_of(target).symlink_to(mine)
    assert fetch(client, bundle_at(SHA), SHA, target)
    assert mine.read_bytes() == b"my own words"
    assert not target.is_symlink()
    assert hashlib.sha256(target.read_bytes()).hexdigest() == SHA


def test_a_file_of_another_digest_leaves_nothing(client: Client, target: Path) -> None:
    with pytest.raises(DigestMismatchError):
        fetch(client, bundle_at(SHA), "0" * 64, target)
    assert names(target) == []


def test_what_the_receiver_lacks_is_said_and_leaves_nothing(client: Client, target: Path) -> None:
    with pytest.raises(NotFoundError, match="no artifact 0000"):
        fetch(client, bundle_at("0" * 64), "0" * 64, target)
    with pytest.raises(NotFoundError, match=r"no file roc\.svg"):
        fetch(client, part_at(SHA, "roc.svg"), "0" * 64, target)
    assert names(target) == []


def test_nobody_at_the_address_is_told_and_what_came_is_kept(target: Path) -> None:
    part_of(target).write_bytes(DATA[:1000])
    with calling(1, deadline_s=0) as nobody, pytest.raises(UnreachableError):
        fetch(nobody, bundle_at(SHA), SHA, target)
    assert part_of(target).read_bytes() == DATA[:1000]


@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_cuts_and_resets_delays_a_fetch_and_changes_nothing(
    receiver: LiveReceiver, target: Path, root: Path, seed: int
) -> None:
    options = {"upstream": receiver.port, "ports": 1, "rate": 0.7, "hold_s": 0.1, "holds": 0.05, "seed": seed}
    words = [sys.executable, str(root / "tests/helpers/fault_proxy.py"), json.dumps(options)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        (port,) = json.loads(proxy.stdout.readline())
        with calling(port, deadline_s=60, timeout_s=5) as client:
            fetch(client, bundle_at(SHA), SHA, target)
        out, _ = proxy.communicate()
    assert target.read_bytes() == DATA
    assert names(target) == ["model.tar.zst"]
    assert json.loads(out)["requests"] >= 1


FETCH = """
import sys
from pathlib import Path
from training.fleet.client import Client
from training.fleet.client.fetch import bundle_at, fetch
def progress(done, total):
    if done >= int(sys.argv[4]):
        print("there", flush=True)
        sys.stdin.read()
fetch(Client(sys.argv[1]), bundle_at(sys.argv[2]), sys.argv[2], Path(sys.argv[3]), progress=progress)
"""


def test_a_fetch_that_is_killed_leaves_no_file_and_the_next_one_goes_on(
    receiver: LiveReceiver, client: Client, target: Path, root: Path
) -> None:
    words = [sys.executable, "-c", FETCH, f"http://127.0.0.1:{receiver.port}", SHA, str(target), "1000000"]
    with subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"there\n"
        killed.kill()
    assert names(target) == [part_of(target).name]
    have = part_of(target).stat().st_size
    assert 1_000_000 <= have < len(DATA)
    sent: list[int] = []
    fetch(client, bundle_at(SHA), SHA, target, progress=lambda done, _: sent.append(done))
    assert (target.read_bytes(), sent[0] > have) == (DATA, True)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFullError), (errno.EACCES, ConfigurationError)], ids=["full", "denied"]
)
def test_a_disk_that_refuses_is_no_fault_of_the_network(
    client: Client, target: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    asked: list[int] = []

    def refuse(*_: Any) -> Any:
        asked.append(1)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("training.fleet.client.fetch.system.replace", refuse)
    with pytest.raises(kind, match="cannot write"):
        fetch(client, bundle_at(SHA), SHA, target)
    assert (len(asked), target.exists()) == (1, False)


def test_a_proxy_that_ignores_ranges_costs_a_second_transfer_and_no_wrong_file(
    client: Client, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of 200 is the whole, whatever was asked for."""
    part_of(target).write_bytes(DATA[:1000])
    monkeypatch.setattr("training.fleet.client.fetch._Arriving.headers", lambda _: {})
    fetch(client, bundle_at(SHA), SHA, target)
    assert target.read_bytes() == DATA


def test_the_digest_is_that_of_the_answer(receiver: LiveReceiver) -> None:
    found = receiver.call("HEAD", bundle_at(SHA)).headers["repr-digest"]
    assert found == f"sha-256=:{base64.b64encode(bytes.fromhex(SHA)).decode()}:"
