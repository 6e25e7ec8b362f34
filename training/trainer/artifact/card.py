"""Owns the model card: what a model is, what its numbers say and what they don't, in Markdown for people.

Every number comes from the content of `metrics.json`; nothing is computed or chosen here. Names from outside, such as
those of hosts, can't break the tables.

Source: Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.contracts.dataset import Dataset
from training.trainer.exchange.job import Job
from training.trainer.hyper import MODELS

MAX_MISSED = 50
MAX_HOSTS = 200
"""Rows of the two tables; `metrics.json` has all of them, and a person reads no more."""
_SPLITS = {
    "random": "rows drawn at random are tested; rows of the same incident train",
    "time": "the first part of every host trains, the last part is tested",
    "hosts": "every host is tested by a model that never saw it",
    "group": "every group of hosts is tested by a model that never saw it",
    "published": "trains and tests on the rows that the publishers marked",
}
_FIGURES = {
    "curves.svg": "Precision-recall and ROC curves, pooled and per host",
    "hosts.svg": "AUPRC and F1 of each host",
    "learning.svg": "Validation AUPRC and training loss of each fold",
    "reliability.svg": "Reliability curve, and how often each score occurs",
}
_HEADLINES = {
    "auroc": ("AUROC, pooled", "0.5 for a score without skill, 1 at best"),
    "auprc": ("AUPRC, pooled", "{chance} for a score without skill, 1 at best"),
    "auroc_host_mean": ("AUROC, mean over hosts", "each host counts alike"),
    "auprc_host_mean": ("AUPRC, mean over hosts", "each host counts alike; the figure to compare models by"),
    "f1": ("F1, pooled", "of the alarms as raised, at thresholds from validation windows"),
    "f1_host_mean": ("F1, mean over hosts", "each host counts alike"),
    "tpr_at_1pct_fpr": (
        "True alarms (TPR) at 1 % false alarms (FPR)",
        "part of anomalous windows, at the threshold that suits the tested ones",
    ),
    "brier": ("Brier score", "lower is better; {constant} for a constant score of {chance}"),
    "incidents_found": ("Incidents found", "part of incidents with at least one alarm within them"),
}
_HOST_COLUMNS = (
    "host", "windows", "anomalous", "alarms", "false alarms",
    "AUROC", "AUPRC", "F1", "TPR at 1 % FPR", "Brier", "incidents found",
)  # fmt: skip
_MISSED_COLUMNS = ("host", "from", "to", "rows", "highest score", "cut")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is written from."""

    job: Job
    dataset: Dataset
    document: Mapping[str, Any]
    """The content of `metrics.json`."""
    threshold: float
    """Threshold of the kept model."""
    figures: Sequence[str]
    """Names of the figures beside the card; empty when none could be drawn."""


