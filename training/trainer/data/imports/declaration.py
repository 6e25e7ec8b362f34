"""Owns the text of a `dataset.toml`: a declaration in, TOML out that reads back as the same declaration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from training.contracts.dataset import (
    SCHEMA,
    Dataset,
    GroupSplit,
    HostsSplit,
    PublishedSplit,
    RandomSplit,
    Split,
    TimeSplit,
)

MAX_FOLDS = 5
MAX_FOLD_HOSTS = 5000
_ON_A_LINE = 6


def declaration_text(dataset: Dataset, facts: Mapping[str, str | int]) -> str:
    """Return the declaration as TOML.

    Args:
        dataset: What to declare; its folder does not matter.
        facts: Further keys of `[dataset]` for people, such as rows and task.
    """
    lines = [f"schema = {SCHEMA}", "", "[dataset]", f"name = {_text(dataset.name)}", f"file = {_text(dataset.file)}"]
    lines += [f"{key} = {_text(value) if isinstance(value, str) else value}" for key, value in facts.items()]
    roles = {"host": dataset.roles.host, "group": dataset.roles.group, "time": dataset.roles.time}
    lines += ["", "[roles]", *(f"{role} = {_text(name)}" for role, name in roles.items() if name is not None)]
    lines += [f"label = {_text(dataset.roles.label)}", "", "[features]"]
    for tier in ("realistic", "oracle_extra", "never"):
        lines += _list(tier, getattr(dataset.features, tier))
    if dataset.categories:
        lines += ["", "[categories]"]
        for column, values in dataset.categories.items():
            lines += _list(_text(column), values)
    lines += ["", "[windows]", f"length = {dataset.windows.length}", 'label = "last"']
    for recipe, split in dataset.splits.items():
        lines += ["", f"[splits.{recipe}]", *_split(split)]
    if dataset.units:
        lines += ["", "[units]", *(f"{_text(column)} = {_text(unit)}" for column, unit in dataset.units.items())]
    return "\n".join(lines) + "\n"


def dealt(hosts: Sequence[str]) -> HostsSplit | None:
    """Deal hosts to up to five folds in turn; None for a single host, or for more than fit into a declaration."""
    if not 2 <= len(hosts) <= MAX_FOLD_HOSTS:
        return None
    count = min(MAX_FOLDS, len(hosts))
    return HostsSplit(tuple(tuple(hosts[index::count]) for index in range(count)))


def _split(split: Split) -> Iterator[str]:
    if isinstance(split, RandomSplit):
        yield 'kind = "random_rows"'
        yield f"test_fraction = {split.test_fraction}"
    elif isinstance(split, TimeSplit):
        yield 'kind = "time"'
        yield f"train_fraction = {split.train_fraction}"
        yield f"gap = {split.gap}"
    elif isinstance(split, HostsSplit):
        yield 'kind = "leave_hosts_out"'
        yield "folds = ["
        for fold in split.folds:
            yield f"  [{_joined(fold)}],"
        yield "]"
    elif isinstance(split, GroupSplit):
        yield 'kind = "leave_group_out"'
        yield f"column = {_text(split.column)}"
    else:
        yield from _published(split)


def _published(split: PublishedSplit) -> list[str]:
    sides = [f"{key} = {_text(value)}" for key, value in (("train", split.train), ("test", split.test))]
    return ['kind = "column"', f"column = {_text(split.column)}", *sides]


def _list(key: str, names: Sequence[str]) -> list[str]:
    if len(names) <= _ON_A_LINE:
        return [f"{key} = [{_joined(names)}]"]
    lines = [f"  {_joined(names[first : first + _ON_A_LINE])}," for first in range(0, len(names), _ON_A_LINE)]
    return [f"{key} = [", *lines, "]"]


def _joined(names: Iterable[str]) -> str:
    return ", ".join(_text(name) for name in names)


def _text(value: str) -> str:
    """Return a TOML string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
