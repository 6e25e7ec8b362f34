"""Claims about holding a foreign text of trees to what the trainer writes."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from training.trainer.faults import SpecError
from training.trainer.hyper import MODELS
from training.trainer.models import stored_trees as boosters
from training.trainer.models.stored_trees import checked, is_tree

FEATURES = 3


@pytest.fixture(scope="module")
def text() -> str:
    """Text of trees with missing values, as LightGBM writes it."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((200, FEATURES)).astype(np.float32)
    inputs[:20, 0] = np.nan
    label = (inputs[:, 1] + random.standard_normal(200) > 0).astype(np.int8)
    data = lightgbm.Dataset(inputs, label, feature_name=["cpu.last", "a%20b", "proto=tcp"])
    options = {"objective": "binary", "num_leaves": 5, "min_data_in_leaf": 2, "lambda_l2": 0.0, "verbosity": -1}
    booster = lightgbm.Booster(options | {"num_threads": 1}, data)
    for _ in range(12):
        booster.update()
    written: str = booster.model_to_string()
    return written


def refusal(text: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        checked(text.encode() if isinstance(text, str) else text, FEATURES)
    return str(caught.value)


def test_an_honest_text_gives_the_same_trees_without_its_index_and_what_stands_behind(text: str) -> None:
    found = checked(text.encode(), FEATURES)
    assert "tree_sizes" not in found
    assert found.endswith("\n\nend of trees\n")
    one, other = lightgbm.Booster(model_str=text), lightgbm.Booster(model_str=found)
    inputs = np.random.default_rng(1).standard_normal((500, FEATURES))
    assert one.predict(inputs).tolist() == other.predict(inputs).tolist()
    assert one.model_to_string().split("\nparameters:")[0] in other.model_to_string()
    assert checked(found.encode(), FEATURES) == found


def test_a_model_that_found_nothing_to_split_by_is_taken() -> None:
    data = lightgbm.Dataset(np.zeros((30, FEATURES)), np.arange(30) % 2)
    written = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 2).model_to_string()
    assert "\nleaf_weight=\n" in written
    assert lightgbm.Booster(model_str=checked(written.encode(), FEATURES)).num_trees() == 1


