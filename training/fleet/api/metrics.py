"""What Prometheus reads: the fleet now, and what happened since the receiver started.

Owns the names of the metrics and one registry for each receiver. Guarantees that no label takes its values from text
that anybody could vary without end: statuses, kinds and codes are the product's own words, and hosts are shown up to
`MAX_HOSTS`. Counters begin at zero with the receiver, as Prometheus expects of them.

Counts are plain numbers here and become metrics when they are asked for. The package's own counters share one lock:
with endings counted on the writer's thread and times on the event loop, each would make the other wait.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from training.fleet.checks import first_certificate, validity
from training.fleet.model.jobs import FAIL_KINDS
from training.fleet.queue import Ended
from training.fleet.wire.people import Health

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Type of the text, by its version: what the package takes for the newest may change."""
MAX_HOSTS: Final = 200
"""Hosts whose last call is shown: where anybody may claim, anybody may make up names."""
CLAIM_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Seconds. A claim takes about a millisecond; a disk that is slow to sync takes ten and more."""
COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
OUTCOMES: Final = ("completed", "cancelled", "released", "expired", "lost_claim")
"""Endings that no report of a worker explains."""

Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class Figures:
    """What is read from the receiver for one answer.

    Attributes:
        health: The fleet at a glance.
        parked: Claims that wait for a job.
        last_seen_s: Seconds since hosts were last heard, by name.
    """

    health: Health
    parked: int
    last_seen_s: Mapping[str, float]


class Times:
    """How often something took how long. One thread may add to it.

    Args:
        bounds: Upper bounds of the buckets, seconds, rising.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Add one time."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_s += seconds

    def family(self, name: str, note: str) -> HistogramMetricFamily:
        """Return all times as a metric; its buckets count everything up to their bound."""
        bounds = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        return HistogramMetricFamily(name, note, buckets, self._sum_s)


class Meters(Collector):
    """The metrics of one receiver.

    Args:
        certificates: Files of certificates by the name under which their end is shown.

    Attributes:
        claims: Seconds of claims, without the wait for a job.
        commits: Seconds from handing a change to the writer until it is durable.
    """

    def __init__(self, certificates: Mapping[str, Path] | None = None) -> None:
        self.claims = Times(CLAIM_BUCKETS)
        self.commits = Times(COMMIT_BUCKETS)
        self._certificates = dict(certificates or {})
        self._figures: Figures | None = None
        # All kinds now, so that a rate has a zero to begin at.
        self._ended = Counter(dict.fromkeys((*OUTCOMES, *FAIL_KINDS), 0))
        self._seconds = {"trained": 0.0, "lost": 0.0}
        self._refused: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count_ending(self, ended: Ended) -> None:
        """Count an attempt that ended. Called on the writer thread alone."""
        self._ended[ended.kind or ended.outcome] += 1
        self._seconds["trained" if ended.outcome == "completed" else "lost"] += max(0.0, ended.held_s)

    def count_refused_upload(self, code: str) -> None:
        """Count an upload that was not taken.

        Args:
            code: Code of the error it ended with.
        """
        self._refused[code] += 1

    def text(self, figures: Figures) -> bytes:
        """Return all metrics in the text form. Reads the certificates' files.

        Source: Prometheus, exposition formats, version 0.0.4.
        """
        self._figures = figures
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """Yield the metrics; before the first answer those that the receiver's state gives are left out."""
        if self._figures is not None:
            yield from self._present(self._figures)
        for name, note, label, counts in (
            ("attempts_ended", "Attempts that ended, by what ended them.", "kind", self._ended),
            (
                "training_seconds",
                "Time that workers held jobs, by whether a result came of it.",
                "result",
                self._seconds,
            ),
            ("uploads_refused", "Uploads that were refused or broke off, by code.", "code", self._refused),
        ):
            counter = CounterMetricFamily(f"cis490_{name}", note, labels=[label])
            for value, count in dict(counts).items():
                counter.add_metric([value], count)
            yield counter
        yield self.claims.family("cis490_claim_seconds", "Time of a claim, without the wait.")
        yield self.commits.family(
            "cis490_commit_seconds", "Time from handing a change to the database until it is durable."
        )

    def _present(self, figures: Figures) -> Iterator[Family]:
        health, now = figures.health, time.time()
        storage, seen = health.storage, figures.last_seen_s
        yield _gauges("jobs", "Jobs by status.", "status", health.counts)
        yield _gauges("workers", "Workers by state.", "state", health.workers)
        yield _gauge("parked_claims", "Claims that wait for a job.", figures.parked)
        yield _gauge("artifacts", "Artifacts in the store.", storage["artifacts"])
        yield _gauge("artifacts_bytes", "Size of the artifacts in the store.", storage["bytes"])
        yield _gauge("store_free_bytes", "Room left for uploads.", storage["free_bytes"])
        yield _gauge("store_floor_bytes", "Room that uploads leave to the database.", storage.get("floor_bytes", 0))
        yield _gauge("uptime_seconds", "Time since the receiver started.", round(health.uptime_s))
        yield _gauge("problems", "Things that are wrong now.", len(health.problems))
        heard = {worker: round(now - seen_s, 3) for worker, seen_s in seen.items()}
        yield _gauges("worker_last_seen_timestamp_seconds", "When a worker was last heard.", "worker", heard)
        ends = {name: ends_at for name, path in self._certificates.items() if (ends_at := _ends_at(path)) is not None}
        left = {name: round(ends_at - now) for name, ends_at in ends.items()}
        yield _gauges(
            "certificate_left_seconds", "Time until a certificate ends; below zero after that.", "certificate", left
        )


def _gauge(name: str, note: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cis490_{name}", note, value)


def _gauges(name: str, note: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"cis490_{name}", note, labels=[label])
    for value, figure in values.items():
        gauge.add_metric([value], figure)
    return gauge


def _ends_at(path: Path) -> float | None:
    """Return when the first certificate of a file ends, None when it cannot be read; `doctor` says why."""
    try:
        der = first_certificate(path)
    except OSError:
        return None
    life = None if der is None else validity(der)
    return None if life is None else life[1]
