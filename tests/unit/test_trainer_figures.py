"""Claims about the figures: what they show, that they stay small, and that they are the same bytes each time."""

from __future__ import annotations

import html
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from scored_windows import FOLD, Host, result_document, scored

from training.trainer.artifact.figures import Result, drawn, shown_name
from training.trainer.evaluation.scored_windows import Predictions

ROWS: Host = [(0, 0.1), (1, 0.9), (1, 0.8), (0, 0.2), (0, 0.7), (1, 0.3), (1, 0.4), (1, 0.2), (0, 0.1), (1, 0.1)]
BETTER: Host = [(0, 0.1), (1, 0.9)]
WORSE: Host = [(0, 0.9), (1, 0.1)]
NAMES = ["curves.svg", "hosts.svg", "learning.svg", "reliability.svg"]


def result(hosts: dict[str, Host], **changes: Any) -> Result:
    windows = scored(hosts)
    return Result(windows, result_document(windows, **changes))


def words(svg: bytes) -> list[str]:
    """Return the texts of a figure: the letters are outlines, and each text stands beside them as a comment."""
    return [html.unescape(text.strip()) for text in re.findall(r"<!-- (.*?) -->", svg.decode())]


@pytest.fixture(scope="module")
def plain() -> dict[str, bytes]:
    """Figures of three equal hosts."""
    return drawn(result({"a": ROWS, "b": ROWS, "c": ROWS}))


@pytest.fixture(scope="module")
def odd() -> dict[str, bytes]:
    """Figures of one fold of a leaking split, with unlike hosts of odd names and a fold without a loss."""
    hosts: dict[str, Host] = {
        "$\\frac$": WORSE,
        "<b>&amp;": BETTER,
        "bell\x07": [(0, 0.3)],
        "n" * 60: WORSE,
        "日--本": WORSE,
    }
    fold = FOLD | {"curve": [{"step": 3, "validation_auprc": 0.5}], "fit": {"epochs": 3}}
    return drawn(result(hosts, fold=2, leaks=True, split="random", folds=[fold]))


def test_a_result_has_four_figures_that_are_whole_documents_without_a_date(plain: dict[str, bytes]) -> None:
    assert list(plain) == NAMES
    for content in plain.values():
        tree = ElementTree.fromstring(content)
        assert tree.tag == "{http://www.w3.org/2000/svg}svg"
        assert tree.get("width") == "576pt"
        assert b"date" not in content
        assert matplotlib.__version__.encode() not in content


def test_the_same_result_gives_the_same_bytes_whatever_the_users_settings(
    plain: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", None)
    monkeypatch.setitem(matplotlib.rcParams, "axes.linewidth", 5.0)
    assert drawn(result({"a": ROWS, "b": ROWS, "c": ROWS})) == plain
    assert matplotlib.rcParams["axes.facecolor"] == "red"


def test_every_figure_names_what_its_numbers_depend_on(plain: dict[str, bytes], odd: dict[str, bytes]) -> None:
    whole = "gbt · oracle · split hosts   |   lab 0123456789ab · all folds · seed 490 · 2 threads · cpu · no leak"
    one = "gbt · oracle · split random   |   lab 0123456789ab · fold 2 · seed 490 · 2 threads · cpu · leaks"
    assert [whole in words(content) for content in plain.values()] == [True] * 4
    assert [one in words(content) for content in odd.values()] == [True] * 4


def test_every_figure_of_a_leaking_split_is_marked_and_no_other(plain: dict[str, bytes], odd: dict[str, bytes]) -> None:
    assert ["THIS SPLIT LEAKS" in words(content) for content in odd.values()] == [True] * 4
    assert ["THIS SPLIT LEAKS" in words(content) for content in plain.values()] == [False] * 4


def test_the_curves_show_the_numbers_and_what_no_skill_gives(plain: dict[str, bytes]) -> None:
    found = words(plain["curves.svg"])
    # Of 24 pairs of one host the anomalous window scores higher in 16 and equal in 3.
    assert "ROC, AUROC 0.729" in found
    assert "no skill 0.600" in found
    assert "no skill 0.500" in found
    assert {"all hosts pooled", "one host", "alarms as raised"} <= set(found)


def test_the_bars_stand_from_best_to_worst_and_hosts_of_one_class_are_left_out(odd: dict[str, bytes]) -> None:
    found = words(odd["hosts.svg"])
    assert found.index("$\\frac$") < found.index("<b>&amp;")
    assert [text for text in found if text.startswith("bell")] == []
    assert "mean AUPRC 0.625" in found


def test_the_interval_is_drawn_where_there_is_one(plain: dict[str, bytes]) -> None:
    assert "its 95 % interval" in words(plain["hosts.svg"])
    assert "its 95 % interval" not in words(drawn(result({"a": BETTER, "b": WORSE}, folds=[]))["hosts.svg"])


def test_learning_curves_have_one_line_per_fold_and_no_loss_where_none_is_known(
    plain: dict[str, bytes], odd: dict[str, bytes]
) -> None:
    found = words(plain["learning.svg"])
    assert [text for text in found if text.startswith(("fold ", "final"))] == ["fold 1/2", "fold 2/2", "final (kept)"]
    assert {"rounds", "training loss (nats per window)"} <= set(found)
    found = words(odd["learning.svg"])
    assert "epochs" in found
    assert "training loss (nats per window)" not in found


def test_a_figure_with_nothing_to_show_is_not_drawn() -> None:
    shown = result({"a": [(0, 0.1), (0, 0.2)]}, folds=[FOLD | {"curve": []}])
    assert list(drawn(shown)) == ["reliability.svg"]
    bare = Result(shown.predictions, dict(shown.document) | {"reliability": []})
    assert drawn(bare) == {}


def test_names_from_outside_are_drawn_as_they_are(odd: dict[str, bytes]) -> None:
    ElementTree.fromstring(odd["hosts.svg"])
    assert {"$\\frac$", "<b>&amp;", "n" * 23 + "…", "日- -本"} <= set(words(odd["hosts.svg"]))
    assert shown_name("bell\x07") == "bell?"


def large() -> Predictions:
    """60 hosts with 2,000 windows each."""
    random = np.random.default_rng(5)
    hosts = {}
    for number in range(60):
        label = (random.random(2000) < 0.1).astype(int)
        score = 1 / (1 + np.exp(3 - 2 * label - random.standard_normal(2000)))
        hosts[f"host-{number:02d}"] = list(zip(label.tolist(), score.tolist(), strict=True))
    return scored(hosts)


def test_figures_stay_small_whatever_the_data() -> None:
    windows = large()
    long = [{"step": step, "validation_auprc": step % 7 / 7, "train_loss": 1 / step} for step in range(1, 2000)]
    folds = [FOLD | {"name": f"fold {number}/20", "curve": long} for number in range(20)]
    made = drawn(Result(windows, result_document(windows, folds=folds)))
    assert {name: len(content) < 150_000 for name, content in made.items()} == dict.fromkeys(NAMES, True)
    assert "AUPRC and F1 of each host, the 40 worst of 60" in words(made["hosts.svg"])
