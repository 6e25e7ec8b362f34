"""The accuracy program: trains models, modes and splits over several seeds and writes one table.

`python -m training.trainer.accuracy --data DIR --seeds 0,1,2 [--splits hosts,group,time,random] [--write FILE.md]`

Every job is the one the fleet would train with default hyper-parameters, in a process of its own, several at a time;
only the model that the fleet would keep beside the folds' is left out, because no number depends on it. A split that
leaks is marked in its rows and in a closing line that says how much better it looks. With `--write` the text between
the two marker lines of a Markdown file is replaced after every row, so that a run cut short keeps what it measured;
otherwise the table goes to the standard output at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from training.contracts.dataset import MODES, SPLIT_RECIPES, Dataset, DatasetError
from training.contracts.dataset_folder import read_dataset
from training.trainer.data.splits import LEAKING_RECIPES
from training.trainer.exchange.job import parsed_job
from training.trainer.faults import HostError, SpecError, TrainerError
from training.trainer.hyper import MODELS

BEGIN = "<!-- accuracy table: begin -->"
END = "<!-- accuracy table: end -->"
ROOT = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COLUMNS = ("auroc", "auprc", "auroc_host_mean", "auprc_host_mean", "f1_host_mean")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    options = _options(arguments)
    try:
        if options.write is not None:
            _marked(options.write)
        started, rows = time.monotonic(), []
        for row in measured_rows(options):
            rows.append(row)
            text = table(rows) + _effort(rows, options, time.monotonic() - started)
            if options.write is not None:
                _write(options.write, text)
        if options.write is None:
            sys.stdout.write(text)
    except (TrainerError, DatasetError, OSError) as fault:
        sys.stderr.write(f"accuracy: {fault}\n")
        return fault.exit_status if isinstance(fault, TrainerError) else HostError.exit_status
    return 0


def measured_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Train every combination and yield one row each, with the numbers of all seeds."""
    dataset = read_dataset(options.data)
    wanted = list(itertools.product(options.splits, options.models, options.modes))
    with ThreadPoolExecutor(options.parallel) as pool:
        jobs = [
            [pool.submit(_numbers, dataset, *names, seed, options.threads) for seed in options.seeds]
            for names in wanted
        ]
        try:
            for (split, model, mode), futures in zip(wanted, jobs, strict=True):
                found = [future.result() for future in futures]
                duration_s = statistics.fmean(entry["duration_s"] for entry in found)
                auprc = _spread(found, "auprc_host_mean")
                sys.stderr.write(f"{split} {model} {mode}: host AUPRC {auprc}, {duration_s:.0f} s per job\n")
                yield {"split": split, "model": model, "mode": mode, "duration_s": duration_s, "numbers": found}
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, mean and spread (sample standard deviation) over seeds, and a leak line."""
    lines = [
        "| split | model | mode | AUROC | AUPRC | host AUROC | host AUPRC | host F1 | inner AUPRC | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"{row['split']} (leaks)" if row["split"] in LEAKING_RECIPES else row["split"]
        cells = [_spread(row["numbers"], key) for key in (*COLUMNS, "inner")]
        lines.append(f"| {name} | {row['model']} | {row['mode']} | {' | '.join(cells)} | {row['duration_s']:.0f} |")
    return "\n".join([*lines, *_leak_lines(rows)]) + "\n"


def _numbers(dataset: Dataset, split: str, model: str, mode: str, seed: int, threads: int) -> dict[str, float]:
    """Train one job in a process of its own and return its numbers."""
    document = {
        "v": 1,
        "spec": {"model": model, "mode": mode, "split_recipe": split, "seed": seed},
        "dataset": {"name": dataset.name, "path": str(dataset.folder.resolve())},
        "threads": threads,
    }
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"OMP_WAIT_POLICY": "passive"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", "from training.trainer.accuracy import _one; _one()"]
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603  (this Python and this module)
        command, input=json.dumps(document), capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise HostError(f"{model} {mode} {split} seed {seed} ended with {done.returncode}: {done.stderr.strip()}")
    found: dict[str, float] = json.loads(done.stdout)
    return found | {"duration_s": time.monotonic() - started}


def _one() -> None:
    """Train the job on the standard input and print its numbers; what the processes of their own run."""
    from training.trainer.evaluation.measures import headline
    from training.trainer.exchange.checkpoint import Checkpoints
    from training.trainer.exchange.progress import Progress
    from training.trainer.experiment import run_experiment

    try:
        job = parsed_job(json.load(sys.stdin))
        with tempfile.TemporaryDirectory() as folder, Progress(Path(folder) / "progress.jsonl") as progress:
            nowhere = Checkpoints(None, "", 0)
            outcome = run_experiment(job, read_dataset(job.dataset_folder), progress, nowhere, keep=False)
    except TrainerError as fault:
        sys.stderr.write(f"trainer: {fault}\n")
        sys.exit(fault.exit_status)
    numbers = {key: value for key, value in headline(outcome.metrics).items() if value is not None}
    inner = statistics.fmean(fold["fit"]["validation_auprc"] for fold in outcome.folds)
    sys.stdout.write(json.dumps(numbers | {"inner": inner}))


def _effort(rows: Sequence[Row], options: argparse.Namespace, duration_s: float) -> str:
    jobs = sum(len(row["numbers"]) for row in rows)
    return (
        f"\n{jobs} jobs in {duration_s / 3600:.1f} hours, {options.parallel} at a time, "
        f"each with {options.threads} {'thread' if options.threads == 1 else 'threads'}.\n"
    )


def _spread(numbers: Sequence[Mapping[str, float]], key: str) -> str:
    values = [entry[key] for entry in numbers if key in entry]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def _leak_lines(rows: Sequence[Row]) -> list[str]:
    """Say how much better a leaking split looks than the hosts split."""
    means = {
        (row["split"], row["model"], row["mode"]): statistics.fmean(
            entry["auprc_host_mean"] for entry in row["numbers"]
        )
        for row in rows
    }
    lines = [
        f"- {model} {mode}: split {split} looks {value - means['hosts', model, mode]:+.3f} better than hosts. "
        "That difference is a leak, not skill."
        for (split, model, mode), value in means.items()
        if split in LEAKING_RECIPES and ("hosts", model, mode) in means
    ]
    return ["", *lines] if lines else []


def _write(path: Path, text: str) -> None:
    before, after = _marked(path)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _marked(path: Path) -> tuple[str, str]:
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SpecError(f"{path} lacks the lines {BEGIN!r} and {END!r}; add them where the table belongs")
    return before, after


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="training.trainer.accuracy", description="Write the accuracy table.")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--seeds", type=_seeds, default=[0, 1, 2], help="seeds, such as 0,1,2")
    parser.add_argument("--models", type=_chosen(list(MODELS)), default=list(MODELS), help="models, by comma")
    parser.add_argument("--modes", type=_chosen(list(MODES)), default=list(MODES), help="modes, by comma")
    parser.add_argument("--splits", type=_chosen(list(SPLIT_RECIPES)), default=["hosts"], help="splits, by comma")
    parser.add_argument("--parallel", type=int, default=2, help="jobs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads per job")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="replace the table in this file")
    return parser.parse_args(arguments)


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser of names by comma that refuses unknown ones."""

    def parsed(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"found {', '.join(unknown)}, expected {', '.join(known)}")
        return names

    return parsed


if __name__ == "__main__":
    sys.exit(main())
