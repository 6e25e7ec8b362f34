"""Every test of this folder that asks for a world or a database runs on each database there is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.queue_world import ENGINES, Engine


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: Any) -> Engine:
    found: Engine = request.param
    return found
