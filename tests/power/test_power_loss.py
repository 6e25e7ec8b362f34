"""Power cuts at any moment: of what the receiver answered, nothing is lost.

A real receiver works under strace. From the log come images of what its disk may hold after a power cut, and each is
recovered with the code of a real start. `crash_disk` says what a disk may do, `crash_check` what must hold.
The ordinary run cuts the power after every fifth step, every day after others.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import crash_scenes
import pytest
from crash_disk import Disk
from crash_trace import Step

from tests.helpers.todays_part import WHOLE, todays_part

HERE = Path(__file__).parent
PARTS = 5
"""How many days cut the power after every step."""

pytestmark = [
    pytest.mark.xdist_group("power"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]


def checked(scene: Path, count: int, seed: int = 1, fault: str = "", part: str = WHOLE) -> Any:
    """Check images in a process of its own, which nothing slows down."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environ["PYTHONPATH"] = f"{crash_scenes.ROOT}{os.pathsep}{HERE}"
    command = [sys.executable, str(HERE / "crash_check.py"), str(scene), str(count), str(seed), fault, part]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sys.stdout.write(f"{scene.stem} {done.stdout}")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything a receiver does, seen once."""
    folder = tmp_path_factory.mktemp("power")
    lives, site = crash_scenes.receiver_lives(folder / "lives"), folder / "lives" / "site"
    restore = crash_scenes.restored(folder / "restore", next((site / "backups").iterdir()), site)
    restored = crash_scenes.Scene("restored", restore.before, restore.steps, {"first": len(restore.steps) - 1})
    upgrade, forget = crash_scenes.upgraded(folder / "upgrade"), crash_scenes.forgotten(folder / "forget", site)
    forget.facts["first"] = len(forget.steps) - 1
    found = {"lives": lives, "restore": restore, "restored": restored, "upgrade": upgrade, "forget": forget}
    return {name: scene.save(folder / f"{name}.scene") for name, scene in found.items()}


def test_nothing_answered_is_lost_in_twenty_thousand_power_cuts(scenes: dict[str, Path], daily: bool) -> None:
    part, of = todays_part(PARTS, daily), PARTS if daily else 1
    images = {"lives": 18_800 // of, "upgrade": 800 // of, "restore": 300 // of}
    found = [checked(scenes[name], count, part=part) for name, count in images.items()]
    found.append(checked(scenes["restored"], 100 // of))
    assert [fault for done in found for fault in done["faults"]] == [], f"cut after the steps of part {part}"
    assert sum(done["images"] for done in found) == 20_000 // of


def test_sums_that_were_given_up_do_not_come_back(scenes: dict[str, Path]) -> None:
    assert checked(scenes["forget"], 10)["faults"] == []


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        ("no sync of the log", "are not what their sums say"),
        ("answers before the sync", "is not there"),
        ("no sync of the database", "are not what their sums say"),
        ("no sync of the sums", "are not what their sums say"),
        ("no sync of bundles", "has a row and no whole file"),
        ("no sync of folders", "has a row and no whole file"),
        ("rows before the rename", "has a row and no whole file"),
    ],
)
def test_a_receiver_that_is_less_careful_is_caught(scenes: dict[str, Path], fault: str, shown: str) -> None:
    assert shown in " ".join(checked(scenes["lives"], 6000, fault=fault)["faults"])


@pytest.mark.parametrize(("level", "shown"), [("FULL", ""), ("NORMAL", "is not there"), ("OFF", "is not there")])
def test_commits_that_wait_for_less_lose_what_was_answered(level: str, shown: str, tmp_path: Path) -> None:
    scene = crash_scenes.short_life(tmp_path / "life", level).save(tmp_path / f"{level}.scene")
    found = checked(scene, 700)
    assert shown in " ".join(found["faults"])
    assert (found["broken"] > 0) == bool(shown)


def test_a_write_may_be_there_missing_or_torn_and_a_name_too() -> None:
    disk = Disk()
    for step in (Step("make", "a"), Step("begin-sync", ".", sync=1), Step("end-sync", ".", sync=1)):
        disk.do(step)
    disk.do(Step("write", "a", start=0, data=b"x" * 1024))
    disk.do(Step("rename", "a", "b"))
    (write, sectors), (name, _) = disk.loose()
    assert sectors == 2
    assert disk.image({}).files == {"a": b""}
    assert disk.image({name: -1}).files == {"b": b""}
    assert disk.image({write: -1}).files == {"a": b"x" * 1024}
    torn = {disk.image({write: seed}).files["a"] for seed in range(40)}
    assert torn == {b"", b"x" * 512, bytes(512) + b"x" * 512, b"x" * 1024}


def test_what_a_sync_returned_for_stays() -> None:
    disk = Disk()
    disk.do(Step("make", "a"))
    disk.do(Step("write", "a", start=0, data=b"old"))
    disk.do(Step("begin-sync", "a", sync=1))
    disk.do(Step("write", "a", start=0, data=b"new"))
    disk.do(Step("end-sync", "a", sync=1))
    disk.do(Step("begin-sync", ".", sync=2))
    disk.do(Step("end-sync", ".", sync=2))
    assert disk.image({}).files == {"a": b"old"}
    assert len(disk.loose()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_nothing_answered_is_lost_in_two_hundred_thousand_power_cuts(scenes: dict[str, Path], seed: int) -> None:
    found = checked(scenes["lives"], 20_000, seed)
    assert found["faults"] == []
    assert found["images"] == 20_000
