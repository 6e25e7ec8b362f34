from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integrity_site import STATUSES, Site

from training.fleet.blobs import open_blobs
from training.fleet.database.queries import JOBS_BY_SEQ
from training.fleet.database.sqlite import Sqlite, pages
from training.fleet.locks import folder_held
from training.fleet.maintenance import backup as backup_module
from training.fleet.maintenance import restore as restore_module
from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.backup import BackupTask, back_up
from training.fleet.maintenance.fsck import fsck
from training.fleet.maintenance.report import Report, ignore
from training.fleet.maintenance.restore import RestoreTarget, restore
from training.fleet.model.errors import ConfigurationError, ConflictError, FleetError, StorageFullError

NAME = "20260101T000000Z-nightly"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site") / "receiver")


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Site:
    return template.copied(tmp_path / "receiver")


def order(site: Site, *, artifacts: bool = True) -> BackupTask:
    manifest = site.folder / "manifest.applied.toml"
    root = site.folder.parent / "backups"
    return BackupTask(root, NAME, site.places, manifest, artifacts, "2026-01-01T00:00:00Z", "0.1.0")


def made(site: Site, report: Report | None = None, *, artifacts: bool = True) -> Path:
    database = Sqlite.open(site.db)
    try:
        return back_up(database, order(site, artifacts=artifacts), Report() if report is None else report, ignore)
    finally:
        database.close()


