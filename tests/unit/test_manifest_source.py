"""Reading a manifest from its file, asking the trainer, and the child process."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from training.fleet.manifest import child, child_load, declaration_of, load
from training.fleet.manifest.__main__ import main
from training.fleet.manifest.source import read_bytes
from training.fleet.model.errors import ManifestError, TrainerError, UnavailableError
from training.fleet.model.jobs import MAX_MANIFEST_BYTES, DatasetRef
from training.trainer import hyper

A = "sha256:" + "a" * 64
TEXT = f"""[manifest]
schema = 1
jobs = 4
[hosts.default]
[hosts.pi]
allow_jobs = ["gbt"]
ram_gib = 8
[datasets.lab]
digest = "{A}"
[datasets.other]
[trainer]
revision = "1a2b3c"
[[jobs]]
model = "gbt"
mode = "oracle"
dataset = "lab"
hyper = {{ learning_rate = 0.1, max_iter = 300 }}
train_hosts = ["B", "a"]
min_ram_gib = 2.5
allowed_hosts = ["pi"]
[[jobs]]
model = "mlp"
mode = "realistic"
dataset = "other"
[[jobs]]
model = "mlp"
mode = "realistic"
[[jobs]]
model = "mlp"
mode = "realistic"
"""
FOREIGN = """[manifest]
schema = 1
[hosts.default]
[trainer]
command = ["{python}", "mine.py"]
[[jobs]]
model = "thing"
mode = "oracle"
hyper = { deepth = 3 }
"""
DECLARATION = {"$defs": {"thing": {"properties": {"depth": {"type": "integer"}}}}}


def write(folder: Path, text: str, name: str = "manifest.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_child_gives_what_reading_here_gives(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    here, there = load(path), child_load(path)
    assert there.header == here.header
    assert tuple(there.entries) == here.jobs
    assert here.header.count == 3
    assert here.header.datasets["lab"] == DatasetRef("lab", A)
    assert here.header.warnings == ("jobs[3] (line 25) and jobs[4] (line 28) are the same job; it counts once",)


def test_entries_of_a_child_share_equal_constraints(tmp_path: Path) -> None:
    entries = list(child_load(write(tmp_path, TEXT.replace('dataset = "other"', "seed = 1"))).entries)
    assert entries[1].requirement is entries[2].requirement
    assert entries[0].limits is entries[1].limits


def test_a_child_hands_on_every_fault(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT.replace("max_iter", "max_itre").replace("jobs = 4", "jobs = 5"))
    with pytest.raises(ManifestError) as here:
        load(path)
    with pytest.raises(ManifestError) as there:
        child_load(path)
    assert there.value.faults == here.value.faults
    assert there.value.message == here.value.message
    assert len(here.value.faults) == 2


def test_a_child_that_takes_too_long_is_not_a_verdict_on_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"took more than 0\.001 s, nothing was applied"):
        child_load(write(tmp_path, TEXT), timeout_s=0.001)


def test_a_child_that_dies_is_not_a_verdict_on_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = f"#!{sys.executable}\nimport os\nos.kill(os.getpid(), 9)\n"
    program = write(tmp_path, killed, "python")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(UnavailableError, match=r"ended with status -9 \(no message\), nothing was applied"):
        child_load(write(tmp_path, TEXT))


def test_a_child_that_cannot_be_started_is_not_a_verdict_on_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(UnavailableError, match="no process could be started"):
        child_load(write(tmp_path, TEXT))


def test_a_cut_spool_file_is_never_a_shorter_manifest(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    with tempfile.TemporaryFile("w+") as rows:
        manifest = load(path)
        child.write_rows(manifest, rows)
        rows.seek(0)
        lines = rows.readlines()
    spool = write(tmp_path, "".join(lines[1:-1]), "spool").open("rb")
    with pytest.raises(UnavailableError, match="1 of 3 jobs are missing"):
        list(child._Entries(spool, 3))


def test_a_spool_file_that_nobody_reads_is_closed(tmp_path: Path) -> None:
    spool = write(tmp_path, TEXT, "spool").open("rb")
    entries = child._Entries(spool, 3)
    assert not spool.closed
    del entries
    assert spool.closed


def test_the_child_program_writes_rows_or_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", str(write(tmp_path, TEXT))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0])["count"] == 3
    assert sum(isinstance(json.loads(line), list) for line in lines) == 3
    assert main(["--rows", str(tmp_path / "absent")]) == 0
    assert json.loads(capsys.readouterr().out)["problem"]["code"] == "manifest_invalid"


def test_the_child_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    spy = f"#!{sys.executable}\nimport os\nopen({str(seen)!r}, 'w').write(repr(dict(os.environ)))\nos._exit(1)\n"
    program = write(tmp_path, spy, "python")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", "very-secret")
    with pytest.raises(UnavailableError, match="ended with status 1"):
        child_load(write(tmp_path, TEXT))
    assert "very-secret" not in seen.read_text()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("absent.toml", "no such file or directory"),
        (".", "a folder, a pipe or a device"),
        ("pipe", "a folder, a pipe or a device"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, found: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError) as caught:
        load(tmp_path / name)
    assert caught.value.faults[0].found == found


def test_a_file_over_32_mib_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    with path.open("wb") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(ManifestError, match="found 33554433 bytes, expected at most 33554432 bytes"):
        read_bytes(path, read=lambda *_: pytest.fail("the file was read"))


def test_a_file_that_changes_once_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "one")
    assert read_bytes(path, read=_writing(path, ["three"])) == b"three"


def test_a_file_that_never_rests_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "one")
    with pytest.raises(ManifestError, match="changes while it is read") as caught:
        read_bytes(path, read=_writing(path, ["two"] * 20))
    assert caught.value.faults[0].remedy == "write it under another name, then rename it"


def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path) -> None:
    def fail(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(ManifestError, match="found input/output error"):
        read_bytes(write(tmp_path, "one"), read=fail)


def _writing(path: Path, texts: list[str]) -> Any:
    """Return a reader after whose first reads somebody else writes the file."""
    left, stamps = iter(texts), itertools.count(1)

    def read(descriptor: int, size: int) -> bytes:
        data = os.read(descriptor, size)
        text = next(left, None)
        if text is not None:
            path.write_text(text)
            os.utime(path, ns=(0, next(stamps)))
        return data

    return read


def test_another_trainer_is_asked_for_its_declaration(tmp_path: Path) -> None:
    write(
        tmp_path, f"import sys\nassert sys.argv[1:] == ['--describe']\nprint({json.dumps(DECLARATION)!r})\n", "mine.py"
    )
    with pytest.raises(ManifestError) as caught:
        load(write(tmp_path, FOREIGN))
    assert [str(fault) for fault in caught.value.faults] == [
        "jobs[1].hyper.deepth (line 9): found the key 'deepth', expected a hyper-parameter of thing; "
        "did you mean depth?"
    ]
    manifest = load(write(tmp_path, FOREIGN.replace("deepth", "depth")))
    assert manifest.header.contract == hyper.contract_digest(DECLARATION)


def test_a_schema_file_is_read_in_place_of_asking(tmp_path: Path) -> None:
    write(tmp_path, json.dumps(DECLARATION), "mine.json")
    text = FOREIGN.replace("deepth", "depth").replace("[trainer]", '[trainer]\nschema = "mine.json"')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load(write(tmp_path, text)).header.contract == hyper.contract_digest(DECLARATION)
    assert child_load(write(elsewhere, text), base=tmp_path).header.contract == hyper.contract_digest(DECLARATION)


def test_nothing_that_a_manifest_names_is_started_when_the_trainer_is_not_to_be_asked(tmp_path: Path) -> None:
    write(tmp_path, f"open({str(tmp_path / 'started')!r}, 'w')\n", "mine.py")
    loaded = child_load(write(tmp_path, FOREIGN), ask_trainer=False)
    assert loaded.header.contract is None
    assert next(loaded.entries).spec.hyper == {"deepth": 3}
    assert not (tmp_path / "started").exists()


def test_where_a_schema_is_required_no_trainer_is_started(tmp_path: Path) -> None:
    write(tmp_path, f"open({str(tmp_path / 'started')!r}, 'w')\n", "mine.py")
    path = write(tmp_path, FOREIGN.replace("deepth", "depth"))
    with pytest.raises(ManifestError) as caught:
        child_load(path, schema_required=True)
    (fault,) = caught.value.faults
    assert fault.place == "trainer (line 4)"
    assert fault.found.startswith("no trainer.schema, and the setting schema_required keeps")
    assert "trainer.schema" in fault.remedy
    write(tmp_path, json.dumps(DECLARATION), "mine.json")
    path.write_text(path.read_text().replace("[trainer]", '[trainer]\nschema = "mine.json"'))
    assert child_load(path, schema_required=True).header.contract == hyper.contract_digest(DECLARATION)
    assert not (tmp_path / "started").exists()


def test_where_a_schema_is_required_the_projects_own_trainer_needs_none(tmp_path: Path) -> None:
    own = '[manifest]\nschema = 1\n[hosts.default]\nallow_jobs = ["*"]\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'
    assert load(write(tmp_path, own), schema_required=True).header.contract == hyper.contract_digest(hyper.describe())


def test_a_trainer_table_with_a_fault_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        load(write(tmp_path, FOREIGN.replace("mine.py", "")))
    assert len(caught.value.faults) == 1


def test_a_trainer_without_an_answer_is_one_fault_beside_the_others(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        load(write(tmp_path, FOREIGN.replace("mode = ", "mood = ")))
    places = [fault.place for fault in caught.value.faults]
    assert places == ["trainer (line 4)", "jobs[1].mood (line 8)", "jobs[1].mode (line 6)"]
    assert "mine.py --describe ended with status 2" in caught.value.faults[0].found


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("raise SystemExit('no data today')", "ended with status 1: no data today$"),
        ("raise SystemExit('a ' + 'long ' * 30 + 'reason')", "status 1: a (long ){30}reason$"),
        ("raise SystemExit('\\x1b[2J gone')", r"status 1: \\x1b\[2J gone$"),
        ("raise SystemExit(1)", "ended with status 1: it wrote no reason$"),
        ("print('hello')", "gave no JSON"),
        ("print('[1]')", r"gave \[1\]; expected a JSON Schema document"),
        ("print('[' * 100000)", "gave no JSON"),
        ("import sys; sys.stdout.write('x' * 20_000_000)", "gave more than 4194304 bytes"),
        ("import sys; sys.stderr.write('x' * 20_000_000); print(3)", "gave 3; expected"),
    ],
)
def test_a_trainer_that_answers_nonsense_is_refused(tmp_path: Path, program: str, expected: str) -> None:
    with pytest.raises(TrainerError, match=expected):
        declaration_of(["{python}", "-c", program], None, tmp_path)


def test_a_trainer_that_hangs_ends_with_all_it_started(tmp_path: Path) -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with pytest.raises(TrainerError, match=r"gave no answer within 0\.5 s"):
        declaration_of(["{python}", "-c", program], None, tmp_path, timeout_s=0.5)


def test_a_trainer_that_cannot_be_started_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"the trainer \./absent cannot be started"):
        declaration_of(["./absent"], None, tmp_path)


def test_a_trainer_is_asked_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", "very-secret")
    monkeypatch.setenv("HOME", "/home/somebody")
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = declaration_of(["{python}", "-c", program], None, tmp_path)
    assert seen["HOME"] == "/home/somebody"
    assert "CIS490_OPERATOR_TOKEN" not in seen


def test_a_schema_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"schema file absent\.json cannot be read: No such file"):
        declaration_of(["x"], "absent.json", tmp_path)


def test_the_projects_own_trainer_is_not_started(tmp_path: Path) -> None:
    assert declaration_of(["{python}", "-m", "training.trainer.run"], None, tmp_path) == hyper.describe()
