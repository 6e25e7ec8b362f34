"""Claims about scoring telemetry with a stored bundle."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from synthetic import job_document, synthetic_table

from training.trainer import bundle_reader, predict, run


@pytest.fixture(scope="session")
def artifacts(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifact folders of both models, trained on the split by time: the stored model is the scored one."""
    import json

    found = {}
    for model in ("gbt", "mlp"):
        folder = tmp_path_factory.mktemp(model)
        (folder / "job.json").write_text(json.dumps(job_document(synthetic, model, "oracle", "time")))
        assert run.main(["--job", str(folder / "job.json"), "--out", str(folder)]) == 0
        found[model] = folder / "artifact"
    return found


def packed(artifact: Path, path: Path) -> Path:
    with bundle_reader._zstd().open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for file in sorted(artifact.iterdir()):
            archive.add(file, file.name)
    return path


def scored(bundle: Path, data: Path, out: Path) -> pa.Table:
    assert predict.main(["--bundle", str(bundle), "--data", str(data), "--out", str(out)]) == 0
    return pq.read_table(out) if out.suffix == ".parquet" else pacsv.read_csv(out)


@pytest.mark.parametrize("model", ["gbt", "mlp"])
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
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == '"host","time","score","alarm"'
    assert lines[1].startswith('"a1",5,0.')
    assert len(lines) == 1 + 6 * 255


def test_labels_and_further_columns_are_not_needed(artifacts: dict[str, Path], tmp_path: Path) -> None:
    table = synthetic_table().select(["host", "t", "cpu", "bytes_in", "bytes_out", "constant"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert scored(artifacts["gbt"], tmp_path / "rows.parquet", tmp_path / "s.parquet").num_rows == 6 * 255


def refused(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = predict.main([str(argument) for argument in arguments])
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
    monkeypatch.setattr("training.trainer.scoring.missing_libraries", lambda model: ["lightgbm"])
    assert refused(["--bundle", gbt, "--data", data], capsys)[0] == 75
    for fault in (MemoryError(), ImportError("no pyarrow")):
        monkeypatch.setattr("training.trainer.scoring.unpacked", raising(fault))
        assert refused(["--bundle", gbt, "--data", data], capsys)[0] == 75


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
