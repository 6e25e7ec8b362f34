"""What an edit of a large manifest changes, without reading the jobs that stand there as before.

Owns the comparison of two texts. Guarantees that whatever it says is what reading both files whole would say, and
says nothing wherever that is not certain: the caller then reads the whole file. A file with a fault is such a case.

Why it holds: the old file was in force, so it is valid TOML, and without multi-line strings each line that looks like
a `[[jobs]]` header is one. The new file then is the same tables, the same jobs before and after, and between them
jobs that are complete by themselves.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from training.fleet.errors import ManifestError
from training.fleet.manifest.entries import Edit, Header, JobEntry
from training.fleet.manifest.parse import checked
from training.fleet.manifest.text import HEADER, Blocks, Document, NotPlainError, body_of, lines_of, read_text

# A header of another table after the first job, or the line of an array that looks like one.
_OTHER_TABLE = re.compile(r"^[ \t]*\[(?!\[[ \t]*jobs[ \t]*\]\]|[ \t]*jobs[ \t]*\.)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Difference:
    """How a manifest differs from the one in force.

    Attributes:
        header: Of the new file. Its warnings are those of the tables and of the jobs in `entries` alone.
        entries: The jobs of the new file that stand where the text differs; some may be as before.
        edit: Where they stand, and what stood there.
    """

    header: Header
    entries: tuple[JobEntry, ...]
    edit: Edit


def difference(
    old: bytes, new: bytes, declaration: dict[str, Any] | None, *, count: int, contract: str | None
) -> Difference | None:
    """Compare a manifest with the one in force.

    An entry that is named already and is not in `edit.stood` is a twin of an unchanged job: the caller, who knows the
    jobs in force, reads the whole file then.

    Args:
        old: Bytes of the manifest in force.
        new: Bytes of the new one.
        declaration: What the trainer declares now.
        count: Number of jobs in force, twins once.
        contract: Digest of the declaration that the manifest in force was checked against.

    Returns:
        None when the new file must be read whole.
    """
    try:
        return _difference(_Split(read_text(old)), _Split(read_text(new)), new, declaration, count, contract)
    except (ManifestError, NotPlainError):
        return None


def leading_tables(data: bytes) -> dict[str, Any]:
    """Return the tables before the first job.

    Raises:
        ManifestError: The bytes are no text.
        NotPlainError: The file must be read whole.
    """
    text = read_text(data)
    first = HEADER.search(text)
    return _tables(text, first.start() if first else len(text))


def _tables(text: str, end: int) -> dict[str, Any]:
    try:
        return tomllib.loads(text[:end])
    except (ValueError, RecursionError) as error:
        raise NotPlainError from error


class _Split:
    """A manifest's text as tables and `[[jobs]]` blocks."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [match.start() for match in HEADER.finditer(text)]
        if not self.starts or '"""' in text or "'''" in text or _OTHER_TABLE.search(text, self.starts[0]):
            raise NotPlainError
        self.tables = _tables(text, self.starts[0])
        self.ends = [*self.starts[1:], len(text)]

    @cached_property
    def _lines(self) -> list[int]:
        return lines_of(self.text, self.starts)

    def unchanging(self) -> dict[str, Any]:
        """Return the tables without the number of jobs, as text that tells 1 from 1.0 and true."""
        tables = dict(self.tables)
        if isinstance(tables.get("manifest"), dict):
            tables["manifest"] = {key: value for key, value in tables["manifest"].items() if key != "jobs"}
        return {key: repr(value) for key, value in tables.items()}

    def block(self, number: int) -> str:
        """Return the text of a job, the first is 0."""
        return self.text[self.starts[number] : self.ends[number]]

    def jobs(self, blocks: range) -> list[dict[str, Any]]:
        """Return the tables of some jobs."""
        reader = Blocks()
        return [reader.block(body_of(self.text, self.starts[at], self.ends[at])) for at in blocks]

    def document(self, blocks: range) -> Document:
        """Return some of the jobs with all tables, as if the file held no other."""
        tables = {**self.tables, "manifest": {"schema": self.tables.get("manifest", {}).get("schema")}}
        return Document(self.text, tables, self.jobs(blocks), [self._lines[at] for at in blocks])


def _difference(
    old: _Split, new: _Split, data: bytes, declaration: dict[str, Any] | None, count: int, contract: str | None
) -> Difference | None:
    stated = new.tables.get("manifest", {}).get("jobs", len(new.starts))
    # Where the old file has twins, a block that is gone may leave its twin behind.
    if old.unchanging() != new.unchanging() or count != len(old.starts) or stated != len(new.starts):
        return None
    same_before = _common(old, new, range(min(len(old.starts), len(new.starts))))
    same_behind = _common(old, new, range(-1, same_before - 1 - min(len(old.starts), len(new.starts)), -1))
    changed = range(same_before, len(new.starts) - same_behind)
    removed = range(same_before, len(old.starts) - same_behind)
    found = checked(data, new.document(changed), declaration)
    if found.header.contract != contract or found.header.count != len(changed):
        return None
    named = {entry.id for entry in found.jobs}
    past = checked(b"", old.document(removed), declaration).jobs
    return Difference(
        header=replace(found.header, count=len(new.starts)),
        entries=tuple(replace(entry, position=entry.position + same_before) for entry in found.jobs),
        edit=Edit(
            stood=tuple(entry.id for entry in past),
            gone=tuple(entry.id for entry in past if entry.id not in named),
            after=_neighbour(new, changed.start - 1, declaration),
            before=_neighbour(new, changed.stop, declaration),
        ),
    )


def _common(old: _Split, new: _Split, blocks: range) -> int:
    """Return how many of these blocks are the same text in both, up to the first that is not."""
    return next((count for count, at in enumerate(blocks) if old.block(at) != new.block(at)), len(blocks))


def _neighbour(split: _Split, at: int, declaration: dict[str, Any] | None) -> str | None:
    """Return the id of one job, None beyond either end."""
    if not 0 <= at < len(split.starts):
        return None
    return checked(b"", split.document(range(at, at + 1)), declaration).jobs[0].id
