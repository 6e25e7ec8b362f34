"""Owns the check of a LightGBM model text that nobody trusts: every line must be one that the trainer writes.

LightGBM does not check its text: a child, a feature or a size out of range makes it read and write memory that is not
its own, and a circle of splits never ends. So each line is checked here first, and LightGBM gets only checked lines.

Accepted are the header of one binary score, and trees with numerical splits, within the limits of a job.
`tree_sizes`, an index of byte positions that LightGBM would follow, is left out: without it the text is read from its
beginning to its end. What follows `end of trees` is for people and is left out as well.

Source: LightGBM 4.7, `GBDT::LoadModelFromString` and `Tree::Tree`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from training.trainer.faults import SpecError
from training.trainer.hyper import MODELS

_MAXIMA: Final = {item.name: int(item.maximum or 0) for item in MODELS["gbt"].hypers}
MAX_TREES: Final = _MAXIMA["max_iter"]
MAX_LEAVES: Final = _MAXIMA["num_leaves"]
MAX_NUMBER: Final = 1e300
"""LightGBM writes this for infinity. Source: LightGBM 4.7, `Common::AvoidInf`."""
MAX_LEAF_VALUE: Final = 1e30
"""A sum over all trees stays a number; a leaf's value is a step in log-odds, a few units in honest trees."""
MAX_COUNT: Final = 2**31 - 1

_HEADER: Final = ("tree", "version=v4", "num_class=1", "num_tree_per_iteration=1", "label_index=0")
_OBJECTIVE: Final = "objective=binary sigmoid:1"
_END: Final = "end of trees"
_WHOLE: Final = "(?:0|-?[1-9][0-9]{0,9})"
_NUMBER: Final = r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:e[+-][0-9]{1,3})?"
_NAME: Final = r"[A-Za-z0-9_.~%=-]{1,4096}"
"""What `quote` of the standard library leaves of a name."""
_NUMERICAL_SPLITS: Final = "(?:0|2|4|6|8|10)"
"""Bit 1, a split by category, is not set; bit 2 says where a missing value goes, the two above what counts as one."""
_SHOWN: Final = 60


def checked(content: bytes, features: int) -> str:
    """Return the part of a model text that LightGBM needs, after a look at every line of it.

    Args:
        content: The file.
        features: How many features the model must take.

    Raises:
        SpecError: A line is not one that the trainer writes, or a value in it is impossible.
    """
    lines = _Lines(content)
    for line in (*_HEADER, f"max_feature_idx={features - 1}", _OBJECTIVE):
        lines.exactly(line)
    lines.words("feature_names", _NAME, features)
    lines.words("feature_infos", rf"(?:none|\[{_NUMBER}:{_NUMBER}\])", features)
    lines.skip("tree_sizes")
    lines.exactly("")
    count = 0
    while lines.next() != _END:
        if count == MAX_TREES:
            raise lines.wrong(f"at most {MAX_TREES} trees")
        _check_tree(lines, count, features)
        count += 1
    if not count:
        raise lines.wrong("Tree=0")
    lines.exactly(_END)
    return lines.kept()


def _check_tree(lines: _Lines, index: int, features: int) -> None:
    lines.exactly(f"Tree={index}")
    leaves = lines.wholes("num_leaves", 1, 1, MAX_LEAVES)[0]
    splits = leaves - 1
    lines.exactly("num_cat=0")
    lines.wholes("split_feature", splits, 0, features - 1)
    lines.numbers("split_gain", splits)
    lines.numbers("threshold", splits)
    lines.words("decision_type", _NUMERICAL_SPLITS, splits)
    left, right = (lines.wholes(key, splits, -leaves, splits - 1) for key in ("left_child", "right_child"))
    if not is_tree(left, right):
        raise lines.wrong("children that form one tree")
    lines.numbers("leaf_value", leaves, MAX_LEAF_VALUE)
    # LightGBM writes none for a tree that found nothing to split by.
    lines.numbers("leaf_weight", 0 if lines.next() == "leaf_weight=" and not splits else leaves)
    lines.wholes("leaf_count", leaves, 0, MAX_COUNT)
    lines.numbers("internal_value", splits)
    lines.numbers("internal_weight", splits)
    lines.wholes("internal_count", splits, 0, MAX_COUNT)
    lines.exactly("is_linear=0")
    lines.numbers("shrinkage", 1)
    lines.exactly("")
    lines.exactly("")


