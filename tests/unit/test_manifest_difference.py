"""What an edit changes: always what reading both files whole says, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.fleet.errors import ManifestError
from training.fleet.manifest import Edit, LastApplied, child_load, load, parse
from training.fleet.manifest.__main__ import main
from training.fleet.manifest.difference import Difference, difference
from training.fleet.manifest.source import load_edit
from training.trainer import hyper

DECLARATION = hyper.describe()
HEAD = "[manifest]\nschema = 1\n[hosts.default]\n[hosts.pi]\n"


def job(seed: int, more: str = "") -> str:
    return f'[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {seed}\n{more}\n'


def compare(old: str, new: str, **more: object) -> Difference | None:
    before = parse(old.encode(), DECLARATION)
    known = {"count": len(before.jobs), "contract": before.contract} | more
    return difference(old.encode(), new.encode(), DECLARATION, **known)  # type: ignore[arg-type]


def ids(*seeds: int) -> tuple[str, ...]:
    return tuple(entry.id for entry in parse((HEAD + "".join(map(job, seeds))).encode(), DECLARATION).jobs)


TEN = HEAD + "".join(map(job, range(10)))


def test_a_changed_constraint_is_one_entry_between_its_neighbours() -> None:
    new = TEN.replace("seed = 4\n", "seed = 4\npriority = 9\n")
    found = compare(TEN, new)
    assert found is not None
    whole = parse(new.encode(), DECLARATION)
    assert found.entries == (whole.jobs[4],)
    assert found.header == whole.header
    assert (found.edit.stood, found.edit.gone) == (ids(4), ())
    assert (found.edit.after, found.edit.before) == ids(3, 5)


def test_a_changed_identity_is_one_job_gone_and_one_new() -> None:
    found = compare(TEN, TEN.replace("seed = 4\n", "seed = 44\n"))
    assert found is not None
    assert (tuple(entry.id for entry in found.entries), found.edit.stood, found.edit.gone) == (ids(44), ids(4), ids(4))


def test_jobs_added_at_the_end_have_no_job_behind_them() -> None:
    counted = TEN.replace("schema = 1\n", "schema = 1\njobs = 10\n")
    found = compare(counted, counted.replace("jobs = 10", "jobs = 11") + job(10))
    assert found is not None
    assert [entry.position for entry in found.entries] == [11]
    assert (found.edit.gone, found.edit.after, found.edit.before, found.header.count) == ((), *ids(9), None, 11)


def test_jobs_put_first_have_no_job_before_them() -> None:
    found = compare(TEN, HEAD + job(77) + TEN.removeprefix(HEAD))
    assert found is not None
    assert (tuple(entry.id for entry in found.entries), found.edit.after, found.edit.before) == (ids(77), None, *ids(0))


def test_a_removed_job_is_gone_and_nothing_is_new() -> None:
    found = compare(TEN, TEN.replace(job(4), ""))
    assert found is not None
    assert (found.entries, found.edit.gone, found.header.count) == ((), ids(4), 9)
    assert (found.edit.after, found.edit.before) == ids(3, 5)


@pytest.mark.parametrize(
    "new",
    [
        TEN.replace("[hosts.pi]", "[hosts.po]"),
        TEN.replace("schema = 1\n", "schema = 1\njobs = 9\n"),
        TEN.replace("seed = 4\n", "seed = 5\n# twins within the edit\n").replace("seed = 5\n\n", "seed = 5\n# b\n"),
        TEN.replace("seed = 4\n", "seed = -4\n"),
        TEN.replace("seed = 4\n", "seed = \n"),
        TEN.replace("seed = 4\n", 'seed = 4\ntrain_hosts = ["""a"""]\n'),
        TEN.replace("seed = 4\n", "seed = 4\n[hosts.late]\n"),
        TEN.replace("seed = 4\n", "seed = 4\ntrain_hosts = [\n"),
        HEAD,
        "\ufeff" + TEN,
        "x = \n" + TEN,
    ],
)
def test_where_it_is_not_certain_the_file_must_be_read_whole(new: str) -> None:
    assert compare(TEN, new) is None


def test_other_trainer_or_twins_in_force_mean_that_the_file_must_be_read_whole() -> None:
    new = TEN.replace("seed = 4\n", "seed = 44\n")
    assert compare(TEN, new, contract="sha256:" + "a" * 64) is None
    assert compare(TEN, new, count=9) is None


BLOCKS = st.lists(
    st.builds(
        job,
        st.integers(0, 5),
        st.sampled_from(
            [
                "",
                "priority = 1",
                "[jobs.hyper]\nmax_iter = 3",
                "hyper = { max_iter = 3 }",
                "train_hosts = [\n'a']",
                "# c",
            ]
        ),
    ),
    max_size=5,
)


@settings(max_examples=400)
@given(BLOCKS, BLOCKS, BLOCKS, BLOCKS)
def test_a_difference_is_what_reading_both_files_whole_says(
    first: list[str], middle: list[str], other: list[str], last: list[str]
) -> None:
    old, new = (HEAD + "".join([*first, *part, *last]) for part in (middle, other))
    try:
        before = parse(old.encode(), DECLARATION)
        found = compare(old, new)
    except ManifestError:
        return
    if found is None:
        return
    named = {entry.id for entry in before.jobs}
    if any(entry.id in named - set(found.edit.stood) for entry in found.entries):
        return
    after = parse(new.encode(), DECLARATION)
    expected = {entry.id: (entry.requirement, entry.limits) for entry in before.jobs if entry.id not in found.edit.gone}
    expected |= {entry.id: (entry.requirement, entry.limits) for entry in found.entries}
    assert expected == {entry.id: (entry.requirement, entry.limits) for entry in after.jobs}
    order = [entry.id for entry in after.jobs]
    start = order.index(found.edit.after) + 1 if found.edit.after else 0
    assert order[start : start + len(found.entries)] == [entry.id for entry in found.entries]
    assert found.header.count == len(order)
    assert found.header.digest == after.digest
    assert [entry.line for entry in found.entries] == [entry.line for entry in after.jobs][
        start : start + len(found.entries)
    ]


def test_a_child_reads_only_what_differs_from_the_manifest_in_force(tmp_path: Path) -> None:
    old, new = tmp_path / "applied.toml", tmp_path / "manifest.toml"
    old.write_text(TEN)
    new.write_text(TEN.replace("seed = 4\n", "seed = 4\npriority = 9\n"))
    before = load(old)
    loaded = child_load(new, in_force=LastApplied(old, 10, before.contract))
    assert loaded.header == load(new).header
    assert tuple(loaded.entries) == (load(new).jobs[4],)
    assert loaded.edit == Edit(stood=ids(4), gone=(), after=ids(3)[0], before=ids(5)[0])


@pytest.mark.parametrize("count", [9, 10])
def test_a_child_reads_the_whole_file_where_it_must(tmp_path: Path, count: int) -> None:
    old, new = tmp_path / "applied.toml", tmp_path / "manifest.toml"
    old.write_text(TEN if count == 9 else "[manifest]\n")
    new.write_text(TEN)
    loaded = child_load(new, in_force=LastApplied(old, count, None))
    assert loaded.edit is None
    assert len(list(loaded.entries)) == 10


def test_the_child_program_writes_an_edit_or_the_whole_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "applied.toml", tmp_path / "manifest.toml"
    old.write_text(TEN)
    new.write_text(TEN + job(10))
    contract = hyper.contract_digest(DECLARATION)
    words = ["--rows", str(new), "--in-force", str(old), "--contract", contract]
    assert main([*words, "--count", "10"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["entries"] == 1
    assert main([*words, "--count", "9"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["entries"] == 11


def test_an_edit_of_a_lost_file_or_with_a_silent_trainer_is_none(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(HEAD + '[trainer]\ncommand = ["./absent"]\n' + job(1))
    assert load_edit(path, LastApplied(path, 1, None)) is None
    assert load_edit(path, LastApplied(tmp_path / "absent.toml", 1, None)) is None


def test_a_file_without_a_manifest_table_must_be_read_whole() -> None:
    assert difference(job(1).encode(), job(2).encode(), DECLARATION, count=1, contract=None) is None


def test_a_manifest_in_force_that_is_lost_means_reading_the_whole_file(tmp_path: Path) -> None:
    new = tmp_path / "manifest.toml"
    new.write_text(TEN)
    loaded = child_load(new, in_force=LastApplied(tmp_path / "absent.toml", 10, load(new).contract))
    assert (loaded.edit, len(list(loaded.entries))) == (None, 10)


def test_a_trainer_that_cannot_be_asked_means_reading_the_whole_file_for_its_faults(tmp_path: Path) -> None:
    old = HEAD + '[trainer]\ncommand = ["./absent"]\n' + job(1)
    (tmp_path / "applied.toml").write_text(old)
    (tmp_path / "manifest.toml").write_text(old + job(2))
    with pytest.raises(ManifestError, match=r"\./absent cannot be started"):
        child_load(tmp_path / "manifest.toml", in_force=LastApplied(tmp_path / "applied.toml", 1, None))
