"""Reloads of an edited manifest."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD, LiveReceiver

JOBS = 2000


def block(seed: int, extra: str = "") -> str:
    return f'[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {seed}\n{extra}'


BEFORE = [block(seed) for seed in range(JOBS)]
AFTER = [
    *BEFORE[:500],
    block(500, "priority = 7\nmin_ram_gib = 4\n"),
    *BEFORE[501:1000],
    block(JOBS),
    *BEFORE[1000:1500],
    *BEFORE[1501:],
]
"""One job changed, one put in the middle, one dropped."""


def text(blocks: list[str]) -> str:
    return HEAD + "".join(blocks)


def reload(receiver: LiveReceiver, blocks: list[str]) -> dict[str, Any]:
    receiver.manifest.write_text(text(blocks))
    reply = receiver.call("POST", "/v1/manifest/reload", {"allow_shrink": True}, operator=True)
    assert reply.status == 200, reply.body
    counts: dict[str, Any] = reply.json["counts"]
    return counts


def claim_order(receiver: LiveReceiver) -> list[tuple[str, int, str]]:
    """Return the named jobs of a receiver that has ended, in the order in which they would be given away."""
    with closing(sqlite3.connect(receiver.settings["db"])) as database:
        return database.execute(
            "SELECT job.id, priority, body FROM job JOIN requirement ON requirement.id = requirement "
            "WHERE named = 1 ORDER BY priority DESC, position"
        ).fetchall()


def test_an_edit_ends_where_a_fresh_receiver_begins(tmp_path: Path) -> None:
    for name in ("edited", "fresh"):
        (tmp_path / name).mkdir()
    with LiveReceiver(tmp_path / "edited", text(BEFORE)) as edited:
        counts = reload(edited, AFTER)
        assert counts == {"added": 1, "changed": 1, "unchanged": 1998, "dropped": 1, "stranded": 0}
        assert (edited.folder / "manifest.applied.toml").read_text() == text(AFTER)
    with LiveReceiver(tmp_path / "fresh", text(AFTER)) as fresh:
        pass
    found = claim_order(edited)
    assert found == claim_order(fresh)
    assert len(found) == JOBS


def test_an_edit_follows_an_edit(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, text(BEFORE[:20])) as receiver:
        assert reload(receiver, BEFORE[:30])["added"] == 10
        assert reload(receiver, BEFORE[5:30])["dropped"] == 5
        assert reload(receiver, BEFORE[:30])["changed"] == 5


def test_a_twin_of_an_unchanged_job_is_a_warning(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, text(BEFORE[:20])) as receiver:
        receiver.manifest.write_text(text([*BEFORE[:20], BEFORE[3]]))
        plan = receiver.call("POST", "/v1/manifest/reload", operator=True).json
        assert plan["counts"]["unchanged"] == 20
        assert len(plan["warnings"]) == 1


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_without_the_bytes_in_force_an_edit_is_applied_and_kept(tmp_path: Path, damage: str) -> None:
    with LiveReceiver(tmp_path, text(BEFORE[:20])) as receiver:
        kept = tmp_path / "manifest.applied.toml"
        kept.unlink() if damage == "gone" else kept.write_text(text(BEFORE[:19]))
        assert reload(receiver, BEFORE[:21])["added"] == 1
        assert kept.read_text() == text(BEFORE[:21])
