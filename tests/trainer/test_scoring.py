"""Claims about scoring telemetry with a stored bundle."""

from __future__ import annotations

import io
import os
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from synthetic import NEEDS_TORCH, packed, synthetic_table

from training.trainer import predict


def scored(bundle: Path, data: Path, out: Path) -> pa.Table:
    assert predict.main(["--bundle", str(bundle), "--data", str(data), "--out", str(out)]) == 0
    return pq.read_table(out) if out.suffix == ".parquet" else pacsv.read_csv(out)


@pytest.mark.parametrize("model", ["gbt", "mlp", pytest.param("gru", marks=NEEDS_TORCH)])
def test_a_bundle_gives_the_scores_of_its_training_run(
    artifacts: dict[str, Path], synthetic: Path, tmp_path: Path, model: str
) -> None:
    bundle = packed(artifacts[model], tmp_path / "bundle.tar.zst")
    found = scored(bundle, synthetic / "synthetic.parquet", tmp_path / "scores.parquet")
    assert found.schema.names == ["host", "time", "score", "alarm"]
    assert found.num_rows == 6 * 255
    stored = pq.read_table(artifacts[model] / "predictions.parquet")
    wanted = dict(
        zip(
            zip(stored["host"].to_pylist(), stored["time"].to_pylist(), strict=True),
            stored["score"].to_pylist(),
            strict=True,
        )
    )
    got = dict(
        zip(
            zip(found["host"].to_pylist(), found["time"].to_pylist(), strict=True),
            found["score"].to_pylist(),
            strict=True,
        )
    )
    np.testing.assert_allclose([got[key] for key in wanted], list(wanted.values()), rtol=1e-5)
    assert {key: value for key, value in zip(got, found["alarm"].to_pylist(), strict=True) if key in wanted} == dict(
        zip(wanted, stored["alarm"].to_pylist(), strict=True)
    )


@pytest.mark.parametrize(
    ("model", "wanted", "alarms"),
    [
        ("gbt", [0.173135, 0.173135, 0.238525, 0.300015, 0.173135, 0.173135], 289),
        ("mlp", [0.151883, 0.206397, 0.362121, 0.481538, 0.172226, 0.146793], 500),
        pytest.param("lstm", [0.505519, 0.498364, 0.497833, 0.491045, 0.486323, 0.486524], 1513, marks=NEEDS_TORCH),
    ],
)
def test_a_bundle_of_an_older_trainer_gives_the_scores_it_gave_then(
    root: Path, synthetic: Path, tmp_path: Path, model: str, wanted: list[float], alarms: int
) -> None:
    """The bundles were written by 0.1.0 and are kept as they are, because stored models outlive the code."""
    bundle = root / "tests/vectors/bundles/0.1.0" / f"{model}.tar.zst"
    found = scored(bundle, synthetic / "synthetic.parquet", tmp_path / "scores.parquet")
    np.testing.assert_allclose(found["score"].to_numpy()[::300], wanted, atol=2e-6)
    assert sum(found["alarm"].to_pylist()) == pytest.approx(alarms, abs=2)  # a score may stand on the threshold


