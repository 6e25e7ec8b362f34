"""Claims about models that somebody changed: `predict` ends with one line, never by a signal, and never without end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import NEEDS_TORCH

from training.trainer import predict

SEED = 490
LIMIT_S = 600
"""Far more than a run takes; one that never ends is found by it."""


def changed(pattern: str, by: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        found, count = re.subn(pattern, by, text, count=1, flags=re.MULTILINE)
        assert count == 1
        return found

    return change


def without_sizes(change: Callable[[str], str]) -> Callable[[str], str]:
    """LightGBM compares sizes where they are given; without them it reads what it finds."""
    return lambda text: change(changed(r"^tree_sizes=.*\n", "")(text))


def in_a_circle(text: str) -> str:
    for key in ("left_child", "right_child"):
        text = changed(rf"^{key}=.*", lambda line: re.sub(r"-?\d+", "0", line[0]))(text)  # type: ignore[arg-type]
    return text


FORMS = {
    "feature far beyond": without_sizes(changed(r"^split_feature=\d+", "split_feature=99999999")),
    "feature below 0": without_sizes(changed(r"^split_feature=\d+", "split_feature=-99999999")),
    "child far beyond": without_sizes(changed(r"^left_child=\S+", "left_child=99999999")),
    "leaf far beyond": without_sizes(changed(r"^left_child=\S+", "left_child=-99999999")),
    "no tree in a round": changed("^num_tree_per_iteration=1", "num_tree_per_iteration=0"),
    "three classes": without_sizes(changed("^objective=.*", "objective=multiclass num_class:3")),
    "more leaves than numbers": changed(r"^num_leaves=\d+", "num_leaves=1000"),
    "circle": without_sizes(in_a_circle),
    "leaf that is no number": without_sizes(changed(r"^leaf_value=\S+", "leaf_value=nan")),
    "cut in a tree": without_sizes(lambda text: text[: text.index("internal_count")]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_bent_text_of_trees_is_refused_in_one_line(
    artifacts: dict[str, Path], synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """LightGBM ended by signal 6, 8 or 11 at most of these, never ended at one, and scored nonsense at the last two."""
    shutil.copyfile(artifacts["gbt"] / "model.json", tmp_path / "model.json")
    (tmp_path / "model.txt").write_text(FORMS[form]((artifacts["gbt"] / "model.txt").read_text()))
    arguments = ["--bundle", tmp_path, "--data", synthetic / "synthetic.parquet", "--out", tmp_path / "scores.csv"]
    assert predict.main([str(argument) for argument in arguments]) == 78
    error = capsys.readouterr().err
    assert re.fullmatch(r"predict: the model file of the bundle can't be loaded: .*; fetch the bundle again\n", error)
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("sizes", ["99999999999", "-1 -1", "1 2 3", "nan", ""])
def test_sizes_that_lie_change_no_score(
    artifacts: dict[str, Path], synthetic: Path, tmp_path: Path, sizes: str
) -> None:
    shutil.copyfile(artifacts["gbt"] / "model.json", tmp_path / "model.json")
    text = (artifacts["gbt"] / "model.txt").read_text()
    (tmp_path / "model.txt").write_text(changed("^tree_sizes=.*", f"tree_sizes={sizes}")(text))
    found = []
    for bundle in (artifacts["gbt"], tmp_path):
        out = tmp_path / "scores.csv"
        arguments = ["--bundle", bundle, "--data", synthetic / "synthetic.parquet", "--out", out]
        assert predict.scored(predict._options([str(argument) for argument in arguments])) == 0
        found.append(out.read_bytes())
    assert found[0] == found[1]


def tried(root: Path, kind: str, artifact: Path, seed: int, count: int) -> int:
    """Bend a file so many times in a process of its own; return how many of them were scored.

    A failure names the seed and the number of the case; `bent_models.bent` makes the same bytes from them.
    """
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "helpers" / "bent_models.py"), kind, artifact, str(seed), str(count)],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
            "PYTHONPATH": str(root),
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S * max(1, count // 2000),
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"seed {seed}, case {lines[-1:]}: status {done.returncode}\n{done.stderr[-2000:]}"
    assert lines[::2] == [str(index) for index in range(count)]
    assert set(lines[1::2]) == {"refused", "scored"}
    return lines.count("scored")


def test_two_thousand_bent_texts_of_trees_are_refused_or_scored(root: Path, artifacts: dict[str, Path]) -> None:
    assert 50 < tried(root, "text", artifacts["gbt"], SEED, 2000) < 500


@pytest.mark.parametrize("model", ["mlp", pytest.param("gru", marks=NEEDS_TORCH)])
def test_hundreds_of_bent_files_of_tensors_are_refused_or_scored(
    root: Path, artifacts: dict[str, Path], model: str
) -> None:
    assert 10 < tried(root, "tensors", artifacts[model], SEED, 300) < 150


def test_hundreds_of_bent_descriptions_are_refused_or_scored(root: Path, artifacts: dict[str, Path]) -> None:
    assert 20 < tried(root, "description", artifacts["gbt"], SEED, 300) < 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_more_bent_texts_of_trees_are_refused_or_scored(root: Path, artifacts: dict[str, Path], seed: int) -> None:
    assert tried(root, "text", artifacts["gbt"], seed, 10_000) > 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("description", "gbt"),
        ("tensors", "mlp"),
        *(pytest.param(kind, name, marks=NEEDS_TORCH) for kind, name in (
            ("description", "transformer"), ("tensors", "cnn"), ("tensors", "gru"), ("tensors", "lstm"),
            ("tensors", "tcn"), ("tensors", "transformer"),
        )),
    ],
)  # fmt: skip
def test_many_more_bent_files_of_networks_are_refused_or_scored(
    root: Path, artifacts: dict[str, Path], kind: str, model: str
) -> None:
    assert tried(root, kind, artifacts[model], 1, 3000) > 50
