"""Owns the figures of a result, as SVG drawn by matplotlib; only where that library is installed is this file loaded.

The same result gives the same bytes on the same machine: fixed ids, no date, letters as outlines, and no setting of the
user's takes part. Text from outside, such as host names, is drawn as it is and never read as a formula. A figure that
has nothing to show is not drawn. Curves are thinned, so that each file stays small whatever the data.

Colours are those of Okabe and Ito, which people with colour-blindness can tell apart.
Source: Wong, Points of view: Color blindness, Nature Methods 8, 2011.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from training.trainer.evaluation.curves import precision_recall, receiver_operating
from training.trainer.evaluation.measures import FALSE_ALARM_RATE
from training.trainer.evaluation.scored_windows import Predictions

POOLED_POINTS = 500
HOST_POINTS = 1000
MAX_HOST_CURVES = 40
MAX_HOST_BARS = 40
MAX_LEARNING_POINTS = 1000
_NAME_LENGTH = 24
_PATH = re.compile(rb' d="[^"]*"')
_LONG_NUMBER = re.compile(rb"(\.\d\d)\d+")
_INK, _QUIET, _GRID, _LEAK = "#1f2933", "#6b7785", "#e4e7eb", "#b42318"
_BLUE, _ORANGE, _GREEN, _SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
_FOLD_COLOURS = (_BLUE, _ORANGE, _GREEN, "#CC79A7", "#E69F00", _SKY, "#8c6d31")
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "cis490",
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What the figures show."""

    predictions: Predictions
    document: Mapping[str, Any]
    """The content of `metrics.json`."""


def drawn(result: Result) -> dict[str, bytes]:
    """Draw every figure that has something to show.

    Returns:
        File name to SVG, among `curves.svg`, `hosts.svg`, `learning.svg` and `reliability.svg`.
    """
    figures = {
        "curves.svg": _curves,
        "hosts.svg": _hosts,
        "learning.svg": _learning,
        "reliability.svg": _reliability,
    }
    with _own_style():
        made = {name: _svg(draw, result) for name, draw in figures.items()}
    return {name: content for name, content in made.items() if content is not None}


@contextmanager
def _own_style() -> Iterator[None]:
    """Draw with this module's settings alone, and leave the library as it was."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a host name may hold letters that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _svg(draw: Callable[[Result], Figure | None], result: Result) -> bytes | None:
    figure = draw(result)
    if figure is None:
        return None
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # Six decimals of a pixel are half of the file.
    return _PATH.sub(lambda path: _LONG_NUMBER.sub(rb"\1", path[0]), out.getvalue())


def _canvas(result: Result, what: str, height: float) -> Figure:
    """Return an empty figure 8 inches wide with its title, what it depends on, and the mark of a leak."""
    document = result.document
    figure = Figure(figsize=(8, height))
    title = f"{document['model']} · {document['mode']} · split {document['split']}"
    fold = f"fold {document['fold']}" if document["fold"] else "all folds"
    digest = document["dataset"]["digest"].removeprefix("sha256:")[:12]
    about = f"{shown_name(document['dataset']['name'])} {digest} · {fold} · seed {document['seed']}"
    threads = f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}"
    how = f"{threads} · {document['device']} · {'leaks' if document['leaks'] else 'no leak'}"
    figure.text(0.03, 1 - 0.14 / height, what, size=12, weight="bold", va="top")
    figure.text(0.03, 1 - 0.40 / height, f"{title}   |   {about} · {how}", size=8, color=_QUIET, va="top")
    if document["leaks"]:
        box = {"boxstyle": "round,pad=0.4", "facecolor": _LEAK, "edgecolor": "none"}
        mark: Any = {"size": 9, "weight": "bold", "color": "white", "ha": "right", "va": "top", "bbox": box}
        figure.text(0.97, 1 - 0.2 / height, "THIS SPLIT LEAKS", **mark)
    return figure


def _fitted(figure: Figure, height: float, *, left: float = 0.085) -> Figure:
    """Place the axes below the title, from `left`, a part of the width."""
    figure.subplots_adjust(left=left, right=0.97, top=1 - 0.95 / height, bottom=0.55 / height, wspace=0.24)
    return figure


def shown_name(name: str) -> str:
    """Return a name fit for a figure: printable and not too long."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= _NAME_LENGTH else clean[: _NAME_LENGTH - 1] + "…"


# ---- precision-recall and ROC ---------------------------------------------------------------------------------------


