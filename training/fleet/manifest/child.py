"""Reading a manifest in a child process, so that the receiver's memory and event loop stay flat.

Owns the exchange with the child: one JSON line each, kept in a temporary file and read back job by job. Guarantees
that the entries equal those of `load`, and that a child which dies or hangs is an error, never a shorter manifest.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TextIO

from training.fleet.manifest.entries import Header, JobEntry, Manifest
from training.fleet.model.errors import ManifestError, UnavailableError, from_problem
from training.fleet.model.jobs import DatasetRef, Headline, Limits, Policy, Requirement, Trainer

_ROOT = Path(__file__).resolve().parents[3]
_SCRUBBED = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIALS")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest that a child has read.

    Attributes:
        header: Everything besides the jobs.
        entries: The jobs in the order of the file, once; read from a temporary file that goes with the iterator.
    """

    header: Header
    entries: Iterator[JobEntry]


def child_load(
    path: Path,
    *,
    base: Path | None = None,
    ask_trainer: bool = True,
    schema_required: bool = False,
    trusted: tuple[str, ...] | None = None,
    timeout_s: float = 120,
) -> Loaded:
    """Read and check a manifest file in a child process.

    Args:
        path: The file.
        base: Folder for the trainer's command and schema file; the file's own when None.
        ask_trainer: As in `load`.
        schema_required: As in `load`.
        trusted: As in `load`.
        timeout_s: Seconds the child may take.

    Raises:
        ManifestError: With every fault the child found.
        UnavailableError: The child died or took too long; nothing is known about the manifest.
    """
    words = [sys.executable, "-m", "training.fleet.manifest", "--rows", str(path.resolve())]
    words += [] if base is None else ["--base", str(base.resolve())]
    words += [] if ask_trainer else ["--no-trainer"]
    words += ["--schema-required"] if schema_required else []
    words += [] if trusted is None else ["--trusted", json.dumps(trusted)]
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the iterator
    try:
        _run(words, spool, timeout_s)
        spool.seek(0)
        first = _answer(json.loads(spool.readline()))
        return Loaded(_header(first), _Entries(spool, first["count"]))
    except BaseException:
        spool.close()
        raise


def write_rows(manifest: Manifest, out: TextIO) -> None:
    """Write a manifest as JSON lines: the header, then requirements and limits before the jobs that use them."""
    out.write(json.dumps(_header_row(manifest.header)) + "\n")
    # Equal requirements are one object in a manifest, and it keeps them alive.
    numbers: dict[int, int] = {}
    for entry in manifest.jobs:
        for part in (entry.requirement, entry.limits):
            if id(part) not in numbers:
                numbers[id(part)] = len(numbers)
                out.write(json.dumps(asdict(part)) + "\n")
        what = (entry.id, entry.model, entry.mode, entry.document)
        place = (entry.position, entry.line, entry.name, entry.tags)
        out.write(json.dumps([numbers[id(entry.requirement)], numbers[id(entry.limits)], *what, *place]) + "\n")


def write_faults(error: ManifestError, out: TextIO) -> None:
    """Write what is wrong with a manifest as one JSON line."""
    out.write(json.dumps({"problem": error.problem()}) + "\n")


def _run(words: list[str], spool: IO[bytes], timeout_s: float) -> None:
    environment = {name: value for name, value in os.environ.items() if not any(word in name for word in _SCRUBBED)}
    try:
        done = subprocess.run(  # noqa: S603 - our own module with our own interpreter
            words,
            cwd=_ROOT,
            env=environment | {"PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=spool,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"reading the manifest took more than {timeout_s:g} s, nothing was applied", "make it smaller or try again"
        ) from None
    except OSError as error:
        raise UnavailableError(f"no process could be started to read the manifest: {error}", "try again") from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise UnavailableError(
            f"the process that reads the manifest ended with status {done.returncode} ({last or 'no message'}), "
            "nothing was applied",
            "check the free memory and try again",
        )


def _answer(first: dict[str, Any]) -> dict[str, Any]:
    if "problem" in first:
        raise from_problem(first["problem"])
    return first


def _header_row(header: Header) -> dict[str, Any]:
    return {
        "digest": header.digest,
        "hosts": {name: asdict(policy) for name, policy in header.hosts.items()},
        "trainer": asdict(header.trainer),
        "datasets": {name: dataset.digest for name, dataset in header.datasets.items()},
        "warnings": header.warnings,
        "contract": header.contract,
        "count": header.count,
        "notes": header.notes,
        "headline": None if header.headline is None else asdict(header.headline),
    }


def _header(row: dict[str, Any]) -> Header:
    return Header(
        digest=row["digest"],
        hosts={name: Policy(**_tuples(policy)) for name, policy in row["hosts"].items()},
        trainer=Trainer(**_tuples(row["trainer"])),
        datasets={name: DatasetRef(name, digest) for name, digest in row["datasets"].items()},
        warnings=tuple(row["warnings"]),
        contract=row["contract"],
        count=row["count"],
        notes=tuple(row["notes"]),
        headline=None if row["headline"] is None else Headline(**row["headline"]),
    )


class _Entries(Iterator[JobEntry]):
    """The jobs in a spool file, which closes with the iterator, read to its end or not."""

    def __init__(self, spool: IO[bytes], count: int) -> None:
        self._lines = io.TextIOWrapper(spool, encoding="utf-8")
        self._parts: list[Any] = []
        self._count = self._left = count

    def __next__(self) -> JobEntry:
        for line in self._lines:
            row = json.loads(line)
            if isinstance(row, list):
                self._left -= 1
                return self._entry(*row)
            self._parts.append(_part(row))
        if self._left:
            raise UnavailableError(
                f"{self._left} of {self._count} jobs are missing from the temporary file", "make room on its disk"
            )
        raise StopIteration

    def __del__(self) -> None:
        self._lines.close()

    def _entry(self, requirement: int, limits: int, identity: str, *rest: Any) -> JobEntry:
        model, mode, document, position, line, name, tags = rest
        needs, bounds = self._parts[requirement], self._parts[limits]
        return JobEntry(identity, model, mode, document, needs, bounds, position, line, name, tuple(tags))


def _part(row: dict[str, Any]) -> Requirement | Limits:
    if "priority" in row:
        return Limits(**row)
    fields = _tuples(row)
    if fields["dataset"] is not None:
        fields["dataset"] = DatasetRef(**fields["dataset"])
    return Requirement(**fields)


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
