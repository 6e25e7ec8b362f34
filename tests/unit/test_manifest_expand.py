"""One `[[jobs]]` table that stands for several jobs: lists of seeds, grids, random points, labels."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from training.fleet.manifest import Manifest, declaration_of, keys, parse
from training.fleet.model.errors import Fault, ManifestError
from training.fleet.model.jobs import Trainer

HEAD = '[manifest]\nschema = 1\n[defaults]\nmode = "realistic"\n[hosts.default]\n'
DECLARED = declaration_of(Trainer().command, None, None)  # type: ignore[arg-type]


def read(text: str, head: str = HEAD) -> Manifest:
    return parse((head + text).encode(), DECLARED)


def faults(text: str, head: str = HEAD) -> list[Fault]:
    with pytest.raises(ManifestError) as caught:
        read(text, head)
    return list(caught.value.faults)


def by_hand(*tables: str) -> list[str]:
    text = "".join(f'[[jobs]]\nmodel = "gbt"\n{table}\n' for table in tables)
    return [job.id for job in read(text).jobs]


def ids(table: str) -> list[str]:
    return [job.id for job in read(f'[[jobs]]\nmodel = "gbt"\n{table}\n').jobs]


def hyper(table: str) -> list[dict[str, Any]]:
    return [dict(job.spec.hyper) for job in read(f'[[jobs]]\nmodel = "gbt"\n{table}\n').jobs]


def test_seeds_give_the_jobs_that_tables_written_by_hand_give() -> None:
    assert ids("seeds = [3, 1, 2]") == by_hand("seed = 3", "seed = 1", "seed = 2")


def test_a_grid_gives_each_combination_with_the_keys_that_stand_in_hyper() -> None:
    assert ids("grid = { max_iter = [10, 20], learning_rate = [0.1, 0.2] }\nhyper = { num_leaves = 63 }") == by_hand(
        "hyper = { num_leaves = 63, max_iter = 10, learning_rate = 0.1 }",
        "hyper = { num_leaves = 63, max_iter = 10, learning_rate = 0.2 }",
        "hyper = { num_leaves = 63, max_iter = 20, learning_rate = 0.1 }",
        "hyper = { num_leaves = 63, max_iter = 20, learning_rate = 0.2 }",
    )


def test_seeds_and_grid_multiply_and_the_header_says_from_which_table() -> None:
    found = read(
        '[[jobs]]\nmodel = "mlp"\n\n[[jobs]]\nmodel = "gbt"\nseeds = [1, 2, 3]\ngrid = { max_iter = [5, 6] }\n'
    )
    assert (len(found.jobs), found.header.count) == (7, 7)
    assert found.header.notes == ("6 jobs from jobs[2] (line 9)",)
    assert {job.position for job in found.jobs[1:]} == {2}


def test_seeds_of_the_defaults_hold_for_every_job_without_a_seed_of_its_own() -> None:
    head = HEAD.replace("[hosts", "seeds = [1, 2]\n[hosts")
    found = read('[[jobs]]\nmodel = "gbt"\n[[jobs]]\nmodel = "mlp"\nseed = 9\n', head)
    assert [job.spec.seed for job in found.jobs] == [1, 2, 9]


def test_random_points_are_those_of_the_grid_and_the_same_each_time() -> None:
    grid = "grid = { max_iter = [1, 2, 3, 4, 5, 6], num_leaves = [31, 63, 127] }\n"
    assert ids(f"{grid}random = 18") == ids(grid)
    five = hyper(f"{grid}random = 5")
    assert five == [
        {"max_iter": 1, "num_leaves": 31},
        {"max_iter": 3, "num_leaves": 127},
        {"max_iter": 4, "num_leaves": 31},
        {"max_iter": 4, "num_leaves": 63},
        {"max_iter": 6, "num_leaves": 63},
    ]
    assert hyper(f"{grid}random = 5\nrandom_seed = 1") != five
    assert all(point in hyper(f"{grid}random = 7") for point in five)


def test_editing_a_list_adds_and_takes_away_only_what_changed() -> None:
    before, after = ids("seeds = [1, 2, 3]"), ids("seeds = [0, 1, 3]")
    assert (len(set(after) - set(before)), len(set(before) - set(after))) == (1, 1)


def test_a_wrong_value_of_a_list_is_told_once_with_its_key_and_line() -> None:
    text = '[[jobs]]\nmodel = "gbt"\nseeds = [1, 2, 3]\n[jobs.grid]\nmax_iter = [10, "many"]\nnum_leaves = [31, 63]\n'
    assert [(fault.place, fault.found) for fault in faults(text)] == [("jobs[1].grid.max_iter (line 10)", "'many'")]


def test_a_fault_in_a_grid_hides_none_in_another_table() -> None:
    text = (
        '[[jobs]]\nmodel = "gbt"\ngrid = { max_iter = ["many"] }\n'
        '[[jobs]]\nmodel = "gbt"\nhyper = { max_iter = "many" }\n'
        '[[jobs]]\nmodel = "gbt"\ngrid = { max_itr = [1, 2] }\nhyper = { max_iter = "few" }\n'
    )
    assert [(fault.place, fault.found) for fault in faults(text)] == [
        ("jobs[1].grid.max_iter (line 8)", "'many'"),
        ("jobs[2].hyper.max_iter (line 11)", "'many'"),
        ("jobs[3].hyper.max_iter (line 15)", "'few'"),
        ("jobs[3].grid.max_itr (line 14)", "the key 'max_itr'"),
    ]


@pytest.mark.parametrize(
    ("table", "place", "found"),
    [
        ("seeds = []", "seeds", "[]"),
        ("seeds = [1, -1]", "seeds", "[1, -1]"),
        ("seeds = 3", "seeds", "3"),
        ("seed = 1\nseeds = [2]", "seeds", "seed and seeds"),
        ("grid = {}", "grid", "an empty table"),
        ("grid = { max_iter = 3 }", "grid", "a table with the keys 'max_iter'"),
        ("grid = { max_iter = [] }", "grid", "a table with the keys 'max_iter'"),
        ("grid = { max_iter = [1] }\nhyper = { max_iter = 2 }", "grid.max_iter", "'max_iter' in hyper as well"),
        ("random = 3", "random", "random = 3 without a grid"),
        ("random_seed = 3", "random_seed", "random_seed without random"),
        ("random = 0\ngrid = { max_iter = [1] }", "random", "0"),
        ("name = 'beef'", "name", "'beef'"),
        ("name = 'two words'", "name", "'two words'"),
        ("tags = 'night'", "tags", "'night'"),
    ],
)
def test_keys_that_make_no_sense_are_faults_with_their_place(table: str, place: str, found: str) -> None:
    (first, *more) = faults(f'[[jobs]]\nmodel = "gbt"\n{table}\n')
    assert (first.place.partition(" (line")[0], first.found, more) == (f"jobs[1].{place}", found, [])


def test_a_table_that_stands_for_too_many_jobs_is_refused_before_they_are_made() -> None:
    ten = str(list(range(1, 11)))
    lists = ", ".join(f"k{number} = {ten}" for number in range(200))
    (fault,) = faults(f'[[jobs]]\nmodel = "gbt"\ngrid = {{ {lists} }}\nrandom = 3\n')
    assert (fault.place, fault.expected) == ("jobs[1].grid (line 8)", "at most 10000 from one table")
    many = str(list(range(101)))
    (fault,) = faults(f'[[jobs]]\nmodel = "gbt"\nseeds = {many}\ngrid = {{ max_iter = {many.replace("[0,", "[")} }}\n')
    assert fault.found == "10100 jobs"


def test_more_jobs_than_a_manifest_may_have_are_refused_with_the_table_that_is_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["training.fleet.manifest.parse"], "MAX_JOBS", 5)
    (fault,) = faults('[[jobs]]\nmodel = "gbt"\nseeds = [1, 2, 3]\n[[jobs]]\nmodel = "mlp"\nseeds = [1, 2, 3]\n')
    assert fault.found == "more than 5 jobs from the first 2 tables"


def test_the_same_job_from_two_lists_counts_once() -> None:
    text = '[[jobs]]\nmodel = "gbt"\nseeds = [1, 2, 2]\n[[jobs]]\nmodel = "gbt"\nseeds = [2, 3]\n'
    found = read(text)
    assert found.header.count == 3
    assert found.header.warnings == (
        "jobs[1] (line 6) gives the same job twice; it counts once",
        "jobs[1] (line 6) and jobs[2] (line 9) are the same job; it counts once",
    )
    (fault,) = faults(text + "priority = 3\n")
    assert fault.found == "the same job twice with another priority"


def test_labels_stand_beside_the_identity() -> None:
    plain, labelled = (
        read('[[jobs]]\nmodel = "gbt"\n'),
        read('[[jobs]]\nmodel = "gbt"\nname = "base-line"\ntags = ["b", "a", "b"]\n'),
    )
    assert plain.jobs[0].id == labelled.jobs[0].id
    assert (labelled.jobs[0].name, labelled.jobs[0].tags) == ("base-line", ("a", "b"))


def test_the_number_of_tables_is_what_the_head_of_a_manifest_counts() -> None:
    head = HEAD.replace("schema = 1", "schema = 1\njobs = 1")
    assert read('[[jobs]]\nmodel = "gbt"\nseeds = [1, 2]\n', head).header.count == 2


def test_no_default_belongs_to_one_job() -> None:
    assert not set(keys.OWN) & set(keys.DEFAULTS)
