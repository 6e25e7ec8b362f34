"""Break every guard of queue, store, identities, edge and SQL a little, one at a time, and see the tests notice.

    python -m tests.mutants sweep
    python -m tests.mutants sweep --only auth/ --processes 1
    python -m tests.mutants sweep --log FILE          # then, after new tests: --again FILE

Nothing is written into the project: a break is put into the memory of a process of its own, forked after the tests were
collected. So a break costs what its tests cost, but programs that a test starts do not have it. First each test runs
once to see which lines and statements it reaches; a break then gets the tests that reach it, those first that found one
near by, then those that reach what few reach, then those of a file named after that of the break, or for SQL those that
compare every row, then the quick ones.
`accepted.toml` has the breaks that may survive, each with its reason.

Exit status: 0 when at most 2 of 100 breaks survive without a reason, 1 when more do, 2 when the tests do not pass
without a break or the list of accepted ones no longer fits.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import types
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import coverage
import pytest
from _pytest.main import pytest_runtestloop as run_items

from tests.mutants.guards import FILES, Guard, guards
from tests.mutants.table import ROOT

ACCEPTED = Path(__file__).with_name("accepted.toml")
TESTS = (
    "conformance/test_*.py",
    *("unit/test_queue_*.py", "unit/test_auth*.py", "unit/test_store.py", "unit/test_api_*.py", "unit/test_sqlite*.py"),
    "unit/test_parts.py",
    *("unit/test_migrations.py", "unit/test_fsck.py", "unit/test_receiver_operators.py", "unit/test_loading.py"),
    *("integration/test_api_*.py", "integration/test_raw_http.py", "integration/test_hostile_json.py"),
    *("integration/test_wire_fixtures.py", "integration/test_tls_matrix.py", "integration/test_crowded_places.py"),
    "machine/test_life.py",
)
"""Tests that run the code in their own process; the last ones take the longest and are asked last."""
SHARE = 0.02
"""Part of the breaks that may survive without a reason."""
HANG_S = 20.0
"""How long a test may take beyond five times its usual time, and all of a break beyond three times theirs.

What a break hangs has noticed it.
"""
MOST_S = 90.0
"""Longest time of the tests that one break gets, as they take without it."""
RARE = 40
"""As many tests as this reach a line that tells them from the others."""
CONTROL = 20
"""One test of so many runs as it does for a break, with nothing broken."""
FOUND, SURVIVED, TROUBLE = 1, 0, 3
WORDS = {FOUND: "found", SURVIVED: "survived", TROUBLE: "trouble"}
"""How a process ends, and what that says of its break; any other end is that of one that hung."""


@dataclass
class Reach:
    """What each test reaches.

    Attributes:
        seconds: How long it takes.
        lines: File and line to tests.
        statements: Name of a statement to tests.
        failed: Tests that do not pass without a break.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    statements: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failed: list[str] = field(default_factory=list)

    def add(self, other: dict[str, Any]) -> None:
        self.seconds |= other.get("seconds", {})
        self.failed += other.get("failed", [])
        for name in ("lines", "statements"):
            for key, tests in other.get(name, {}).items():
                getattr(self, name)[key] += tests

    def of(self, guard: Guard) -> set[str]:
        """Return the tests that reach a guard."""
        if "/migrations/" in guard.file:
            return {
                test
                for tests in self.statements.values()
                for test in tests
                if "/unit/" in test or "/conformance/" in test
            }
        if guard.file.endswith(".sql"):
            return set(self.statements[guard.where])
        return {test for line in range(guard.first, guard.last + 1) for test in self.lines[f"{guard.file}:{line}"]}

    def rare_near(self, guard: Guard) -> set[str]:
        """Return the tests that reach what only a few reach right behind a guard.

        Most tests pass a guard of the edge and see nothing of it; those that it stops see it broken.
        """
        near = [self.lines.get(f"{guard.file}:{line}", ()) for line in range(guard.first, guard.last + 7)]
        return {test for tests in near if 0 < len(tests) <= RARE for test in tests}


# ---- in a process of its own