def _curves(result: Result) -> Figure | None:
    pooled = result.document["pooled"]
    if pooled["auroc"] is None:
        return None
    figure = _canvas(result, "Precision-recall and ROC of the tested windows", 4.4)
    left, right = figure.subplots(1, 2)
    hosts = list(_host_curves(result))
    for axes, points in ((left, precision_recall), (right, receiver_operating)):
        for index, (label, score) in enumerate(hosts):
            x, y = points(label, score, HOST_POINTS // max(8, len(hosts)))
            axes.plot(x, y, color=_SKY, alpha=0.55, linewidth=0.8, label="" if index else "one host")
        x, y = points(result.predictions.label, result.predictions.score, POOLED_POINTS)
        axes.plot(x, y, color=_BLUE, linewidth=2.2, label="all hosts pooled")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    _precision_recall_words(left, pooled)
    _roc_words(right, pooled)
    return _fitted(figure, 4.4)


def _host_curves(result: Result) -> Iterator[tuple[Any, Any]]:
    """Yield label and score of the hosts with both classes; of very many, some evenly chosen from worst to best."""
    scored = result.predictions
    hosts = result.document["hosts"]
    mixed = sorted((entry["auprc"], name) for name, entry in hosts.items() if entry["auprc"] is not None)
    for index in np.unique(np.linspace(0, len(mixed) - 1, min(len(mixed), MAX_HOST_CURVES)).round().astype(int)):
        own = scored.host == scored.hosts.index(mixed[index][1])
        yield scored.label[own], scored.score[own]


def _precision_recall_words(axes: Axes, pooled: Mapping[str, Any]) -> None:
    chance = pooled["anomalous"] / pooled["windows"]
    axes.axhline(chance, color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), label=f"no skill {chance:.3f}")
    hits = pooled["alarms"] - pooled["false_alarms"]
    if pooled["alarms"]:
        at = (hits / pooled["anomalous"], hits / pooled["alarms"])
        axes.plot(*at, "o", color=_ORANGE, markersize=6, label="alarms as raised", zorder=5)
    axes.set_title(f"Precision-recall, AUPRC {pooled['auprc']:.3f}")
    axes.set(xlabel="recall (part of anomalous windows found)", ylabel="precision (part of alarms that are right)")
    axes.legend(loc="lower left" if pooled["auprc"] > 0.5 else "upper right")


def _roc_words(axes: Axes, pooled: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), label="no skill 0.500")
    at = (FALSE_ALARM_RATE, pooled["tpr_at_1pct_fpr"])
    axes.plot(*at, "D", color=_GREEN, markersize=5, label=f"{at[1]:.3f} found at 1 % false alarms", zorder=5)
    normal = pooled["windows"] - pooled["anomalous"]
    hits = pooled["alarms"] - pooled["false_alarms"]
    raised = (pooled["false_alarms"] / normal, hits / pooled["anomalous"])
    axes.plot(*raised, "o", color=_ORANGE, markersize=6, label="alarms as raised", zorder=5)
    axes.set_title(f"ROC, AUROC {pooled['auroc']:.3f}")
    axes.set(xlabel="false alarms (part of normal windows)", ylabel="true alarms (part of anomalous windows)")
    axes.legend(loc="lower right")


# ---- hosts ----------------------------------------------------------------------------------------------------------


def _hosts(result: Result) -> Figure | None:
    hosts = result.document["hosts"]
    mixed = sorted((n for n, entry in hosts.items() if entry["auprc"] is not None), key=lambda n: hosts[n]["auprc"])
    if not mixed:
        return None
    listed = mixed[:MAX_HOST_BARS]
    height = 1.6 + 0.3 * max(3, len(listed))
    rest = f", the {len(listed)} worst of {len(mixed)}" if len(listed) < len(mixed) else ""
    figure = _canvas(result, f"AUPRC and F1 of each host{rest}", height)
    axes = figure.subplots()
    _bars(axes, [hosts[name] for name in listed])
    axes.set_yticks(range(len(listed)), [shown_name(name) for name in listed])
    axes.set(xlim=(0, 1), xlabel="AUPRC and F1, 0 to 1; higher is better", ylim=(-0.6, len(listed) - 0.4))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    _mean_line(axes, result.document)
    bars, lines = axes.containers, [*axes.lines, *(patch for patch in axes.patches if str(patch.get_label())[0] != "_")]
    figure.legend(handles=[*bars, *lines], loc="upper right", ncols=5, bbox_to_anchor=(0.98, 1 - 0.6 / height))
    return _fitted(figure, height, left=0.2)


