"""The queue: which job is where, who holds it, and what came of it.

Owns the state of every job, its lease, its attempts and its history. Guarantees one live lease and one result per job,
and that what it answered is durable. Methods that take a transaction run on the writer thread
(`database.submit(lambda tx: queue.claim(tx, message))`); the others are safe from any thread. Leaves placement to
`placement`, files to `store` and talking to `api`.
"""

from __future__ import annotations

from training.fleet.queue.apply import plan, reload
from training.fleet.queue.artifacts import StoredRows
from training.fleet.queue.endings import Ended
from training.fleet.queue.events import EventFilters
from training.fleet.queue.in_force import InForce, Origin
from training.fleet.queue.queue import Queue
from training.fleet.queue.views import Filters

__all__ = ["Ended", "EventFilters", "Filters", "InForce", "Origin", "Queue", "StoredRows", "plan", "reload"]