def test_csv_and_parquet_and_folder_and_bundle_agree(
    artifacts: dict[str, Path], synthetic: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    pacsv.write_csv(synthetic_table(), data)
    one = scored(artifacts["mlp"], data, tmp_path / "scores.csv")
    other = scored(
        packed(artifacts["mlp"], tmp_path / "b.tar.zst"), synthetic / "synthetic.parquet", tmp_path / "s.parquet"
    )
    np.testing.assert_allclose(one["score"].to_numpy(), other["score"].to_numpy(), rtol=1e-4, atol=1e-6)
    assert one["host"].to_pylist() == other["host"].to_pylist()
    assert one["alarm"].to_pylist() == other["alarm"].to_pylist()


def test_without_out_the_scores_are_csv_on_the_standard_output(
    root: Path, artifacts: dict[str, Path], synthetic: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "training/trainer/predict.py",
            "--bundle",
            artifacts["gbt"],
            "--data",
            synthetic / "synthetic.parquet",
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("predict: 1,530 windows of 6 hosts, ")
    lines = done.stdout.splitlines()
    assert lines[0] == '"host","time","score","alarm"'
    assert lines[1].startswith('"a1",5,0.')
    assert len(lines) == 1 + 6 * 255


def test_labels_and_further_columns_are_not_needed(artifacts: dict[str, Path], tmp_path: Path) -> None:
    table = synthetic_table().select(["host", "t", "cpu", "bytes_in", "bytes_out", "constant"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert scored(artifacts["gbt"], tmp_path / "rows.parquet", tmp_path / "s.parquet").num_rows == 6 * 255


def in_this_process(arguments: list[str]) -> int:
    """Score without a child, so that faults can be put in."""
    return predict.scored(predict._options(arguments))


def refused(
    arguments: list[object], capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int] = predict.main
) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return status, error


def test_data_whose_columns_do_not_fit_are_refused_naming_them(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(synthetic_table().drop(["cpu", "t"]), tmp_path / "rows.parquet")
    status, error = refused(["--bundle", artifacts["gbt"], "--data", tmp_path / "rows.parquet"], capsys)
    assert status == 78
    assert "rows.parquet lacks the columns t, cpu; it has host, group, part, label, bytes_in, bytes_out" in error


def test_a_column_that_is_only_spelled_differently_is_named_beside_the_missing_one(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = synthetic_table()
    other = {"bytes_in": "Bytes-In", "cpu": "CPU", "constant": "steady"}
    pacsv.write_csv(table.rename_columns([other.get(name, name) for name in table.column_names]), tmp_path / "rows.csv")
    status, error = refused(["--bundle", artifacts["gbt"], "--data", tmp_path / "rows.csv"], capsys)
    assert status == 78
    lacking = "bytes_in (found 'Bytes-In' instead), cpu (found 'CPU' instead), constant"
    assert f"rows.csv lacks the columns {lacking}; it has host, group, " in error


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_text_where_a_number_is_expected_names_the_column(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    table = synthetic_table()
    texts = pa.array(["0.5"] * 3 + ["many"] + ["0.5"] * (table.num_rows - 4))
    table = table.set_column(table.column_names.index("cpu"), "cpu", texts)
    data = tmp_path / f"rows{suffix}"
    pacsv.write_csv(table, data) if suffix == ".csv" else pq.write_table(table, data)
    status, error = refused(["--bundle", artifacts["gbt"], "--data", data], capsys)
    assert status == 78
    place = "row 5, column 'cpu': found 'many', expected a number"
    assert (place if suffix == ".csv" else "column 'cpu' holds string, expected numbers") in error


def predicting(root: Path, data: bytes, *arguments: object, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the program with telemetry on its standard input."""
    command = [sys.executable, *more.pop("flags", []), "-m", "training.trainer.predict", *map(str, arguments)]
    return subprocess.run(command, cwd=root, input=data, capture_output=True, check=False, **more)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_telemetry_on_the_standard_input_is_scored_like_a_file(
    root: Path, artifacts: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    data = tmp_path / f"rows{suffix}"
    pacsv.write_csv(synthetic_table(), data) if suffix == ".csv" else pq.write_table(synthetic_table(), data)
    done = predicting(root, data.read_bytes(), "--bundle", artifacts["gbt"], "--data", "-")
    assert (done.returncode, done.stderr[:35]) == (0, b"predict: 1,530 windows of 6 hosts, ")
    scored(artifacts["gbt"], data, tmp_path / "scores.csv")
    assert done.stdout == (tmp_path / "scores.csv").read_bytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b"stdin.csv is not a readable csv file"),
        (b"host,t\na,1\n", b"stdin.csv lacks the columns bytes_in, bytes_out, cpu, constant; it has host, t"),
        (b"PAR1 cut off", b"stdin.parquet is not a readable parquet file"),
    ],
)
def test_a_standard_input_that_does_not_fit_is_refused(
    artifacts: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    expected: bytes,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    status, error = refused(["--bundle", artifacts["gbt"], "--data", "-"], capsys, in_this_process)
    assert status == 78
    assert expected.decode() in error


def test_a_reader_that_saw_enough_gets_no_complaint(root: Path, artifacts: dict[str, Path], synthetic: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "training.trainer.predict", "--bundle", artifacts["gbt"]]
    done = subprocess.run(
        [*command, "--data", synthetic / "synthetic.parquet"],
        cwd=root,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a Python that has every library of this one but torch."""
    folder = tmp_path_factory.mktemp("libraries")
    for path in Path(site.getsitepackages()[0]).iterdir():
        if not path.name.startswith(("torch", "functorch", "__pycache__")) and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("model", ["gbt", "mlp"])
def test_a_model_of_statistics_scores_where_torch_is_not_installed(
    root: Path, artifacts: dict[str, Path], synthetic: Path, tmp_path: Path, without_torch: dict[str, str], model: str
) -> None:
    data = synthetic / "synthetic.parquet"
    arguments = ["--bundle", packed(artifacts[model], tmp_path / "bundle.tar.zst"), "--data", data]
    done = predicting(root, b"", *arguments, flags=["-S"], env=without_torch)
    assert (done.returncode, done.stderr[:35]) == (0, b"predict: 1,530 windows of 6 hosts, ")
    scored(artifacts[model], data, tmp_path / "scores.csv")
    assert done.stdout == (tmp_path / "scores.csv").read_bytes()


@NEEDS_TORCH
def test_a_torch_model_where_torch_is_not_installed_says_what_to_install(
    root: Path, artifacts: dict[str, Path], synthetic: Path, without_torch: dict[str, str]
) -> None:
    arguments = ["--bundle", artifacts["gru"], "--data", synthetic / "synthetic.parquet"]
    done = predicting(root, b"", *arguments, flags=["-S"], env=without_torch)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (75, b"", 1)
    assert b"model gru needs the libraries torch, which this Python lacks" in done.stderr
    assert b"pip install '.[trainer,torch]'" in done.stderr


def test_each_other_trouble_is_one_line_with_its_exit_status(
    artifacts: dict[str, Path],
    synthetic: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = synthetic / "synthetic.parquet"
    gbt = artifacts["gbt"]
    short = tmp_path / "short.parquet"
    pq.write_table(synthetic_table().slice(0, 3), short)
    assert refused(["--bundle", gbt, "--data", short], capsys) == (
        78,
        "predict: no host has enough rows for one window; give longer telemetry\n",
    )
    assert refused(["--bundle", gbt, "--data", tmp_path / "x.parquet"], capsys)[0] == 75
    assert refused(["--bundle", tmp_path / "x", "--data", data], capsys)[0] == 75
    assert refused(["--bundle", gbt, "--data", data, "--out", tmp_path / "s.txt"], capsys)[0] == 78
    assert refused(["--bundle", gbt, "--data", data, "--out", tmp_path / "no/s.csv"], capsys)[0] == 75
    monkeypatch.setattr("training.trainer.stored.scoring.missing_libraries", lambda model: ["lightgbm"])
    assert refused(["--bundle", gbt, "--data", data], capsys, in_this_process)[0] == 75
    for fault in (MemoryError(), ImportError("no pyarrow")):
        monkeypatch.setattr("training.trainer.stored.scoring.unpacked", raising(fault))
        assert refused(["--bundle", gbt, "--data", data], capsys, in_this_process)[0] == 75


def raising(fault: Exception):  # type: ignore[no-untyped-def]
    def broken(*arguments: object) -> None:
        raise fault

    return broken


@pytest.mark.parametrize(("model", "file"), [("gbt", "model.txt"), ("mlp", "model.safetensors")])
def test_a_damaged_model_file_is_refused(
    artifacts: dict[str, Path],
    synthetic: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    file: str,
) -> None:
    (tmp_path / "model.json").write_bytes((artifacts[model] / "model.json").read_bytes())
    (tmp_path / file).write_bytes(b"nonsense")
    status, error = refused(["--bundle", tmp_path, "--data", synthetic / "synthetic.parquet"], capsys)
    assert status == 78
    assert "can't be loaded" in error


def test_a_model_this_trainer_does_not_know_is_refused(
    artifacts: dict[str, Path], synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (artifacts["gbt"] / "model.json").read_text().replace('"model": "gbt"', '"model": "oracle9"')
    (tmp_path / "model.json").write_text(text)
    status, error = refused(["--bundle", tmp_path, "--data", synthetic / "synthetic.parquet"], capsys)
    assert (status, "knows gbt, mlp, cnn, gru, lstm, tcn, transformer" in error) == (78, True)