def _bars(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    """Draw AUPRC and F1 of each host, and how much AUPRC a score without skill would get there."""
    place = np.arange(len(entries))
    for offset, key, colour, name in ((0.19, "auprc", _BLUE, "AUPRC"), (-0.19, "f1", _ORANGE, "F1")):
        values = [entry[key] for entry in entries]
        axes.barh(place + offset, values, height=0.34, color=colour, label=name)
        for at, value in zip(place + offset, values, strict=True):
            axes.text(value + 0.006, at, f"{value:.2f}", size=6.5, color=_QUIET, va="center")
    chance = [entry["anomalous"] / entry["windows"] for entry in entries]
    axes.plot(chance, place + 0.19, "|", color=_INK, markersize=9, markeredgewidth=1.6, label="AUPRC without skill")


def _mean_line(axes: Axes, document: Mapping[str, Any]) -> None:
    mean, interval = document["host_mean"]["auprc"], document["intervals"]["auprc_host_mean"]
    axes.axvline(mean, color=_BLUE, linewidth=1.2, linestyle=(0, (4, 3)), label=f"mean AUPRC {mean:.3f}")
    if interval is not None:
        axes.axvspan(*interval, color=_BLUE, alpha=0.09, linewidth=0, zorder=0, label="its 95 % interval")


# ---- learning -------------------------------------------------------------------------------------------------------


def _learning(result: Result) -> Figure | None:
    folds = [fold for fold in result.document["folds"] if fold["curve"]]
    if not folds:
        return None
    limit = max(20, MAX_LEARNING_POINTS // len(folds))
    with_loss = [fold for fold in folds if any("train_loss" in point for point in fold["curve"])]
    panels = [("validation_auprc", "Validation (dot: the best, which is kept)", "validation AUPRC, 0 to 1", folds)]
    if with_loss:
        panels.append(("train_loss", "Training", "training loss (nats per window)", with_loss))
    height = 4.2
    figure = _canvas(result, "How training went, fold by fold", height)
    unit = next((key for key in ("rounds", "epochs") if key in folds[0]["fit"]), "steps")
    for axes, (key, title, label, shown) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for index, fold in enumerate(shown):
            _learning_line(axes, key, fold, index, limit)
        axes.set_title(title)
        axes.set(xlabel=unit, ylabel=label)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(folds) <= len(_FOLD_COLOURS) + 1:
        figure.axes[-1].legend(loc="upper right" if with_loss else "best")
    return _fitted(figure, height)


def _learning_line(axes: Axes, key: str, fold: Mapping[str, Any], index: int, limit: int) -> None:
    """Draw one fold; the round that was kept is a dot."""
    points = [(point["step"], point[key]) for point in fold["curve"] if key in point]
    points = [points[at] for at in np.unique(np.linspace(0, len(points) - 1, min(len(points), limit)).astype(int))]
    final = fold["name"] == "final"
    colour = _INK if final else _FOLD_COLOURS[index % len(_FOLD_COLOURS)]
    style: Any = (0, (5, 2)) if final else "-"
    name = "final (kept)" if final else shown_name(fold["name"])
    marker = "o" if len(points) == 1 else None
    axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=1.5, label=name, marker=marker)
    if key == "validation_auprc":
        best = max(fold["curve"], key=lambda point: point[key])
        axes.plot(best["step"], best[key], "o", color=colour, markersize=4.5)


# ---- reliability ----------------------------------------------------------------------------------------------------


def _reliability(result: Result) -> Figure | None:
    bins = [entry for entry in result.document["reliability"] if entry["windows"]]
    if not bins:
        return None
    height = 4.4
    figure = _canvas(result, "Does a score mean what it says?", height)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), label="a score that means what it says")
    scores, rates = [entry["mean_score"] for entry in bins], [entry["anomalous_rate"] for entry in bins]
    left.plot(scores, rates, "o-", color=_BLUE, linewidth=2, markersize=5, label="tested windows, by tenth of score")
    left.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    left.set(xlabel="mean score of the tenth", ylabel="part that is anomalous")
    left.set_title(f"Reliability, Brier score {result.document['pooled']['brier']:.4f}")
    left.legend(loc="best")
    right.bar([entry["low"] + 0.05 for entry in bins], [entry["windows"] for entry in bins], width=0.085, color=_SKY)
    right.set(xlim=(0, 1), yscale="log", xlabel="score", ylabel="windows (log scale)", box_aspect=1)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.set_title("How often each score occurs")
    return _fitted(figure, height)
