"""Trainers from hell under one real worker: the right kind is reported, and the host is as it was before."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_receiver import Reply, Seen, StubReceiver, lease, route

from training.fleet.api.json import Decoder
from training.fleet.wire.limits import MAX_BODY_BYTES
from training.fleet.wire.worker import Complete, Fail, Heartbeat
from training.fleet.worker.files import delete_tree
from training.fleet.worker.log import HEAD_BYTES, SEGMENT_BYTES

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
COMMAND = ["{python}", "hell_trainer.py"]
MIB = 2**20
DECODERS: dict[str, Decoder[Any]] = {
    "heartbeat": Decoder(Heartbeat),
    "complete": Decoder(Complete),
    "fail": Decoder(Fail),
}
WITHOUT_PRIVILEGE = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]
"""Root may read and delete everything; a worker under test may not, as it will not in service."""
WATCHED_KIB = 64 * 1024

TRAINERS = {
    # act: (failure kind or "completed", words of the error, changes of the lease)
    "ignores_term": ("timeout", "stopped after its wall limit of 1 s", {"timeout_s": 1}),
    "forks": ("completed", "", {}),
    "leaves_its_session": ("completed", "", {}),
    "makes_a_daemon": ("completed", "", {}),
    "bombs": ("timeout", "stopped after its wall limit of 1 s", {"timeout_s": 1}),
    "kills_its_guardian": ("host_fault", "the shim was killed before it could report", {}),
    "stops_itself": ("timeout", "stopped after its wall limit of 1 s", {"timeout_s": 1}),
    "hangs": ("stalled", "neither printed nor reported progress for 3 s", {}),
    "crashes": ("trainer_error", "killed by signal 11 (SIGSEGV)", {}),
    "prints_binary": ("trainer_error", "", {}),
    "prints_without_end": ("trainer_error", "", {"seed": 200}),
    "closes_its_output": ("completed", "", {}),
    "huge_result": ("completed", "", {}),
    "nested_result": ("completed", "", {}),
    "no_json_result": ("completed", "", {}),
    "pipe_as_result": ("completed", "", {}),
    "device_as_result": ("completed", "", {}),
    "odd_metrics": ("completed", "", {}),
    "garbage_as_progress": ("completed", "", {}),
    "pipe_as_progress": ("completed", "", {}),
    "device_as_progress": ("stalled", "neither printed nor reported progress for 3 s", {}),
    "nothing": ("no_artifact", "left nothing in artifact/", {}),
    "link": ("no_artifact", "found 'link', a link; expected a regular file", {}),
    "link_up": ("no_artifact", "found 'up', a link; expected a regular file", {}),
    "link_to_itself": ("no_artifact", "found 'loop', a link; expected a regular file", {}),
    "link_as_artifact": ("no_artifact", "found a link at", {}),
    "file_as_artifact": ("no_artifact", "found a file at", {}),
    "device": ("no_artifact", "expected a regular file in its place", {}),
    "pipe": ("no_artifact", "found 'pipe', a pipe", {}),
    "socket_file": ("no_artifact", "found 'socket', a socket", {}),
    "hard_links": ("completed", "", {}),
    "climbs_out": ("completed", "", {}),
    "many_files": ("no_artifact", "found more than 10000 files", {}),
    "many_folders": ("completed", "", {}),
    "deep_folders": ("no_artifact", "nested deeper than 16", {}),
    "line_feed_in_name": ("no_artifact", "found the name 'a\\nb'", {}),
    "no_text_in_name": ("no_artifact", "found the name '\\udcff\\udcfe'", {}),
    "long_name": ("no_artifact", "expected a shorter one", {}),
    "sparse": ("no_artifact", "expected at most 8589934591 in an artifact", {}),
    "unreadable_file": ("no_artifact", "which may not be read", {}),
    "unreadable_folder": ("no_artifact", "which may not be read", {}),
    "unreadable_output": ("no_artifact", "which may not be read", {}),
    "deletes_its_run": ("trainer_error", "the folder of the run was deleted while the trainer ran", {}),
    "eats_memory": ("oom_ram", "MemoryError", {}),
    "eats_memory_until_killed": ("oom_ram", "", {}),
}


class Hell:
    """A worker that serves one trainer after the other."""

    def __init__(self, work: Path, root: Path, *flags: str) -> None:
        self.stub = StubReceiver()
        self.work = work
        self.peak_kib = 0
        self.numbers = itertools.count(1)
        command = [sys.executable, "-m", "training.fleet.worker", "--receiver", self.stub.url, "--name", "box"]
        command += [
            "--work-dir",
            str(work),
            "--trainer-dir",
            str(HELPERS),
            "--grace-s",
            "0.5",
            "--stall-s",
            "3",
            *flags,
        ]
        if os.geteuid() == 0:
            command = WITHOUT_PRIVILEGE + command
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        self.errors = work.parent / f"{work.name}.errors"
        with self.errors.open("wb") as errors:
            self.worker = subprocess.Popen(command, cwd=root, env=environ, stderr=errors)

    def end(self) -> None:
        self.worker.terminate()
        assert self.worker.wait(30) == 0
        self.stub.stop()

    def ask(self, act: str, seed: int = 1, **changes: Any) -> tuple[str, dict[str, Any]]:
        """Let one trainer run; return what the worker says about it, once it has said it."""
        self.stub.seen.clear()
        fence = next(self.numbers)
        granted = lease(act, fence=fence, command=COMMAND, **changes)
        granted["spec"]["seed"] = seed
        for verb in ("fail", "complete"):
            self.stub.script[verb] = [self.measured]
        self.stub.offer(granted)
        said = self.until(lambda: [seen for seen in self.stub.seen if self.ends(seen, granted["lease_id"])])
        kind = "completed" if route(said[0]) == "complete" else said[0].json["kind"]
        return kind, said[0].json

    def ends(self, seen: Seen, lease_id: str) -> bool:
        return route(seen) in ("fail", "complete") and seen.json["lease_id"] == lease_id

    def measured(self, seen: Seen) -> Reply:
        """Look at the worker's memory while it waits for this answer."""
        lines = Path(f"/proc/{self.worker.pid}/status").read_text().splitlines()
        self.peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return self.stub.usual(route(seen), seen)

    def until(self, met: Callable[[], Any], limit_s: float = 90.0) -> Any:
        end = time.monotonic() + limit_s
        while not (found := met()):
            assert time.monotonic() < end, self.errors.read_text()[-2000:]
            assert self.worker.poll() is None, self.errors.read_text()[-2000:]
            time.sleep(0.02)
        return found

    def processes(self) -> list[str]:
        """All that lives with the environment of a trainer of this worker, wherever it went."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"TMPDIR={self.work}/runs/".encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
        return found

    def kept(self) -> list[Path]:
        return sorted((self.work / "runs").iterdir())


@pytest.fixture(scope="module")
def hell(root: Path) -> Iterator[Hell]:
    """On a file system in memory where there is one: a hundred thousand files take long elsewhere."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    it = Hell(folder / "work", root, "--min-free-gib", "0")
    yield it
    it.end()
    delete_tree(folder)
    assert not folder.exists()
    for group in (*Path("/sys/fs/cgroup/memory").glob("cis490-test-*"), *Path("/sys/fs/cgroup").glob("cis490-test-*")):
        group.rmdir()


