"""Bits that flip on the disk: whatever changes the meaning of a file, fsck finds."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from integrity_site import Site, killed

from training.fleet.database.sqlite import pages

SEED = 490


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site") / "receiver")


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Site:
    return template.copied(tmp_path / "receiver")


def flips(path: Path, count: int) -> Iterator[int]:
    """Flip one bit after the other, each in the otherwise whole file; yield where."""
    whole = path.read_bytes()
    chance = random.Random(SEED)
    for _ in range(count):
        offset = chance.randrange(len(whole))
        data = bytearray(whole)
        data[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        yield offset
    path.write_bytes(whole)


def meaning(database: Path, folder: Path) -> list[str] | None:
    """Return everything that the tables say, as the receiver would read it; None when it can't be read to the end."""
    for source, copy in ((database, folder / "copy.db"), (pages.log_path(database), folder / "copy.db-wal")):
        copy.unlink(missing_ok=True)
        if source.exists():
            copy.write_bytes(source.read_bytes())
    connection = sqlite3.connect(folder / "copy.db")
    try:
        return [f"{connection.execute('PRAGMA user_version').fetchone()}", *connection.iterdump()]
    except (sqlite3.Error, UnicodeDecodeError, TypeError):
        return None
    finally:
        connection.close()


def missed(site: Site, path: Path, count: int) -> tuple[int, int]:
    """Return how many of the flips changed what the tables say, and how many of those fsck did not find."""
    right = meaning(site.db, site.folder.parent)
    changed = unseen = 0
    for _ in flips(path, count):
        if meaning(site.db, site.folder.parent) != right:
            changed += 1
            unseen += not _found(site)
    return changed, unseen


def _found(site: Site) -> bool:
    try:
        return bool(site.fsck(hashes=False).findings)
    except Exception as error:  # noqa: BLE001 - a refusal is a find as well
        return "schema" in str(error)


def database_flips(site: Site, count: int, least: int) -> None:
    changed, unseen = missed(site, site.db, count)
    assert unseen == 0
    assert changed > least


def test_every_flip_in_the_database_that_changes_what_it_says_is_found(site: Site) -> None:
    database_flips(site, 400, 30)


@pytest.mark.slow
def test_every_one_of_many_flips_in_the_database_is_found(site: Site) -> None:
    database_flips(site, 5000, 500)


def test_sqlite_and_the_rules_between_rows_alone_would_miss_some(site: Site) -> None:
    """Why the pages have sums."""
    pages.sums_path(site.db).unlink()
    changed, unseen = missed(site, site.db, 250)
    assert 0 < unseen < changed


def test_flips_in_the_sums_never_hide_and_never_pass(site: Site) -> None:
    seen = 0
    for offset in flips(pages.sums_path(site.db), 60):
        report = site.fsck(hashes=False)
        assert bool(report.findings) == (offset >= 32), offset
        seen += bool(report.findings or report.notes)
    assert seen >= 58


def log_flips(site: Site, root: Path, count: int) -> None:
    killed(site, root)
    state = pages.read_log(site.db)
    assert state is not None
    right = meaning(site.db, site.folder.parent)
    changed = 0
    for offset in flips(pages.log_path(site.db), count):
        if meaning(site.db, site.folder.parent) == right:
            continue
        changed += 1
        report = site.fsck(hashes=False)
        assert report.findings or [note.found for note in report.notes] == ["a last commit that cannot be read"], offset
    assert changed > count // 2


def test_every_flip_in_the_log_of_a_killed_receiver_is_found(site: Site, root: Path) -> None:
    log_flips(site, root, 30)


@pytest.mark.slow
def test_every_one_of_many_flips_in_the_log_is_found(site: Site, root: Path) -> None:
    log_flips(site, root, 1500)


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_every_flip_in_an_artifact_is_found(site: Site, count: int) -> None:
    for number in range(3):
        for offset in flips(site.bundle(number), count):
            faults = site.fsck().findings
            assert [fault.place[:73] for fault in faults] == [f"artifact {site.artifacts[number]}"], offset


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_every_flip_in_the_index_is_found_and_mended(site: Site, count: int) -> None:
    right = site.places.index.read_bytes()
    for offset in flips(site.places.index, count):
        assert len(site.fsck(hashes=False).findings) == 1, offset
    next(flips(site.places.index, 1))
    site.fsck(hashes=False, repair=True)
    assert site.places.index.read_bytes() == right
