"""The trainer's program: `run.py --job job.json --out DIR`, `--describe`, `--validate --job job.json`.

Exit status 0: done. 75: this host can't do it now, try elsewhere. 78: the job is wrong, never retry. 2: wrong usage of
the command. Anything else: failed. A foreseeable failure is one line on stderr and, with `--out`, a `result.json` with
its kind. Heavy libraries are imported only when a job is trained, so `--describe` needs the standard library alone.

Runs as `python -m training.trainer.run` and as `python training/trainer/run.py` from a bare checkout.
"""

import sys
from pathlib import Path

if not __package__:
    # Started as a file: the project root stands in for this folder, whose module names must not become top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import training.trainer  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
import errno
import json
import os
import time
from collections.abc import Sequence

from training.contracts.dataset import Dataset, DatasetError
from training.contracts.dataset_folder import dataset_digest, read_dataset
from training.needs import missing
from training.trainer.exchange.job import Job, read_job
from training.trainer.faults import HostError, SpecError, TrainerError, lacking
from training.trainer.hyper import MODELS, describe, missing_libraries

RESULT_VERSION = 1
EXIT_INTERRUPTED = 130
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory",)
_CARD_OUT_OF_MEMORY = (
    "CUDA out of memory",  # torch's own allocator
    "CUDA error: out of memory",  # the driver, when not even a context fits
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    options = _options(arguments)
    if options.describe:
        sys.stdout.write(json.dumps(describe(), indent=2) + "\n")
        return 0
    started = time.monotonic()
    try:
        job = read_job(options.job)
        _check_libraries(job)
        dataset = _dataset(job)
        if not options.validate:
            _train(job, dataset, options.out, started)
    except KeyboardInterrupt:
        sys.stderr.write("trainer: stopped before the end; start the job again\n")
        return EXIT_INTERRUPTED
    except Exception as fault:
        known = _known(fault)
        if known is None:
            _record_failure(options.out, "trainer_error", f"{type(fault).__name__}: {fault}")
            raise
        _record_failure(options.out, known.kind, str(known))
        sys.stderr.write(f"trainer: {known}\n")
        return known.exit_status
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="training.trainer.run", description="Train one job.")
    parser.add_argument("--describe", action="store_true", help="print the declaration as JSON Schema and exit")
    parser.add_argument("--validate", action="store_true", help="check the job and exit without training")
    parser.add_argument("--job", type=Path, metavar="FILE", help="the job description, job.json")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run folder; artifact and result are written there")
    options = parser.parse_args(arguments)
    if not options.describe and options.job is None:
        parser.error("--job is missing; give the job description, or --describe")
    if not options.describe and not options.validate and options.out is None:
        parser.error("--out is missing; give the run folder, or --validate")
    return options


def _check_libraries(job: Job) -> None:
    missing = missing_libraries(job.model)
    if missing:
        raise lacking(job.model, missing)


def _dataset(job: Job) -> Dataset:
    """Read the declaration and check that it offers what the job asks for."""
    dataset = read_dataset(job.dataset_folder)
    if job.split_recipe not in dataset.splits:
        raise SpecError(dataset.missing_split(job.split_recipe))
    return dataset


def _train(job: Job, dataset: Dataset, out: Path, started: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").unlink(missing_ok=True)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(job.threads)
    # A thread that waits by spinning takes the core from the thread it waits for where others use the machine too:
    # measured 91 s against 9 s on two busy cores. Source: OpenMP 5.2, OMP_WAIT_POLICY.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from training.trainer.exchange.progress import Progress

    with Progress(out / "progress.jsonl") as progress:
        from threadpoolctl import threadpool_limits

        from training.trainer.artifact.folder import LEAK_WARNING, write_artifact, write_json
        from training.trainer.artifact.numeric_class import numeric_class
        from training.trainer.evaluation.measures import headline
        from training.trainer.exchange.checkpoint import Checkpoints, checkpoint_key
        from training.trainer.experiment import run_experiment

        digest = _checked_digest(job)
        with threadpool_limits(job.threads):
            machine = numeric_class(job.threads, job.device, {}, MODELS[job.model].libraries)
            checkpoints = Checkpoints(job.resume_folder, checkpoint_key(job, digest, machine), job.checkpoint_s)
            outcome = run_experiment(job, dataset, progress, checkpoints)
            progress.phase("writing", 1.0, 1.0)
            write_artifact(out, job, dataset, digest, outcome)
    if outcome.leaks:
        sys.stderr.write(f"trainer: {LEAK_WARNING}\n")
    result = {
        "v": RESULT_VERSION,
        "status": "done",
        "metrics": headline(outcome.metrics),
        "split": job.split_recipe,
        "fold": job.hyper["fold"],
        "seed": job.seed,
        "leaks": outcome.leaks,
        "threads": job.threads,
        "device": outcome.device,
        "dataset_digest": digest,
        "duration_s": round(time.monotonic() - started, 3),
    }
    write_json(out / "result.json", result)
    checkpoints.clear()


def _checked_digest(job: Job) -> str:
    digest = dataset_digest(job.dataset_folder)
    if job.dataset_digest is not None and digest != job.dataset_digest:
        raise HostError(
            f"dataset {job.dataset_name!r} has the digest {digest} here, the job expects {job.dataset_digest}; "
            "bring this host's copy up to date"
        )
    return digest


def _known(fault: Exception) -> TrainerError | None:
    """Turn a foreseeable failure into the trainer's own error; None for a fault of the program."""
    if isinstance(fault, TrainerError):
        return fault
    if isinstance(fault, DatasetError):
        return HostError(str(fault)) if fault.unreadable else SpecError(str(fault))
    if isinstance(fault, MemoryError) or _is_torch_out_of_memory(fault, _OUT_OF_MEMORY):
        return HostError("memory ran out; free some, or raise the job's min_ram_gib", "oom_ram")
    if _is_torch_out_of_memory(fault, _CARD_OUT_OF_MEMORY):
        return HostError(
            "the card's memory ran out; use smaller batch_rows, or raise the job's min_vram_gib", "oom_gpu"
        )
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return HostError("the disk is full; free some space below the run folder", "disk_full")
    if isinstance(fault, (OSError, ImportError)):
        return HostError(missing(fault) or f"{fault}; check this host's installation and the run folder's rights")
    return None


def _is_torch_out_of_memory(fault: Exception, words: Sequence[str]) -> bool:
    """Tell by its words, because torch raises RuntimeError on the CPU and classes of its own on CUDA."""
    return isinstance(fault, RuntimeError) and any(word in str(fault) for word in words)


def _record_failure(out: Path | None, kind: str, error: str) -> None:
    """Write `result.json` with plain means, because what failed may be a library or the disk."""
    if out is None:
        return
    document = {"v": RESULT_VERSION, "status": "failed", "kind": kind, "error": error}
    temporary = out / "result.json.partial"
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        temporary.replace(out / "result.json")
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main())