def is_tree(left: Sequence[int], right: Sequence[int]) -> bool:
    """Return True if the children of splits form one tree with split 0 at its root.

    Split i has the children `left[i]` and `right[i]`: another split, or leaf -1 - c where a child c is negative. A
    split has a higher number than its parent, as LightGBM numbers them; if each also has exactly one parent, there is
    no circle and no split that the root does not reach.
    """
    splits = len(left)
    if sorted([*left, *right]) != ([*range(-splits - 1, 0), *range(1, splits)] if splits else []):
        return False
    return all(child < 0 or child > split for side in (left, right) for split, child in enumerate(side))


class _Lines:
    """The lines of a model text, taken one after the other; those that passed are kept."""

    def __init__(self, content: bytes) -> None:
        try:
            self._lines = content.decode("ascii").split("\n")
        except UnicodeDecodeError as fault:
            raise SpecError(f"byte {fault.start} of it is not ASCII") from fault
        self._place = 0
        self._kept: list[str] = []

    def next(self) -> str:
        """Return the next line without taking it."""
        if self._place == len(self._lines):
            raise SpecError(f"it ends after {self._place} lines, without {_END!r}")
        return self._lines[self._place]

    def exactly(self, wanted: str) -> None:
        """Take a line that can only be one text."""
        if self.next() != wanted:
            raise self._unlike(wanted)
        self._keep()

    def skip(self, key: str) -> None:
        """Drop the line of a key, where there is one."""
        if self.next().startswith(f"{key}="):
            self._place += 1

    def words(self, key: str, pattern: str, count: int) -> list[str]:
        """Take the line of a key with `count` words that match a pattern."""
        found, equals, rest = self.next().partition("=")
        words = rest.split(" ") if rest else []
        if found != key or not equals:
            raise self._unlike(f"{key}=")
        if len(words) != count:
            raise self._unlike(f"{key}= with {count} values and not {len(words)}")
        fits = re.compile(pattern).fullmatch
        for word in words:
            if not fits(word):
                raise self._unlike(f"{key}= without {word[:_SHOWN]!r}")
        self._keep()
        return words

    def wholes(self, key: str, count: int, low: int, high: int) -> list[int]:
        """Take the line of a key with `count` whole numbers from low to high."""
        found = list(map(int, self.words(key, _WHOLE, count)))
        if found and not low <= min(found) <= max(found) <= high:
            raise self.wrong(f"{key} from {low} to {high}")
        return found

    def numbers(self, key: str, count: int, largest: float = MAX_NUMBER) -> None:
        """Take the line of a key with `count` numbers, none beyond plus or minus the largest."""
        if max(map(abs, map(float, self.words(key, _NUMBER, count))), default=0.0) > largest:
            raise self.wrong(f"{key} within {largest:g}")

    def wrong(self, wanted: str) -> SpecError:
        """Return the error of the line that was taken last."""
        return SpecError(f"line {self._place} is wrong, expected {wanted}")

    def kept(self) -> str:
        """Return the lines that passed, as one text."""
        return "\n".join(self._kept) + "\n"

    def _keep(self) -> None:
        self._kept.append(self._lines[self._place])
        self._place += 1

    def _unlike(self, wanted: str) -> SpecError:
        return SpecError(f"line {self._place + 1} is {self.next()[:_SHOWN]!r}, expected {wanted[:_SHOWN]!r}")