def contents(backup: Path) -> Any:
    return json.loads((backup / "backup.json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)


# ---- backup


def test_a_backup_names_the_digest_of_each_of_its_files(site: Site) -> None:
    backup = made(site)
    named = contents(backup)["files"]
    assert backup == site.folder.parent / "backups" / NAME
    assert files(backup) == sorted([*named, "backup.json"])
    assert sorted(named) == sorted(
        ["queue.db", "index.jsonl", *(f"store/gbt_realistic/{sha}/bundle.tar.zst" for sha in site.artifacts)]
    )
    for name, entry in named.items():
        data = (backup / name).read_bytes()
        assert entry == {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (backup / "index.jsonl").read_bytes() == site.places.index.read_bytes()
    assert {key: contents(backup)[key] for key in ("format", "schema", "artifacts", "version", "made_at")} == {
        "format": 1,
        "schema": 6,
        "artifacts": True,
        "version": "0.1.0",
        "made_at": "2026-01-01T00:00:00Z",
    }


def test_artifacts_on_the_same_disk_are_second_names(site: Site) -> None:
    backup = made(site)
    copy = backup / "store" / "gbt_realistic" / site.artifacts[0] / "bundle.tar.zst"
    assert copy.stat().st_ino == site.bundle(0).stat().st_ino


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_artifacts_on_another_disk_are_copies(site: Site, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "link", refuse)
    backup = made(site)
    copy = backup / "store" / "gbt_realistic" / site.artifacts[0] / "bundle.tar.zst"
    assert copy.stat().st_ino != site.bundle(0).stat().st_ino
    assert copy.read_bytes() == site.bundle(0).read_bytes()


def test_without_artifacts_there_is_no_store(site: Site) -> None:
    backup = made(site, artifacts=False)
    assert files(backup) == ["backup.json", "index.jsonl", "queue.db"]
    assert contents(backup)["artifacts"] is False


def test_a_damaged_artifact_is_told_and_everything_else_is_backed_up(site: Site) -> None:
    flip(site.bundle(0), 10)
    site.bundle(1).unlink()
    report = Report()
    backup = made(site, report)
    assert [fault.place for fault in report.findings] == [f"artifact {sha}" for sha in site.artifacts[:2]]
    assert [name for name in files(backup) if "bundle" in name] == [
        f"store/gbt_realistic/{site.artifacts[2]}/bundle.tar.zst"
    ]


def test_damage_of_the_database_is_told(site: Site) -> None:
    database = Sqlite.open(site.db)
    report = Report()
    try:
        data = site.db.read_bytes()
        code = "import sys; f = open(sys.argv[1], 'r+b'); f.seek(int(sys.argv[2])); f.write(b'\\xff' * 64)"
        subprocess.run([sys.executable, "-c", code, str(site.db), str(len(data) - 64)], check=True)
        back_up(database, order(site), report, ignore)
    finally:
        database.close()
    assert f"damaged pages: {len(data) // 4096}" in [fault.found for fault in report.findings]


def test_the_manifest_in_force_belongs_to_it_and_another_one_does_not(site: Site) -> None:
    text = b"[manifest]\nschema = 1\n"
    (site.folder / "manifest.applied.toml").write_bytes(text)
    report = Report()
    assert "manifest.applied.toml" not in files(made(site, report))
    assert [note.place for note in report.notes] == ["the manifest in force"]
    shutil.rmtree(site.folder.parent / "backups")
    database = Sqlite.open(site.db)
    value = json.dumps({"digest": hashlib.sha256(text).hexdigest()})
    database.submit(lambda tx: tx.run("remember", key="manifest", value=value)).result()
    database.close()
    backup = made(site, report := Report())
    assert ((backup / "manifest.applied.toml").read_bytes(), report.notes) == (text, [])


def test_a_name_that_is_there_is_never_overwritten(site: Site) -> None:
    backup = made(site)
    before = files(backup)
    with pytest.raises(ConflictError, match="there is a backup 20260101T000000Z-nightly already"):
        made(site)
    assert files(backup) == before
    assert os.listdir(backup.parent) == [NAME]  # noqa: PTH208


def test_what_a_kill_has_left_of_a_backup_is_removed_by_the_next(site: Site) -> None:
    root = site.folder.parent / "backups"
    (root / ".20250101T000000Z.part" / "store").mkdir(parents=True)
    (root / "mine.part").mkdir()
    made(site)
    assert sorted(path.name for path in root.iterdir()) == [NAME, "mine.part"]


@pytest.mark.parametrize("name", [".20250101T000000Z.part", f".{NAME}.part"], ids=["another name", "the same name"])
def test_a_backup_that_another_receiver_is_making_is_left_alone(site: Site, name: str) -> None:
    """Two receivers may keep their backups in one folder, and their timers go off in the same second."""
    other = site.folder.parent / "backups" / name
    other.mkdir(parents=True)
    (other / "queue.db").write_bytes(b"half")
    with folder_held(other):
        if NAME in name:
            with pytest.raises(ConflictError, match="ask again"):
                made(site)
        else:
            made(site)
        assert (other / "queue.db").read_bytes() == b"half"
    shutil.rmtree(site.folder.parent / "backups" / NAME, ignore_errors=True)
    made(site)
    assert [path.name for path in other.parent.iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StorageFullError), (errno.EDQUOT, StorageFullError), (errno.EROFS, FleetError)]
)
def test_a_disk_that_refuses_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[FleetError]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(backup_module, "_shared", refuse)
    with pytest.raises(kind, match="below"):
        made(site)
    assert list((site.folder.parent / "backups").iterdir()) == []


def test_progress_ends_at_all_bytes(site: Site) -> None:
    told: list[tuple[int, int]] = []
    database = Sqlite.open(site.db)
    back_up(database, order(site), Report(), lambda done, todo: told.append((done, todo)))
    database.close()
    assert told == [(800, 2400), (1600, 2400), (2400, 2400)]


# ---- restore


@pytest.fixture(scope="module")
def kept(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that no test changes."""
    return made(template.copied(tmp_path_factory.mktemp("kept") / "receiver"))


@pytest.fixture
def backup(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "backup"))


def target(folder: Path) -> RestoreTarget:
    return RestoreTarget(
        folder / "queue.db", Places(open_blobs(folder / "store", folder / "incoming"), folder / "index.jsonl")
    )


def brought(backup: Path, folder: Path, *, replace: bool = False) -> list[str]:
    return restore(backup, target(folder), replace=replace, progress=ignore)


def checked(folder: Path) -> Report:
    place = target(folder)
    return fsck(place.database, place.places, CheckOptions())


def statuses(folder: Path) -> list[str]:
    database = Sqlite.open(folder / "queue.db")
    try:
        rows = database.submit(lambda tx: tx.all(JOBS_BY_SEQ, **dict.fromkeys(FILTERS), **WINDOW))
        return [row.status for row in rows.result()]
    finally:
        database.close()


WINDOW = {"after": 0, "upto": 2**62, "limit": 500, "withdrawn": 1}
FILTERS = ("model", "mode", "host", "tag", "since", "until")


def test_a_backup_brought_to_an_empty_machine_is_the_receiver_it_was_made_of(
    backup: Path, tmp_path: Path, template: Site
) -> None:
    done = brought(backup, tmp_path / "new")
    assert done[0] == "artifacts: 3 brought back, 0 were there"
    assert [path.read_bytes() for path in sorted((tmp_path / "new" / "store").rglob("bundle.tar.zst"))] == [
        template.bundle(number).read_bytes() for number in sorted(range(3), key=lambda n: template.artifacts[n])
    ]
    report = checked(tmp_path / "new")
    assert (report.findings, [note.found for note in report.notes]) == ([], ["no sums of its pages"])
    assert statuses(tmp_path / "new") == STATUSES
    assert checked(tmp_path / "new").notes == []


def test_a_database_that_is_there_is_not_touched_without_leave(backup: Path, site: Site) -> None:
    before = site.files()
    with pytest.raises(ConfigurationError, match="run this again with --replace"):
        brought(backup, site.folder)
    assert site.files() == before


def test_with_leave_it_moves_aside_with_its_log_and_its_sums(backup: Path, site: Site) -> None:
    log = pages.log_path(site.db)
    log.write_bytes(b"what a kill has left")
    old = {path.name: path.read_bytes() for path in (site.db, log, pages.sums_path(site.db))}
    done = brought(backup, site.folder, replace=True)
    (aside,) = (Path(line.partition(": ")[2]) for line in done if line.startswith("the database that was there"))
    assert aside.name.startswith("queue.db.replaced-")
    assert {f"queue.db{end}": Path(f"{aside}{end}").read_bytes() for end in ("", "-wal", "-sums")} == old
    assert sorted(path.name for path in site.folder.glob("queue.db*") if "replaced" not in path.name) == ["queue.db"]
    assert done[0] == "artifacts: 0 brought back, 3 were there"
    assert statuses(site.folder) == STATUSES


def test_two_databases_moved_aside_in_one_second_are_both_kept(
    backup: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without a battery clock lives through the same seconds of 1970 at every start."""
    monkeypatch.setattr(restore_module.time, "gmtime", lambda: time.struct_time((1970, 1, 1, 0, 0, 9, 3, 1, 0)))
    first = site.db.read_bytes()
    brought(backup, site.folder, replace=True)
    second = site.db.read_bytes()
    pages.log_path(site.db).write_bytes(b"what a kill has left")
    brought(backup, site.folder, replace=True)
    aside = site.folder / "queue.db.replaced-19700101T000009Z"
    assert aside.read_bytes() == first
    assert aside.with_name(f"{aside.name}-2").read_bytes() == second
    assert aside.with_name(f"{aside.name}-2-wal").read_bytes() == b"what a kill has left"


def test_a_damaged_artifact_that_is_there_is_replaced_and_kept(backup: Path, site: Site) -> None:
    flip(site.bundle(1), 3)
    done = brought(backup, site.folder, replace=True)
    assert done[0] == "artifacts: 1 brought back, 2 were there"
    assert (site.store / "quarantine" / f"{site.artifacts[1]}-1").is_file()
    assert checked(site.folder).findings == []


def test_without_artifacts_the_missing_ones_are_named(site: Site, tmp_path: Path) -> None:
    backup = made(site, artifacts=False)
    missing = [line for line in brought(backup, tmp_path / "new") if line.startswith("missing: ")]
    assert len(missing) == 3
    assert site.artifacts[0] in missing[0]


def test_every_flipped_bit_of_a_backup_is_found_before_anything_is_touched(backup: Path, tmp_path: Path) -> None:
    chance = random.Random(490)
    for name in contents(backup)["files"]:
        path = backup / name
        for _ in range(5):
            offset, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
            flip(path, offset, bit)
            with pytest.raises(FleetError, match="damaged in 1 of 5 files; nothing was changed") as caught:
                brought(backup, tmp_path / "new")
            assert [fault.place for fault in caught.value.faults] == [name]
            flip(path, offset, bit)
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_missing_from_a_backup_is_found(backup: Path, tmp_path: Path) -> None:
    (backup / "index.jsonl").unlink()
    with pytest.raises(FleetError, match="damaged in 1 of 5 files"):
        brought(backup, tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "has format 2, this program reads 1"),
        ({"schema": 99}, "has schema 99, this program knows up to 6"),
        ({"schema": None}, "has schema None"),
        ({"files": {}}, "names no queue.db"),
        ({"files": {"queue.db": {}, "../../etc/passwd": {}}}, r"names '\.\./\.\./etc/passwd'"),
        ({"files": {"queue.db": {}, "store/../x": {}}}, "names 'store/../x'"),
        ({"files": {"queue.db": 3}}, "names 'queue.db'"),
        ({"files": 3}, "names no queue.db"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_contents_that_this_program_cannot_follow_are_refused(
    backup: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (backup / "backup.json").write_text(json.dumps({**contents(backup), **change}))
    with pytest.raises(ConfigurationError, match=words):
        brought(backup, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"format": 1}'])
def test_contents_that_cannot_be_read_are_refused(backup: Path, tmp_path: Path, data: bytes) -> None:
    (backup / "backup.json").write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"backup.json is damaged .* take another backup"):
        brought(backup, tmp_path / "new")


def test_a_folder_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no backup: cannot read"):
        brought(tmp_path, tmp_path / "new")


HOLD = """
import sys
import time
from pathlib import Path
from training.fleet.database.sqlite import Sqlite
database = Sqlite.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
database.close()
"""


@pytest.fixture
def in_use(site: Site, root: Path) -> Iterator[Site]:
    words = [sys.executable, "-c", HOLD, str(site.db)]
    with subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield site


def test_a_database_in_use_is_neither_replaced_nor_checked(backup: Path, in_use: Site) -> None:
    with pytest.raises(ConfigurationError, match="is in use; stop the receiver first"):
        brought(backup, in_use.folder, replace=True)
    with pytest.raises(ConfigurationError, match="is in use; stop the receiver first"):
        in_use.fsck()
    assert not list(in_use.folder.glob("*replaced*"))


RESTORE = """
import os, signal, sys
from pathlib import Path
from training.fleet.blobs import open_blobs
from training.fleet.maintenance.artifacts import Places
from training.fleet.maintenance.restore import RestoreTarget, restore
folder, die_at, seen = Path(sys.argv[2]), int(sys.argv[3]), []
def count(event, _arguments):
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.chmod"):
        seen.append(event)
        if len(seen) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
blobs = open_blobs(folder / "store", folder / "incoming")
target = RestoreTarget(folder / "queue.db", Places(blobs, folder / "index.jsonl"))
sys.addaudithook(count)
restore(Path(sys.argv[1]), target, replace=True, progress=lambda *_: None)
"""


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_restore_that_is_killed_anywhere_is_finished_by_the_next(
    backup: Path, template: Site, tmp_path: Path, root: Path, step: int
) -> None:
    ended = 0
    for die_at in range(1, 400, step):
        folder = template.copied(tmp_path / f"at-{die_at}").folder
        shutil.rmtree(folder / "store" / "gbt_realistic" / template.artifacts[0])
        words = [sys.executable, "-c", RESTORE, str(backup), str(folder), str(die_at)]
        status = subprocess.run(words, cwd=root, check=False).returncode
        if status == 0:
            ended = die_at
            break
        assert status == -signal.SIGKILL
        brought(backup, folder, replace=True)
        assert checked(folder).findings == []
        assert statuses(folder) == STATUSES
    assert ended > 30


def test_a_file_that_changes_between_check_and_copy_is_not_brought(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demand = restore_module._demand_free

    def spoil(place: RestoreTarget, *, replace: bool) -> None:
        demand(place, replace=replace)
        flip(backup / "queue.db", 5000)

    monkeypatch.setattr(restore_module, "_demand_free", spoil)
    with pytest.raises(FleetError, match="has changed while it was brought back"):
        brought(backup, tmp_path / "new")
    assert not (tmp_path / "new" / "queue.db").exists()


def test_a_disk_that_refuses_is_told(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a file in the way")
    with pytest.raises(FleetError, match="the backup was not brought back"):
        brought(backup, tmp_path / "new")
