"""`cis490-trainer-receiver fsck` and `restore` as commands: what they print and how they exit."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest
from integrity_site import Site

from training.fleet import receiver
from training.fleet.database.sqlite import Sqlite, pages, reading
from training.fleet.maintenance.backup import BackupTask, back_up
from training.fleet.maintenance.report import Report, ignore
from training.fleet.receiver import offline


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site") / "receiver")


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Site:
    return template.copied(tmp_path / "receiver")


def flags(folder: Path) -> list[str]:
    places = {"--db": "queue.db", "--store-root": "store", "--incoming-root": "incoming", "--index-path": "index.jsonl"}
    return [word for flag, name in places.items() for word in (flag, str(folder / name))]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = receiver.main(words)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def spoil(path: Path) -> None:
    path.write_bytes(b"spoilt")


def test_a_clean_receiver_exits_0_and_says_what_was_looked_at(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    size = site.db.stat().st_size // 4096
    assert run(capsys, "fsck", *flags(site.folder)) == (
        0,
        f"clean: 8 jobs, {size} pages, 3 artifacts, 0.0 MiB hashed\n",
        "",
    )


def test_findings_are_a_line_each_and_exit_1(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(site.bundle(0))
    (site.store / "mine").touch()
    status, out, err = run(capsys, "fsck", *flags(site.folder))
    lines = out.splitlines()
    assert (status, err, len(lines)) == (1, "", 3)
    assert lines[0].startswith(
        f"artifact {site.artifacts[0]} (result of job {site.ids[0]}): found 6 bytes that hash to "
    )
    assert lines[1].startswith(f"note: {site.store / 'mine'}: found a file that is no artifact, expected ")
    assert lines[2].startswith("1 found: 8 jobs, ")


def test_a_repair_says_what_it_did_and_exits_1_once(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.places.index.unlink()
    status, out, _ = run(capsys, "fsck", "--repair", *flags(site.folder))
    assert status == 1
    assert f"repaired: {site.places.index}: written again from the database\n" in out
    assert run(capsys, "fsck", "--repair", *flags(site.folder))[0] == 0


def test_without_hashing_a_spoilt_artifact_of_the_same_length_passes(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.bundle(0).write_bytes(bytes(800))
    assert run(capsys, "fsck", "--no-hash", *flags(site.folder))[0] == 0
    assert run(capsys, "fsck", *flags(site.folder))[0] == 1


def test_json_holds_everything(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(site.bundle(0))
    status, out, _ = run(capsys, "fsck", "--json", *flags(site.folder))
    document = json.loads(out)
    assert status == 1
    assert sorted(document) == ["checked", "findings", "notes", "repaired"]
    assert sorted(document["findings"][0]) == ["expected", "found", "place", "remedy"]
    assert document["checked"]["jobs"] == 8


def test_a_damaged_row_cannot_steer_the_terminal(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.store / "x\x1b[2J").touch()
    _, out, _ = run(capsys, "fsck", *flags(site.folder))
    assert "\x1b" not in out
    assert "x?[2J" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fsck", "--db", "/nowhere/queue.db"], "cannot read the database /nowhere/queue.db"),
        (["restore", "/nowhere"], "/nowhere is no backup: cannot read /nowhere/backup.json"),
    ],
)
def test_what_cannot_be_done_exits_78_with_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out, len(err.splitlines())) == (78, "", 1)
    assert err.startswith(f"cis490-trainer-receiver: {message}")


def test_a_newer_database_exits_78_with_both_numbers(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    database = Sqlite.open(site.db)
    database._between_batches(lambda: database._connection.execute("PRAGMA user_version = 99"))
    database.close()
    pages.sums_path(site.db).unlink()
    manifest = site.folder / "manifest.toml"
    manifest.write_text("[manifest]\nschema = 1\n")
    for words in (["fsck"], ["--listen-addr", "127.0.0.1:0", "--manifest", str(manifest)]):
        status, _, err = run(capsys, *words, *flags(site.folder))
        assert status == 78
        assert "has schema 99, this program knows up to 6; install the newer version" in err


def test_a_check_that_the_disk_refuses_says_so_on_one_line(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "queue.db-wal")

    monkeypatch.setattr(reading, "read_log", refuse)
    status, out, err = run(capsys, "fsck", *flags(site.folder))
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "the check came to no end ([Errno 24] Too many open files: 'queue.db-wal'); look at the disk" in err


def test_the_copy_that_a_check_was_killed_over_is_removed_by_the_next(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    left = site.folder / "queue.db.fsck-abcd1234"
    left.mkdir()
    (left / "queue.db").write_bytes(b"half a copy")
    assert run(capsys, "fsck", *flags(site.folder))[0] == 0
    assert not left.exists()


def test_a_restore_prints_what_it_did(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = BackupTask(
        tmp_path / "backups", "one", site.places, site.folder / "none", True, "2026-01-01T00:00:00Z", "0.1.0"
    )
    database = Sqlite.open(site.db)
    backup = back_up(database, order, Report(), ignore)
    database.close()
    new = tmp_path / "new"
    assert run(capsys, "restore", str(backup), *flags(new)) == (
        0,
        f"artifacts: 3 brought back, 0 were there\nindex.jsonl: {new / 'index.jsonl'}\ndatabase: {new / 'queue.db'}\n",
        "",
    )
    (backup / "queue.db").write_bytes(b"spoilt")
    status, out, err = run(capsys, "restore", str(backup), *flags(tmp_path / "newer"))
    assert (status, out) == (1, "")
    assert err.splitlines()[1].startswith("  queue.db: found 6 bytes that hash to ")


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_told_seldom_in_a_log_and_in_place_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for stream in (io.StringIO(), Screen()):
        monkeypatch.setattr(offline, "time", Clock())
        meter = offline.Meter(stream, "hashed")
        for step in range(1, 21):
            meter(step * offline.MIB, 20 * offline.MIB)
        meter.end()
        shown.append(stream.getvalue())
    assert shown[0] == (
        "hashed 10 of 20 MiB (50 %), 1 MiB/s, 0:10 left\nhashed 20 of 20 MiB (100 %), 1 MiB/s, 0:00 left\n"
    )
    assert shown[1].startswith("\rhashed 1 of 20 MiB (5 %), 1 MiB/s, 0:19 left\x1b[K\rhashed 2 of 20 MiB")
    assert shown[1].endswith("\r\x1b[K")
