from __future__ import annotations

import hashlib
import random
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from integrity_site import Site, killed

from training.fleet.database.sqlite import pages
from training.fleet.maintenance import fsck as fsck_module
from training.fleet.model.errors import ConfigurationError, FleetError


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site") / "receiver")


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Site:
    return template.copied(tmp_path / "receiver")


def change(path: Path, *statements: str) -> None:
    """Change a database behind the receiver's back, its rules switched off, and have its sums agree."""
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for statement in statements:
        assert connection.execute(statement).rowcount != 0, statement
    connection.close()
    pages.sums_path(path).unlink()


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def places(report: Any) -> list[str]:
    return [fault.place for fault in report.findings]


# ---- clean


def test_a_sound_receiver_is_clean_and_everything_was_looked_at(site: Site) -> None:
    report = site.fsck()
    assert (report.findings, report.notes, report.repaired) == ([], [], [])
    assert report.checked["pages"] == site.db.stat().st_size // 4096
    assert {name: report.checked[name] for name in ("jobs", "artifacts", "bytes")} == {
        "jobs": 8,
        "artifacts": 3,
        "bytes": 3 * 800,
    }


@pytest.mark.parametrize("repair", [False, True])
def test_a_check_changes_nothing_where_nothing_is_wrong(site: Site, repair: bool) -> None:
    before = site.files()
    site.fsck(repair=repair)
    assert site.files() == before


def test_progress_is_told_up_to_the_last_byte(site: Site) -> None:
    told: list[tuple[int, int]] = []
    site.fsck(progress=lambda done, todo: told.append((done, todo)))
    assert told == [(800, 2400), (1600, 2400), (2400, 2400)]


# ---- artifacts


def test_a_flipped_bit_in_an_artifact_is_found_and_named_with_its_job(site: Site) -> None:
    flip(site.bundle(1), 400)
    before = site.files()
    (fault,) = site.fsck().findings
    assert fault.place == f"artifact {site.artifacts[1]} (result of job {site.ids[1]})"
    assert fault.found.startswith("800 bytes that hash to ")
    assert "requeue JOB" in fault.remedy
    assert site.files() == before


def test_repair_moves_a_damaged_artifact_aside_and_deletes_nothing(site: Site) -> None:
    flip(site.bundle(1), 400)
    damaged = site.bundle(1).read_bytes()
    assert len(site.fsck(repair=True).repaired) == 1
    assert (site.store / "quarantine" / f"{site.artifacts[1]}-1").read_bytes() == damaged
    assert not site.bundle(1).exists()
    (fault,) = site.fsck().findings
    assert fault.found == f"no file at {site.bundle(1)}"


def test_an_artifact_that_is_damaged_again_does_not_overwrite_the_first_in_the_quarantine(site: Site) -> None:
    for text in (b"first", b"second"):
        site.bundle(1).parent.mkdir(exist_ok=True)
        site.bundle(1).write_bytes(text)
        site.fsck(repair=True)
    quarantine = site.store / "quarantine"
    assert [(quarantine / f"{site.artifacts[1]}-{number}").read_bytes() for number in (1, 2)] == [b"first", b"second"]


def test_an_artifact_that_is_brought_back_is_clean_again(site: Site) -> None:
    whole = site.bundle(0).read_bytes()
    site.bundle(0).unlink()
    assert places(site.fsck()) == [f"artifact {site.artifacts[0]} (result of job {site.ids[0]})"]
    site.bundle(0).write_bytes(whole)
    assert site.fsck().findings == []


def test_without_hashing_only_presence_and_length_are_looked_at(site: Site) -> None:
    flip(site.bundle(0), 0)
    site.bundle(1).write_bytes(b"short")
    site.bundle(2).unlink()
    report = site.fsck(hashes=False)
    assert [fault.found for fault in report.findings] == ["5 bytes", f"no file at {site.bundle(2)}"]
    assert report.checked["bytes"] == 0


def test_a_bundle_that_no_row_names_is_a_note_and_no_damage(site: Site) -> None:
    data = b"an upload whose lease then failed"
    digest = hashlib.sha256(data).hexdigest()
    orphan = site.store / "gbt_realistic" / digest / "bundle.tar.zst"
    orphan.parent.mkdir()
    orphan.write_bytes(data)
    report = site.fsck(repair=True)
    assert report.findings == []
    assert [(note.place, note.found) for note in report.notes] == [(str(orphan), "an artifact without a row")]
    assert orphan.read_bytes() == data