def model_card(facts: Facts) -> str:
    """Return the card as Markdown."""
    title = f"# {facts.job.model}, {facts.job.mode} mode, split {facts.job.split_recipe}"
    sections = [
        [title],
        _warning(facts),
        _about(facts),
        _numbers(facts.document),
        _figures(facts),
        _hosts(facts.document),
        _incidents(facts.document, facts.dataset),
        _calibration(facts),
        _use(facts),
        _hypers(facts),
        _limits(facts),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def result_tables(document: Mapping[str, Any], dataset: Dataset) -> str:
    """Return the card's numbers, hosts and incidents as Markdown, for a model that is judged on other data.

    Args:
        document: What `evaluation.evaluated` returned, and its "headline".
        dataset: The declaration of the data.
    """
    sections = [_numbers(document), _hosts(document), _incidents(document, dataset)]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def cell(text: object) -> str:
    """Return text that stays within one cell of a Markdown table and means nothing else there."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", clean)


def code(text: str) -> str:
    """Return text as Markdown code, outside of tables."""
    return "`" + "".join(letter if letter.isprintable() and letter != "`" else "?" for letter in text) + "`"


def _warning(facts: Facts) -> list[str]:
    return [f"> **Warning: leak.** {facts.document['warning']}"] if facts.document["leaks"] else []


def _about(facts: Facts) -> list[str]:
    document, pooled = facts.document, facts.document["pooled"]
    columns = facts.dataset.features.columns(facts.job.mode)
    leak = "**leaks**" if document["leaks"] else "does not leak"
    part = f"{100 * pooled['anomalous'] / pooled['windows']:.2f} %"
    rows = [
        ("model", MODELS[facts.job.model].title),
        ("mode", f"{facts.job.mode}, {len(columns)} metrics"),
        ("dataset", f"{cell(document['dataset']['name'])}, `{document['dataset']['digest']}`"),
        ("split", f"{document['split']}: {_SPLITS[document['split']]}; {leak}"),
        ("fold", str(document["fold"]) if document["fold"] else "all"),
        ("seed", document["seed"]),
        ("threads", document["threads"]),
        ("device", document["device"]),
        ("windows", f"{facts.dataset.windows.length} rows of one host; a window is anomalous when its last row is"),
        ("tested", f"{pooled['windows']:,} windows of {len(document['hosts'])} hosts, {part} of them anomalous"),
    ]
    return ["## What was trained on what", "", *_table(("", ""), rows), "", _kept_line(document["folds"])]


def _kept_line(folds: Sequence[Mapping[str, Any]]) -> str:
    if len(folds) == 1:
        return "The stored model is the one that was scored."
    return (
        f"Each window was scored by one of {len(folds) - 1} fold models that did not see it.\n"
        "The stored model was trained on all allowed hosts and was not scored itself."
    )


def _numbers(document: Mapping[str, Any]) -> list[str]:
    pooled, intervals = document["pooled"], document["intervals"]
    part = pooled["anomalous"] / pooled["windows"]
    known = {"chance": f"{part:.4f}", "constant": f"{part * (1 - part):.4f}"}
    rows = [
        (_HEADLINES[key][0], shown(value), _interval(intervals.get(key)), _HEADLINES[key][1].format(**known))
        for key, value in document["headline"].items()
    ]
    lines = ["## Numbers", "", *_table(("measure", "value", "95 % interval", "how to read it"), rows), ""]
    lines.append("AUROC and AUPRC judge how the scores rank the windows, whatever the threshold; F1 judges the alarms.")
    count = document["host_mean"]["hosts"]
    lines.append(f"Means over hosts count the {count} hosts with both classes among their tested windows.")
    if intervals["auprc_host_mean"] is None:
        return [*lines, "There is no interval with fewer than three such hosts."]
    return [*lines, "The interval says how far a mean would move with other hosts; it does not cover other seeds."]


def _figures(facts: Facts) -> list[str]:
    if not facts.figures:
        return ["No figures: the machine that trained has no matplotlib; the `trainer` extra installs it."]
    return ["## Figures", "", "\n\n".join(f"![{_FIGURES[name]}]({name})" for name in facts.figures)]


def _hosts(document: Mapping[str, Any]) -> list[str]:
    hosts, incidents = document["hosts"], document["incident_summary"]["hosts"]
    rows = [
        (
            cell(name),
            *(f"{entry[key]:,}" for key in ("windows", "anomalous", "alarms", "false_alarms")),
            *(shown(entry[key]) for key in ("auroc", "auprc", "f1", "tpr_at_1pct_fpr", "brier")),
            "{found:,} of {count:,}".format(**incidents.get(name, {"found": 0, "count": 0})),
        )
        for name, entry in list(hosts.items())[:MAX_HOSTS]
    ]
    return ["## Per host", "", *_table(_HOST_COLUMNS, rows), *_more(len(hosts) - len(rows), "hosts")]


def _incidents(document: Mapping[str, Any], dataset: Dataset) -> list[str]:
    summary = document["incident_summary"]
    lines = ["## Incidents", "", "An incident is an unbroken stretch of anomalous rows of one host."]
    if not summary["count"]:
        return [*lines, "None was tested."]
    lines.append(f"Found: {summary['found']:,} of {summary['count']:,}. Missed: {summary['missed']:,}.")
    lines.append(_price(document["pooled"]))
    delay = summary["median_delay_rows"]
    if delay is not None:
        lines.append(
            f"Median delay from the start to the first alarm: {delay:g} rows (0 is at once); missed ones aside."
        )
    if summary["cut"]:
        lines.append(f"{summary['cut']:,} began in rows that were not tested (cut); their delay is not counted.")
    return lines + _missed(document, dataset)


def _price(pooled: Mapping[str, Any]) -> str:
    """Return what the found incidents cost: a model that raises an alarm all the time finds every one."""
    count, normal = pooled["false_alarms"], pooled["windows"] - pooled["anomalous"]
    part = f" ({100 * count / normal:.2f} % of the normal windows)" if normal else ""
    return f"The price is false alarms: {count:,}{part}."


def _missed(document: Mapping[str, Any], dataset: Dataset) -> list[str]:
    summary = document["incident_summary"]
    missed = sorted((i for i in document["incidents"] if not i["found"]), key=lambda item: -item["rows"])
    if not missed:
        return []
    rows = [
        (
            cell(item["host"]),
            *(item[key] for key in ("first_time", "last_time", "rows")),
            shown(item["top_score"]),
            "yes" if item["cut"] else "no",
        )
        for item in missed[:MAX_MISSED]
    ]
    unit = dataset.units.get(dataset.roles.time or "", "as in the data")
    lines = ["", f"### Missed, longest first (time: {cell(unit)})", ""]
    if summary["count"] > summary["listed"]:
        lines += [f"Only the first {summary['listed']:,} are listed; longer ones may be among the others.", ""]
    return [*lines, *_table(_MISSED_COLUMNS, rows), *_more(summary["missed"] - len(rows), "missed incidents")]


def _calibration(facts: Facts) -> list[str]:
    lines = ["## Calibration", "", "Where a score means what it says, the last two columns agree."]
    if float(facts.job.hyper.get("positive_weight", 1)) != 1:
        lines.append("`positive_weight` is not 1, which shifts the scores: they rank windows and are no probabilities.")
    rows = [
        (f"{item['low']:.1f} to {item['high']:.1f}", f"{item['windows']:,}", shown(item["mean_score"], "-"),
         shown(item["anomalous_rate"], "-"))
        for item in facts.document["reliability"]
    ]  # fmt: skip
    return [*lines, "", *_table(("score", "windows", "mean score", "part that is anomalous"), rows)]


def _use(facts: Facts) -> list[str]:
    columns = facts.dataset.features.columns(facts.job.mode)
    return [
        "## Input and threshold",
        "",
        f"The model reads windows of {facts.dataset.windows.length} rows of one host, with these columns:",
        "",
        *(f"- {code(column)} ({cell(facts.dataset.units.get(column, 'no unit given'))})" for column in columns),
        "",
        f"It raises an alarm at a score of at least {facts.threshold!r}.",
        "It gave the best F1 on the validation windows of this model; no tested window took part in the choice.",
    ]


def _hypers(facts: Facts) -> list[str]:
    rows = [(f"`{key}`", json.dumps(value)) for key, value in facts.job.hyper.items()]
    return ["## Hyper-parameters", "", *_table(("name", "value"), rows)]


def _limits(facts: Facts) -> list[str]:
    lines = ["## What these numbers do not say", ""]
    if facts.document["leaks"]:
        lines.append("- Anything about detection: the split leaks.")
    if facts.document["split"] == "time":
        lines.append("- How the model does on hosts it never saw: every tested host also trained.")
    if len(facts.document["folds"]) > 1:
        lines.append("- How the stored model itself does: it was trained on more hosts than any scored one.")
    return [
        *lines,
        "- How it does elsewhere: all hosts come from one dataset, and other sites have other machines and faults.",
        "- How it does on anomalies of kinds that the dataset does not hold.",
        "- What another seed would give: training varies, and one run can't show by how much.",
        "- How many alarms a day to expect: that depends on how rare anomalies are where it runs.",
        "- That a label is right: labels are taken as given, and a fault without a label counts as a false alarm.",
    ]


def shown(value: float | None, nothing: str = "none (one class only)") -> str:
    """Return a number with four decimals, or why there is none."""
    return nothing if value is None else f"{value:.4f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _more(count: int, what: str) -> list[str]:
    return ["", f"And {count:,} more {what}."] if count > 0 else []


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(str(item) for item in row)} |" for row in rows]
