"""The upkeep that removes old results by itself, where the settings ask for it.

Owns when. Guarantees that nothing is removed without `retain_days`, and that every removal is an event of its job.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from training.fleet.api.fleet import Fleet
from training.fleet.model.errors import FleetError
from training.fleet.queue.clock import label_before
from training.fleet.queue.pruning import PruneRule
from training.fleet.settings import Settings

FIRST_S: Final = 60.0
"""How long after a start the first look comes: workers that come back are served first."""
EVERY_S: Final = 3600.0
ACTOR: Final = "receiver"

_log = logging.getLogger(__name__)


async def retain_forever(fleet: Fleet, settings: Settings) -> None:
    """Remove results that are older than the settings say, every hour."""
    if not settings["retain_days"]:
        return
    await asyncio.sleep(FIRST_S)
    while True:
        try:
            await retain(fleet, settings["retain_days"], settings["retain_best"])
        except FleetError as error:
            _log.warning("old results were not looked at", extra={"data": {"reason": error.message}})
        except Exception:  # noqa: BLE001 - the upkeep must live on
            _log.exception("old results could not be removed")
        await asyncio.sleep(EVERY_S)


async def retain(fleet: Fleet, days: int, best: int) -> bool:
    """Begin to remove what is older than some days; False when there is nothing, or another chore runs."""
    keeper = fleet.keeper
    headline = fleet.queue.in_force.headline
    if best and headline is None:
        _log.warning("retain_best is set and the trainer declares no headline metric; nothing is removed")
        return False
    rule = PruneRule(label_before(days * 86400), best, headline=headline)
    choice = await asyncio.to_thread(keeper.pruner.choose, rule)
    if not choice.seqs or keeper.running:
        return False
    keeper.begin_prune(rule, None, ACTOR)
    return True