def test_a_damaged_bundle_that_no_row_names_is_damage_because_an_upload_would_be_taken_for_it(site: Site) -> None:
    orphan = site.store / "gbt_oracle" / ("d" * 64) / "bundle.tar.zst"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"not what hashes to that")
    assert places(site.fsck(repair=True)) == [f"unreferenced artifact {'d' * 64}"]
    assert (site.store / "quarantine" / f"{'d' * 64}-1").exists()
    assert site.fsck().findings == []


def test_the_same_digest_under_another_model_has_no_row(site: Site) -> None:
    twin = site.store / "mlp_realistic" / site.artifacts[0] / "bundle.tar.zst"
    twin.parent.mkdir(parents=True)
    shutil.copy(site.bundle(0), twin)
    assert [note.place for note in site.fsck().notes] == [str(twin)]


def test_strange_files_in_the_store_are_notes(site: Site) -> None:
    names = ["notes.txt", "gbt_realistic/readme", f"gbt_realistic/{site.artifacts[0]}/bundle.tar.zst.bak"]
    for name in names:
        (site.store / name).write_text("mine")
    report = site.fsck(repair=True)
    assert report.findings == []
    assert sorted(note.place for note in report.notes) == sorted(str(site.store / name) for name in names)


# ---- index and leftovers


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda text: text.splitlines(keepends=True)[0], 2),
        (lambda text: text + '{"sha256":', 4),
        (lambda text: text.replace('"size_bytes":800', '"size_bytes":801', 1), 1),
        (lambda text: "", 1),
    ],
    ids=["lines missing", "a torn line", "another figure", "empty"],
)
def test_an_index_that_is_wrong_is_found_and_repaired(site: Site, spoil: Any, line: int) -> None:
    right = site.places.index.read_text()
    site.places.index.write_text(spoil(right))
    assert places(site.fsck()) == [f"{site.places.index}, line {line}"]
    report = site.fsck(repair=True)
    assert (len(report.findings), report.repaired) == (1, [f"{site.places.index}: written again from the database"])
    assert site.places.index.read_text() == right
    assert site.fsck().findings == []


def test_an_index_that_is_not_there_is_found_and_repaired(site: Site) -> None:
    right = site.places.index.read_text()
    site.places.index.unlink()
    assert places(site.fsck(repair=True)) == [f"{site.places.index}, line 1"]
    assert site.places.index.read_text() == right


def test_leftovers_of_uploads_are_notes_and_a_repair_removes_only_them(site: Site) -> None:
    (site.incoming / f"{'a' * 32}.part").write_bytes(b"half")
    (site.incoming / "mine.txt").write_bytes(b"mine")
    assert [note.found for note in site.fsck().notes] == ["the leftover of an upload", "a file that no upload made"]
    assert len(site.fsck(repair=True).repaired) == 1
    assert [path.name for path in site.incoming.iterdir()] == ["mine.txt"]


# ---- rows


RULES = {
    "spec": ("UPDATE job SET spec = replace(spec, '490', '491') WHERE seq = 1", 0, "a specification of job "),
    "model": ("UPDATE job SET model = 'mlp' WHERE seq = 7", 6, "mlp realistic"),
    "lease of another": ("UPDATE job SET lease_id = 'x' WHERE seq = 5", 4, "of another lease or host"),
    "host of another": ("UPDATE job SET host = 'x' WHERE seq = 5", 4, "of another lease or host"),
    "ended attempt": (
        "UPDATE attempt SET outcome = 'failed', ended_at = 'x' WHERE job = 5",
        4,
        "job running, attempt failed",
    ),
    "attempt without end": ("UPDATE attempt SET outcome = NULL, ended_at = NULL WHERE job = 4", 3, "has not ended"),
    "no result": ("UPDATE attempt SET outcome = 'failed' WHERE job = 1", 0, "job completed, completed attempts 0"),
    "surplus result": (
        "UPDATE attempt SET outcome = 'completed' WHERE job = 4",
        3,
        "job failed, completed attempts 1",
    ),
    "attempt beyond": ("UPDATE attempt SET fence = 9 WHERE job = 4", 3, "attempt 1, newest row 9, fence 1"),
    "newest attempt forgotten": ("UPDATE job SET attempt = 0 WHERE seq = 4", 3, "attempt 0, newest row 1, fence 1"),
    "attempt beyond the fence": ("UPDATE job SET fence = 0 WHERE seq = 4", 3, "attempt 1, newest row 1, fence 0"),
    "attempt without a row": (
        "UPDATE job SET attempt = 1, fence = 1 WHERE seq = 7",
        6,
        "attempt 1, newest row 0, fence 1",
    ),
    "older result": (
        "UPDATE job SET attempt = 2, fence = 2 WHERE seq = 1",
        0,
        "job completed, completed attempts 1",
    ),
    "result of another model": (
        "UPDATE artifact SET model = 'mlp' WHERE seq = 1",
        0,
        "no row of artifact ",
    ),
    "result of another mode": (
        "UPDATE artifact SET mode = 'oracle' WHERE seq = 1",
        0,
        "no row of artifact ",
    ),
    "refunds": ("UPDATE job SET refunds = 4 WHERE seq = 7", 6, "4 refunds"),
    "history": ("DELETE FROM event WHERE job = 8 AND action = 'cancel'", 7, "job cancelled, newest event pending"),
    "no history": ("DELETE FROM event WHERE job = 7", 6, "job pending, newest event missing"),
    "history from nothing": (
        "UPDATE event SET from_status = NULL WHERE job = 5 AND action = 'start'",
        4,
        "start from nothing after claimed",
    ),
    "history before its beginning": (
        "UPDATE event SET from_status = 'failed' WHERE job = 7 AND action = 'add'",
        6,
        "add from failed after nothing",
    ),
    "history with a gap": (
        "UPDATE event SET from_status = 'failed' WHERE job = 5 AND action = 'start'",
        4,
        "start from failed after claimed",
    ),
}


