"""Which breaks are made of a file, and that they are put where they belong. The breaks themselves run by the sweep."""

from __future__ import annotations

import os
import types
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import sweep
from tests.mutants.guards import FILES, Guard, guards
from tests.mutants.sweep import accepted, told

CODE = '''\
def fits(job, host, limit):
    """Say whether a job fits."""
    assert job is not None
    if job.size > 3 and (host.free <= limit
                         or not job.big):
        log(f"{job.size > 4}")
        raise Full
    demand_right(job)
    name = job.name or "none"
    return [card for card in host if card.busy] if name != "x" else None
'''
QUERIES = """\
-- name: claim
-- Gives a job.
UPDATE job SET status = 'claimed', at = coalesce(at, :at)
WHERE status = 'pending' AND (:host IS NULL OR host = :host)
AND seq IN (SELECT seq FROM job WHERE size BETWEEN 1 AND 3 ORDER BY size DESC, seq LIMIT 1);
"""
SCHEMA = """\
-- migration: 1
CREATE TABLE job (
    fence INTEGER CHECK (fence >= 0),
    CHECK (status <> 'pending' OR used < most)
);
CREATE INDEX job_ready ON job (seq) WHERE ready = 1;
CREATE TRIGGER job_stays BEFORE DELETE ON job
BEGIN
    SELECT RAISE(ABORT, 'jobs are never deleted');
END;
CREATE TRIGGER job_is_final BEFORE UPDATE OF status ON job
WHEN OLD.status = 'completed' AND NEW.status IS NOT OLD.status
BEGIN
    SELECT RAISE(ABORT, 'final');
END;
"""


def made(folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text)
    return [f"{one.line} {one.where}: {one.old} -> {one.new}" for one in guards(name, folder)]


def test_each_guard_of_python_is_broken_in_each_small_way(tmp_path: Path) -> None:
    assert made(tmp_path, "code.py", CODE) == [
        "4 fits: job.size > 3 -> job.size >= 3",
        "4 fits: job.size > 3 and (host.free <= limit or not job.big) -> False",
        "4 fits: job.size > 3 and (host.free <= limit or not job.big) -> host.free <= limit or not job.big",
        "4 fits: job.size > 3 and (host.free <= limit or not job.big) -> job.size > 3",
        "4 fits: 3 -> 4",
        "4 fits: host.free <= limit -> host.free < limit",
        "4 fits: host.free <= limit or not job.big -> host.free <= limit",
        "4 fits: host.free <= limit or not job.big -> not job.big",
        "5 fits: not job.big -> job.big",
        "7 fits: raise Full -> pass",
        "8 fits: demand_right(job) -> pass",
        "10 fits: card.busy -> False",
        "10 fits: card.busy -> True",
        "10 fits: name != 'x' -> False",
        "10 fits: name != 'x' -> True",
    ]


def test_each_guard_of_a_statement_is_broken_in_each_small_way(tmp_path: Path) -> None:
    assert made(tmp_path, "queries.sql", QUERIES) == [
        "3 claim: status = 'claimed' -> status = status",
        "3 claim: at = coalesce(at, :at) -> at = at",
        "3 claim: coalesce(at, :at) -> :at",
        "3 claim: coalesce(at, :at) -> at",
        "4 claim: status = 'pending' -> 1",
        "4 claim: (:host IS NULL OR host = :host) -> 1",
        "4 claim: :host IS NULL -> 0",
        "4 claim: host = :host -> 0",
        "5 claim: seq IN (SELECT seq FROM job WHERE size BETWEEN 1 AND 3 ORDER BY size DESC, seq LIMIT 1) -> 1",
        "5 claim: size BETWEEN 1 AND 3 -> 1",
        "5 claim: size DESC -> size",
        "5 claim: seq -> seq DESC",
        "5 claim: 1 -> 2",
    ]


def test_each_rule_of_a_table_is_broken_in_each_small_way(tmp_path: Path) -> None:
    assert made(tmp_path, "schema.sql", SCHEMA) == [
        "3 job: fence >= 0 -> 1",
        "3 job: fence >= 0 -> fence > 0",
        "4 job: status <> 'pending' -> 0",
        "4 job: used < most -> 0",
        "4 job: used < most -> used <= most",
        "9 job_stays: RAISE(ABORT, 'jobs are never deleted') -> 1",
        "12 job_is_final: OLD.status = 'completed' -> 1",
        "12 job_is_final: NEW.status IS NOT OLD.status -> 1",
    ]


def test_every_break_of_the_project_is_code_again_and_moves_no_line(root: Path) -> None:
    made = 0
    for file in FILES:
        data = (root / file).read_bytes()
        for guard in guards(file):
            broken = guard.broken(data)
            assert broken != data, guard.name
            assert broken.count(b"\n") == data.count(b"\n") or file.endswith(".sql"), guard.name
            if file.endswith(".py"):
                compile(broken, file, "exec")
            made += 1
    assert made > 1900


def test_every_break_has_its_own_name() -> None:
    assert [
        name for name, times in Counter(one.name for file in FILES for one in guards(file)).items() if times > 1
    ] == []


def test_every_accepted_break_is_one_of_the_code_and_has_its_reason() -> None:
    every = {guard.name for file in FILES for guard in guards(file)}
    assert {name: reason for name, reason in accepted().items() if name not in every or len(reason) < 20} == {}


def test_a_break_is_put_into_the_functions_that_are_there(tmp_path: Path) -> None:
    text = "class Limit:\n    most = 3\n\n    def full(self, n):\n        return any(n >= m for m in (self.most,))\n"
    path = tmp_path / "limit.py"
    path.write_text(text)
    (guard,) = (one for one in guards("limit.py", tmp_path) if one.new == "n > m")
    module = types.ModuleType("limit")
    exec(compile(text, str(path), "exec"), vars(module))
    limit = module.Limit()
    assert limit.full(3)
    sweep._replace_functions(str(path), text.encode(), guard.broken(text.encode()))
    assert not limit.full(3)


def test_the_tests_of_every_swept_part_are_asked(root: Path) -> None:
    """One that moves to another folder must not drop out: what it alone finds would count as a survivor."""
    asked = {str(Path(path).relative_to(root / "tests")) for path in sweep._collected()}
    for pattern in sweep.TESTS:
        assert list((root / "tests").glob(pattern)), pattern
    parts = ("queue", "api", "auth", "store", "sqlite", "database", "migrations")
    named = {str(path.relative_to(root / "tests")) for part in parts for path in root.glob(f"tests/*/test_{part}*.py")}
    assert sorted(named - asked) == [
        "docs/test_queue_docs.py",  # reads pages
        "machine/test_queue_machine.py",  # runs for minutes
        "unit/test_database_pages.py",  # breaks pages of a file
    ]


def test_more_survivors_than_two_of_a_hundred_end_it_with_1(capfd: pytest.CaptureFixture[str]) -> None:
    guard = Guard("training/fleet/store.py", "f", 1, 1, 1, 0, 1, "a", "b")
    results = {f"{number}": (guard, "found") for number in range(97)}
    results |= {"x": (guard, "survived"), "y": (guard, "survived"), "z": (guard, "survived")}
    assert told(results, {"z": "nobody sees it", "0": "nor this"}, 5) == 0
    assert told(results, {}, 5) == 1
    said = os.linesep.join(capfd.readouterr().out.splitlines())
    assert "0: a test finds it now; take it out of accepted.toml" in said
    assert "100 breaks: 97 found, 0 hung, 1 accepted, 2 survived, 0 trouble" in said
    assert "2.0% survive without a reason; at most 2% may; 5 s" in said