def test_trees_of_one_leaf_are_taken(text: str) -> None:
    keys = "split_feature split_gain threshold decision_type left_child right_child".split()  # noqa: SIM905
    lines = ["Tree=0", "num_leaves=1", "num_cat=0", *(f"{key}=" for key in keys)]
    lines += ["leaf_value=0.2", "leaf_weight=0", "leaf_count=60", "internal_value=", "internal_weight="]
    lines += ["internal_count=", "is_linear=0", "shrinkage=1"]
    one = text[: text.index("Tree=0")] + "\n".join(lines) + "\n\n\nend of trees\n"
    assert lightgbm.Booster(model_str=checked(one.encode(), FEATURES)).num_trees() == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tree\n", "", "line 1 is 'version=v4', expected 'tree'"),
        ("version=v4", "version=v5", "line 2 is 'version=v5', expected 'version=v4'"),
        ("num_class=1", "num_class=2000000000", "expected 'num_class=1'"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=0", "expected 'num_tree_per_iteration=1'"),
        ("label_index=0", "label_index=9", "expected 'label_index=0'"),
        ("max_feature_idx=2", "max_feature_idx=1", "expected 'max_feature_idx=2'"),
        ("binary sigmoid:1", "multiclass num_class:3", "expected 'objective=binary sigmoid:1'"),
        ("objective=", "average_output\nobjective=", "is 'average_output'"),
        ("a%20b", "a b", "expected 'feature_names= with 3 values and not 4'"),
        ("a%20b", 'a"b', "expected 'feature_names= without "),
        ("feature_infos=[", "feature_infos=[nan:", "expected \"feature_infos= without '[nan:"),
        ("Tree=1\n", "Tree=2\n", "is 'Tree=2', expected 'Tree=1'"),
        ("num_leaves=5", "num_leaves=1025", "is wrong, expected num_leaves from 1 to 1024"),
        ("num_leaves=5", "num_leaves=6", "with 5 values and not 4"),
        ("num_leaves=5", "num_leaves=05", "num_leaves= without '05'"),
        ("num_cat=0", "num_cat=1", "is 'num_cat=1', expected 'num_cat=0'"),
        ("split_feature=", "split_feature=9", "is wrong, expected split_feature from 0 to 2"),
        ("split_feature=", "split_feature=-", "expected "),
        ("threshold=", "threshold=1e999 ", "threshold= with 4 values and not 5"),
        ("decision_type=2", "decision_type=1", "decision_type= without '1'"),
        ("decision_type=2", "decision_type=14", "decision_type= without '14'"),
        ("leaf_value=", "leaf_value=nan ", "leaf_value= with 5 values and not 6"),
        ("leaf_count=", "leaf_count=-", "is wrong, expected leaf_count from 0 to 2147483647"),
        ("is_linear=0", "is_linear=1", "is 'is_linear=1', expected 'is_linear=0'"),
        ("shrinkage=1", "shrinkage=1 1", "shrinkage= with 1 values and not 2"),
        ("shrinkage=1", "leaf_const=1\nshrinkage=1", "is 'leaf_const=1', expected 'shrinkage='"),
        ("end of trees", "end of threes", "is 'end of threes', expected 'Tree=12'"),
    ],
)
def test_a_line_that_the_trainer_does_not_write_is_refused(text: str, old: str, new: str, message: str) -> None:
    assert old in text
    assert message in refusal(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("key", "word", "message"),
    [
        *(
            (key, word, f"{key}= without '{word}'")
            for key in ("threshold", "leaf_value")
            for word in ("nan", "-inf", "")
        ),
        ("threshold", "1e999", "threshold= without '1e999'"),
        ("threshold", "1e+999", "is wrong, expected threshold within 1e+300"),
        ("threshold", "1" * 41, "threshold= without"),
        ("leaf_value", "1e+31", "is wrong, expected leaf_value within 1e+30"),
        ("internal_count", "2147483648", "is wrong, expected internal_count from 0 to 2147483647"),
        ("left_child", "5", "is wrong, expected left_child from -5 to 3"),
        ("left_child", "-6", "is wrong, expected left_child from -5 to 3"),
        ("left_child", "0", "is wrong, expected children that form one tree"),
    ],
)
def test_a_number_that_cannot_be_is_refused(text: str, key: str, word: str, message: str) -> None:
    line = next(line for line in text.splitlines() if line.startswith(f"{key}="))
    words = [word, *line.partition("=")[2].split(" ")[1:]]
    assert message in refusal(text.replace(line, f"{key}={' '.join(words)}", 1))


@pytest.mark.parametrize("content", [b"", b"\n", b"tree", b"\xff", b"tree\0", b"tree\r\n", b"\xef\xbb\xbftree\n"])
def test_what_is_no_text_of_trees_is_refused(content: bytes) -> None:
    refusal(content)


def test_a_text_that_ends_anywhere_before_its_end_is_refused(text: str) -> None:
    lines = text[: text.index("\nend of trees")].split("\n")
    for count in range(len(lines)):
        refusal("\n".join(lines[:count]))


def test_a_text_without_a_tree_or_with_more_than_a_job_makes_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "expected Tree=0" in refusal(text[: text.index("Tree=0")] + "end of trees\n")
    assert MODELS["gbt"].hypers[0].maximum == boosters.MAX_TREES
    monkeypatch.setattr(boosters, "MAX_TREES", 11)
    assert "expected at most 11 trees" in refusal(text)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([], [], True),
        ([-1], [-2], True),
        ([1, -1], [-2, -3], True),
        ([1, -1, -4], [2, -2, -3], True),
        ([0], [-1], False),
        ([-1], [-1], False),
        ([-2], [-3], False),
        ([1, -1], [1, -2], False),
        ([-1, 1], [-2, -3], False),
        ([-1, 2, 1], [-2, -3, -4], False),
        ([2, -1, 1], [-2, -3, -4], False),
        ([3, 2, -1, -2], [1, -3, -4, -5], True),
        ([2, 3, -1, 1], [-5, -2, -3, -4], False),
    ],
    ids=["one leaf", "two leaves", "chain", "full", "root below itself", "a leaf twice", "a leaf beyond",
         "a split twice", "below itself", "island", "parent behind its child", "splits out of order", "circle of two"],
)  # fmt: skip
def test_children_form_one_tree_or_not(left: list[int], right: list[int], expected: bool) -> None:
    assert is_tree(left, right) is expected


def test_a_tree_of_a_thousand_splits_in_a_row_is_one() -> None:
    assert is_tree([*range(1, 1023), -1], [*range(-2, -1025, -1)])
