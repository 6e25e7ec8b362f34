"""The manifests that came in force: the newest of them with their text, who brought them in, and in which way.

Owns that list and the events of a manifest. Guarantees that an entry appears in the transaction in which its manifest
comes in force, and that the list stays short.
"""

from __future__ import annotations

import zlib
from typing import Final

from training.fleet.database import Transaction
from training.fleet.database.queries import MANIFEST_TEXT, MANIFESTS
from training.fleet.model.errors import NotFoundError
from training.fleet.model.jobs import MAX_MANIFEST_BYTES
from training.fleet.queue.change import ManifestChange
from training.fleet.queue.clock import FleetClock
from training.fleet.queue.differences import told
from training.fleet.queue.events import History
from training.fleet.queue.in_force import InForce, Origin
from training.fleet.wire.manifests import ManifestView

KEPT: Final = 50
"""Manifests in the list: a text of 10 KiB takes about 2 KiB of the database, one of 100,000 jobs about 1 MiB."""
MAX_WHY_CHARS: Final = 2000
"""Characters of one event about a manifest."""
_ACTIONS: Final = {"added": "add", "removed": "drop", "changed": "change"}


class Manifests:
    """The list of manifests."""

    def __init__(self, clock: FleetClock, history: History) -> None:
        self._clock = clock
        self._history = history

    def views(self, tx: Transaction, in_force: str) -> list[ManifestView]:
        """Return the list, newest first.

        Args:
            tx: The change.
            in_force: Digest of the manifest in force.
        """
        rows = tx.all(MANIFESTS)
        newest = next((row.id for row in rows if row.digest == in_force), None)
        return [
            ManifestView(row.id, row.digest, row.at, row.actor, row.how, row.jobs, row.id == newest) for row in rows
        ]

    def text(self, tx: Transaction, digest: str) -> bytes:
        """Return the text of a manifest.

        Raises:
            NotFoundError: It is not in the list.
        """
        row = tx.one(MANIFEST_TEXT, digest=digest)
        if row is None:
            raise NotFoundError(
                f"no manifest with the digest {digest} is kept", "`cis490-jobs manifest history` lists those that are"
            )
        # Bounded, because a damaged row must not take all memory.
        return zlib.decompressobj().decompress(row.body, MAX_MANIFEST_BYTES)

    def note(self, tx: Transaction, change: ManifestChange) -> None:
        """Take a manifest into the list that comes in force, and write down what it changes besides its jobs."""
        self.keep(tx, change.in_force, change.origin)
        counts = {name: change.counts[name] for name in ("added", "changed", "dropped") if change.counts[name]}
        # A trainer that is not the project's own is asked at every reload; one that changes nothing is no event.
        if not (counts or change.tables) and change.before.digest == change.in_force.digest:
            return
        tables = [told(table) for table in change.tables]
        jobs = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no job changed"
        why = "; ".join([f"{change.origin.how} of {change.in_force.digest[:12]}: {jobs}", *tables])
        self._history.note_manifest(tx, change.actor, _cut(why))
        for table in change.tables:
            if table.table == "host":
                self._history.note(tx, change.actor, table.name, _ACTIONS[table.what], _cut(told(table)))

    def keep(self, tx: Transaction, in_force: InForce, origin: Origin) -> None:
        """Take a manifest into the list; the newest one again changes nothing."""
        newest = next(iter(tx.all(MANIFESTS)), None)
        if origin.packed is None or (newest is not None and newest.digest == in_force.digest):
            return
        tx.run("keep_manifest_text", digest=in_force.digest, body=origin.packed)
        at, jobs = in_force.applied_at, in_force.count
        tx.run("keep_manifest", digest=in_force.digest, at=at, actor=in_force.actor, how=origin.how, jobs=jobs)
        tx.run("forget_manifests", keep=KEPT)
        tx.run("forget_manifest_texts")


def pack(text: bytes) -> bytes:
    """Return the text of a manifest as the list keeps it."""
    return zlib.compress(text)


def _cut(why: str) -> str:
    return why if len(why) <= MAX_WHY_CHARS else f"{why[: MAX_WHY_CHARS - 1]}…"
