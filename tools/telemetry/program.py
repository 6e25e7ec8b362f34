"""The command line of the recorder: checks, records, converts, cleans up.

Standard output says what happens; every failure is one line on standard error that says what to do. Exit status:
0 done, 1 a recording failed, 2 wrong use, 69 this machine lacks something, 78 a package or a newer Python is missing,
128 + n stopped by signal n (what was recorded is kept).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

from tools.telemetry import lab, schedule
from tools.telemetry.sampler import Sampler
from training.needs import demand_packages

_EXIT_UNAVAILABLE: Final = 69  # sysexits.h EX_UNAVAILABLE
_MIN_HOSTS, _MAX_HOSTS = 4, 20
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEAD_S: Final = 1.0
_TELL_EVERY_S: Final = 60


class Stopped(Exception):  # noqa: N818 - it is a wish, not a fault
    """A signal asked the recorder to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recorder.

    Args:
        argv: Words of the command line; the process's own when None.

    Returns:
        Exit status.
    """
    wishes = _parser().parse_args(argv)
    demand_packages("pyarrow")
    if wishes.convert is not None:
        return _convert(wishes.convert, wishes.out)
    lacks = lab.missing()
    if lacks or wishes.check:
        for line in lacks or ["nothing is missing: a recording can begin"]:
            _tell(line, sys.stderr if lacks else sys.stdout)
        return _EXIT_UNAVAILABLE if lacks else 0
    return _record_and_convert(wishes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="record_telemetry.py",
        description="Record a labelled telemetry dataset in network namespaces of this machine. Needs root.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("recorded"), metavar="DIR", help="dataset folder to write (recorded)"
    )
    parser.add_argument("--minutes", type=_positive, default=40.0, metavar="N", help="length of the recording (40)")
    parser.add_argument("--hosts", type=_host_count, default=8, metavar="N", help="number of hosts, 4 to 20 (8)")
    parser.add_argument("--seed", type=int, default=490, metavar="N", help="seed of the plan (490)")
    parser.add_argument("--check", action="store_true", help="say what is missing on this machine and stop")
    parser.add_argument(
        "--convert", type=Path, metavar="RAW", help="only make the dataset from an earlier recording's raw folder"
    )
    parser.add_argument("--keep-raw", action="store_true", help="keep the raw folder below DIR")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 24 * 60:
        raise argparse.ArgumentTypeError(f"found {text}, expected minutes above 0 and at most 1440")
    return value


def _host_count(text: str) -> int:
    value = int(text)
    if not _MIN_HOSTS <= value <= _MAX_HOSTS:
        raise argparse.ArgumentTypeError(f"found {text}, expected {_MIN_HOSTS} to {_MAX_HOSTS} hosts")
    return value


def _record_and_convert(wishes: argparse.Namespace) -> int:
    raw: Path = wishes.out / "raw"
    if raw.exists():
        _tell(f"{raw}: exists, from an earlier recording; convert it with --convert {raw} or remove it", sys.stderr)
        return 1
    try:
        record(wishes.hosts, wishes.minutes * 60, wishes.seed, raw)
    except Stopped as wish:
        _tell(f"stopped; everything is removed but {raw}; make a dataset of it with --convert {raw}", sys.stderr)
        return 128 + wish.number
    except (lab.LabError, OSError) as fault:
        _tell(f"recording failed: {fault}", sys.stderr)
        return 1
    status = _convert(raw, wishes.out)
    if status == 0 and not wishes.keep_raw:
        shutil.rmtree(raw)
    return status


def _convert(raw: Path, out: Path) -> int:
    from tools.telemetry import dataset  # pyarrow is needed here alone

    try:
        facts = dataset.write(raw, out)
    except (OSError, ValueError, KeyError) as fault:
        _tell(f"cannot convert {raw}: {fault}; expected the raw folder of a recording", sys.stderr)
        return 1
    _tell(f"{out}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    return 0


def record(hosts: int, seconds: float, seed: int, raw: Path) -> None:
    """Build a lab, let it work, sample it once a second, take it down.

    Args:
        hosts: Number of hosts.
        seconds: Length.
        seed: Seed of the plan.
        raw: Folder for the raw files, made here.

    Raises:
        LabError: The lab could not be built or a part ended early.
        Stopped: SIGINT, SIGTERM or SIGHUP came; the lab is down.
    """
    plans = schedule.plan(seed, hosts, seconds)
    scratch = Path(tempfile.mkdtemp(prefix="record-telemetry-"))
    old = {number: signal.signal(number, _stop) for number in _STOP_SIGNALS}
    try:
        with lab.Lab(plans, seed=seed, seconds=seconds, scratch=scratch, raw=raw) as built:
            _write_facts(raw, plans, seed, seconds)
            _sample(built, int(seconds), raw)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        shutil.rmtree(scratch, ignore_errors=True)


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the form signal wants
    for other in _STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # a second one must not cut the clean-up short
    raise Stopped(number)


def _write_facts(raw: Path, plans: Sequence[schedule.HostPlan], seed: int, seconds: float) -> None:
    facts = {
        "hosts": [plan.name for plan in plans],
        "seed": seed,
        "seconds": seconds,
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    (raw / "recording.json").write_text(json.dumps(facts, indent=1))


def _sample(built: lab.Lab, ticks: int, raw: Path) -> None:
    origin = time.monotonic() + _LEAD_S
    built.start(origin)
    with (raw / "samples.jsonl").open("w") as out:
        time.sleep(max(0.0, origin - time.monotonic()))
        sampler, last = Sampler(built.targets(), built.switch_pid), time.monotonic()
        for tick in range(1, ticks + 1):
            time.sleep(max(0.0, origin + tick - time.monotonic()))
            now = time.monotonic()
            built.check()
            _write_rows(out, tick, now - last, sampler.rows(now - last))
            last = now
            if tick % _TELL_EVERY_S == 0:
                _tell(f"{tick} of {ticks} s")
        time.sleep(_LEAD_S)  # the switch tells its last second, the hosts their last work


def _write_rows(out: TextIO, tick: int, elapsed_s: float, rows: dict[str, dict[str, float]]) -> None:
    for host, row in rows.items():
        line: dict[str, Any] = {"host": host, "t": tick, "elapsed_s": round(elapsed_s, 4)}
        line.update({name: float(f"{value:.6g}") for name, value in row.items()})
        out.write(json.dumps(line) + "\n")
    out.flush()


def _tell(line: str, to: TextIO | None = None) -> None:
    stream = to or sys.stdout
    stream.write(f"record_telemetry: {line}\n")
    stream.flush()
