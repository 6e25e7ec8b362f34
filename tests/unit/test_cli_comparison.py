"""Results over seeds: which jobs belong together, what is computed, and how it reads."""

from __future__ import annotations

from typing import Any

import pytest

from training.fleet.cli import comparison
from training.fleet.cli.ranking import Metric, metric_for
from training.fleet.cli.text import Terminal
from training.fleet.model.errors import FleetError
from training.fleet.model.jobs import Headline
from training.fleet.wire.people import JobView

METRIC = Metric("auprc_host_mean")
PIPE = Terminal()
LEAKS = "these splits leak: test rows lie beside training rows; do not compare them with other splits"


def done(mode: str, seed: int, value: Any = None, model: str = "gbt", split: str = "hosts", **spec: Any) -> JobView:
    """A completed job; a value that is a dict is the whole of its metrics."""
    whole = {"v": 1, "model": model, "mode": mode, "hyper": {}, "split_recipe": split, "train_hosts": ["*"]}
    return JobView(
        id=f"{seed:064x}",
        model=model,
        mode=mode,
        split=split,
        seed=seed,
        dataset=(spec.get("dataset") or {}).get("name"),
        status="completed",
        priority=0,
        host="pi",
        attempts_used=1,
        max_attempts=3,
        cancel_requested=False,
        named=True,
        delayed=False,
        updated_at="2026-11-23T15:10:13.120Z",
        metrics=value if isinstance(value, dict) else {METRIC.name: value},
        spec={**whole, "seed": seed, **spec},
    )


def over(mode: str, *values: float, **spec: Any) -> list[JobView]:
    return [done(mode, seed, value, **spec) for seed, value in enumerate(values, 1)]


def rows(jobs: list[JobView], metric: Metric = METRIC) -> list[list[str]]:
    """The lines of a comparison in a pipe, without the last column, the best job's id."""
    lines = comparison.lines(comparison.groups(jobs, metric), metric, PIPE)
    return [(line.rpartition("\t")[0] or line).split("\t") for line in lines]


def test_seeds_of_one_training_make_one_row_with_mean_spread_and_paired_difference() -> None:
    assert rows(over("realistic", 0.4, 0.5, 0.45) + over("oracle", 0.5, 0.6, 0.7)) == [
        ["gbt", "hosts", "0.6 ± 0.1", "0.45 ± 0.05", "+0.15 ± 0.087", "3", "1,2,3", ""],
    ]


def test_one_seed_has_no_spread_and_a_mode_without_jobs_is_a_dash() -> None:
    assert rows([done("oracle", 490, 0.25)]) == [
        ["gbt", "hosts", "0.25", "-", "-", "1/0", "490/-", ""],
    ]


def test_a_difference_takes_only_seeds_that_both_modes_have_and_says_so() -> None:
    assert rows(over("oracle", 0.5, 0.7, 0.9) + over("realistic", 0.6, 0.6)) == [
        ["gbt", "hosts", "0.7 ± 0.2", "0.6 ± 0", "+0 ± 0.14 *", "3/2", "1,2,3/1,2", ""],
        ["* the two modes were trained with different seeds; only common seeds are compared"],
    ]


def test_modes_without_a_common_seed_have_no_difference() -> None:
    assert rows([done("oracle", 1, 0.5), done("realistic", 2, 0.5)]) == [
        ["gbt", "hosts", "0.5", "0.5", "-", "1/1", "1/2", ""],
    ]


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"hyper": {"max_iter": 300, "fast": True, "kind": "a b"}}, "fast=true kind=a b max_iter=300"),
        ({"train_hosts": ["db-*", "web-1"]}, "train_hosts db-*,web-1"),
        ({"dataset": {"name": "lab"}}, "dataset lab"),
        ({"dataset": {"name": "lab", "digest": "sha256:" + "ab" * 32}}, f"dataset lab@sha256:{'ab' * 32}"),
        ({"revision": "4f1c2d9"}, "revision 4f1c2d9"),
    ],
    ids=["hyper", "train_hosts", "dataset", "digest", "revision"],
)
def test_what_differs_beside_seed_and_mode_is_a_row_of_its_own_and_says_why(
    change: dict[str, Any], detail: str
) -> None:
    found = rows([done("oracle", 1, 0.5), done("oracle", 2, 0.4, **change)])
    assert [(row[2], row[7]) for row in found] == [("0.5", ""), ("0.4", detail)]


