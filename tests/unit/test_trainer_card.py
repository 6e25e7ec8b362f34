"""Claims about the model card, on results made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scored_windows import Host, result_document, scored

from training.contracts.dataset import Dataset, Features, HostsSplit, Roles, Windows
from training.trainer.artifact.card import Facts, code, model_card
from training.trainer.exchange.job import parsed_job

ROWS: Host = [(0, 0.1), (1, 0.9), (1, 0.8), (0, 0.2), (0, 0.7), (1, 0.3), (1, 0.4), (1, 0.2), (0, 0.1), (1, 0.1)]
HOSTS: dict[str, Host] = {"a": ROWS, "b": ROWS, "c": ROWS[:5], "quiet": [(0, 0.1), (0, 0.2)]}
FIGURES = ("curves.svg", "hosts.svg", "learning.svg", "reliability.svg")


def facts(
    hosts: dict[str, Host] | None = None,
    hyper: dict[str, Any] | None = None,
    figures: tuple[str, ...] = FIGURES,
    **changes: Any,
) -> Facts:
    document = result_document(scored(hosts or HOSTS), **changes)
    roles = Roles(host="host", label="label", group=None, time="t")
    dataset = Dataset(
        folder=Path(),
        name="lab",
        file="lab.parquet",
        roles=roles,
        features=Features(("bytes_in",), ("cpu",), ()),
        windows=Windows(30),
        splits={"hosts": HostsSplit((("a",), ("b",)))},
        units={"bytes_in": "bytes per second", "t": "minutes"},
    )
    spec = {"model": "gbt", "mode": "oracle", "split_recipe": document["split"], "seed": 490, "hyper": hyper or {}}
    job = parsed_job({"v": 1, "spec": spec, "dataset": {"name": "lab", "path": "lab"}, "threads": 2})
    return Facts(job, dataset, document, 0.25, figures)


def section(card: str, title: str) -> list[str]:
    return card.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0].strip().splitlines()


def test_the_card_says_what_was_trained_on_what() -> None:
    card = model_card(facts())
    assert card.startswith("# gbt, oracle mode, split hosts\n\n## What was trained on what\n\n")
    assert section(card, "What was trained on what")[2:] == [
        "| model | gradient-boosted trees (LightGBM) on window statistics |",
        "| mode | oracle, 2 metrics |",
        "| dataset | lab, `sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef` |",
        "| split | hosts: every host is tested by a model that never saw it; does not leak |",
        "| fold | all |",
        "| seed | 490 |",
        "| threads | 2 |",
        "| device | cpu |",
        "| windows | 30 rows of one host; a window is anomalous when its last row is |",
        "| tested | 27 windows of 4 hosts, 51.85 % of them anomalous |",
        "",
        "Each window was scored by one of 2 fold models that did not see it.",
        "The stored model was trained on all allowed hosts and was not scored itself.",
    ]


def test_the_headline_table_has_intervals_for_means_over_hosts_and_says_how_to_read_each_number() -> None:
    lines = section(model_card(facts()), "Numbers")
    assert lines[0] == "| measure | value | 95 % interval | how to read it |"
    assert lines[2].startswith("| AUROC, pooled | 0.")
    assert lines[2].endswith(" | - | 0.5 for a score without skill, 1 at best |")
    assert lines[3].endswith(" | - | 0.5185 for a score without skill, 1 at best |")
    assert " to 1.0000 | each host counts alike |" in lines[4]
    assert lines[10].startswith("| Incidents found | 0.4286 | - |")
    assert "| Brier score | " in lines[9]
    assert "0.2497 for a constant score of 0.5185" in lines[9]
    assert "Means over hosts count the 3 hosts with both classes among their tested windows." in lines


def test_without_three_hosts_of_both_classes_the_card_says_that_there_is_no_interval() -> None:
    card = model_card(facts({"a": ROWS, "b": ROWS}))
    assert "There is no interval with fewer than three such hosts." in card


def test_the_figures_are_linked_and_their_absence_is_one_line() -> None:
    card = model_card(facts())
    for name in FIGURES:
        assert f"]({name})" in card
    bare = model_card(facts(figures=()))
    assert ".svg" not in bare
    assert "No figures: the machine that trained has no matplotlib; the `trainer` extra installs it." in bare


def test_each_host_has_a_row_and_one_with_one_class_says_so() -> None:
    lines = section(model_card(facts()), "Per host")
    none = "none (one class only)"
    assert lines[5].startswith("| quiet | 2 | 0 | 0 | 0 | ") is True
    assert lines[5].count(none) == 3
    assert lines[5].endswith("| 0 of 0 |")
    assert lines[2].startswith("| a | 10 | 6 | 3 | 1 | ")
    assert lines[2].endswith("| 1 of 3 |")


def test_missed_incidents_are_listed_longest_first_with_their_times() -> None:
    lines = section(model_card(facts({"a": ROWS})), "Incidents")
    assert lines == [
        "An incident is an unbroken stretch of anomalous rows of one host.",
        "Found: 1 of 3. Missed: 2.",
        "The price is false alarms: 1 (25.00 % of the normal windows).",
        "Median delay from the start to the first alarm: 0 rows (0 is at once); missed ones aside.",
        "",
        "### Missed, longest first (time: minutes)",
        "",
        "| host | from | to | rows | highest score | cut |",
        "|---|---|---|---|---|---|",
        "| a | 50 | 70 | 3 | 0.4000 | no |",
        "| a | 90 | 90 | 1 | 0.1000 | no |",
    ]


def test_of_many_missed_incidents_fifty_are_listed_and_the_rest_counted() -> None:
    lines = section(model_card(facts({"a": [(0, 0.1), (1, 0.2)] * 53})), "Incidents")
    assert sum(line.startswith("| a |") for line in lines) == 50
    assert lines[-1] == "And 3 more missed incidents."
    lines = section(model_card(facts({"a": [(0, 0.1), (1, 0.2)] * 2001})), "Incidents")
    assert "Only the first 2,000 are listed; longer ones may be among the others." in lines
    assert lines[-1] == "And 1,951 more missed incidents."


def test_cut_incidents_are_counted_and_marked() -> None:
    cut = facts({"a": ROWS})
    windows = scored({"a": [(1, 0.1), (1, 0.2), (0, 0.1)]}, untested=[0])
    lines = section(model_card(Facts(cut.job, cut.dataset, result_document(windows), 0.5, ())), "Incidents")
    assert "1 began in rows that were not tested (cut); their delay is not counted." in lines
    assert lines[-1] == "| a | 10 | 10 | 1 | 0.2000 | yes |"


def test_a_result_without_anomalies_has_no_incidents_and_no_invented_numbers() -> None:
    card = model_card(facts({"a": [(0, 0.1), (0, 0.7)]}))
    assert section(card, "Incidents")[-1] == "None was tested."
    assert "| AUROC, pooled | none (one class only) |" in card
    assert "| Incidents found | none (one class only) |" in card


def test_the_calibration_table_has_ten_rows() -> None:
    lines = section(model_card(facts()), "Calibration")
    assert lines[2] == "| score | windows | mean score | part that is anomalous |"
    assert len(lines) == 14
    assert lines[-1].startswith("| 0.9 to 1.0 | ")
    assert "| 0.5 to 0.6 | 0 | - | - |" in lines
    weighted = model_card(facts(hyper={"positive_weight": 5}))
    assert "they rank windows and are no probabilities" in weighted
    assert "no probabilities" not in "\n".join(lines)


def test_input_threshold_and_hyper_parameters_are_there() -> None:
    card = model_card(facts())
    assert section(card, "Input and threshold") == [
        "The model reads windows of 30 rows of one host, with these columns:",
        "",
        "- `bytes_in` (bytes per second)",
        "- `cpu` (no unit given)",
        "",
        "It raises an alarm at a score of at least 0.25.",
        "It gave the best F1 on the validation windows of this model; no tested window took part in the choice.",
    ]
    assert "| `max_iter` | 200 |" in section(card, "Hyper-parameters")


@pytest.mark.parametrize(
    ("split", "line"),
    [
        ("hosts", "- How the stored model itself does: it was trained on more hosts than any scored one."),
        ("time", "- How the model does on hosts it never saw: every tested host also trained."),
        ("random", "- Anything about detection: the split leaks."),
    ],
)
def test_the_limits_fit_the_split(split: str, line: str) -> None:
    folds = result_document(scored(HOSTS))["folds"]
    changes = {"folds": folds if split == "hosts" else folds[:1], "leaks": split == "random", "warning": "It leaks."}
    card = model_card(facts(split=split, **changes))
    lines = section(card, "What these numbers do not say")
    assert line in lines
    assert ("> **Warning: leak.** It leaks." in card) is (split == "random")
    assert ("; **leaks** |" in card) is (split == "random")
    assert ("The stored model is the one that was scored." in card) is (split != "hosts")


def test_one_fold_of_several_is_named() -> None:
    assert "| fold | 3 |" in model_card(facts(fold=3))


def test_names_from_outside_cannot_break_the_card() -> None:
    card = model_card(facts({"a|b\n# <b>[x](y)": ROWS, "c_d_e": ROWS, "f": ROWS}))
    assert "| a\\|b?# \\<b\\>\\[x\\](y) | 10 |" in card
    assert "| c\\_d\\_e | 10 |" in card
    assert code("a`b\x1b[1m") == "`a?b?[1m`"
