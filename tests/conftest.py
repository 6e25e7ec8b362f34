"""What all tests share: the long flag, the shipped and the larger dataset, and where the project lies."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long versions as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a long version; run scripts/test.sh --long")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skip fail where everything that tests need must be there, so that nothing goes untested unseen."""
    report = yield
    if os.environ.get("CI") and report.skipped and not isinstance(report.longrepr, str):
        reason = str(report.longrepr[2])
        if not any(known in reason for known in ("a long version", "no dataset at", "no usable CUDA card")):
            report.outcome, report.longrepr = "failed", f"{item.nodeid} may not be skipped where CI is set: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_state_in_the_home(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Keep what programs put where no other folder is named out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """Folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def smd19() -> Path:
    """Folder of the larger dataset, which is not part of the project."""
    folder = Path(os.environ.get("CIS490_DATA") or ROOT.parent / "shared" / "data" / "smd19")
    if not (folder / "dataset.toml").is_file():
        pytest.skip(f"no dataset at {folder}; set CIS490_DATA to the folder that holds smd19's dataset.toml")
    return folder
