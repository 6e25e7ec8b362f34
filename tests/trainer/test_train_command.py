"""Claims about the training command for people: its options are the declaration, and it trains as a worker's job."""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import job_document

from training.trainer import run, train
from training.trainer.hyper import MODELS

QUICK_OPTIONS = ["--max-iter", "20", "--learning-rate", "0.2", "--min-leaf-rows", "5", "--feature-fraction", "1"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "artifact").iterdir())}


def test_the_command_gives_the_bytes_of_the_same_job(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", str(synthetic), "--out", str(tmp_path / "one"), "--mode", "oracle", "--split", "time"]
    assert train.main(["gbt", *common, *QUICK_OPTIONS]) == 0
    shown = capsys.readouterr()
    document = job_document(synthetic, "gbt", "oracle", "time")
    del document["job_id"], document["dataset"]["digest"]
    assert json.loads((tmp_path / "one/job.json").read_text()) == document
    (tmp_path / "job.json").write_text(json.dumps(document))
    assert run.main(["--job", str(tmp_path / "job.json"), "--out", str(tmp_path / "two")]) == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    lines = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    metrics = json.loads((tmp_path / "one/result.json").read_text())["metrics"]
    assert lines["auprc_host_mean"] == f"{metrics['auprc_host_mean']:.3f}"
    assert (lines["split"], lines["artifact"]) == ("time", str(tmp_path / "one/artifact"))
    # The tests train without figures, and a run says so.
    assert shown.err.startswith("trainer: the bundle has no figures: ")
    assert shown.err.count("\n") == 1


def parsed(model: str, *arguments: str) -> dict[str, Any]:
    options = train._parsed([model, "--data", "d", "--out", "o", *arguments])
    return train.job_document(options)


def test_options_that_are_not_given_are_not_named_in_the_job() -> None:
    assert parsed("mlp") == {
        "v": 1,
        "spec": {
            "model": "mlp",
            "mode": "realistic",
            "hyper": {},
            "split_recipe": "hosts",
            "train_hosts": ["*"],
            "seed": 490,
        },
        "dataset": {"name": "d", "path": "d"},
        "threads": 1,
        "device": "cpu",
        "resume": None,
    }


def test_every_option_reaches_the_job() -> None:
    found = parsed(
        *["tcn", "--mode", "oracle", "--split", "time", "--seed", "3", "--train-hosts", "a*", "b1", "--threads", "2"],
        *["--device", "cuda", "--no-history", "--mixed-precision", "--max-epochs", "7", "--clip", "4"],
    )
    assert found["spec"] == {
        "model": "tcn",
        "mode": "oracle",
        "hyper": {"max_epochs": 7, "clip": 4.0, "mixed_precision": True, "history": False},
        "split_recipe": "time",
        "train_hosts": ["a*", "b1"],
        "seed": 3,
    }
    assert (found["threads"], found["device"]) == (2, "cuda")


def hyper_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.dest.startswith("hyper.")]


@pytest.mark.parametrize("model", MODELS)
def test_the_options_of_a_model_are_its_declared_hyper_parameters(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = MODELS[model].hypers
    actions = hyper_options(train.parsers()[1][model])
    assert [action.dest for action in actions] == [f"hyper.{item.name}" for item in declared]
    assert [action.option_strings[0] for action in actions] == ["--" + item.name.replace("_", "-") for item in declared]
    with pytest.raises(SystemExit):
        train.main([model, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for item in declared:
        span = f"{item.minimum} to {item.maximum}, default {item.default})"
        assert item.meaning in shown
        assert (span if item.minimum is not None else "(default on)") in shown or item.name == "mixed_precision"
        assert item.unit in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max-iter", "0"], "argument --max-iter: found 0, expected integer from 1 to 10000"),
        (["--max-iter", "2.5"], "argument --max-iter: found 2.5, expected integer from 1 to 10000"),
        (["--learning-rate", "nan"], "argument --learning-rate: found nan, expected number from 0.0001 to 1.0"),
        (["--l2", "much"], "argument --l2: found 'much', expected number from 0.0 to 10000.0"),
        (["--seed", "-1"], "argument --seed: found -1, expected a whole number from 0 to 9007199254740991"),
        (["--threads", "0"], "argument --threads: found 0, expected a whole number from 1 to 1024"),
        (["--split", "host"], "argument --split: invalid choice: 'host'"),
        (["--max-itre", "3"], "gbt has no option --max-itre, nearest is --max-iter"),
        (["--hidden=3"], "gbt has no option --hidden=3, nearest is --"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    error = refused(["gbt", "--data", "d", "--out", str(tmp_path / "out"), *arguments], capsys)
    assert expected in error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_things_is_never_taken_for_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    common = ["gbt", "--data", "d", "--out", str(tmp_path / "out"), "--resume"]
    assert "holds other files; name a new or an empty folder" in refused([*common, str(tmp_path)], capsys)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert "holds other files" in refused([*common, str(tmp_path / "thesis.txt")], capsys)


def test_a_folder_with_the_mark_of_checkpoints_is_gone_on_from(synthetic: Path, tmp_path: Path) -> None:
    resume = tmp_path / "resume"
    resume.mkdir()
    (resume / "key.json").write_text("{}")
    (resume / "old").write_text("of another job")
    common = ["--data", str(synthetic), "--out", str(tmp_path / "out"), "--split", "time", "--resume", str(resume)]
    assert train.main(["gbt", *common, *QUICK_OPTIONS]) == 0
    assert list(resume.iterdir()) == []


def test_the_exit_status_and_the_message_are_those_of_the_run(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["gbt", "--data", str(synthetic), "--out", str(tmp_path)]
    assert train.main([*common, "--fold", "4", *QUICK_OPTIONS]) == 78
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "hyper.fold is 4" in shown.err
    assert train.main(["gbt", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 75
    (tmp_path / "file").write_text("")
    assert train.main(["gbt", "--data", str(synthetic), "--out", str(tmp_path / "file")]) == 75
    assert "check the path of --out" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["gbt", "--help"], ["tcn", "--help"]])
def test_help_loads_no_heavy_library(root: Path, arguments: list[str]) -> None:
    program = (
        "import sys\nfrom training.trainer import train\ntry:\n    train.main(sys.argv[1:])\nfinally:\n"
        "    print(sorted({'numpy', 'torch', 'pyarrow', 'lightgbm', 'sklearn', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "usage: training.trainer.train" in done.stdout


def test_a_terminal_shows_phase_percent_and_validation_auprc(root: Path, synthetic: Path, tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    command = [sys.executable, "training/trainer/train.py", "mlp", "--data", str(synthetic), "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--max-epochs", "2"], cwd=root, stdout=subprocess.PIPE, stderr=writer, text=True, check=True
    )
    os.close(writer)
    shown = os.read(reader, 1 << 16).decode().splitlines()
    os.close(reader)
    assert shown[0] == "  0 % start" or shown[0].startswith("  0 % reading")
    assert any(" % fold 1/3, validation AUPRC 0." in line for line in shown)
    assert shown[-1].endswith("100 % writing")
    assert done.stdout.splitlines()[-1].split() == ["artifact", str(tmp_path / "artifact")]


def test_the_program_starts_from_any_folder(root: Path, synthetic: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "training/trainer/train.py"), "gbt", "--data", str(synthetic)]
    done = subprocess.run(
        [*command, "--out", "run", "--split", "random", *QUICK_OPTIONS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "split            random (leaks)" in done.stdout
    assert "random` leaks" in done.stderr
