"""Claims about the reference pages of the trainer: they say what the code does."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scored_windows import result_document, scored

from training.contracts.dataset import MAX_WINDOW_ROWS
from training.contracts.dataset_folder import _KINDS, _SPLIT_KEYS
from training.trainer import accuracy, datasets, evaluate, export, faults, hyper, predict, train, unpack
from training.trainer.artifact import card
from training.trainer.artifact.numeric_class import numeric_class
from training.trainer.evaluation import incidents, intervals, measures
from training.trainer.faults import HostError, SpecError
from training.trainer.models import stored_tensors, stored_trees
from training.trainer.stored import archive, child, model_files, onnx_export, scoring
from training.trainer.stored.model_files import Description


def test_the_page_of_models_holds_the_declared_hyper_parameters(root: Path) -> None:
    assert hyper.hyper_table().strip() in (root / "docs/reference/models.md").read_text()


def test_the_page_of_models_describes_every_model(root: Path) -> None:
    text = (root / "docs/reference/models.md").read_text()
    assert [model for model in hyper.MODELS if f"\n## {model}\n" not in text and f"| `{model}` | " not in text] == []


def test_the_dataset_contract_names_every_split_with_its_kind_and_keys(root: Path) -> None:
    rows = [line for line in (root / "docs/reference/dataset-contract.md").read_text().splitlines() if "|" in line]
    for recipe, kind in _KINDS.items():
        (row,) = (line for line in rows if line.startswith(f"| `{recipe}` | `{kind}` |"))
        assert [key for key in _SPLIT_KEYS[recipe] if key != "kind" and f"`{key}`" not in row] == []


@pytest.mark.parametrize("error", [faults.SpecError, faults.HostError])
def test_the_trainer_contract_names_exit_status_and_kind(root: Path, error: type[faults.TrainerError]) -> None:
    text = (root / "docs/reference/trainer-contract.md").read_text()
    assert f"| {error.exit_status} |" in text
    assert f"`{error.kind}`" in text


def test_the_page_on_accuracy_can_be_rewritten_by_its_command(root: Path) -> None:
    page = root / "docs/explanation/accuracy.md"
    before, after = accuracy._marked(page)
    assert "python -m training.trainer.accuracy" in before + after


def test_the_page_of_results_defines_every_key_of_the_numbers(root: Path) -> None:
    document = result_document(scored({"a": [(0, 0.1), (1, 0.9)]}), warning="It leaks.")
    parts = [document["pooled"], document["host_mean"], document["intervals"], document["reliability"][0]]
    parts += [
        document["incident_summary"],
        document["incidents"][0],
        document["folds"][0],
        document["folds"][0]["curve"][0],
    ]
    keys = {key for part in (document, *parts) for key in part} | set(measures.HEADLINES)
    text = (root / "docs/reference/results.md").read_text()
    assert sorted(key for key in keys if f"`{key}`" not in text and f"### {key}" not in text) == []
    for number in (intervals.DRAWS, incidents.MAX_LISTED, card.MAX_MISSED):
        assert f"{number:,}" in text


def test_the_page_of_results_names_every_figure_and_every_part_of_the_numeric_class(root: Path) -> None:
    text = (root / "docs/reference/results.md").read_text()
    assert [name for name in card._FIGURES if f"| `{name}` |" not in text] == []
    assert [key for key in numeric_class(1, "cpu", {}, ()) if f"`{key}`" not in text] == []


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (option for option in action.option_strings if option not in ("-h", "--help"))
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from options_of(inner)


def test_the_guide_on_imports_names_every_option(root: Path) -> None:
    text = (root / "docs/guides/import-public-data.md").read_text()
    options = set(options_of(datasets._parser()))
    assert len(options) == 15
    assert [option for option in sorted(options) if not re.search(rf"^\| `{option} ", text, re.MULTILINE)] == []


def section(root: Path, heading: str) -> str:
    text = (root / "docs/reference/trainer-contract.md").read_text()
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_the_trainer_contract_names_every_option_of_training_by_hand_and_no_other(root: Path) -> None:
    named = re.findall(r"^\| `(--[a-z-]+)", section(root, "Training by hand"), re.MULTILINE)
    for model, parser in train.parsers()[1].items():
        declared = {f"--{item.name}".replace("_", "-") for item in hyper.MODELS[model].hypers}
        yes_no = {f"--no-{item.name}".replace("_", "-") for item in hyper.MODELS[model].hypers if item.unit == ""}
        assert sorted(named) == sorted(set(options_of(parser)) - declared - yes_no)


def test_the_trainer_contract_names_every_option_of_the_export_and_no_other(root: Path) -> None:
    named = re.findall(r"^\| `(--[a-z-]+)", section(root, "Export to ONNX"), re.MULTILINE)
    assert sorted(named) == sorted(options_of(export._parser()))


@pytest.mark.parametrize(
    ("heading", "parser"),
    [("Scoring new telemetry", predict._parser()), ("Judging a model on labelled data", evaluate._parser())],
)
def test_the_trainer_contract_names_every_option_of_scoring_and_judging(
    root: Path, heading: str, parser: argparse.ArgumentParser
) -> None:
    named = re.findall(r"^\| `(--[a-z-]+)", section(root, heading), re.MULTILINE)
    assert sorted(named) == sorted(options_of(parser))


def test_the_trainer_contract_names_what_an_exported_file_says_of_itself(root: Path) -> None:
    description = Description("gbt", ("x",), None, None, 30, True, 0.5)
    named = re.findall(r"^\| `([a-z_]+)` \|", section(root, "Export to ONNX"), re.MULTILINE)
    assert named == list(onnx_export.properties(description, ""))


def test_the_trainer_contract_names_the_statuses_and_limits_of_scoring(root: Path) -> None:
    text = section(root, "Scoring new telemetry")
    named = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert named == {
        0, 2, child.EXIT_CRASHED, child.EXIT_KILLED, SpecError.exit_status, child.EXIT_INTERRUPTED, child.EXIT_CLOSED,
    }  # fmt: skip
    assert HostError.exit_status == child.EXIT_KILLED
    assert f"at most {model_files.MAX_MEMBERS} regular files" in text
    assert f"at most {model_files.MAX_DESCRIPTION_BYTES >> 20} MiB, with 1 to {model_files.MAX_COLUMNS:,}" in text
    assert f"at most {MAX_WINDOW_ROWS:,} rows" in text
    assert f"at most {stored_trees.MAX_TREES:,} trees of at most {stored_trees.MAX_LEAVES:,} leaves" in text
    assert f"a header of at most {stored_tensors.MAX_HEADER_BYTES >> 20} MiB" in text
    load_s = f"1 s more for each {scoring.LOAD_BYTES_PER_S >> 10} KiB"
    assert f"Loading may take {scoring.MIN_LIMIT_S:.0f} s of CPU time on every core, and {load_s} of the model" in text
    assert f"On the clock it may be {child.CLOCK_PER_CPU} times that" in text
    step = f"it may take {onnx_export._STEP_LIMIT_S:.0f} s of CPU time on every core for the conversion"
    assert step in section(root, "Export to ONNX")
    window = f"{1000 * scoring.WINDOW_S:.0f} ms more for each window"
    assert f"may take {scoring.MIN_LIMIT_S:.0f} s, {window}, and 1 s more for each" in text
    assert f"{scoring.SCORE_BYTES_PER_S / 1e6:.0f} MB of the model's bytes times rows" in text


def test_the_page_of_the_store_names_what_unpacking_takes_and_its_limits(root: Path) -> None:
    text = (root / "docs/reference/store.md").read_text().split("\n## Unpacking a bundle\n")[1]
    names = [(action.option_strings or [action.dest.upper()])[0] for action in unpack._parser()._actions[1:]]
    assert [name for name in names if f"| `{name}` | " not in text] == []
    assert f"more than {archive.MAX_RATIO} times" in text
    assert f"once {archive.RATIO_FROM_BYTES >> 20} MiB have come out" in text
    assert f"a zstd window over {1 << archive.MAX_WINDOW_LOG - 20} MiB" in text
    assert f"{unpack.MEMORY_BYTES >> 20} MiB beyond an idle Python, and {unpack.CPU_S} s of CPU time" in text
    assert f"one more for each {unpack.BYTES_PER_CPU_S >> 20} MiB" in text
