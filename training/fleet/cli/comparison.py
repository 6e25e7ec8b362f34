"""Results of completed jobs over their seeds, oracle beside realistic.

Owns which jobs belong together (all that differ in seed and mode alone), what is computed of them, and how it reads.
Guarantees that splits that leak never stand in one block with honest ones. Pure: jobs come in, lines or plain data go
out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.fleet.cli.text import GAP, LEAST_WIDTH, Terminal, cells, clean, cut, table
from training.fleet.cli.views import plain
from training.fleet.model.errors import FleetError
from training.fleet.model.jobs import MODES
from training.fleet.wire.people import JobView

DEFAULT_METRIC: Final = "auprc_host_mean"
LEAKING_SPLITS: Final = frozenset({"random"})
COLUMNS: Final = ("MODEL", "SPLIT", "ORACLE", "REALISTIC", "DIFFERENCE", "N", "SEEDS", "DETAIL")
_PARTLY: Final = "* the two modes were trained with different seeds; only common seeds are compared"
_LEAKS: Final = "these splits leak: test rows lie beside training rows; do not compare them with other splits"
_SHORT_DIGEST: Final = 8
_LEAST_DETAIL: Final = 12
"""Cells that the details get before the seeds are shown."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A metric over seeds.

    Attributes:
        values: Seed to value, in the order of the seeds.
        without: Seeds whose job reports no number.
    """

    values: Mapping[int, float]
    without: tuple[int, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean, None without a value."""
        return sum(self.values.values()) / len(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation, None with fewer than two values."""
        mean, count = self.mean, len(self.values)
        if mean is None or count < 2:
            return None
        return math.sqrt(sum((value - mean) * (value - mean) for value in self.values.values()) / (count - 1))


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs that differ in seed and mode alone.

    Attributes:
        spec: What they share: the specification without seed and mode.
        oracle: Scores of the mode `oracle`.
        realistic: Scores of the mode `realistic`.
    """

    spec: Mapping[str, Any]
    oracle: Scores
    realistic: Scores

    @property
    def leaks(self) -> bool:
        """True if its split lets the model see what it is tested on."""
        return self.spec["split_recipe"] in LEAKING_SPLITS

    @property
    def difference(self) -> Scores:
        """Oracle minus realistic, seed by seed, over the seeds that both have."""
        ours, theirs = self.oracle.values, self.realistic.values
        return Scores({seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs})


def groups(jobs: Sequence[JobView], metric: str) -> list[Group]:
    """Return completed jobs in groups: by split, and within one the best oracle mean first.

    Args:
        jobs: Completed jobs with their specifications.
        metric: Name of a headline figure.

    Raises:
        FleetError: No job has such a figure, or a job comes without its specification.
    """
    _demand_metric(jobs, metric)
    found: dict[str, dict[str, dict[int, Any]]] = {}
    for job in jobs:
        by_mode = found.setdefault(_shared(job), {mode: {} for mode in MODES})
        by_mode[job.mode][job.seed] = job.metrics.get(metric)
    return sorted((_group(json.loads(shared), by_mode) for shared, by_mode in found.items()), key=_rank)


def _demand_metric(jobs: Sequence[JobView], metric: str) -> None:
    names = {name for job in jobs for name, value in job.metrics.items() if value is None or _is_number(value)}
    if jobs and metric not in names:
        known = f"--metric takes one of {', '.join(sorted(names))}" if names else "none of them reports any number"
        raise FleetError(f"found no metric {metric} in {len(jobs)} completed jobs", known)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shared(job: JobView) -> str:
    if job.spec is None:
        raise FleetError("the receiver sent jobs without their specifications", "update it to this command's version")
    return json.dumps({key: value for key, value in job.spec.items() if key not in ("seed", "mode")}, sort_keys=True)


def _group(spec: Mapping[str, Any], by_mode: Mapping[str, Mapping[int, Any]]) -> Group:
    return Group(spec, _scores(by_mode["oracle"]), _scores(by_mode["realistic"]))


def _scores(found: Mapping[int, Any]) -> Scores:
    seeds = sorted(found)
    values = {seed: float(found[seed]) for seed in seeds if _is_number(found[seed])}
    return Scores(values, tuple(seed for seed in seeds if seed not in values))


def _rank(group: Group) -> tuple[Any, ...]:
    spec = group.spec
    means = [(mean is None, -(mean or 0.0)) for mean in (group.oracle.mean, group.realistic.mean)]
    return spec["split_recipe"], means, spec["model"], json.dumps(spec)


# ---- for machines ---------------------------------------------------------------------------------------------------


def document(found: Sequence[Group], metric: str) -> dict[str, Any]:
    """Return groups as plain data, in their order."""
    return {"metric": metric, "groups": [_plain(group) for group in found]}


def _plain(group: Group) -> dict[str, Any]:
    spec = group.spec
    return {
        "model": spec["model"],
        "split": spec["split_recipe"],
        "leaks": group.leaks,
        "dataset": spec.get("dataset"),
        "train_hosts": spec["train_hosts"],
        "hyper": spec["hyper"],
        "revision": spec.get("revision"),
        "oracle": _plain_scores(group.oracle),
        "realistic": _plain_scores(group.realistic),
        "difference": _plain_scores(group.difference),
    }


def _plain_scores(scores: Scores) -> dict[str, Any]:
    return {
        "seeds": list(scores.values),
        "values": list(scores.values.values()),
        "mean": scores.mean,
        "spread": scores.spread,
        "seeds_without_value": list(scores.without),
    }


# ---- for people -----------------------------------------------------------------------------------------------------


def lines(found: Sequence[Group], metric: str, terminal: Terminal) -> list[str]:
    """Return groups as text: honest splits first, then those that leak in a block of their own."""
    honest = [group for group in found if not group.leaks]
    leaking = [group for group in found if group.leaks]
    title = [] if terminal.width is None else [terminal.head(f"{clean(metric)}, mean ± spread over seeds")]
    shown = [*title, *_block(honest, terminal)]
    if leaking:
        shown += [*([""] if honest else []), *_block(leaking, terminal), _LEAKS]
    return shown


def _block(found: Sequence[Group], terminal: Terminal) -> list[str]:
    if not found:
        return []
    partly = [_PARTLY] if any(_is_partial(group) for group in found) else []
    rows = [_row(group, terminal) for group in found]
    return [*table(COLUMNS, _fitted(rows, terminal), terminal, ("SEEDS",)), *partly]


def _fitted(rows: Sequence[list[str]], terminal: Terminal) -> list[list[str]]:
    """Cut the details to the room the line has, so that no figure has to be cut."""
    if terminal.width is None:
        return list(rows)
    widths = [max(map(cells, column)) + len(GAP) for column in zip(COLUMNS, *rows, strict=True)]
    *figures, seeds, _ = widths
    room = terminal.width - sum(figures)
    room -= seeds if room - seeds >= _LEAST_DETAIL else 0
    return [[*row[:-1], cut(clean(row[-1]), max(room, LEAST_WIDTH))] for row in rows]


def _row(group: Group, terminal: Terminal) -> list[str]:
    spec, difference = group.spec, _text(group.difference, "+")
    seeds = [list(scores.values) for scores in (group.oracle, group.realistic)]
    return [
        spec["model"],
        spec["split_recipe"] + (" leaks" if group.leaks else ""),
        _text(group.oracle),
        _text(group.realistic),
        difference + (" *" if _is_partial(group) else ""),
        _once_if_equal([str(len(item)) for item in seeds], equal=seeds[0] == seeds[1]),
        _once_if_equal([",".join(map(str, item)) or "-" for item in seeds], equal=seeds[0] == seeds[1]),
        _detail(group, terminal),
    ]


def _is_partial(group: Group) -> bool:
    """Return True if the difference leaves seeds out."""
    count = len(group.difference.values)
    return 0 < count < max(len(group.oracle.values), len(group.realistic.values))


def _text(scores: Scores, sign: str = "") -> str:
    if scores.mean is None:
        return "-"
    digits = 3 if abs(scores.mean) < 1 else 4
    return f"{scores.mean:{sign}.{digits}g} ± {'-' if scores.spread is None else format(scores.spread, '.2g')}"


def _once_if_equal(pair: Sequence[str], *, equal: bool) -> str:
    return pair[0] if equal else "/".join(pair)


def _detail(group: Group, terminal: Terminal) -> str:
    """Return what tells the group from others: hyper-parameters, training hosts, dataset, revision, missing values."""
    spec = group.spec
    parts = [" ".join(f"{key}={plain(value)}" for key, value in sorted(spec["hyper"].items()))]
    if spec["train_hosts"] != ["*"]:
        parts.append(f"train_hosts {','.join(spec['train_hosts'])}")
    if "dataset" in spec:
        parts.append(f"dataset {_dataset(spec['dataset'], terminal)}")
    if "revision" in spec:
        parts.append(f"revision {spec['revision']}")
    for mode, scores in (("oracle", group.oracle), ("realistic", group.realistic)):
        if scores.without:
            parts.append(f"no value of {mode} seed {','.join(map(str, scores.without))}")
    return "; ".join(part for part in parts if part)


def _dataset(dataset: Mapping[str, Any], terminal: Terminal) -> str:
    if "digest" not in dataset:
        return str(dataset["name"])
    digest = str(dataset["digest"])
    shown = digest if terminal.width is None else digest.removeprefix("sha256:")[:_SHORT_DIGEST]
    return f"{dataset['name']}@{shown}"
