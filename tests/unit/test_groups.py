"""What the tests rely on in the tools that run them."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("together")
def test_tests_of_one_group_run_in_one_process(request: pytest.FixtureRequest) -> None:
    """Else what a whole module shares is made once in every process, which takes minutes."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    assert alone or request.node.nodeid.endswith("@together")