@pytest.mark.parametrize(("statement", "job", "found"), RULES.values(), ids=RULES)
def test_a_rule_between_rows_that_is_broken_is_found(site: Site, statement: str, job: int, found: str) -> None:
    change(site.db, statement)
    report = site.fsck()
    assert found in " ".join(fault.found for fault in report.findings if fault.place == f"job {site.ids[job]}")
    assert {place for place in places(report) if place.startswith("job ")} == {f"job {site.ids[job]}"}


def test_as_many_refunds_as_there_may_be_are_none_too_many(site: Site) -> None:
    change(site.db, "UPDATE job SET refunds = 3 WHERE seq = 7")
    assert site.fsck().findings == []


@pytest.mark.parametrize("other", ["model = 'mlp'", "mode = 'oracle'"])
def test_an_artifact_is_named_with_the_jobs_whose_result_it_is_and_no_other(site: Site, other: str) -> None:
    """The same bytes may be the result of two jobs of one kind, and be stored apart for one of another kind."""
    change(
        site.db,
        f"UPDATE job SET artifact = '{site.artifacts[1]}' WHERE seq IN (1, 3)",
        f"UPDATE job SET {other} WHERE seq = 1",
    )
    flip(site.bundle(1), 400)
    found = [place for place in places(site.fsck()) if place.startswith(f"artifact {site.artifacts[1]}")]
    assert found == [f"artifact {site.artifacts[1]} (result of job {site.ids[1]}, {site.ids[2]})"]


def test_a_result_whose_artifact_has_no_row_is_found(site: Site) -> None:
    change(site.db, f"DELETE FROM artifact WHERE sha256 = '{site.artifacts[2]}'")
    report = site.fsck()
    assert f"job {site.ids[2]}" in places(report)
    assert [note.found for note in report.notes if "sums" not in note.found] == ["an artifact without a row"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE job SET status = 'sleeping' WHERE seq = 7", "CHECK constraint failed in job"),
        ("UPDATE attempt SET job = 99 WHERE job = 4", "attempt"),
    ],
)
def test_what_sqlite_itself_finds_is_told(site: Site, statement: str, found: str) -> None:
    change(site.db, statement)
    assert found in " ".join(fault.found for fault in site.fsck().findings)


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("UPDATE requirement SET body = '{'", "requirement 1"),
        ("UPDATE worker SET capability = 'x' WHERE name = 'pi'", "host pi"),
    ],
)
def test_json_that_cannot_be_read_is_found(site: Site, statement: str, place: str) -> None:
    change(site.db, statement)
    assert places(site.fsck()) == [place]


def test_many_findings_of_one_kind_are_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck_module.records, "MAX_LISTED", 2)
    change(site.db, "DELETE FROM event")
    faults = [fault for fault in site.fsck().findings if fault.expected != "none"]
    rest = [fault.found for fault in site.fsck().findings if fault.expected == "none"]
    assert (len(faults), rest) == (2, ["6 more of rule broken_history"])


