"""Claims about whole training jobs on a small synthetic dataset."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import DECLARATION, job_document, synthetic_table, write_dataset

from training.contracts.dataset_folder import dataset_digest
from training.trainer import run
from training.trainer.artifact import provenance
from training.trainer.artifact.folder import LEAK_WARNING
from training.trainer.faults import HostError, SpecError, TrainerError

JobFile = Callable[..., Path]
MODEL_FILES = {"gbt": "model.txt", "mlp": "model.safetensors"}


def train(job_file: JobFile, document: Any, out: Path) -> int:
    return run.main(["--job", str(job_file(document)), "--out", str(out)])


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "artifact").iterdir())}


def document_of(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text())


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("model", ["gbt", "mlp"])
@pytest.mark.parametrize("mode", ["realistic", "oracle"])
def test_the_same_job_gives_the_same_bytes(
    synthetic: Path, job_file: JobFile, tmp_path: Path, model: str, mode: str
) -> None:
    for name in ("one", "two"):
        assert train(job_file, job_document(synthetic, model, mode), tmp_path / name) == 0
    first = content(tmp_path / "one")
    assert first == content(tmp_path / "two")
    assert sorted(first) == sorted(
        [
            MODEL_FILES[model],
            "metrics.json",
            "model.json",
            "model_card.md",
            "predictions.parquet",
            "provenance.json",
            "curves.svg",
            "hosts.svg",
            "learning.svg",
            "reliability.svg",
        ]
    )


def test_another_seed_gives_another_model(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    for seed in (1, 2):
        assert train(job_file, job_document(synthetic, "mlp", seed=seed), tmp_path / str(seed)) == 0
    assert content(tmp_path / "1")["model.safetensors"] != content(tmp_path / "2")["model.safetensors"]


@pytest.mark.parametrize("model", ["gbt", "mlp"])
@pytest.mark.parametrize("split", ["random", "time", "hosts", "group", "published"])
def test_every_split_trains_and_finds_the_signal(
    synthetic: Path, job_file: JobFile, tmp_path: Path, model: str, split: str
) -> None:
    assert train(job_file, job_document(synthetic, model, "oracle", split), tmp_path) == 0
    result = document_of(tmp_path, "result.json")
    assert (result["v"], result["status"], result["split"], result["device"]) == (1, "done", split, "cpu")
    assert result["leaks"] is (split == "random")
    assert result["dataset_digest"] == dataset_digest(synthetic)
    assert list(result["metrics"]) == [
        "auroc",
        "auprc",
        "auroc_host_mean",
        "auprc_host_mean",
        "f1",
        "f1_host_mean",
        "tpr_at_1pct_fpr",
        "brier",
        "incidents_found",
    ]
    assert result["metrics"]["auroc_host_mean"] > 0.85


@pytest.mark.parametrize("model", ["gbt", "mlp"])
def test_labels_in_random_order_give_no_skill(shuffled: Path, job_file: JobFile, tmp_path: Path, model: str) -> None:
    assert train(job_file, job_document(shuffled, model), tmp_path) == 0
    assert abs(document_of(tmp_path, "result.json")["metrics"]["auroc"] - 0.5) < 0.08


def test_oracle_sees_what_realistic_cannot(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    found = {}
    for mode in ("realistic", "oracle"):
        assert train(job_file, job_document(synthetic, "gbt", mode), tmp_path / mode) == 0
        found[mode] = document_of(tmp_path / mode, "result.json")["metrics"]["auprc_host_mean"]
        columns = document_of(tmp_path / mode, "artifact/model.json")["columns"]
        assert ("cpu" in columns) is (mode == "oracle")
    assert found["oracle"] > found["realistic"] + 0.1


def test_the_stored_predictions_give_the_stored_numbers(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    assert train(job_file, job_document(synthetic), tmp_path) == 0
    table = pq.read_table(tmp_path / "artifact/predictions.parquet")
    assert table.column_names == ["host", "time", "label", "score", "alarm", "fold"]
    assert table.num_rows == 6 * (260 - 5)
    score, label = table["score"].to_numpy(), table["label"].to_numpy()
    order = (score[label == 1][:, None] > score[label == 0]).mean()
    ties = (score[label == 1][:, None] == score[label == 0]).mean()
    metrics = document_of(tmp_path, "artifact/metrics.json")
    assert metrics["headline"]["auroc"] == pytest.approx(order + ties / 2)
    hosts, folds = table["host"].to_pylist(), table["fold"].to_pylist()
    assert {(host, fold) for host, fold in zip(hosts, folds, strict=True)} == {
        ("a1", "fold 1/3"),
        ("b1", "fold 1/3"),
        ("a2", "fold 2/3"),
        ("b2", "fold 2/3"),
        ("a3", "fold 3/3"),
        ("b3", "fold 3/3"),
    }
    threshold = {fold["name"]: fold["threshold"] for fold in metrics["folds"]}
    wanted = [value >= threshold[fold] for value, fold in zip(score, folds, strict=True)]
    assert table["alarm"].to_pylist() == wanted


@pytest.mark.parametrize("model", ["gbt", "mlp"])
def test_every_result_names_what_it_depends_on_before_any_number(
    synthetic: Path, job_file: JobFile, tmp_path: Path, model: str
) -> None:
    assert train(job_file, job_document(synthetic, model), tmp_path) == 0
    metrics = document_of(tmp_path, "artifact/metrics.json")
    assert list(metrics.items())[:8] == [
        ("v", 1),
        ("dataset", {"name": "synthetic", "digest": dataset_digest(synthetic)}),
        ("split", "hosts"),
        ("fold", 0),
        ("seed", 490),
        ("threads", 1),
        ("device", "cpu"),
        ("leaks", False),
    ]
    assert list(metrics)[8:] == [
        "model",
        "mode",
        "headline",
        "pooled",
        "host_mean",
        "intervals",
        "hosts",
        "reliability",
        "incident_summary",
        "incidents",
        "folds",
    ]
    card = (tmp_path / "artifact/model_card.md").read_text()
    for line in ("| fold | all |", "| seed | 490 |", "| threads | 1 |", "| device | cpu |", dataset_digest(synthetic)):
        assert line in card


@pytest.mark.parametrize("model", ["gbt", "mlp"])
def test_the_evaluation_covers_hosts_incidents_calibration_and_intervals(
    synthetic: Path, job_file: JobFile, tmp_path: Path, model: str
) -> None:
    assert train(job_file, job_document(synthetic, model), tmp_path) == 0
    metrics = document_of(tmp_path, "artifact/metrics.json")
    table = pq.read_table(tmp_path / "artifact/predictions.parquet")
    score, label = table["score"].to_numpy().astype(float), table["label"].to_numpy()
    assert metrics["headline"]["brier"] == pytest.approx(((score - label) ** 2).mean())
    assert set(metrics["hosts"]) == {"a1", "a2", "a3", "b1", "b2", "b3"}
    assert all(0 <= entry["brier"] <= 1 for entry in metrics["hosts"].values())
    assert sum(entry["windows"] for entry in metrics["reliability"]) == 6 * 255
    summary = metrics["incident_summary"]
    # Every host has 10 anomalous stretches of 5 rows; the first begins at row 10, after the first full window.
    assert (summary["count"], summary["cut"], summary["listed"]) == (60, 0, 60)
    assert metrics["headline"]["incidents_found"] == summary["found"] / 60
    first = metrics["incidents"][0]
    assert (first["host"], first["first_time"], first["last_time"], first["rows"]) == ("a1", 10, 14, 5)
    rows = dict(
        zip(zip(table["host"].to_pylist(), table["time"].to_pylist(), strict=True), table["alarm"], strict=True)
    )
    for item in metrics["incidents"]:
        alarms = [rows[item["host"], item["first_time"] + row].as_py() for row in range(5)]
        assert item["delay_rows"] == (alarms.index(True) if True in alarms else None)
    assert metrics["intervals"]["hosts"] == 6
    for key in ("auroc_host_mean", "auprc_host_mean", "f1_host_mean"):
        low, high = metrics["intervals"][key]
        assert low <= metrics["headline"][key] <= high


@pytest.mark.parametrize(("model", "steps"), [("gbt", [10, 20]), ("mlp", [1, 2, 3, 4])])
def test_the_learning_curve_of_every_fold_is_kept(
    synthetic: Path, job_file: JobFile, tmp_path: Path, model: str, steps: list[int]
) -> None:
    assert train(job_file, job_document(synthetic, model), tmp_path) == 0
    folds = document_of(tmp_path, "artifact/metrics.json")["folds"]
    assert len(folds) == 4
    for fold in folds:
        assert [point["step"] for point in fold["curve"]] == steps
        best = max(point["validation_auprc"] for point in fold["curve"])
        assert best == fold["fit"]["validation_auprc"]
        losses = [point["train_loss"] for point in fold["curve"]]
        assert 0 < losses[-1] < losses[0] < 1.5


def test_an_incident_that_began_before_the_tested_rows_is_marked_as_cut(
    synthetic: Path, job_file: JobFile, tmp_path: Path
) -> None:
    assert train(job_file, job_document(synthetic, split="time"), tmp_path) == 0
    incidents = document_of(tmp_path, "artifact/metrics.json")["incidents"]
    # Rows from 164 on are tested, so the first full window ends at 169; only b3 has a stretch there, 165 to 169.
    found = [(item["host"], item["first_time"], item["last_time"]) for item in incidents if item["cut"]]
    assert found == [("b3", 169, 169)]


@pytest.mark.usefixtures("figures")
def test_the_figures_of_a_leaking_split_are_marked(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    assert train(job_file, job_document(synthetic, split="random"), tmp_path) == 0
    for name in ("curves", "hosts", "learning", "reliability"):
        assert "<!-- THIS SPLIT LEAKS -->" in (tmp_path / f"artifact/{name}.svg").read_text()


@pytest.mark.usefixtures("figures")
def test_without_matplotlib_a_job_has_the_same_numbers_and_says_that_it_has_no_figures(
    root: Path, synthetic: Path, job_file: JobFile, tmp_path: Path
) -> None:
    path = job_file(job_document(synthetic))
    assert run.main(["--job", str(path), "--out", str(tmp_path / "with")]) == 0
    code = "import sys; sys.modules['matplotlib'] = None; from training.trainer import run; sys.exit(run.main())"
    command = [sys.executable, "-c", code, "--job", str(path), "--out", str(tmp_path / "without")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "the bundle has no figures: this needs the package matplotlib" in done.stderr
    assert "'.[trainer]'" in done.stderr
    one, other = content(tmp_path / "with"), content(tmp_path / "without")
    assert sorted(set(one) - set(other)) == ["curves.svg", "hosts.svg", "learning.svg", "reliability.svg"]
    assert one["metrics.json"] == other["metrics.json"]
    assert b"No figures: the machine that trained has no matplotlib" in other["model_card.md"]
    assert b"](curves.svg)" in one["model_card.md"]


def test_several_folds_keep_one_more_model_and_one_fold_keeps_its_own(
    synthetic: Path, job_file: JobFile, tmp_path: Path
) -> None:
    names = {}
    for split in ("hosts", "time"):
        assert train(job_file, job_document(synthetic, split=split), tmp_path / split) == 0
        names[split] = [fold["name"] for fold in document_of(tmp_path / split, "artifact/metrics.json")["folds"]]
    assert names == {"hosts": ["fold 1/3", "fold 2/3", "fold 3/3", "final"], "time": ["time"]}
    assert "was not scored itself" in (tmp_path / "hosts/artifact/model_card.md").read_text()
    assert "The stored model is the one that was scored." in (tmp_path / "time/artifact/model_card.md").read_text()


def test_a_leaking_split_says_so_everywhere(
    synthetic: Path, job_file: JobFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(job_file, job_document(synthetic, split="random"), tmp_path) == 0
    assert "leaks" in capsys.readouterr().err
    assert document_of(tmp_path, "result.json")["leaks"] is True
    metrics = document_of(tmp_path, "artifact/metrics.json")
    assert (metrics["leaks"], metrics["warning"]) == (True, LEAK_WARNING)
    assert "**Warning: leak.**" in (tmp_path / "artifact/model_card.md").read_text()
    phases = [json.loads(line)["phase"] for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert "random (leaks)" in phases


def test_the_provenance_names_job_data_code_and_numeric_class(
    synthetic: Path, job_file: JobFile, tmp_path: Path
) -> None:
    document = job_document(synthetic)
    assert train(job_file, document, tmp_path) == 0
    found = document_of(tmp_path, "artifact/provenance.json")
    assert found["spec"] == document["spec"]
    assert found["job_id"] == "ab" * 32
    assert found["hyper"]["num_leaves"] == 15
    assert found["dataset"] == {"name": "synthetic", "digest": dataset_digest(synthetic)}
    assert set(found["trainer"]) == {"version", "commit", "dirty"}
    assert found["split"] | {"fold_digest": ""} == {"recipe": "hosts", "fold": 0, "leaks": False, "fold_digest": ""}
    numeric = found["numeric_class"]
    assert (numeric["threads"], numeric["device"], numeric["gpu"]) == (1, "cpu", None)
    assert numeric["determinism"] == {"deterministic": True, "force_row_wise": True}
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "pyarrow", "scikit-learn", "lightgbm")}
    assert numeric["libraries"] == versions | {"safetensors": None, "torch": None}
    assert found["figures"] == {"matplotlib": importlib.metadata.version("matplotlib")}
    assert found["split"]["fold_digest"].startswith("sha256:")
    for text in content(tmp_path).values():
        assert str(tmp_path).encode() not in text
        assert str(synthetic).encode() not in text


def test_progress_rises_over_the_whole_job(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    assert train(job_file, job_document(synthetic), tmp_path) == 0
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 1000)
    assert {line["steps"] for line in lines} == {1000}
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    assert phases == ["start", "reading", "fold 1/3", "fold 2/3", "fold 3/3", "final", "writing"]


def test_train_hosts_changes_the_model_and_not_the_tested_rows(
    synthetic: Path, job_file: JobFile, tmp_path: Path
) -> None:
    for name, globs in (("all", ["*"]), ("some", ["a2", "a3", "b*"])):
        assert train(job_file, job_document(synthetic, train_hosts=globs), tmp_path / name) == 0
    tables = [pq.read_table(tmp_path / name / "artifact/predictions.parquet") for name in ("all", "some")]
    assert tables[0].drop(["score", "alarm"]) == tables[1].drop(["score", "alarm"])
    assert tables[0]["score"] != tables[1]["score"]


def test_a_run_folder_used_before_holds_only_the_new_run(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact/old.txt").write_text("old")
    (tmp_path / "artifact.partial").mkdir()
    assert train(job_file, job_document(synthetic), tmp_path) == 0
    assert "old.txt" not in content(tmp_path)
    assert not (tmp_path / "artifact.partial").exists()


def failed(out: Path) -> tuple[str, str]:
    result = document_of(out, "result.json")
    assert (result["v"], result["status"]) == (1, "failed")
    return result["kind"], result["error"]


def declaration_without(folder: Path, recipe: str) -> Path:
    text = DECLARATION.split(f"[splits.{recipe}]")
    return write_dataset(folder, synthetic_table(), text[0] + "[" + text[1].split("\n[", 1)[1])


def test_a_wrong_job_exits_78_with_one_line(
    synthetic: Path, job_file: JobFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = train(job_file, job_document(synthetic, hyper={"max_itre": 3}), tmp_path / "out")
    assert status == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nearest is max_iter" in error
    assert failed(tmp_path / "out")[0] == "spec_rejected"


def test_a_split_the_data_lacks_is_refused_by_name(job_file: JobFile, tmp_path: Path) -> None:
    folder = declaration_without(tmp_path / "data", "published")
    assert train(job_file, job_document(folder, split="published"), tmp_path / "out") == 78
    assert "declares no split 'published'; it has random, time, hosts, group" in failed(tmp_path / "out")[1]


def test_data_with_another_digest_are_left_to_another_host(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    document = job_document(synthetic)
    document["dataset"]["digest"] = "sha256:" + "0" * 64
    assert train(job_file, document, tmp_path) == 75
    assert failed(tmp_path)[0] == "host_fault"
    assert "bring this host's copy up to date" in failed(tmp_path)[1]


@pytest.mark.parametrize("name", ["synthetic.parquet", "dataset.toml"])
def test_data_that_changed_by_one_byte_since_the_job_was_made_are_refused(
    job_file: JobFile, tmp_path: Path, name: str
) -> None:
    """Size and times of the file stay as they are, so only its content tells."""
    folder = write_dataset(tmp_path / "data", synthetic_table(), DECLARATION.replace("schema = 1", "schema = 1 #a"))
    document = job_document(folder)
    document["dataset"]["digest"] = dataset_digest(folder)
    path, before = folder / name, (folder / name).stat()
    content = path.read_bytes()
    place = content.index(b"#a") + 1 if name == "dataset.toml" else len(content) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert train(job_file, document, tmp_path / "out") == 75
    assert (
        f"the job expects {document['dataset']['digest']}; bring this host's copy up to date"
        in failed(tmp_path / "out")[1]
    )


def test_a_missing_data_folder_is_left_to_another_host(job_file: JobFile, tmp_path: Path) -> None:
    assert train(job_file, job_document(tmp_path / "nowhere"), tmp_path / "out") == 75
    assert failed(tmp_path / "out")[0] == "host_fault"


def test_a_broken_declaration_is_the_jobs_fault(job_file: JobFile, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", synthetic_table(), DECLARATION.replace("length = 6", "length = 0"))
    assert train(job_file, job_document(folder), tmp_path / "out") == 78
    assert "windows.length: found 0" in failed(tmp_path / "out")[1]


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        (MemoryError(), 75, "oom_ram"),
        (OSError(errno.ENOSPC, "No space left on device"), 75, "disk_full"),
        (PermissionError(errno.EACCES, "Permission denied"), 75, "host_fault"),
        (ImportError("no such library"), 75, "host_fault"),
        (SpecError("wrong"), 78, "spec_rejected"),
        (HostError("away"), 75, "host_fault"),
        (TrainerError("broke"), 1, "trainer_error"),
    ],
)
def test_each_foreseeable_failure_has_its_exit_status_and_kind(
    synthetic: Path,
    job_file: JobFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Exception,
    status: int,
    kind: str,
) -> None:
    def broken(*arguments: object) -> None:
        raise fault

    monkeypatch.setattr("training.trainer.experiment.read_telemetry", broken)
    assert train(job_file, job_document(synthetic), tmp_path) == status
    assert failed(tmp_path)[0] == kind
    assert capsys.readouterr().err.startswith("trainer: ")


def test_a_fault_of_the_program_keeps_its_traceback_and_is_recorded(
    synthetic: Path, job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("training.trainer.experiment.read_telemetry", broken)
    with pytest.raises(ZeroDivisionError):
        train(job_file, job_document(synthetic), tmp_path)
    assert failed(tmp_path) == ("trainer_error", "ZeroDivisionError: oops")


def test_a_missing_library_is_left_to_another_host(
    synthetic: Path, job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "missing_libraries", lambda model: ["lightgbm"])
    assert train(job_file, job_document(synthetic), tmp_path) == 75
    assert "model gbt needs the libraries lightgbm" in failed(tmp_path)[1]


def test_a_result_that_cannot_be_written_does_not_hide_the_failure(
    job_file: JobFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert train(job_file, job_document(tmp_path / "nowhere"), blocked) == 75
    assert "dataset folder" in capsys.readouterr().err


def test_an_interrupt_ends_with_one_line(
    synthetic: Path,
    job_file: JobFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.trainer.experiment.read_telemetry", interrupted)
    assert train(job_file, job_document(synthetic), tmp_path) == 130
    assert capsys.readouterr().err == "trainer: stopped before the end; start the job again\n"


def test_validate_checks_and_trains_nothing(
    synthetic: Path, job_file: JobFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job_file(job_document(synthetic))
    assert run.main(["--validate", "--job", str(path)]) == 0
    assert sorted(item.name for item in tmp_path.iterdir()) == ["job.json"]
    path = job_file(job_document(synthetic, model="xyz"))
    assert run.main(["--validate", "--job", str(path)]) == 78
    assert capsys.readouterr().err == (
        "trainer: the job is wrong: spec.model: found 'xyz', "
        "expected one of gbt, mlp, cnn, gru, lstm, tcn, transformer\n"
    )


@pytest.mark.parametrize("arguments", [[], ["--job", "x"], ["--nonsense"]])
def test_wrong_usage_exits_2_and_says_what_is_missing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_stride_that_leaves_one_class_is_refused(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    assert train(job_file, job_document(synthetic, hyper={"train_stride": 10000}), tmp_path) == 78
    assert "every 10000-th window leaves one class on the training side" in failed(tmp_path)[1]


def test_gaps_and_hosts_of_one_class_do_not_stop_a_job(job_file: JobFile, tmp_path: Path) -> None:
    table = synthetic_table()
    host = np.array(table["host"].to_pylist())
    label = np.where(host == "b3", 0, table["label"].to_numpy()).astype(np.int8)
    cpu = table["cpu"].to_numpy().copy()
    cpu[100:110] = np.nan
    table = table.set_column(4, "label", pa.array(label)).set_column(7, "cpu", pa.array(cpu))
    folder = write_dataset(tmp_path / "data", table)
    assert train(job_file, job_document(folder), tmp_path / "out") == 0
    metrics = document_of(tmp_path / "out", "artifact/metrics.json")
    assert metrics["hosts"]["b3"]["auroc"] is None
    assert metrics["host_mean"]["hosts"] == 5
    assert "one class only" in (tmp_path / "out/artifact/model_card.md").read_text()


@pytest.mark.parametrize("command", [["-m", "training.trainer.run"], ["training/trainer/run.py"]])
def test_both_ways_of_starting_the_program_work(
    root: Path, synthetic: Path, job_file: JobFile, tmp_path: Path, command: list[str]
) -> None:
    path = job_file(job_document(synthetic, "mlp"))
    done = subprocess.run(
        [sys.executable, *command, "--job", str(path), "--out", str(tmp_path / "out")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(path / "no home below a file")},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert document_of(tmp_path / "out", "result.json")["status"] == "done"


def test_the_revision_is_clean_about_a_host_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert provenance.revision()["commit"] is None
    assert provenance.revision()["dirty"] is None


def test_the_revision_is_that_of_the_last_change_to_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    module = tmp_path / "training/trainer/artifact/provenance.py"
    module.parent.mkdir(parents=True)
    module.touch()
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "The trainer")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "README.md").write_text("one")
    git("add", ".")
    git("commit", "-qm", "Elsewhere")
    (tmp_path / "README.md").write_text("two")
    monkeypatch.setattr(provenance, "__file__", str(module))
    found = provenance.revision()
    assert (found["commit"], found["dirty"]) == (commit, False)


def test_waiting_threads_sleep(
    synthetic: Path, job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # for the end of the test
    monkeypatch.delenv("OMP_WAIT_POLICY")
    document = job_document(synthetic)
    document["dataset"]["digest"] = "sha256:" + "0" * 64  # refused once the threads are settled, before the training
    assert train(job_file, document, tmp_path) == 75
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
