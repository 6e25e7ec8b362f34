"""Small files beside an artifact: their order, their limits, and what checks, backups and restores make of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integrity_site import Site

from training.fleet.blobs import open_blobs
from training.fleet.database.queries import PartRow
from training.fleet.database.sqlite import Sqlite
from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.backup import BackupTask, back_up
from training.fleet.maintenance.fsck import fsck
from training.fleet.maintenance.report import Report, ignore
from training.fleet.maintenance.restore import RestoreTarget, restore
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import (
    ArtifactMissingError,
    ConflictError,
    FleetError,
    InvalidMessageError,
    TooLargeError,
)
from training.fleet.model.parts import MAX_PARTS, MAX_PARTS_BYTES
from training.fleet.queue import Queue, StoredRows
from training.fleet.store import PartIntake, Store

CARD, OTHER = b"# A card\n", b"# Another card\n"


class PartSite(Site):
    """A receiver's files with one part, `card.md` of the first artifact."""

    def __init__(self, folder: Path, fill: bool = True) -> None:
        super().__init__(folder, fill)
        if fill:
            database = Sqlite.open(self.db)
            bring(self.intake(database), self.key(0), "card.md", CARD)
            database.close()

    def intake(self, database: Sqlite) -> PartIntake:
        return PartIntake(Store(self.places.blobs), StoredRows(database, Queue().artifacts))

    def key(self, number: int) -> ArtifactKey:
        return ArtifactKey(self.artifacts[number], "gbt", "realistic")

    def path(self, name: str = "card.md", number: int = 0) -> Path:
        return self.store / self.key(number).file(name)


def row(name: str, data: bytes) -> PartRow:
    return PartRow(name, len(data), hashlib.sha256(data).hexdigest())


def bring(intake: PartIntake, key: ArtifactKey, name: str, data: bytes) -> bool:
    if intake.known(key, row(name, data)):
        return False
    part = intake.begin(key, row(name, data))
    part.upload.write(data)
    intake.finish(part)
    return True


@pytest.fixture
def site(tmp_path: Path) -> PartSite:
    return PartSite(tmp_path / "receiver")


@pytest.fixture
def database(site: PartSite) -> Iterator[Sqlite]:
    opened = Sqlite.open(site.db)
    yield opened
    opened.close()


@pytest.fixture
def intake(site: PartSite, database: Sqlite) -> PartIntake:
    return site.intake(database)


# ---- in


def test_a_part_lies_beside_its_bundle_and_is_known_from_then_on(site: PartSite, intake: PartIntake) -> None:
    assert bring(intake, site.key(1), "roc.svg", b"<svg/>") is True
    assert site.path("roc.svg", 1).read_bytes() == b"<svg/>"
    assert site.path("roc.svg", 1).parent == site.bundle(1).parent
    assert bring(intake, site.key(1), "roc.svg", b"<svg/>") is False


def test_a_part_of_an_artifact_that_is_not_here_is_refused(intake: PartIntake) -> None:
    with pytest.raises(ArtifactMissingError, match="upload the bundle first"):
        bring(intake, ArtifactKey("0" * 64, "gbt", "realistic"), "card.md", CARD)


@pytest.mark.parametrize("name", ["bundle.tar.zst", "../card.md", "a/b.md", ".md", "card.md\n", "nul.md", ""])
def test_a_name_that_could_leave_its_folder_is_refused(site: PartSite, intake: PartIntake, name: str) -> None:
    with pytest.raises(InvalidMessageError):
        intake.begin(site.key(0), row(name, CARD))


def test_two_that_come_at_once_with_other_bytes_leave_the_first(site: PartSite, intake: PartIntake) -> None:
    key, results = site.key(1), []
    parts = [(data, intake.begin(key, row("card.md", data))) for data in (CARD, OTHER)]
    for data, part in parts:
        part.upload.write(data)
        try:
            intake.finish(part)
            results.append("kept")
        except ConflictError:
            results.append("refused")
    assert results == ["kept", "refused"]
    assert site.path(number=1).read_bytes() == CARD