def test_one_name_with_two_digests_is_two_rows() -> None:
    first, second = ({"name": "lab", "digest": "sha256:" + digit * 64} for digit in "ab")
    found = comparison.groups([done("oracle", 1, 0.5, dataset=first), done("oracle", 2, 0.4, dataset=second)], METRIC)
    shown = comparison.lines(found, METRIC, Terminal(width=200))
    assert [line.split("dataset ")[1].split()[0] for line in shown[2:]] == ["lab@aaaaaaaa", "lab@bbbbbbbb"]


def test_rows_come_by_split_and_then_by_falling_oracle_mean() -> None:
    jobs = [
        done("oracle", 1, 0.3, model="mlp", split="time"),
        done("realistic", 1, 0.8, model="tcn"),
        done("oracle", 1, 0.2, model="mlp"),
        done("realistic", 1, 0.9, model="cnn"),
        done("oracle", 1, 0.4, model="gbt"),
    ]
    assert [row[:2] for row in rows(jobs)] == [
        ["gbt", "hosts"],
        ["mlp", "hosts"],
        ["cnn", "hosts"],
        ["tcn", "hosts"],
        ["mlp", "time"],
    ]


def test_splits_that_leak_stand_in_a_block_of_their_own() -> None:
    jobs = [done("oracle", 1, 0.99, split="random"), done("oracle", 1, 0.5), done("oracle", 1, 0.4, split="time")]
    assert [row[:2] for row in rows(jobs)] == [
        ["gbt", "hosts"],
        ["gbt", "time"],
        [""],
        ["gbt", "random leaks"],
        [LEAKS],
    ]
    assert [row[:2] for row in rows(jobs[:1])] == [["gbt", "random leaks"], [LEAKS]]


def test_a_job_without_a_value_is_named_and_counts_for_nothing() -> None:
    jobs = [
        done("oracle", 1, 0.5),
        done("oracle", 2, None),
        done("oracle", 3, {}),
        done("realistic", 1, {METRIC.name: "n/a"}),
    ]
    assert rows(jobs) == [
        ["gbt", "hosts", "0.5", "-", "-", "1/0", "1/-",
         "no value of oracle seed 2,3; no value of realistic seed 1"],
    ]  # fmt: skip


def test_figures_of_a_foreign_trainer_are_compared_by_their_own_names() -> None:
    jobs = [
        done("oracle", 1, {"rmse": 1234.56, "note": "ok"}, model="toy"),
        done("oracle", 2, {"rmse": 1300}, model="toy"),
    ]
    assert rows(jobs, Metric("rmse", "lower"))[0][2] == "1267 ± 46"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"rmse": 1.0, "auroc": None, "note": "x", "good": True}, "--metric takes one of auroc, rmse"),
        ({"note": "x"}, "none of them reports any number"),
    ],
    ids=["others", "none"],
)
def test_a_metric_that_no_job_has_is_refused_with_the_names_there_are(metrics: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=f"^found no metric {METRIC.name} in 1 completed jobs; {said}$"):
        comparison.groups([done("oracle", 1, metrics)], METRIC)


def test_a_receiver_that_sends_no_specifications_is_refused() -> None:
    bare = JobView(**{name: getattr(done("oracle", 1, 0.5), name) for name in JobView.__slots__} | {"spec": None})
    with pytest.raises(FleetError, match="without their specifications; update it"):
        comparison.groups([bare], METRIC)


def test_on_a_terminal_the_seeds_give_way_first_and_the_metric_is_named() -> None:
    found = comparison.groups(
        [done("oracle", seed, 0.5, hyper={"max_epochs": 20}, model="transformer") for seed in range(30)], METRIC
    )
    wide, narrow = (comparison.lines(found, METRIC, Terminal(width=width)) for width in (200, 80))
    assert wide[0] == narrow[0] == "auprc_host_mean, higher is better; mean ± spread over seeds, one seed has none"
    assert ("SEEDS" in wide[1], "SEEDS" in narrow[1]) == (True, False)
    assert max(map(len, narrow)) <= 80
    assert narrow[3].split() == [f"{0:064x}"[:12], "transformer", "hosts", "0.5", "±", "0", "30/0", "max_epochs=20"]
    assert " ".join(" ".join(narrow[4:]).split()) == f"{', '.join(map(str, range(30)))}/-"


