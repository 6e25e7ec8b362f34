"""The training program for people: `train.py MODEL --data DIR --out DIR`, one option per hyper-parameter of the model.

The options come from the declaration in `hyper`. What they say is written to `OUT/job.json`, and `run` trains that job,
as it does for a worker. On a terminal the run's progress is shown on the standard error output; the headline numbers
and the place of the artifact follow on the standard output. Until training begins the standard library is enough.

Exit status: that of `run`; 2 for a wrong option.
"""

import sys
from pathlib import Path

if not __package__:
    # Started as a file: the project root stands in for this folder, whose module names must not become top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import training.trainer  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
import difflib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from training.contracts.dataset import MODES, SPLIT_RECIPES, DatasetError
from training.contracts.dataset_folder import read_dataset
from training.trainer import run
from training.trainer.exchange.job import MAX_SEED, MAX_THREADS, RESUME_KEY
from training.trainer.faults import HostError
from training.trainer.files import write_whole
from training.trainer.hyper import MODELS, Hyper, ModelDeclaration

DEFAULT_SEED = 490
LOOK_S = 0.3
"""Seconds between two looks at the progress of the run."""
_PREFIX = "hyper."
_SHOWN_STEP = 5
"""Percent after which a line is shown where the phase stays the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    options = _parsed(arguments)
    path = options.out / "job.json"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "progress.jsonl").unlink(missing_ok=True)
        write_whole(path, (json.dumps(job_document(options), indent=2) + "\n").encode())
    except OSError as fault:
        sys.stderr.write(f"train: {fault}; check the path of --out and the free space\n")
        return HostError.exit_status
    with _shown(options.out / "progress.jsonl", sys.stderr):
        status = run.main(["--job", str(path), "--out", str(options.out)])
    if status == 0:
        sys.stdout.write(summary(options.out))
    return status


def job_document(options: argparse.Namespace) -> dict[str, Any]:
    """Return the job description that the options ask for; only hyper-parameters that were given are named."""
    given = {key.removeprefix(_PREFIX): value for key, value in vars(options).items() if key.startswith(_PREFIX)}
    spec = {
        "model": options.model,
        "mode": options.mode,
        "hyper": given,
        "split_recipe": options.split,
        "train_hosts": options.train_hosts,
        "seed": options.seed,
    }
    return {
        "v": 1,
        "spec": spec,
        "dataset": {"name": _dataset_name(options.data), "path": str(options.data)},
        "threads": options.threads,
        "device": options.device,
        "resume": None if options.resume is None else str(options.resume),
    }


def summary(out: Path) -> str:
    """Return the headline numbers of a finished run, one a line, and where its artifact is."""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    lines = {name: "-" if value is None else f"{value:.3f}" for name, value in result["metrics"].items()}
    lines |= {"split": result["split"] + (" (leaks)" if result["leaks"] else ""), "artifact": str(out / "artifact")}
    width = max(len(name) for name in lines)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines.items())


def progress_text(line: dict[str, Any]) -> str:
    """Return a line of `progress.jsonl` as a person reads it: percent, phase and, where there is one, AUPRC."""
    text = f"{100 * line['step'] // line['steps']:3d} % {line['phase']}"
    found = line["metrics"].get("validation_auprc")
    return text if found is None else f"{text}, validation AUPRC {found:.3f}"


def _dataset_name(folder: Path) -> str:
    try:
        return read_dataset(folder).name
    except DatasetError:
        # The run names every fault of the declaration; until then the folder's name does.
        return folder.resolve().name or "dataset"


@contextmanager
def _shown(path: Path, stream: IO[str]) -> Iterator[None]:
    """Show what a run writes to its progress file, when the stream is a terminal."""
    if not stream.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, stream, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(path: Path, stream: IO[str], ended: threading.Event) -> None:
    last: tuple[str, int] = ("", 0)
    place, whole = 0, False
    while not whole:
        # Asked before the look, so that the last look comes after the last line.
        whole = ended.wait(LOOK_S)
        lines, place = _new_lines(path, place)
        for line in lines:
            seen = (line["phase"], 100 * line["step"] // line["steps"])
            if seen[0] != last[0] or seen[1] - last[1] >= _SHOWN_STEP:
                stream.write(progress_text(line) + "\n")
                stream.flush()
                last = seen


def _new_lines(path: Path, place: int) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines after a place in a file, parsed, and the place after them."""
    if not path.is_file():
        return [], place
    with path.open("rb") as stream:
        stream.seek(place)
        found = stream.read()
    found = found[: found.rfind(b"\n") + 1]
    return [json.loads(line) for line in found.splitlines()], place + len(found)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser, models = parsers()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in models[options.model]._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1, cutoff=0.0)[0]
        models[options.model].error(f"{options.model} has no option {unknown[0]}, nearest is {near}")
    if options.resume is not None and not _is_for_checkpoints(options.resume):
        models[options.model].error(f"--resume: {options.resume} holds other things; name a new or an empty folder")
    return options


