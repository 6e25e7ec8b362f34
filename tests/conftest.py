"""What all tests share: which run where, the shipped and the larger dataset, and where the project lies."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parents[1]
NO_TORCH = "torch is not installed; ./scripts/test.sh --torch runs this test"
_MAY_BE_SKIPPED = ("a long version", "no dataset at", "no usable CUDA card")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long versions as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        _skip(items, "slow", "a long version; run scripts/test.sh --long")
    if importlib.util.find_spec("torch") is None:
        _skip(items, "needs_torch", NO_TORCH)


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if marker in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge_skip(report)
    return report


def _judge_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Let a skip fail where everything that tests need must be there, so that nothing goes untested unseen."""
    if not os.environ.get("CI") or not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2]
    if not any(known in reason for known in _MAY_BE_SKIPPED):
        report.outcome, report.longrepr = "failed", f"{report.nodeid} may not be skipped where CI is set: {reason}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say how many tests only torch was lacking for, in the last line, which nobody overlooks."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    lacking = sum(NO_TORCH in str(report.longrepr) for report in reporter.stats.get("skipped", ()))
    if lacking:
        tests = "1 test that needs torch was" if lacking == 1 else f"{lacking} tests that need torch were"
        them = "it" if lacking == 1 else "them"
        reporter.write_line(f"{tests} skipped; ./scripts/test.sh --torch runs {them}")


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
