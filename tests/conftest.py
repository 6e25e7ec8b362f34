"""What all tests share: which run where, the shipped and the larger dataset, and where the project lies."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parents[1]
NO_TORCH = "torch is not installed; ./scripts/test.sh --torch runs this test"
_MAY_BE_SKIPPED = ("a long version", "no dataset at", "no usable CUDA card")
NOT_QUICK = frozenset(
    {
        "docs/test_bench.py", "unit/test_bit_flips.py", "unit/test_capability.py", "unit/test_database_pages.py",
        "unit/test_limits.py", "unit/test_manifest_fuzz.py", "unit/test_manifest_readers.py", "unit/test_migrations.py",
        "unit/test_needs.py", "unit/test_record_telemetry.py", "unit/test_skips.py", "unit/test_trainer_archive.py",
        "unit/test_trainer_unpack.py",
    }
)  # fmt: skip
"""What `scripts/test.sh --quick` leaves out of its folders: each takes several seconds of processor time."""
LIMIT_S = 600.0
"""Longest time of a test, of its setup and of its teardown, seconds; long versions have none.

The slowest take less than half of it on two busy cores, so what takes longer has no end.
"""
AGAIN_S = 10.0
"""How soon a test is told again that its time is over, when something swallowed the first time."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long versions as well")
    parser.addoption("--quick", action="store_true", help="leave out the files that take many seconds")
    parser.addoption("--limit", type=float, default=LIMIT_S, help="longest time of a test, seconds; 0 for none")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    left_out = config.getoption("--quick") and collection_path.is_relative_to(ROOT / "tests")
    return True if left_out and collection_path.relative_to(ROOT / "tests").as_posix() in NOT_QUICK else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes `daily` today's part in the ordinary run, and all of its walk in the long version."""
    if "daily" in metafunc.fixturenames:
        both = [pytest.param(True, id="part"), pytest.param(False, id="all", marks=pytest.mark.slow)]
        metafunc.parametrize("daily", both, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        _skip(items, "slow", "a long version; run scripts/test.sh --long")
    if importlib.util.find_spec("torch") is None:
        _skip(items, "needs_torch", NO_TORCH)


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if marker in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


@contextmanager
def limited(item: pytest.Item) -> Generator[None, None, None]:
    """Let what a test does fail where it stands once its time is over: a loop or a wait without an end."""
    limit_s = item.config.getoption("--limit")
    if not limit_s or "slow" in item.keywords or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_: Any) -> None:
        pytest.fail(f"no end after {limit_s:g} s (--limit)")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    with limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    with limited(item):
        return (yield)


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