def test_parts_that_come_at_once_stay_within_the_limits_together(site: PartSite, intake: PartIntake) -> None:
    """Each of them alone was looked at before the others had their rows."""
    key, results = site.key(1), []
    parts = []
    for number in range(MAX_PARTS + 2):
        part = intake.begin(key, row(f"{number}.svg", b"x"))
        part.upload.write(b"x")
        parts.append(part)

    def finish(part: Any) -> None:
        try:
            intake.finish(part)
            results.append(True)
        except TooLargeError:
            results.append(False)

    threads = [threading.Thread(target=finish, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results.count(True), results.count(False)) == (MAX_PARTS, 2)
    assert len(list(site.bundle(1).parent.glob("*.svg"))) == MAX_PARTS


def test_two_large_parts_at_once_do_not_pass_the_limit_together(site: PartSite, intake: PartIntake) -> None:
    key, data = site.key(1), bytes(MAX_PARTS_BYTES // 2 + 1)
    parts = [intake.begin(key, row(name, data)) for name in ("a.png", "b.png")]
    for part in parts:
        part.upload.write(data)
    intake.finish(parts[0])
    with pytest.raises(TooLargeError, match="leave it out"):
        intake.finish(parts[1])
    assert [path.name for path in site.bundle(1).parent.glob("*.png")] == ["a.png"]


def test_the_last_byte_fits_and_one_more_does_not(site: PartSite, intake: PartIntake) -> None:
    assert bring(intake, site.key(1), "a.png", bytes(MAX_PARTS_BYTES - 1)) is True
    with pytest.raises(TooLargeError):
        bring(intake, site.key(1), "b.png", b"xy")
    assert bring(intake, site.key(1), "b.png", b"x") is True
    assert bring(intake, site.key(1), "empty.md", b"") is True


def test_the_rows_of_parts_go_with_their_artifact(site: PartSite, database: Sqlite) -> None:
    def parts() -> list[Any]:
        return database.submit(lambda tx: Queue().artifacts.parts(tx, site.key(0))).result()

    assert [(part.name, part.size_bytes) for part in parts()] == [("card.md", len(CARD))]
    database.close()
    with contextlib.closing(sqlite3.connect(site.db)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM artifact WHERE sha256 = ?", (site.artifacts[0],))
        assert connection.execute("SELECT count(*) FROM part").fetchone() == (0,)


# ---- checks


@pytest.mark.parametrize("hashes", [True, False])
def test_sound_parts_are_clean_and_damaged_or_lost_ones_are_found(site: PartSite, hashes: bool) -> None:
    assert (site.fsck(hashes=hashes).findings, site.fsck(hashes=hashes).notes) == ([], [])
    site.path().write_bytes(OTHER)
    (fault,) = site.fsck(hashes=hashes, repair=True).findings
    assert fault.place == f"card.md of artifact {site.artifacts[0]} (result of job {site.ids[0]})"
    assert fault.found == f"bytes that hash to {hashlib.sha256(OTHER).hexdigest()}"
    assert site.path().read_bytes() == OTHER
    site.path().unlink()
    (fault,) = site.fsck(hashes=hashes).findings
    assert fault.found.startswith("no file that can be read")
    assert "the bundle has it as well" in fault.remedy


def test_a_part_without_a_row_is_a_note(site: PartSite) -> None:
    for number, name in ((0, "left.svg"), (1, "card.md")):
        site.path(name, number).write_bytes(b"left by a crash")
    report = site.fsck(repair=True)
    assert (report.findings, {note.found for note in report.notes}) == ([], {"a part without a row"})
    assert sorted(note.place for note in report.notes) == sorted([str(site.path("left.svg")), str(site.path(number=1))])


# ---- backup and restore


def backed_up(site: PartSite, report: Report | None = None) -> Path:
    opened = Sqlite.open(site.db)
    manifest = site.folder / "manifest.applied.toml"
    task = BackupTask(site.folder.parent / "backups", "one", site.places, manifest, True, "", "0.1.0")
    try:
        return back_up(opened, task, report or Report(), ignore)
    finally:
        opened.close()


def test_a_backup_holds_the_parts_and_a_restore_brings_them_back(site: PartSite, tmp_path: Path) -> None:
    backup = backed_up(site)
    name = f"store/{site.key(0).file('card.md')}"
    entry = json.loads((backup / "backup.json").read_text())["files"][name]
    assert entry == {"size_bytes": len(CARD), "sha256": hashlib.sha256(CARD).hexdigest()}
    new = tmp_path / "new"
    places = Places(open_blobs(new / "store", new / "incoming"), new / "index.jsonl")
    done = restore(backup, RestoreTarget(new / "queue.db", places), replace=False, progress=ignore)
    assert done[:2] == ["artifacts: 3 brought back, 0 were there", "files beside them: 1 brought back, 0 were there"]
    assert (new / name).read_bytes() == CARD
    assert fsck(new / "queue.db", places, CheckOptions()).findings == []


def test_a_damaged_part_is_replaced_by_a_restore_and_kept_aside(site: PartSite) -> None:
    backup = backed_up(site)
    site.path().unlink()
    site.path().write_bytes(OTHER)
    done = restore(backup, RestoreTarget(site.db, site.places), replace=True, progress=ignore)
    assert "files beside them: 1 brought back, 0 were there" in done
    assert site.path().read_bytes() == CARD
    (aside,) = (site.store / "quarantine").iterdir()
    assert aside.read_bytes() == OTHER


def test_a_part_that_is_lost_or_damaged_is_told_by_a_backup_that_holds_all_else(site: PartSite) -> None:
    site.path().write_bytes(OTHER)
    backup = backed_up(site, report := Report())
    assert [fault.place for fault in report.findings] == [f"card.md of artifact {site.artifacts[0]}"]
    assert not list(backup.rglob("card.md"))
    assert len(list(backup.rglob("bundle.tar.zst"))) == 3


def test_a_name_in_a_backup_that_no_part_may_have_is_refused(site: PartSite) -> None:
    backup = backed_up(site)
    contents = json.loads((backup / "backup.json").read_text())
    contents["files"][f"store/{site.key(0).folder}/con.md"] = {"size_bytes": 0, "sha256": "0" * 64}
    (backup / "backup.json").write_text(json.dumps(contents))
    with pytest.raises(FleetError, match=r"names 'store/.*con\.md'"):
        restore(backup, RestoreTarget(site.db, site.places), replace=True, progress=ignore)
