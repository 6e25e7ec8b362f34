from __future__ import annotations

import re
from pathlib import Path

from training.fleet.database import statements as sql
from training.fleet.model.jobs import FAIL_KINDS, STATUSES, Terms

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "states.md").read_text(encoding="utf-8")


def test_the_page_names_every_status_and_failure_kind() -> None:
    for word in (*STATUSES, *FAIL_KINDS):
        assert f"`{word}`" in PAGE, word


def test_the_page_gives_the_defaults_of_the_code() -> None:
    terms = Terms()
    for name in ("ack_s", "lease_s", "heartbeat_s", "prefer_wait_s"):
        assert f"| `{name}` | {getattr(terms, name):g} s |" in PAGE
    assert f"| `backoff_s`, `backoff_cap_s` | {terms.backoff_s:g} s, {terms.backoff_cap_s:g} s |" in PAGE
    assert f"| `refunds` | {terms.refunds} |" in PAGE


def test_the_page_names_the_actions_the_schema_allows() -> None:
    allowed = re.search(r"action IN \((.*?)\)", sql.migrations("sqlite")[6], re.DOTALL)
    assert allowed is not None
    actions = re.findall(r"'(\w+)'", allowed[1])
    lines = [line for line in PAGE.splitlines() if line.startswith(("The actions are", "Their actions are"))]
    assert sorted(re.findall(r"`(\w+)`", " ".join(lines))) == sorted(actions)
