"""What Prometheus reads: the fleet now, and what happened since the receiver started.

Owns the names of the metrics and one registry for each receiver. Guarantees that no label takes its values from text
that anybody could vary without end: statuses, kinds and codes are the product's own words, and hosts are shown up to
`MAX_HOSTS`. Counters begin at zero with the receiver, as Prometheus expects of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from training.fleet.checks import first_certificate, validity
from training.fleet.jobs import FAIL_KINDS
from training.fleet.queue import Ended
from training.fleet.wire import Health

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Type of the text, by its version: what the package takes for the newest may change."""
MAX_HOSTS: Final = 200
"""Hosts whose last call is shown: where anybody may claim, anybody may make up names."""
CLAIM_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Seconds. A claim takes about a millisecond; a disk that is slow to sync takes ten and more."""
COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
OUTCOMES: Final = ("completed", "cancelled", "released", "expired", "lost_claim")
"""Endings that no report of a worker explains."""

# The time at which each counter was made is a second series beside it, which nothing here reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


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


class Meters:
    """The metrics of one receiver.

    Args:
        certificates: Files of certificates by the name under which their end is shown.

    Attributes:
        claims: Seconds of claims, without the wait for a job.
        commits: Seconds from handing a change to the writer until it is durable.
    """

    def __init__(self, certificates: Mapping[str, Path] | None = None) -> None:
        self._certificates = dict(certificates or {})
        self._registry = registry = CollectorRegistry()

        def gauge(name: str, note: str, *labels: str) -> Gauge:
            return Gauge(f"cis490_{name}", note, labels, registry=registry)

        self._jobs = gauge("jobs", "Jobs by status.", "status")
        self._workers = gauge("workers", "Workers by state.", "state")
        self._parked = gauge("parked_claims", "Claims that wait for a job.")
        self._artifacts = gauge("artifacts", "Artifacts in the store.")
        self._artifacts_bytes = gauge("artifacts_bytes", "Size of the artifacts in the store.")
        self._free_bytes = gauge("store_free_bytes", "Room left for uploads.")
        self._uptime = gauge("uptime_seconds", "Time since the receiver started.")
        self._problems = gauge("problems", "Things that are wrong now.")
        self._seen = gauge("worker_last_seen_timestamp_seconds", "When a worker was last heard.", "worker")
        self._ends = gauge(
            "certificate_left_seconds", "Time until a certificate ends; below zero after that.", "certificate"
        )
        self._ended = Counter(
            "cis490_attempts_ended_total", "Attempts that ended, by what ended them.", ["kind"], registry=registry
        )
        self._seconds = Counter(
            "cis490_training_seconds_total",
            "Time that workers held jobs, by whether a result came of it.",
            ["result"],
            registry=registry,
        )
        self._refused = Counter(
            "cis490_uploads_refused_total",
            "Uploads that were refused or broke off, by code.",
            ["code"],
            registry=registry,
        )
        self.claims = Histogram(
            "cis490_claim_seconds", "Time of a claim, without the wait.", buckets=CLAIM_BUCKETS, registry=registry
        )
        self.commits = Histogram(
            "cis490_commit_seconds",
            "Time from handing a change to the database until it is durable.",
            buckets=COMMIT_BUCKETS,
            registry=registry,
        )
        # All of them now, so that a rate has a zero to begin at, and so that an ending need not look its own up.
        self._by_kind = {kind: self._ended.labels(kind) for kind in (*OUTCOMES, *FAIL_KINDS)}
        self._trained, self._lost = self._seconds.labels("trained"), self._seconds.labels("lost")

    def count_ending(self, ended: Ended) -> None:
        """Count an attempt that ended. Any thread may call it."""
        self._by_kind[ended.kind or ended.outcome].inc()
        (self._trained if ended.outcome == "completed" else self._lost).inc(max(0.0, ended.held_s))

    def count_refused_upload(self, code: str) -> None:
        """Count an upload that was not taken.

        Args:
            code: Code of the error it ended with.
        """
        self._refused.labels(code).inc()

    def text(self, figures: Figures) -> bytes:
        """Return all metrics in the text form. Reads the certificates' files.

        Source: Prometheus, exposition formats, version 0.0.4.
        """
        health, now = figures.health, time.time()
        for status, count in health.counts.items():
            self._jobs.labels(status).set(count)
        for state, count in health.workers.items():
            self._workers.labels(state).set(count)
        self._parked.set(figures.parked)
        self._artifacts.set(health.storage["artifacts"])
        self._artifacts_bytes.set(health.storage["bytes"])
        self._free_bytes.set(health.storage["free_bytes"])
        self._uptime.set(round(health.uptime_s))
        self._problems.set(len(health.problems))
        self._seen.clear()  # a host that is gone must not be shown for ever
        for worker, seen_s in figures.last_seen_s.items():
            self._seen.labels(worker).set(round(now - seen_s, 3))
        self._ends.clear()
        for name, path in self._certificates.items():
            if (ends_at := _ends_at(path)) is not None:
                self._ends.labels(name).set(round(ends_at - now))
        return generate_latest(self._registry)


def _ends_at(path: Path) -> float | None:
    """Return when the first certificate of a file ends, None when it cannot be read; `doctor` says why."""
    try:
        der = first_certificate(path)
    except OSError:
        return None
    life = None if der is None else validity(der)
    return None if life is None else life[1]
