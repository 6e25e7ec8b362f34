"""Claims about what people read beside scores: tally, threshold, columns behind alarms, and a second judgement."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from synthetic import DECLARATION, NEEDS_TORCH, Artifacts, synthetic_table, write_dataset

from training.contracts.dataset_folder import dataset_digest
from training.trainer import evaluate, predict
from training.trainer.models import gbt
from training.trainer.stored.model_files import foreign


def predicted(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[list[dict[str, str]], str]:
    """Score to a file beside the data, without a child; return its rows and the line on the standard error output."""
    out = Path(str(arguments[3])).with_suffix(".scores.csv")
    status = predict.scored(predict._options([*map(str, arguments), "--out", str(out)]))
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (0, 1), error
    with out.open(newline="") as stream:
        return list(csv.DictReader(stream)), error


def small(folder: Path, times: list[str], rows: int = 12) -> Path:
    """Write telemetry of two hosts with these times, of which the second one has too few rows for a window."""
    table = synthetic_table().select(["bytes_in", "bytes_out", "cpu", "constant"]).slice(0, rows)
    hosts = ["a"] * (rows - 3) + ["b"] * 3
    table = table.append_column("host", pa.array(hosts)).append_column("t", pa.array(times))
    pacsv.write_csv(table, folder / "rows.csv")
    return folder / "rows.csv"


def changed(artifact: Path, folder: Path, **keys: Any) -> Path:
    """Copy a model with other keys in its description; a key with None is taken out."""
    folder.mkdir()
    for path in artifact.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    document = json.loads((artifact / "model.json").read_text()) | keys
    document = {key: value for key, value in document.items() if value is not None}
    (folder / "model.json").write_text(json.dumps(document))
    return folder


def test_one_line_says_how_much_was_scored_and_what_to_compare_the_alarms_with(
    artifacts: Artifacts, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.parquet"
    data.write_bytes((synthetic / "synthetic.parquet").read_bytes())
    found, error = predicted(capsys, "--bundle", artifacts["gbt"], "--data", data)
    alarms = sum(row["alarm"] == "true" for row in found)
    description = json.loads((artifacts["gbt"] / "model.json").read_text())
    last = json.loads((artifacts["gbt"] / "metrics.json").read_text())["folds"][-1]
    assert description["validation_alarm_rate"] == last["validation_alarms"] / last["validation_windows"]
    assert 0 < description["validation_alarm_rate"] < 0.5
    expected = f"{100 * description['validation_alarm_rate']:.1f} % on the validation windows"
    assert error == (f"predict: 1,530 windows of 6 hosts, {alarms} alarms ({100 * alarms / 1530:.1f} %; {expected})\n")


def test_a_model_of_an_older_trainer_has_nothing_to_compare_with(
    root: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.parquet"
    data.write_bytes((synthetic / "synthetic.parquet").read_bytes())
    error = predicted(capsys, "--bundle", root / "tests/vectors/bundles/0.1.0/gbt.tar.zst", "--data", data)[1]
    assert error == "predict: 1,530 windows of 6 hosts, 289 alarms (18.9 %)\n"


def test_hosts_without_a_full_window_are_counted(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, error = predicted(
        capsys, "--bundle", artifacts["gbt"], "--data", small(tmp_path, [str(i) for i in range(12)])
    )
    assert {row["host"] for row in found} == {"a"}
    assert error.startswith("predict: 4 windows of 1 host, ")
    assert error.endswith("; 1 host has fewer than 6 rows and no score\n")


def test_another_threshold_gives_other_alarms_and_the_same_scores(
    artifacts: Artifacts, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.parquet"
    data.write_bytes((synthetic / "synthetic.parquet").read_bytes())
    own, _ = predicted(capsys, "--bundle", artifacts["mlp"], "--data", data)
    other, error = predicted(capsys, "--bundle", artifacts["mlp"], "--data", data, "--threshold", "0.25")
    assert [row["score"] for row in own] == [row["score"] for row in other]
    assert [row["alarm"] for row in other] == ["true" if float(row["score"]) >= 0.25 else "false" for row in other]
    limit = json.loads((artifacts["mlp"] / "model.json").read_text())["threshold"]
    assert f"% at the threshold 0.25; the model's is {limit:g})" in error


@pytest.mark.parametrize(
    "times",
    [
        [str(1_700_000_000 + i) for i in range(12)],
        [str(1_700_000_000_000_000_000 + i) for i in range(12)],
        [f"{1_700_000_000 + i}.250" for i in range(12)],
        [f"2026-10-05 08:00:{i:02d}" for i in range(12)],
        [f"2026-10-05T08:00:{i:02d}.50+02:00" for i in range(12)],
    ],
)
def test_the_time_of_a_score_is_that_of_its_row_as_it_stands_in_the_data(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str], times: list[str]
) -> None:
    found, _ = predicted(capsys, "--bundle", artifacts["gbt"], "--data", small(tmp_path, times))
    assert [row["time"] for row in found] == times[5:9]


def test_a_timestamp_of_parquet_stays_one(artifacts: Artifacts, tmp_path: Path) -> None:
    table = synthetic_table()
    stamps = pa.array(np.asarray(table["t"]) * 1000 + 7, pa.timestamp("ns", "UTC"))
    pq.write_table(table.set_column(2, "t", stamps), tmp_path / "rows.parquet")
    out = tmp_path / "scores.parquet"
    arguments = ["--bundle", str(artifacts["gbt"]), "--data", str(tmp_path / "rows.parquet"), "--out", str(out)]
    assert predict.main(arguments) == 0
    found = pq.read_table(out)["time"]
    assert found.type == pa.timestamp("ns", "UTC")
    assert found.cast(pa.int64())[0].as_py() == 5007


@pytest.mark.parametrize("model", ["gbt", "mlp", pytest.param("cnn", marks=NEEDS_TORCH)])
def test_the_columns_behind_an_alarm_are_named(
    artifacts: Artifacts, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    """In these data `cpu` tells clearly, and `constant` can't."""
    data = tmp_path / "rows.parquet"
    data.write_bytes((synthetic / "synthetic.parquet").read_bytes())
    found, _ = predicted(capsys, "--bundle", artifacts[model], "--data", data, "--explain", "2")
    alarms = [row for row in found if row["alarm"] == "true"]
    assert [row for row in found if row["alarm"] == "false" and row["explanation"]] == []
    first = [row["explanation"].split(" +")[0] for row in alarms if row["explanation"]]
    assert len(alarms) > 20
    assert "constant" not in first
    if model != "cnn":  # one epoch on few windows has learnt hardly anything
        assert first.count("cpu") > 0.8 * len(first)
    assert max(row["explanation"].count("; ") for row in alarms) == (1 if model != "cnn" else pytest.approx(1, abs=1))
    with pytest.raises(SystemExit):
        predict.main(["--bundle", "b", "--data", "d", "--explain", "0"])