def test_what_all_rows_share_is_said_once_and_what_differs_in_each() -> None:
    lab = {"name": "lab", "digest": "sha256:" + "a" * 64}
    jobs = [
        done("oracle", 1, rate, hyper={"learning_rate": rate, "max_iter": 60}, dataset=lab, revision=revision)
        for rate, revision in ((0.1, "v1"), (0.2, "v2"))
    ]
    lines = comparison.lines(comparison.groups(jobs, METRIC), METRIC, Terminal(width=100))
    assert [line.partition("  1/0  ")[2].rstrip() for line in lines[2:4]] == [
        "learning_rate=0.2; revision v2  1/-",
        "learning_rate=0.1; revision v1  1/-",
    ]
    assert lines[4:] == ["in every row: dataset lab@aaaaaaaa"]


def test_the_best_job_of_a_row_is_named_also_where_lower_is_better() -> None:
    jobs = [done("oracle", 1, {"rmse": 3.0}), done("oracle", 2, {"rmse": 1.0}), done("oracle", 3, {"rmse": 2.0})]
    for direction, seed in (("lower", 2), ("higher", 1)):
        metric = Metric("rmse", direction)
        line = comparison.lines(comparison.groups(jobs, metric), metric, PIPE)[0]
        assert line.rpartition("\t")[2] == f"{seed:064x}"


def test_where_lower_is_better_the_lowest_mean_comes_first() -> None:
    jobs = [done("oracle", 1, {"rmse": value}, model=name) for name, value in (("gbt", 3.0), ("mlp", 1.0))]
    assert [row[0] for row in rows(jobs, Metric("rmse", "lower"))] == ["mlp", "gbt"]
    assert [row[0] for row in rows(jobs, Metric("rmse"))] == ["gbt", "mlp"]


@pytest.mark.parametrize(
    ("metrics", "headline", "asked", "found"),
    [
        ({"f1": 0.5, "auprc_host_mean": 0.4}, None, None, ("auprc_host_mean", "higher", "the usual one")),
        ({"rmse": 1.0, "mae": 2.0}, None, None, ("rmse", "lower", "the first that was reported")),
        ({"rmse": 1.0, "mae": 2.0}, Headline("mae", "lower"), None, ("mae", "lower", "the trainer's headline metric")),
        ({"speed": 1.0}, Headline("speed", "lower"), "speed", ("speed", "lower", "")),
        ({"auroc": 1.0}, Headline("mae", "lower"), "auroc", ("auroc", "higher", "")),
        ({}, None, None, ("auprc_host_mean", "higher", "the usual one")),
    ],
    ids=["usual", "first", "declared", "asked and declared", "asked", "no results"],
)
def test_one_metric_is_chosen_for_every_command(
    metrics: dict[str, Any], headline: Headline | None, asked: str | None, found: tuple[str, str, str]
) -> None:
    chosen = metric_for([done("oracle", 1, metrics)], headline, asked)
    assert (chosen.name, chosen.direction, chosen.origin.partition(",")[0]) == found
    assert metric_for([done("oracle", 1, metrics)], headline, asked, "lower").direction == "lower"


def test_plain_data_has_every_value_and_null_where_there_are_too_few() -> None:
    found = comparison.groups([*over("oracle", 0.5, 0.75), done("realistic", 2, 0.25)], METRIC)
    assert comparison.document(found, METRIC) == {
        "metric": METRIC.name,
        "direction": "higher",
        "groups": [
            {
                "jobs": [
                    {"id": f"{2:064x}", "mode": "oracle", "seed": 2, "value": 0.75, "artifact": None},
                    {"id": f"{1:064x}", "mode": "oracle", "seed": 1, "value": 0.5, "artifact": None},
                    {"id": f"{2:064x}", "mode": "realistic", "seed": 2, "value": 0.25, "artifact": None},
                ],
                "model": "gbt",
                "split": "hosts",
                "leaks": False,
                "dataset": None,
                "train_hosts": ["*"],
                "hyper": {},
                "revision": None,
                "oracle": {
                    "seeds": [1, 2],
                    "values": [0.5, 0.75],
                    "mean": 0.625,
                    "spread": pytest.approx(0.1767767),
                    "seeds_without_value": [],
                },
                "realistic": {
                    "seeds": [2],
                    "values": [0.25],
                    "mean": 0.25,
                    "spread": None,
                    "seeds_without_value": [],
                },
                "difference": {
                    "seeds": [2],
                    "values": [0.5],
                    "mean": 0.5,
                    "spread": None,
                    "seeds_without_value": [],
                },
            }
        ],
    }
