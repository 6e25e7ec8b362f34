from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from training.fleet.model import errors
from training.fleet.model.errors import (
    BY_CODE,
    ConflictError,
    Fault,
    FleetError,
    ManifestError,
    StaleLeaseError,
    from_problem,
)


def _classes(root: type[FleetError]) -> list[type[FleetError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in _classes(branch))]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in _classes(FleetError)]
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) == set(BY_CODE)


def test_the_reference_lists_every_code_with_its_statuses(root: Path) -> None:
    text = (root / "docs/reference/errors.md").read_text()
    rows = {
        code: (int(http), int(end)) for code, http, end in re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", text, re.M)
    }
    assert rows == {code: (kind.status, kind.exit_status) for code, kind in BY_CODE.items()}


def test_the_tree_at_the_top_names_every_class() -> None:
    assert errors.__doc__ is not None
    named = set(re.findall(r"\w+Error\b", errors.__doc__))
    assert named == {error.__name__ for error in _classes(FleetError)}


def test_the_client_raises_the_class_that_the_receiver_sent() -> None:
    sent = StaleLeaseError("the lease has ended", "claim again", expected="a lease that lives", retry_after_s=3)
    got = from_problem(sent.problem(), retry_after_s=3)
    assert type(got) is StaleLeaseError
    assert (got.found, got.expected, got.remedy) == ("the lease has ended", "a lease that lives", "claim again")
    assert (got.message, got.retry_after_s, got.status) == (sent.message, 3, 409)


@pytest.mark.parametrize("code", BY_CODE)
def test_every_code_can_be_raised_again_by_the_client(code: str) -> None:
    got = from_problem({"code": code, "detail": "why", "errors": [{"place": "here", "found": "this"}]}, retry_after_s=2)
    assert (type(got), got.found, got.retry_after_s) == (BY_CODE[code], "why", 2)
    assert got.faults == (Fault("here", "this", ""),)


def test_faults_survive_the_wire() -> None:
    fault = Fault("jobs[3].model (line 9)", "gtb", "one of gbt, mlp", "did you mean gbt?")
    got = from_problem(ManifestError("1 fault", faults=(fault,)).problem())
    assert got.faults == (fault,)
    assert str(fault) == "jobs[3].model (line 9): found gtb, expected one of gbt, mlp; did you mean gbt?"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({}, "the receiver gave no reason"),
        ({"code": "from_the_future", "detail": "new"}, "new"),
        ({"code": None, "title": "odd", "errors": ["x", 3]}, "odd"),
    ],
)
def test_an_unknown_problem_is_still_an_error_with_a_reason(problem: dict[str, object], message: str) -> None:
    got = from_problem(problem)
    assert type(got) is FleetError
    assert got.message == message
    assert got.faults == ()


def test_a_fault_without_remedy_ends_after_what_was_expected() -> None:
    assert str(Fault("seed", "-1", "0 to 4294967295")) == "seed: found -1, expected 0 to 4294967295"


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({}, "the job is completed"),
        ({"remedy": "claim again"}, "the job is completed; claim again"),
        ({"expected": "one that waits"}, "the job is completed; expected one that waits"),
        (
            {"expected": "one that waits", "remedy": "claim again"},
            "the job is completed; expected one that waits; claim again",
        ),
    ],
)
def test_the_line_for_people_is_made_of_what_was_found_what_was_expected_and_what_to_do(
    details: dict[str, Any], message: str
) -> None:
    error = ConflictError("the job is completed", **details)
    assert (str(error), error.message, error.lines) == (message, message, [message])
    assert error.problem()["detail"] == message
    assert {key: error.problem().get(key, "") for key in ("found", "expected", "remedy")} == {
        "found": "the job is completed",
        "expected": details.get("expected", ""),
        "remedy": details.get("remedy", ""),
    }


def test_parts_that_say_nothing_are_left_out_of_the_problem_document() -> None:
    assert {"expected", "remedy", "errors"}.isdisjoint(ConflictError("odd").problem())


def test_one_line_shows_three_faults_and_a_terminal_all() -> None:
    faults = tuple(Fault(f"seed {number}", "-1", "0 or more") for number in range(5))
    error = ManifestError("the manifest has 5 faults", "correct it", faults=faults)
    shown = "; ".join(f"seed {number}: found -1, expected 0 or more" for number in range(3))
    assert error.finding == f"the manifest has 5 faults; {shown}; and 2 more"
    assert error.message == f"{error.finding}; correct it"
    assert error.lines[0] == "the manifest has 5 faults; correct it"
    assert error.lines[1:] == [f"  seed {number}: found -1, expected 0 or more" for number in range(5)]
