from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.fleet.cli import comparison, completion, listing, machines, manifests, plans, program, trail
from training.fleet.model import errors
from training.fleet.wire import people
from training.fleet.wire import worker as messages


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "reference" / "cli.md").read_text()


def test_the_reference_has_every_command_and_option(page: str) -> None:
    headings = " ".join(line for line in page.splitlines() if line.startswith("### "))
    for item in completion.commands(program.parser()):
        assert f"`{item.name}" in headings
        for option in item.options:
            assert option == "--help" or option in page
    assert set(re.findall(r"--[a-z0-9-]+", headings)) == {
        "--watch", "--status", "--model", "--mode", "--host", "--limit", "--exit-code", "--if-plan", "--allow-shrink",
        "--metric", "--split", "--dataset", "--artifacts", "--no-hash", "--job", "--worker", "--ttl",
        "--code", "--ca-sha256", "--name", "--tag", "--since", "--until", "--all", "--lower", "--yes", "--if",
        "--keep", "--older-than", "--keep-best", "--unnamed", "--dry-run",
        "--only", "--force", "--unpack", "--data", "--out", "--threshold", "--explain",
        "--keep-dropped", "--if-manifest", "--plan",
    }  # fmt: skip


def test_the_reference_has_the_columns_in_their_order(page: str) -> None:
    for columns in (
        listing.LIST_COLUMNS,
        comparison.COLUMNS,
        machines.WORKER_COLUMNS,
        trail.TRAIL_COLUMNS,
        trail.IDENTITY_COLUMNS,
        plans.MANIFEST_COLUMNS,
    ):
        assert f"Columns: `{' '.join(columns)}`" in page


def test_the_reference_has_exactly_the_exit_statuses(page: str) -> None:
    table = page[page.index("## Exit statuses") :]
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [
        0,
        errors.EX_FAILURE,
        errors.EX_USAGE,
        manifests.EX_CHANGES,
        errors.EX_UNAVAILABLE,
        errors.EX_TEMPFAIL,
        errors.EX_NOPERM,
        errors.EX_CONFIG,
        program.EX_INTERRUPTED,
        program.EX_CLOSED,
    ]


def test_the_reference_names_every_document_as_wire_does(page: str) -> None:
    for name in re.findall(r"\b(?:Health|JobView|JobPage|JobDetail|Why|WorkerPage|JobState|Plan|Chore)\b", page):
        assert hasattr(people, name) or hasattr(messages, name)