def test_a_row_that_is_not_true_does_not_send_a_good_artifact_to_the_quarantine(site: Site) -> None:
    change(site.db, "UPDATE artifact SET size_bytes = 801 WHERE seq = 1")
    (fault, *_) = site.fsck(repair=True).findings
    assert (fault.found, fault.remedy) == ("800 bytes", "the bundle is whole, its row is not: restore a backup")
    assert site.bundle(0).exists()


def test_a_row_with_another_length_than_its_sound_file_is_corrected_by_a_repair(site: Site) -> None:
    """Uploads once gave a file without a row the length that they declared, and no check was clean after it."""
    change(
        site.db,
        "UPDATE artifact SET size_bytes = 801 WHERE seq = 1",
        "UPDATE artifact SET size_bytes = 0 WHERE seq = 3",
    )
    before = site.index()
    assert site.fsck().repaired == []
    report = site.fsck(repair=True)
    assert f"artifact {site.artifacts[0]}: its row says 800 bytes" in report.repaired
    assert f"artifact {site.artifacts[2]}: its row says 800 bytes" in report.repaired
    again = site.fsck()
    assert (again.findings, again.notes) == ([], [])
    assert site.index() == before


def test_a_corrected_length_is_written_to_its_own_row_alone(site: Site) -> None:
    short = hashlib.sha256(b"short").hexdigest()
    bundle = site.store / "gbt_realistic" / short / "bundle.tar.zst"
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"short")
    change(
        site.db,
        "UPDATE artifact SET size_bytes = 801 WHERE seq = 1",
        "INSERT INTO artifact (seq, sha256, model, mode, size_bytes, stored_at)"
        f" VALUES (4, '{short}', 'gbt', 'realistic', 5, '')",
    )
    site.fsck(repair=True)
    connection = sqlite3.connect(site.db)
    lengths = connection.execute("SELECT seq, size_bytes FROM artifact ORDER BY seq").fetchall()
    connection.close()
    assert lengths == [(1, 800), (2, 800), (3, 800), (4, 5)]


@pytest.mark.parametrize("options", [{"hashes": False}, {}], ids=["unread", "a damaged database"])
def test_a_length_is_corrected_only_when_the_file_was_read_and_the_database_is_sound(
    site: Site, options: dict[str, Any]
) -> None:
    statements = ["UPDATE artifact SET size_bytes = 801 WHERE seq = 1"]
    if not options:
        statements.append("UPDATE job SET refunds = 4 WHERE seq = 7")
    change(site.db, *statements)
    before = site.db.read_bytes()
    report = site.fsck(repair=True, **options)
    assert [line for line in report.repaired if "its row says" in line] == []
    assert site.db.read_bytes() == before


def test_nothing_is_repaired_by_the_word_of_a_damaged_database(site: Site) -> None:
    flip(site.bundle(1), 400)
    site.places.index.write_text("")
    change(site.db, "UPDATE job SET refunds = 4 WHERE seq = 7")
    report = site.fsck(repair=True)
    assert report.repaired == []
    assert site.bundle(1).exists()
    assert "a sound database before store or index are repaired" in [note.expected for note in report.notes]


# ---- the file


def test_a_database_without_sums_is_checked_all_the_same(site: Site) -> None:
    pages.sums_path(site.db).unlink()
    report = site.fsck()
    assert (report.findings, [note.found for note in report.notes]) == ([], ["no sums of its pages"])


def test_a_file_that_is_not_there_is_refused(site: Site) -> None:
    site.db.unlink()
    with pytest.raises(ConfigurationError, match="give the receiver's own file with --db"):
        site.fsck()


def test_a_file_that_may_only_be_read_is_checked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    change(site.db, "UPDATE job SET refunds = 4 WHERE seq = 7")
    connect = sqlite3.connect

    def refuse_to_write(name: str, **more: Any) -> sqlite3.Connection:
        return connect(name.replace("queue.db?vfs", "nowhere/queue.db?vfs"), **more)

    monkeypatch.setattr("training.fleet.database.sqlite.reading.sqlite3.connect", refuse_to_write)
    assert places(site.fsck()) == [f"job {site.ids[6]}"]


def test_a_folder_in_the_place_of_the_file_is_refused(site: Site) -> None:
    site.db.unlink()
    site.db.mkdir()
    with pytest.raises(ConfigurationError, match="is no file; give"):
        site.fsck()


def test_a_database_whose_disk_cannot_read_it_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pages.PageSums, "differing", refuse)
    assert [fault.found for fault in site.fsck().findings] == ["[Errno 5] Input/output error"]


