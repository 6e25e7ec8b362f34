"""How the first load of a manifest ends a start."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from training.fleet.api.loading import Loader
from training.fleet.model.errors import (
    ConfigurationError,
    FleetError,
    ManifestError,
    StorageFullError,
    UnavailableError,
)
from training.fleet.queue import Queue

NONE_BEFORE = "the manifest cannot be loaded and none was in force before: "


@pytest.mark.parametrize(
    ("trouble", "ends", "status", "told"),
    [
        (UnavailableError("the database cannot be written"), UnavailableError, 75, NONE_BEFORE),
        (StorageFullError("the disk of the database is full"), UnavailableError, 75, NONE_BEFORE),
        (FleetError("something else"), ConfigurationError, 78, NONE_BEFORE),
        (ManifestError("it has 1 fault"), ConfigurationError, 78, ""),
    ],
)
def test_a_first_start_that_the_disk_ends_may_be_tried_again_and_one_with_a_wrong_file_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: FleetError, ends: type[FleetError], status: int, told: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise trouble

    monkeypatch.setattr("training.fleet.api.loading.child_load", refuse)
    (tmp_path / "manifest.toml").touch()
    loader = Loader(None, Queue(), tmp_path / "manifest.toml", tmp_path / "applied.toml")  # type: ignore[arg-type]
    with pytest.raises(ends) as caught:
        asyncio.run(loader.start())
    assert caught.value.message == told + trouble.message
    assert caught.value.exit_status == status


@pytest.mark.parametrize("wrong", ["nothing", "a folder", "not ours"])
def test_a_start_with_a_path_that_is_no_readable_file_ends_with_78(tmp_path: Path, wrong: str) -> None:
    """Also with an old database: nothing of it is asked."""
    path = tmp_path / "manifest.toml"
    if wrong == "a folder":
        path.mkdir()
    elif wrong == "not ours":
        path = Path("/proc/1/mem") if os.getuid() else path / "below-a-file"
        path.parent.touch()
    loader = Loader(None, Queue(), path, tmp_path / "applied.toml")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="give --manifest the path of a readable file") as caught:
        asyncio.run(loader.start())
    assert caught.value.exit_status == 78