def test_what_the_trees_tell_adds_up_to_their_scores(artifacts: Artifacts) -> None:
    from training.trainer.models import InputShape

    description = json.loads((artifacts["gbt"] / "model.json").read_text())
    trees = gbt.load(artifacts["gbt"], InputShape("gbt", len(description["features"]), 6))
    features = np.random.default_rng(1).normal(size=(50, len(description["features"]))).astype(np.float32)
    parts = trees.contributions(features)
    assert parts.shape == features.shape
    margin = np.log(trees.score(features) / (1 - trees.score(features)))
    rest = margin - parts.sum(axis=1)
    assert np.ptp(rest) < 1e-3  # what the ensemble gives on average


@pytest.mark.parametrize("text", ["1.1", "-0.1", "nan", "high"])
def test_a_threshold_that_no_score_can_have_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for program in (predict, evaluate):
        with pytest.raises(SystemExit) as caught:
            program.main(["--bundle", "b", "--data", "d", f"--threshold={text}"])
        assert (caught.value.code, "expected a score from 0 to 1" in capsys.readouterr().err) == (2, True)


def test_the_trainer_of_a_foreign_bundle_is_named_where_it_is_known() -> None:
    assert str(foreign("b.tar.zst", "forest")) == (
        "b.tar.zst was made by the trainer forest; its own program scores with it"
    )
    assert "another trainer made it; its own program scores with it" in str(foreign("b.tar.zst"))