class _Limits:
    """Ends the process when a test hangs, or all of them take long, and writes down which test failed."""

    def __init__(self, items: list[pytest.Item], seconds: dict[str, float], told: Path) -> None:
        self.seconds = seconds
        self.told = told
        self.until = time.monotonic() + HANG_S + 3 * sum(seconds[item.nodeid] for item in items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.told.write_text(item.nodeid)
        left_s = max(0.1, self.until - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, min(left_s, HANG_S + 5 * self.seconds[item.nodeid]))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.told.write_text(f"{report.nodeid}\n{report.longreprtext[-2000:]}")


def _break(guard: Guard) -> None:
    """Put a break into this process."""
    path = ROOT / guard.file
    broken = guard.broken(path.read_bytes())
    if guard.file.endswith(".py"):
        _replace_functions(str(path), path.read_bytes(), broken)
        return
    from training.fleet.database import statements as sql

    read = sql.read
    sql.read = lambda dialect, name: broken.decode() if path.match(f"{dialect}/{name}") else read(dialect, name)
    for module in [one for name, one in sys.modules.items() if name.startswith("training.fleet.database")]:
        if "_SQL" in vars(module):
            module._SQL.update(sql.statements("sqlite"))
        if "MIGRATIONS" in vars(module):
            module.MIGRATIONS.update(sql.migrations("sqlite"))


def _replace_functions(path: str, before: bytes, after: bytes) -> None:
    old, new = ({_key(code): code for code in _codes(compile(text, path, "exec"))} for text in (before, after))
    changed = {key: code for key, code in new.items() if key not in old or old[key] != code}
    # By `type`, because `isinstance` asks the object for its class, and some answer with a warning.
    found = [one for one in gc.get_objects() if type(one) is types.FunctionType and _key(one.__code__) in changed]
    if not found:
        raise LookupError("no function has it")
    for function in found:
        function.__code__ = changed[_key(function.__code__)]


def _key(code: types.CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield inner
            yield from _codes(inner)


def _try(
    session: pytest.Session, guard: Guard | None, chosen: list[pytest.Item], seconds: dict[str, float], own: Path
) -> int:
    _begin_alone(own)
    try:
        if guard is not None:
            _break(guard)
    except (ValueError, LookupError, SyntaxError) as error:
        (own / "told").write_text(f"{type(error).__name__}: {error}")
        return TROUBLE
    session.config.option.limit = 0  # that of each test takes its place
    session.config.pluginmanager.register(_Limits(chosen, seconds, own / "told"))
    session.items[:] = chosen
    with contextlib.suppress(session.Failed, session.Interrupted):
        run_items(session)
    return FOUND if session.testsfailed else SURVIVED


def _begin_alone(own: Path) -> None:
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    os.environ |= {"PYTEST_DEBUG_TEMPROOT": str(own), "TMPDIR": str(own)}
    tempfile.tempdir = str(own)


def _end_with(work: Callable[[Path], int], own: Path) -> NoReturn:
    """Do one work and end this process, whatever comes."""
    status = TROUBLE
    try:
        status = work(own)
    except BaseException:  # noqa: BLE001 - the process that waits tells it
        (own / "told").write_text(traceback.format_exc())
    finally:
        os._exit(status)  # whatever a test broke: one that went on would clean up what belongs to the other


class _Noted(dict[str, Any]):
    """Statements, of which is noted who asked for them."""

    def __init__(self, statements: dict[str, Any], note: Callable[[str], None]) -> None:
        super().__init__(statements)
        self.note = note

    def __getitem__(self, name: str) -> Any:
        self.note(name)
        return super().__getitem__(name)


class _Mapping:
    """Sees what each test reaches; what a shared fixture reaches, every test with it does."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.items = items
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.statements: dict[str, set[str]] = defaultdict(set)
        self.test = ""
        self.coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[str(ROOT / file) for file in FILES]
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        begun = time.monotonic()
        self._see(item.nodeid)
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = round(time.monotonic() - begun, 4)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        before = self.test
        if fixturedef.scope != "function":
            self._see(fixturedef.argname)
        try:
            return (yield)
        finally:
            self._see(before)

    def _see(self, test: str) -> None:
        self.test = test
        self.coverage.switch_context(test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def note(self, name: str) -> None:
        self.statements[name].add(self.test)

    def found(self) -> dict[str, Any]:
        self.coverage.stop()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tests that reach none of the files are no trouble
            data = self.coverage.get_data()
        lines = {
            f"{file}:{line}": self._tests(seen)
            for file in FILES
            for line, seen in data.contexts_by_lineno(str(ROOT / file)).items()
        }
        statements = {name: self._tests(seen) for name, seen in self.statements.items()}
        return {"seconds": self.seconds, "failed": self.failed, "lines": lines, "statements": statements}

    def _tests(self, seen: Iterable[str]) -> list[str]:
        names = set(seen)
        users = {one.nodeid for one in self.items if names & set(getattr(one, "fixturenames", ()))}
        return sorted({name for name in names if "::" in name} | users)


def _map(session: pytest.Session, items: list[pytest.Item], own: Path) -> int:
    _begin_alone(own)
    mapping = _Mapping(items)
    session.config.pluginmanager.register(mapping)
    session.config.option.maxfail = 0
    for module in [one for name, one in sys.modules.items() if name.startswith("training.fleet.database")]:
        if "_SQL" in vars(module):
            module._SQL = _Noted(module._SQL, mapping.note)
    mapping.coverage.start()
    session.items[:] = items
    with contextlib.suppress(session.Failed, session.Interrupted):
        run_items(session)
    (own / "found").write_text(json.dumps(mapping.found()))
    return 0


# ---- the process that collects and forks


@dataclass
class Sweep:
    """Runs in pytest instead of the tests.

    Attributes:
        wanted: The breaks to try.
        processes: How many at a time.
        folder: Where each process gets a folder of its own.
        done: Called with each break and what became of it: `found`, `survived`, `hung` or `trouble`, and by which test.
        kept: Where it is kept what the tests of a file reach, by the mark of the file; None for nowhere.
        seconds: Longest time of the tests that one break gets, as they take without it.
    """

    wanted: list[Guard]
    processes: int
    folder: Path
    done: Callable[[Guard, str, str], None]
    kept: Path | None
    seconds: float = MOST_S
    reach: Reach = field(default_factory=Reach)
    killers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    ready: bool = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            return True
        self._look(session)
        if not self.reach.failed:
            self._pass_unbroken(session)
        if not self.reach.failed:
            self.ready = True
            self._sweep(session)
        return True

    def _look(self, session: pytest.Session) -> None:
        kept: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept and self.kept.exists() else {}
        files: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in session.items:
            if not any(item.iter_markers("slow")):
                files[item.nodeid.partition("::")[0]].append(item)

        def begin(items: list[pytest.Item]) -> Callable[[Path], int]:
            return lambda own: _map(session, items, own)

        def end(items: list[pytest.Item], status: int, own: Path) -> None:
            file = items[0].nodeid.partition("::")[0]
            if status == SURVIVED:
                kept[_mark(file)] = json.loads((own / "found").read_text())
            else:
                told = (own / "told").read_text() if (own / "told").exists() else f"status {status}"
                self.reach.failed.append(f"{file} ({told.strip().splitlines()[-1]})")

        self._forked([(items, begin(items)) for file, items in files.items() if _mark(file) not in kept], end)
        for file in files:
            self.reach.add(kept.get(_mark(file), {}))
        if self.kept:
            self.kept.write_text(json.dumps(kept))
        say(f"without a break: {len(self.reach.seconds)} tests, {sum(self.reach.seconds.values()):.0f} s")

    def _pass_unbroken(self, session: pytest.Session) -> None:
        """See that tests which run as they do for a break pass where nothing is broken."""
        some = sorted((item for item in session.items if item.nodeid in self.reach.seconds), key=lambda one: one.nodeid)

        def end(_subject: None, status: int, own: Path) -> None:
            if status != SURVIVED:
                self.reach.failed.append((own / "told").read_text())

        self._forked([(None, lambda own: _try(session, None, some[::CONTROL], self.reach.seconds, own))], end)

    def _sweep(self, session: pytest.Session) -> None:
        items = {item.nodeid: item for item in session.items}

        def begin(guard: Guard) -> Callable[[Path], int]:
            def run(own: Path) -> int:
                chosen = [items[test] for test in self._chosen(guard)]
                return _try(session, guard, chosen, self.reach.seconds, own)

            return run

        def end(guard: Guard, status: int, own: Path) -> None:
            by = (own / "told").read_text().partition("\n")[0] if (own / "told").exists() else "no test reaches it"
            word = {FOUND: "found", SURVIVED: "survived", TROUBLE: "trouble", -signal.SIGALRM: "hung"}.get(
                status, "hung"
            )
            if word in ("found", "hung"):
                self.killers[f"{guard.file} {guard.where}"][by] += 1
            self.done(guard, word, by)

        self._forked([(guard, begin(guard)) for guard in self.wanted], end)

    def _chosen(self, guard: Guard) -> list[str]:
        """Return the tests of a break in the order in which they are asked."""
        killers = self.killers[f"{guard.file} {guard.where}"]
        rare, stem, is_sql = self.reach.rare_near(guard), Path(guard.file).stem, guard.file.endswith(".sql")

        def rank(test: str) -> tuple[Any, ...]:
            file = test.partition("::")[0]
            own = stem in file or (is_sql and "test_queue_rows" in file)  # which compares every row
            place = next(
                place for place, part in enumerate(("/conformance/", "/unit/", "/integration/", "/")) if part in file
            )
            return -killers[test], test not in rare, not own, place, file if place else "", self.reach.seconds[test]

        chosen, left_s = [], self.seconds
        for test in sorted(self.reach.of(guard), key=rank):
            left_s -= self.reach.seconds[test]
            if left_s > 0:
                chosen.append(test)
        return chosen

    def _forked(self, works: list[tuple[Any, Callable[[Path], int]]], end: Callable[[Any, int, Path], None]) -> None:
        """Do each work in a process of its own, some at a time."""
        running: dict[int, tuple[Any, Path]] = {}
        for number, (subject, work) in enumerate(works):
            if len(running) >= self.processes:
                self._wait(running, end)
            own = self.folder / str(number)
            own.mkdir()
            pid = os.fork()
            if pid == 0:
                _end_with(work, own)
            running[pid] = subject, own
        while running:
            self._wait(running, end)

    def _wait(self, running: dict[int, tuple[Any, Path]], end: Callable[[Any, int, Path], None]) -> None:
        pid, status = os.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what its tests have started and not ended
        subject, own = running.pop(pid)
        end(subject, os.waitstatus_to_exitcode(status), own)
        shutil.rmtree(own, ignore_errors=True)


def _mark(file: str) -> str:
    """Return a file of tests with a digest of it and of all that can be broken: lines move when either changes."""
    digest = hashlib.sha256()
    for name in (file, *FILES):
        digest.update((ROOT / name).read_bytes())
    return f"{file} {digest.hexdigest()}"


def say(text: str) -> None:
    sys.__stdout__.write(f"{text}\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def accepted(path: Path = ACCEPTED) -> dict[str, str]:
    """Return the breaks that may survive, each with the reason."""
    found: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def _collected() -> list[str]:
    return [str(path) for pattern in TESTS for path in sorted((ROOT / "tests").glob(pattern))]


def run(wanted: list[Guard], options: argparse.Namespace) -> tuple[bool, dict[str, tuple[Guard, str]]]:
    """Try breaks; return whether they could be tried, and what became of each."""
    log: Path | None = options.log
    results: dict[str, tuple[Guard, str]] = {}

    def done(guard: Guard, word: str, by: str) -> None:
        results[guard.name] = guard, word
        if log:
            with log.open("a") as file:
                file.write(json.dumps({"name": guard.name, "line": guard.line, "word": word, "by": by}) + "\n")
        if word in ("survived", "trouble"):
            say(f"{word}  {guard.file}:{guard.line}  {guard.name}" + (f"  ({by})" if "::" not in by else ""))

    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sweep-", dir=memory) as folder:
        sweep = Sweep(wanted, options.processes, Path(folder), done, options.reach, options.seconds)
        flags = ["-x", "-q", "--tb=no", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header"]
        pytest.main([*flags, f"--rootdir={ROOT}", *_collected()], plugins=[sweep])
    for test in sweep.reach.failed:
        say(f"without a break {test} does not pass; make it pass first")
    return sweep.ready, results


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants sweep", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only breaks whose name holds this text")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="breaks at a time (default: 2)")
    parser.add_argument(
        "--seconds", type=float, default=MOST_S, metavar="S", help=f"of tests for one break (default: {MOST_S:.0f})"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="append what became of each break, a line of JSON each"
    )
    parser.add_argument("--again", type=Path, metavar="FILE", help="only those that survived in this log")
    parser.add_argument(
        "--reach",
        type=Path,
        metavar="FILE",
        help="keep what tests reach there; they are looked at again when they or the files to break change",
    )
    options = parser.parse_args(arguments)
    every = [guard for file in FILES for guard in guards(file)]
    wanted = [guard for guard in every if options.only in guard.name]
    if options.again:
        words = {row["name"]: row["word"] for row in map(json.loads, options.again.read_text().splitlines())}
        wanted = [guard for guard in wanted if words.get(guard.name) == "survived"]
    reasons, begun = accepted(), time.monotonic()
    if old := sorted(reasons.keys() - {guard.name for guard in every}):
        say("\n".join(f"{name}: {ACCEPTED.name} has it and the code has not; take the line out" for name in old))
        return 2
    ready, results = run(wanted, options)
    if not ready:
        return 2
    return told(results, reasons, time.monotonic() - begun)


def told(results: dict[str, tuple[Guard, str]], reasons: dict[str, str], took_s: float) -> int:
    """Print what became of the breaks, file by file; return the exit status."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for name, (guard, word) in results.items():
        table[guard.file][word if word != "survived" or name not in reasons else "accepted"] += 1
        if word in ("found", "hung") and name in reasons:
            say(f"{name}: a test finds it now; take it out of {ACCEPTED.name}")
    table["all"] = sum(table.values(), Counter())
    for file, count in table.items():
        words = ", ".join(f"{count[word]} {word}" for word in ("found", "hung", "accepted", "survived", "trouble"))
        say(f"{file}: {count.total()} breaks: {words}")
    share = (table["all"]["survived"] + table["all"]["trouble"]) / max(1, table["all"].total())
    say(f"{share:.1%} survive without a reason; at most {SHARE:.0%} may; {took_s:.0f} s")
    return int(share > SHARE)
