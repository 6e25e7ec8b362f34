"""Take the guards of queue, store and database out, one at a time, and show that the tests notice each.

    python -m tests.mutants
    python -m tests.mutants --only fence --processes 1
    python -m tests.mutants --markdown
    python -m tests.mutants sweep          every small break of a guard, see `sweep`

Works on a copy of the project in a temporary folder. Exit status: 0 when every mutant was found, 1 when one was not,
2 when the table no longer fits the code or the tests do not pass without a mutant.
"""

from __future__ import annotations

import argparse
import queue
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import sweep
from tests.mutants.table import Mutant, faults, in_words, read
from tests.mutants.trial import Verdict, copy_project, run_tests, without_guard


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line(mutant: Mutant, verdict: Verdict) -> str:
    word = "trouble" if verdict.trouble else "found" if verdict.found else "SURVIVED"
    return f"{word:8} {mutant.name:32} {verdict.took_s:5.1f} s  {verdict.by.split('::')[-1]}  {verdict.why}"


def in_markdown(mutant: Mutant, verdict: Verdict) -> str:
    by = in_words(verdict.by) if verdict.found else "nothing"
    return f"| `{mutant.name}` | {mutant.guard} | {by} |"


def made_copies(folder: Path, mutants: list[Mutant], number: int) -> list[Path]:
    """Copy the project and run every test that is named without a mutant; all of them must pass."""
    first = folder / "copy-0"
    copy_project(first)
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    verdict = run_tests(first, tuple(tests), keep_compiled=True)
    if verdict.found or verdict.trouble:
        say(f"without a mutant: {verdict.by} fails ({verdict.why}){verdict.trouble}; correct that first")
        raise SystemExit(2)
    say(f"without a mutant: {len(tests)} tests named pass, {verdict.took_s:.1f} s")
    others = [folder / f"copy-{place}" for place in range(1, number)]
    for other in others:
        shutil.copytree(first, other)
    return [first, *others]


def run_all(mutants: list[Mutant], processes: int, markdown: bool) -> list[Verdict]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(processes) as pool:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for copy in made_copies(Path(folder), mutants, processes):
            copies.put(copy)

        def tried(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                with without_guard(copy, mutant):
                    return run_tests(copy, mutant.tests)
            finally:
                copies.put(copy)

        verdicts = []
        for mutant, verdict in zip(mutants, pool.map(tried, mutants), strict=True):
            verdicts.append(verdict)
            say(in_markdown(mutant, verdict) if markdown else line(mutant, verdict))
            if verdict.trouble:
                say(verdict.trouble)
    return verdicts


def main() -> int:
    if sys.argv[1:2] == ["sweep"]:
        return sweep.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose name holds this text")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="mutants at a time (default: 2)")
    parser.add_argument("--markdown", action="store_true", help="print the rows of the table in the docs")
    options = parser.parse_args()
    mutants = [mutant for mutant in read() if options.only in mutant.name]
    if not mutants:
        parser.error(f"found no mutant with {options.only!r} in its name; expected a part of one in mutants.toml")
    if old := faults(mutants):
        say("\n".join(old))
        return 2
    verdicts = run_all(mutants, options.processes, options.markdown)
    found, trouble = sum(one.found for one in verdicts), any(one.trouble for one in verdicts)
    say(f"{found} of {len(mutants)} mutants were found, {sum(one.took_s for one in verdicts):.0f} s of tests")
    return 2 if trouble else int(found < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
