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

from training.fleet.cli.listing import compact, differing
from training.fleet.cli.ranking import Metric
from training.fleet.cli.text import Terminal, arranged, clean, table
from training.fleet.cli.views import identity
from training.fleet.model.errors import FleetError
from training.fleet.wire.people import JobView

LEAKING_SPLITS: Final = frozenset({"random"})
COLUMNS: Final = ("MODEL", "SPLIT", "ORACLE", "REALISTIC", "DIFFERENCE", "N", "SEEDS", "DETAIL", "JOB")
"""In the order of a pipe, where columns are only ever added at the end."""
_ON_A_TERMINAL: Final = ("JOB", "MODEL", "SPLIT", "ORACLE", "REALISTIC", "DIFFERENCE", "N", "DETAIL", "SEEDS")
_PARTLY: Final = "* the two modes were trained with different seeds; only common seeds are compared"
_LEAKS: Final = "these splits leak: test rows lie beside training rows; do not compare them with other splits"
_SHORT_DIGEST: Final = 8


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
        jobs: All of them, the best first; those without a value last.
    """

    spec: Mapping[str, Any]
    oracle: Scores
    realistic: Scores
    jobs: tuple[JobView, ...] = ()

    @property
    def leaks(self) -> bool:
        """True if its split lets the model see what it is tested on."""
        return self.spec["split_recipe"] in LEAKING_SPLITS

    @property
    def difference(self) -> Scores:
        """Oracle minus realistic, seed by seed, over the seeds that both have."""
        ours, theirs = self.oracle.values, self.realistic.values
        return Scores({seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs})


def groups(jobs: Sequence[JobView], metric: Metric) -> list[Group]:
    """Return completed jobs in groups: by split, and within one the best oracle mean first.

    Args:
        jobs: Completed jobs with their specifications.
        metric: The figure that is compared.

    Raises:
        FleetError: No job has such a figure, or a job comes without its specification.
    """
    metric.demand(jobs)
    found: dict[str, list[JobView]] = {}
    for job in jobs:
        found.setdefault(_shared(job), []).append(job)
    made = [_group(json.loads(shared), same, metric) for shared, same in found.items()]
    return sorted(made, key=lambda group: _rank(group, metric))


def _shared(job: JobView) -> str:
    if job.spec is None:
        raise FleetError("the receiver sent jobs without their specifications", "update it to this command's version")
    return json.dumps({key: value for key, value in job.spec.items() if key not in ("seed", "mode")}, sort_keys=True)


def _group(spec: Mapping[str, Any], jobs: Sequence[JobView], metric: Metric) -> Group:
    oracle, realistic = (_scores([job for job in jobs if job.mode == mode], metric) for mode in ("oracle", "realistic"))
    return Group(spec, oracle, realistic, tuple(metric.ranked(jobs)))


def _scores(jobs: Sequence[JobView], metric: Metric) -> Scores:
    found = {job.seed: metric.of(job) for job in sorted(jobs, key=lambda job: job.seed)}
    values = {seed: value for seed, value in found.items() if value is not None}
    return Scores(values, tuple(seed for seed in found if seed not in values))


def _rank(group: Group, metric: Metric) -> tuple[Any, ...]:
    spec = group.spec
    means = [(mean is None, metric.sign * (mean or 0.0)) for mean in (group.oracle.mean, group.realistic.mean)]
    return spec["split_recipe"], means, spec["model"], json.dumps(spec)


# ---- for machines ---------------------------------------------------------------------------------------------------


def document(found: Sequence[Group], metric: Metric) -> dict[str, Any]:
    """Return groups as plain data, in their order."""
    return {
        "metric": metric.name,
        "direction": metric.direction,
        "groups": [_plain(group, metric) for group in found],
    }


def _plain(group: Group, metric: Metric) -> dict[str, Any]:
    spec = group.spec
    return {
        "jobs": [
            {
                "id": job.id,
                "mode": job.mode,
                "seed": job.seed,
                "value": metric.of(job),
                "artifact": job.artifact,
            }
            for job in group.jobs
        ],
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


def lines(found: Sequence[Group], metric: Metric, terminal: Terminal) -> list[str]:
    """Return groups as text: honest splits first, then those that leak in a block of their own."""
    honest = [group for group in found if not group.leaks]
    leaking = [group for group in found if group.leaks]
    title = terminal.head(f"{metric.said()}; mean ± spread over seeds, one seed has none")
    shown = [*([] if terminal.width is None else [title]), *_block(honest, terminal)]
    if leaking:
        shown += [*([""] if honest else []), *_block(leaking, terminal), _LEAKS]
    return shown


def _block(found: Sequence[Group], terminal: Terminal) -> list[str]:
    if not found:
        return []
    partly = [_PARTLY] if any(_is_partial(group) for group in found) else []
    if terminal.width is None:
        rows = [_row(group, _detail(group, terminal), terminal) for group in found]
        return [*table(COLUMNS, rows, terminal), *partly]
    apart, shared = _told_apart(found, terminal)
    rows = [_row(group, detail, terminal) for group, detail in zip(found, apart, strict=True)]
    header, rows = arranged(COLUMNS, rows, _ON_A_TERMINAL)
    return [*table(header, rows, terminal, ("SEEDS",)), *shared, *partly]


def _told_apart(found: Sequence[Group], terminal: Terminal) -> tuple[list[str], list[str]]:
    """Return what tells each group from the others, and a line with what they all share."""
    of_model = {model: [one.spec["hyper"] for one in found if one.spec["model"] == model] for model in _models(found)}
    differ = {model: differing(hypers) for model, hypers in of_model.items()}
    facts = [_facts(group, terminal) for group in found]
    apart, shared = set(differing(facts)), {}
    if len(found) > 1:
        shared = {key: value for key, value in facts[0].items() if key not in apart}
    details = []
    for group, own in zip(found, facts, strict=True):
        keys = differ[group.spec["model"]] if len(found) > 1 else set(group.spec["hyper"])
        hyper = compact({key: value for key, value in group.spec["hyper"].items() if key in keys})
        said = [f"{key} {value}" for key, value in own.items() if key not in shared]
        details.append("; ".join(filter(None, [hyper, *said, *_without(group)])))
    line = ", ".join(f"{key} {value}" for key, value in shared.items())
    return details, [f"in every row: {clean(line)}"] if line else []


def _models(found: Sequence[Group]) -> set[str]:
    return {group.spec["model"] for group in found}


def _row(group: Group, detail: str, terminal: Terminal) -> list[str]:
    spec, difference = group.spec, _text(group.difference, "+")
    seeds = [list(scores.values) for scores in (group.oracle, group.realistic)]
    comma = "," if terminal.width is None else ", "
    return [
        spec["model"],
        spec["split_recipe"] + (" leaks" if group.leaks else ""),
        _text(group.oracle),
        _text(group.realistic),
        difference + (" *" if _is_partial(group) else ""),
        _once_if_equal([str(len(item)) for item in seeds], equal=seeds[0] == seeds[1]),
        # Between two seeds a line may be broken.
        _once_if_equal([comma.join(map(str, item)) or "-" for item in seeds], equal=seeds[0] == seeds[1]),
        detail,
        identity(group.jobs[0].id, terminal),
    ]


def _is_partial(group: Group) -> bool:
    """Return True if the difference leaves seeds out."""
    count = len(group.difference.values)
    return 0 < count < max(len(group.oracle.values), len(group.realistic.values))


def _text(scores: Scores, sign: str = "") -> str:
    if scores.mean is None:
        return "-"
    digits = 3 if abs(scores.mean) < 1 else 4
    mean = f"{scores.mean:{sign}.{digits}g}"
    return mean if scores.spread is None else f"{mean} ± {scores.spread:.2g}"


def _once_if_equal(pair: Sequence[str], *, equal: bool) -> str:
    return pair[0] if equal else "/".join(pair)


def _detail(group: Group, terminal: Terminal) -> str:
    """Return what a group is, whole: hyper-parameters, training hosts, dataset, revision, missing values."""
    facts = [f"{key} {value}" for key, value in _facts(group, terminal).items()]
    return "; ".join(filter(None, [compact(group.spec["hyper"]), *facts, *_without(group)]))


def _facts(group: Group, terminal: Terminal) -> dict[str, str]:
    spec, facts = group.spec, {}
    if spec["train_hosts"] != ["*"]:
        facts["train_hosts"] = ",".join(spec["train_hosts"])
    if "dataset" in spec:
        facts["dataset"] = _dataset(spec["dataset"], terminal)
    if "revision" in spec:
        facts["revision"] = str(spec["revision"])
    return facts


def _without(group: Group) -> list[str]:
    """Return which seeds have no value."""
    scores = (("oracle", group.oracle), ("realistic", group.realistic))
    return [f"no value of {mode} seed {','.join(map(str, one.without))}" for mode, one in scores if one.without]


def _dataset(dataset: Mapping[str, Any], terminal: Terminal) -> str:
    if "digest" not in dataset:
        return str(dataset["name"])
    digest = str(dataset["digest"])
    shown = digest if terminal.width is None else digest.removeprefix("sha256:")[:_SHORT_DIGEST]
    return f"{dataset['name']}@{shown}"