@pytest.mark.parametrize(
    ("key", "value"), [("validation_alarm_rate", 1.5), ("validation_alarm_rate", "often"), ("dataset_digest", 7)]
)
def test_a_wrong_later_key_of_a_description_is_refused(
    artifacts: Artifacts, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any
) -> None:
    folder = changed(artifacts["gbt"], tmp_path / "model", **{key: value})
    assert predict.main(["--bundle", str(folder), "--data", str(synthetic / "synthetic.parquet")]) == 78
    assert f"model.json is not of format 1: {key}: found {value!r}" in capsys.readouterr().err


# A second judgement.


def judged(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Judge without a child."""
    status = evaluate.evaluated(evaluate._parser().parse_args([str(argument) for argument in arguments]))
    return status, *capfd.readouterr()


def test_a_model_is_judged_on_labelled_data_with_the_numbers_of_the_card(
    artifacts: Artifacts, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = synthetic_table().rename_columns(
        ["machine", "group", "minute", "part", "bad", "bytes_in", "bytes_out", "cpu", "constant"]
    )
    declaration = DECLARATION
    for name, other in (('"host"', '"machine"'), ('"t"', '"minute"'), ('label = "label"', 'label = "bad"')):
        declaration = declaration.replace(name, other)
    folder = write_dataset(tmp_path / "other", table.slice(0, 3 * 260), declaration)
    status, out, err = judged(capfd, "--bundle", artifacts["gbt"], "--data", folder, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["dataset"] == {"name": "synthetic", "digest": dataset_digest(folder)}
    assert (found["trained_on_it"], found["window_rows"], list(found["hosts"])) == (False, 6, ["a1", "a2", "a3"])
    assert found["pooled"]["windows"] == 3 * 255
    assert found["headline"]["auroc"] == found["pooled"]["auroc"] > 0.9
    assert found["incident_summary"]["count"] == 30
    assert evaluate.main(["--bundle", str(artifacts["gbt"]), "--data", str(folder)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith("# gbt, oracle mode, on dataset synthetic\n\n765 windows of 6 rows from 3 hosts, ")
    assert f"| AUROC, pooled | {found['pooled']['auroc']:.4f} | - | 0.5 for a score without skill" in out
    assert "\n## Per host\n" in out
    assert "\n## Incidents\n" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("|")) <= 120


def test_data_that_trained_the_model_are_told_so(
    artifacts: Artifacts, synthetic: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = judged(capfd, "--bundle", artifacts["mlp"], "--data", synthetic, "--threshold", "0.9")
    assert status == 0
    assert "> **Warning: the model was trained on this dataset**, so new data give lower numbers.\n" in out
    assert "alarms at the threshold 0.9.\n" in out


def test_data_of_one_class_have_no_rank_and_still_count_alarms(
    artifacts: Artifacts, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = synthetic_table()
    folder = write_dataset(tmp_path / "calm", table.set_column(4, "label", pa.array([0] * table.num_rows, pa.int8())))
    status, out, _ = judged(capfd, "--bundle", artifacts["gbt"], "--data", folder)
    assert status == 0
    assert "| AUROC, pooled | none (one class only) |" in out
    assert "None was tested." in out


def test_each_trouble_of_judging_is_one_line_with_its_status(
    artifacts: Artifacts, synthetic: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = write_dataset(tmp_path / "short", synthetic_table().slice(0, 4))
    lacking = write_dataset(tmp_path / "lacking", synthetic_table().drop(["cpu"]))
    cases = [
        (artifacts["gbt"], tmp_path / "nowhere", 75, "evaluate: dataset folder"),
        (artifacts["gbt"], short, 78, "evaluate: no host has enough rows for one window; give longer telemetry"),
        (artifacts["gbt"], lacking, 78, "evaluate: synthetic.parquet lacks the columns cpu"),
        (tmp_path / "none.tar.zst", synthetic, 75, "none.tar.zst does not exist; give a bundle.tar.zst or an artifact"),
    ]
    for bundle, data, wanted, message in cases:
        status, out, err = judged(capfd, "--bundle", bundle, "--data", data)
        assert (status, out, err.count("\n"), message in err) == (wanted, "", 1, True), err
