"""Which backups make room for newer ones, and which stay whatever is asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from integrity_site import Site

from training.fleet.database.sqlite import Sqlite
from training.fleet.maintenance.backup import BackupTask, back_up
from training.fleet.maintenance.old_backups import remove_older
from training.fleet.maintenance.report import Report, ignore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with five backups, the label "nightly" on all but the fourth."""
    site = Site(tmp_path / "receiver")
    database = Sqlite.open(site.db)
    try:
        for day, label in enumerate(("nightly", "nightly", "nightly", "before-upgrade", "nightly"), 1):
            name = f"2026010{day}T030000Z-{label}"
            task = BackupTask(tmp_path / "backups", name, site.places, tmp_path / "none", True, "", "0.1.0")
            back_up(database, task, Report(), ignore)
    finally:
        database.close()
    return tmp_path / "backups"


def days(root: Path) -> list[str]:
    return sorted(path.name[6:8] for path in root.iterdir())


def removed(root: Path, keep: int) -> list[str]:
    return remove_older(root / "20260105T030000Z-nightly", keep, ignore)


def test_older_backups_with_the_same_label_go(root: Path) -> None:
    assert removed(root, 2) == ["20260101T030000Z-nightly", "20260102T030000Z-nightly"]
    assert days(root) == ["03", "04", "05"]


def test_the_newest_stays_whatever_is_asked(root: Path) -> None:
    removed(root, 1)
    assert days(root) == ["04", "05"]
    assert removed(root, 1) == []


def test_one_that_is_damaged_stays_and_counts_for_none_that_is_kept(root: Path) -> None:
    (root / "20260103T030000Z-nightly" / "index.jsonl").write_text("another")
    assert removed(root, 2) == ["20260101T030000Z-nightly"]
    assert days(root) == ["02", "03", "04", "05"]


def spoil_with_a_file(backup: Path) -> None:
    (backup / "notes.txt").write_text("mine")


def spoil_with_another_receiver(backup: Path) -> None:
    contents = json.loads((backup / "backup.json").read_text())
    (backup / "backup.json").write_text(json.dumps({**contents, "index": "/elsewhere/index.jsonl"}))


def spoil_with_an_older_form(backup: Path) -> None:
    contents = json.loads((backup / "backup.json").read_text())
    del contents["index"]
    (backup / "backup.json").write_text(json.dumps(contents))


def spoil_with_a_link(backup: Path) -> None:
    elsewhere = backup.parent.parent / "elsewhere"
    shutil.move(backup, elsewhere)
    backup.symlink_to(elsewhere)


def spoil_with_no_list(backup: Path) -> None:
    (backup / "backup.json").unlink()


def spoil_with_nonsense(backup: Path) -> None:
    (backup / "backup.json").write_text("[1, 2")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_with_a_file,
        spoil_with_another_receiver,
        spoil_with_an_older_form,
        spoil_with_a_link,
        spoil_with_no_list,
        spoil_with_nonsense,
    ],
)
def test_what_is_not_provably_whole_and_ones_own_stays(root: Path, spoil: object) -> None:
    spoil(root / "20260101T030000Z-nightly")  # type: ignore[operator]
    assert removed(root, 1) == ["20260102T030000Z-nightly", "20260103T030000Z-nightly"]
    assert (root / "20260101T030000Z-nightly").exists()


def test_a_name_that_no_backup_has_stays(root: Path) -> None:
    for name in ("20260101-nightly", "20260101T030000Z", "notes"):
        shutil.copytree(root / "20260101T030000Z-nightly", root / name)
    removed(root, 1)
    assert {"20260101-nightly", "20260101T030000Z", "notes"} < {path.name for path in root.iterdir()}