def _is_for_checkpoints(folder: Path) -> bool:
    """Tell whether a folder may be used for checkpoints: what it holds is deleted when it belongs to another job."""
    if not folder.exists():
        return True
    return folder.is_dir() and ((folder / RESUME_KEY).is_file() or not any(folder.iterdir()))


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the program's parser, and that of each model."""
    parser = argparse.ArgumentParser(
        prog="training.trainer.train",
        description="Train one model on a dataset folder.",
        epilog="training.trainer.train MODEL --help shows the model's hyper-parameters.",
    )
    commands = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    models = {name: _model_parser(commands, model) for name, model in MODELS.items()}
    return parser, models


def _model_parser(commands: Any, model: ModelDeclaration) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        model.name, help=model.title, description=f"Train {model.name}: {model.title}.", allow_abbrev=False
    )
    _add_common(parser)
    group = parser.add_argument_group(f"hyper-parameters of {model.name}")
    for item in model.hypers:
        _add_hyper(group, item)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="dataset folder, which holds dataset.toml")
    add("--out", type=Path, required=True, metavar="DIR", help="run folder; artifact and result are written there")
    add("--mode", choices=MODES, default="realistic", help="which metrics the model may see (default realistic)")
    add("--split", choices=SPLIT_RECIPES, default="hosts", help="what is held out for the test (default hosts)")
    add(
        "--seed",
        type=_whole(0, MAX_SEED),
        default=DEFAULT_SEED,
        metavar="N",
        help=f"decides everything random (default {DEFAULT_SEED})",
    )
    add("--train-hosts", nargs="+", default=["*"], metavar="GLOB", help="hosts whose rows train (default all)")
    add("--threads", type=_whole(1, MAX_THREADS), default=1, metavar="N", help="threads to use (default 1)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where torch computes (default cpu)")
    add("--resume", type=Path, metavar="DIR", help="folder for checkpoints; the same command goes on from there")


def _add_hyper(group: argparse._ArgumentGroup, item: Hyper) -> None:
    """Add the option of a hyper-parameter; without it the job does not name the parameter."""
    schema, option = item.schema(), "--" + item.name.replace("_", "-")
    shared: dict[str, Any] = {"dest": _PREFIX + item.name, "default": argparse.SUPPRESS}
    meaning = item.meaning.replace("%", "%%")
    if isinstance(item.default, bool):
        text = f"{meaning} (default {'on' if item.default else 'off'})"
        group.add_argument(option, action=argparse.BooleanOptionalAction, help=text, **shared)
        return
    unit = "" if item.unit in ("", "1") else f"{item.unit}, ".replace("%", "%%")
    text = f"{meaning} ({unit}{schema['minimum']} to {schema['maximum']}, default {item.default})"
    kind = "N" if schema["type"] == "integer" else "X"
    group.add_argument(option, type=_value_of(item), metavar=kind, help=text, **shared)


def _value_of(item: Hyper) -> Callable[[str], int | float]:
    """Return the reader of a value, which refuses what the declaration refuses, in its words."""

    def read(text: str) -> int | float:
        value = _number(text)
        fault = item.fault(value)
        if fault is not None:
            raise argparse.ArgumentTypeError(fault)
        kind: type[int | float] = type(item.default)
        return kind(value)

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = _number(text)
        if not isinstance(value, int) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"found {value!r}, expected a whole number from {low} to {high}")
        return value

    return read


def _number(text: str) -> int | float | str:
    """Return the number that a text stands for, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