def test_a_file_that_cannot_be_locked_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("training.fleet.database.sqlite.reading.fcntl.lockf", refuse)
    with pytest.raises(ConfigurationError, match="cannot lock the database"):
        site.fsck()


def test_an_index_that_cannot_be_written_is_a_note(site: Site) -> None:
    site.places.index.unlink()
    site.places.index.symlink_to("/nowhere/index.jsonl")
    report = site.fsck(repair=True)
    assert report.repaired == []
    assert [note.place for note in report.notes] == [str(site.places.index)]


def test_an_artifact_that_cannot_be_read_is_found(site: Site) -> None:
    site.bundle(0).unlink()
    site.bundle(0).mkdir()
    (fault,) = site.fsck().findings
    assert fault.found.startswith("a file that cannot be read (")


def test_a_newer_database_is_refused_with_both_numbers(site: Site) -> None:
    change(site.db, "PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="has schema 99, this program knows up to 6"):
        site.fsck()


def test_an_older_database_is_refused_with_what_to_do(site: Site) -> None:
    change(site.db, "PRAGMA user_version = 1")
    with pytest.raises(ConfigurationError, match="has schema 1, this program checks 6; start the receiver"):
        site.fsck()


@pytest.mark.parametrize("data", [b"no database at all" * 500, b""], ids=["another file", "empty"])
def test_a_file_that_is_no_database_is_told(site: Site, data: bytes) -> None:
    site.db.write_bytes(data)
    if data:
        assert "file is not a database" in " ".join(fault.found for fault in site.fsck().findings)
    else:
        with pytest.raises(ConfigurationError, match="has no tables of this program; expected those of"):
            site.fsck()


def torn(page: int, data: bytes) -> bytes:
    return data[: page * 4096 + 64] + random.Random(490).randbytes(512) + data[page * 4096 + 576 :]


def test_a_torn_page_is_found_and_the_rest_is_still_looked_at(site: Site) -> None:
    flip(site.bundle(1), 400)
    size = site.db.stat().st_size // 4096
    whole = site.db.read_bytes()
    for page in range(size):
        site.db.write_bytes(torn(page, whole))
        report = site.fsck(repair=True)
        assert f"{site.db}, page {page + 1}" in places(report)
        assert site.bundle(1).exists()


def test_a_log_that_a_kill_has_left_is_looked_at_and_not_touched(site: Site, tmp_path: Path, root: Path) -> None:
    killed(site, root)
    before = site.files()
    assert pages.log_path(site.db).stat().st_size > 20_000
    report = site.fsck()
    assert (report.findings, report.notes) == ([], [])
    assert site.files() == before


def test_a_flipped_bit_in_a_log_that_would_lose_commits_is_found(site: Site, root: Path) -> None:
    killed(site, root)
    flip(pages.log_path(site.db), 32 + 24 + 100)
    (fault,) = site.fsck().findings
    assert fault.place == f"{site.db}-wal"
    assert re.fullmatch(r"damage at frame 1, with \d+ commits behind it", fault.found)


@pytest.mark.parametrize("offset", [0, 9, 17, 31])
def test_a_flipped_bit_in_the_head_of_a_log_is_found(site: Site, root: Path, offset: int) -> None:
    killed(site, root)
    flip(pages.log_path(site.db), offset)
    assert [fault.found for fault in site.fsck().findings] == ["a log whose head cannot be read"]


@pytest.mark.parametrize("data", [b"", bytes(5000), b"short"])
def test_a_log_that_never_held_a_commit_is_no_damage_and_stays(site: Site, data: bytes) -> None:
    pages.log_path(site.db).write_bytes(data)
    before = site.files()
    assert site.fsck().findings == []
    assert site.files() == before


def test_a_last_commit_that_a_power_cut_tore_is_a_note(site: Site, root: Path) -> None:
    killed(site, root)
    log = pages.log_path(site.db)
    state = pages.read_log(site.db)
    assert state is not None
    flip(log, 32 + state.frames * 4120 - 10)
    report = site.fsck()
    assert report.findings == []
    assert [note.found for note in report.notes] == ["a last commit that cannot be read"]


def test_a_folder_that_cannot_be_listed_is_named(site: Site) -> None:
    site.incoming.rename(site.folder / "incoming-elsewhere")
    site.incoming.write_text("a file where the folder should be")
    with pytest.raises(FleetError, match=r"cannot look into .*incoming \(Not a directory\)"):
        site.fsck()
