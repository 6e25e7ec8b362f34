"""What the demo shows while it trains and at its end: progress, the table of results, and the errors of failed jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from training.fleet.cli import views
from training.fleet.cli.text import Terminal, bar, clean, cut, duration, number, table
from training.fleet.wire.people import JobView

ROOT: Final = Path(__file__).resolve().parents[1]
PLAIN_S: Final = 5.0
"""Seconds between two progress lines of a job where nothing can be redrawn."""
DONE: Final = ("completed", "cancelled")
RESULT_COLUMNS: Final = ("JOB", "MODEL", "MODE", "SPLIT", "HOST", "DURATION", "AUROC", "AUPRC", "ARTIFACT")


@dataclass(slots=True)
class Screen:
    """Shows how far the jobs are: redrawn in place on a terminal, line by line elsewhere.

    Attributes:
        terminal: What the output can show.
        started: When it began, monotonic seconds.
        height: Lines of the part that is redrawn.
        retries: Attempts that failed and will be repeated.
        said: What was last said of each job, and when.
    """

    terminal: Terminal
    started: float
    height: int = 0
    retries: int = 0
    said: dict[str, tuple[str, float]] = field(default_factory=dict)

    def show(self, jobs: Sequence[JobView], now: float) -> None:
        """Show the jobs as they are now."""
        news = [line for job in jobs for line in self._news(job, now)]
        live = []
        if self.terminal.width is not None:
            news = [cut(line, self.terminal.width) for line in news]
            live = self._live(jobs, now, self.terminal.width)
        back = f"\x1b[{self.height}F\x1b[J" if self.height else ""
        sys.stdout.write(back + "".join(f"{line}\n" for line in [*news, *live]))
        sys.stdout.flush()
        self.height = len(live)

    def finish(self) -> None:
        """Take away the part that is redrawn."""
        if self.height:
            sys.stdout.write(f"\x1b[{self.height}F\x1b[J")
            sys.stdout.flush()
            self.height = 0

    def _news(self, job: JobView, now: float) -> list[str]:
        last, at = self.said.get(job.id, ("", now))
        state = f"{job.status} {job.attempts_used}"
        who = f"{job.id[: views.SHORT_ID]}  {job.model} {job.mode} {job.split}"
        if state != last:
            self.said[job.id] = (state, now)
            return self._change(job, who, first=not last)
        if self.terminal.width is None and job.status == "running" and job.progress and now - at >= PLAIN_S:
            self.said[job.id] = (state, now)
            return [clean(f"runs   {who}  {views.meter(job.progress)}")]
        return []

    def _change(self, job: JobView, who: str, *, first: bool) -> list[str]:
        if job.status == "completed" and not first:
            return [clean(f"done   {who}  {views.detail(job)}")]
        if job.status == "running":
            return [clean(f"starts {who} on {job.host}")]
        if job.failure is not None and not first:
            what = "failed " if job.status == "failed" else "again  "
            self.retries += job.status != "failed"
            return [clean(f"{what}{who}  {views.detail(job)}")]
        return []

    def _live(self, jobs: Sequence[JobView], now: float, width: int) -> list[str]:
        done = sum(job.status in DONE for job in jobs)
        share = done + sum(_share(job) for job in jobs)
        total = bar(round(100 * share), 100 * len(jobs), 24)
        lines = ["", f"{total} {done} of {len(jobs)} jobs done, {duration(now - self.started)}"]
        running = [job for job in jobs if job.status in ("claimed", "running")]
        for job in running:
            lines += [
                "",
                f"  {clean(f'{job.model} {job.mode} {job.split} on {job.host}')}",
                f"  {views.meter(job.progress)}",
            ]
        if not running and done < len(jobs):
            lines += ["", "  waiting for the worker to take the next job"]
        return [cut(line, width - 1) for line in lines]


def _share(job: JobView) -> float:
    now = job.progress
    return now.step / now.steps if job.status == "running" and now is not None and now.steps else 0.0


def shown(path: Path) -> str:
    """Return a path for people: relative to the project where it lies in it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def results(jobs: Sequence[JobView], store: Path, terminal: Terminal) -> list[str]:
    """Return the table of results; on a terminal the path of each artifact has a line of its own."""
    rows = [_result(job, terminal) for job in jobs]
    paths = ["-" if job.artifact_path is None else shown(store / job.artifact_path) for job in jobs]
    if terminal.width is None:
        return [
            "\t".join((*RESULT_COLUMNS, "PATH")),
            *table((), [[*r, p] for r, p in zip(rows, paths, strict=True)], terminal),
        ]
    lines = table(RESULT_COLUMNS, rows, terminal, ("SPLIT",))
    return [*lines, "", terminal.head("artifacts"), *(f"  {clean(path)}" for path in paths if path != "-")]


def _result(job: JobView, terminal: Terminal) -> list[str]:
    who = [views.identity(job.id, terminal), job.model, job.mode, job.split, job.host or "-"]
    if job.status != "completed":
        return [*who, job.status, "-", "-", "-"]
    figures = [number(job.metrics.get(name)) for name in ("auroc", "auprc")]
    return [*who, duration(job.duration_s), *figures, views.identity(job.artifact or "-", terminal)]


def failures(jobs: Sequence[JobView]) -> list[str]:
    """Return the actual error of every failed job."""
    lines = []
    for job in jobs:
        if job.status == "failed" and job.failure is not None:
            lines.append(clean(f"failed: {job.id[:12]} {job.model} {job.mode}, {job.failure.kind}"))
            lines += [f"    {clean(line)}" for line in job.failure.error.splitlines() if line.strip()]
    return lines