@pytest.mark.parametrize("act", TRAINERS)
def test_a_trainer_from_hell_gets_its_verdict_and_leaves_the_host_as_it_was(hell: Hell, act: str) -> None:
    kind, words, changes = TRAINERS[act]
    said_kind, said = hell.ask(act, **changes)
    assert (said_kind, words in said.get("error", "")) == (kind, True), said
    assert hell.processes() == []
    assert hell.peak_kib < WATCHED_KIB
    for seen in list(hell.stub.seen):
        if route(seen) in DECODERS:
            DECODERS[route(seen)].decode(seen.body)
            assert len(seen.body) <= MAX_BODY_BYTES
    hell.until(lambda: route(hell.stub.seen[-1]) == "claim")
    [kept] = hell.kept() or [None]
    assert (kept is None) == (kind in ("completed", "preempted")) or act == "deletes_its_run"
    if kept is not None:
        assert sum(path.stat().st_size for path in kept.glob("log.*")) <= HEAD_BYTES + 2 * SEGMENT_BYTES
        delete_tree(kept)
        assert hell.kept() == []


def test_a_file_that_changes_while_it_is_packed_is_refused(hell: Hell) -> None:
    """The one that writes is no process of the trainer's tree; those are gone by then."""
    over = threading.Event()

    def append() -> None:
        target = None
        while not over.is_set():
            target = target or next(iter(hell.work.glob("runs/*/out/artifact/z.log")), None)
            if target is not None:
                with contextlib.suppress(OSError), target.open("ab", buffering=0) as stream:
                    stream.write(b"x")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        kind, said = hell.ask("changing_file")
    finally:
        over.set()
        writer.join()
    assert (kind, "changed while it was packed" in said["error"]) == ("no_artifact", True)


@pytest.mark.slow
def test_ten_gigabytes_without_a_line_feed_cost_no_memory_and_no_disk(hell: Hell) -> None:
    kind, said = hell.ask("prints_without_end", seed=10 * 1024)
    assert (kind, said["log_tail"][-4:]) == ("trainer_error", "xend")
    assert hell.peak_kib < WATCHED_KIB
    assert hell.processes() == []


# ---- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk is mounted for this test, which only root may do")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("fills_disk", "stopped because less than 0.03125 GiB are free here"),
        ("fills_disk_and_says_so", "No space left on device"),
    ],
)
def test_a_trainer_that_fills_the_disk_ends_and_the_floor_is_free_again(
    small: Path, root: Path, act: str, words: str
) -> None:
    hell = Hell(small / "work", root, "--min-free-gib", "0.03125")
    try:
        kind, said = hell.ask(act)
        assert kind == "disk_full"
        assert words in said["error"] or "less than 0.03125 GiB" in said["error"]
        assert hell.processes() == []
        assert shutil.disk_usage(small).free >= 32 * MIB
        assert hell.ask("hard_links")[0] == "completed"
        assert "no job taken: the disk is full" not in hell.errors.read_text()
    finally:
        hell.end()


def test_a_worker_below_its_floor_gives_up_the_folders_it_keeps(small: Path, root: Path) -> None:
    hell = Hell(small / "work", root, "--min-free-gib", "0.03125")
    try:
        assert hell.ask("crashes")[0] == "trainer_error"
        assert len(hell.kept()) == 1
        (small / "elsewhere").write_bytes(bytes(70 * MIB))
        hell.stub.script["claim"] = [(204, {"Retry-After": "0"}, b"")] * 99
        hell.stub.offer(lease("hard_links", fence=99, command=COMMAND))
        hell.until(lambda: hell.kept() == [])
    finally:
        hell.end()
