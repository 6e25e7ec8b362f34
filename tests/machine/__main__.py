"""Run random histories of a fleet and stop at the first that breaks a rule.

    python -m tests.machine --histories 500
    python -m tests.machine --histories 500000 --processes 2
    python -m tests.machine --seed 4711 --histories 1

Each history comes from its own number, so a number that was reported is all that is needed to see it again.
Exit status: 0 when nothing was found, 1 when something was.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

from tests.machine.driver import Count, Violation, histories, shortest


def run_chunk(first: int, number: int, steps: int) -> tuple[Count, Violation | None]:
    gc.freeze()
    count = Count()
    return count, histories(range(first, first + number), steps, count)


def run_all(first: int, number: int, steps: int, processes: int, chunk_size: int) -> tuple[Count, Violation | None]:
    """Run histories in processes of their own, in the order of their numbers."""
    total = Count()
    chunks = iter(
        [(at, min(chunk_size, first + number - at), steps) for at in range(first, first + number, chunk_size)]
    )
    with ProcessPoolExecutor(processes) as pool:
        waiting = {pool.submit(run_chunk, *chunk) for _, chunk in zip(range(processes), chunks, strict=False)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                count, violation = future.result()
                total.add(count)
                if violation is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                    return total, violation
                if (chunk := next(chunks, None)) is not None:
                    waiting.add(pool.submit(run_chunk, *chunk))
    return total, None


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show(violation: Violation, steps: int) -> None:
    short = shortest(violation)
    say(f"history {violation.seed} breaks a rule; the shortest form that does has {len(short.steps)} steps:")
    for name, seed in short.steps:
        say(f"  {name} {seed}")
    say(short.error)
    say(f"again: python -m tests.machine --histories 1 --steps {steps} --seed {violation.seed}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.machine", description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=500, help="how many (500)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each (60)")
    parser.add_argument("--seed", type=int, default=1, help="number of the first; the others follow (1)")
    parser.add_argument("--processes", type=int, default=1, help="how many run at once (1)")
    parser.add_argument("--chunk", type=int, default=100, help="how many a process runs before it takes more (100)")
    parser.add_argument("--short", action="store_true", help="do not look for the shortest form of what is found")
    asked = parser.parse_args(arguments)
    begun = time.monotonic()
    if asked.processes == 1:
        total = Count()
        violation = histories(range(asked.seed, asked.seed + asked.histories), asked.steps, total)
    else:
        total, violation = run_all(asked.seed, asked.histories, asked.steps, asked.processes, asked.chunk)
    say(f"{total.line()}, {time.monotonic() - begun:.1f} s of waiting")
    if violation is None:
        return 0
    if asked.short:
        say(violation.error)
        say(f"again: python -m tests.machine --histories 1 --steps {asked.steps} --seed {violation.seed}")
    else:
        show(violation, asked.steps)
    return 1


if __name__ == "__main__":
    sys.exit(main())
