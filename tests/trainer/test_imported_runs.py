"""Claims about imported public layouts from end to end: import, train, score new telemetry with what was stored."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pytest
from synthetic import QUICK, job_document

from training.trainer import datasets, predict, run
from training.trainer.data.imports.nslkdd import COLUMNS

JobFile = Callable[..., Path]
HYPER = QUICK | {"mlp": {"hidden": 16, "max_epochs": 12, "batch_rows": 32, "learning_rate": 0.005}}


def imported(layout: str, source: Path, *options: str) -> Path:
    out = source.with_name("imported")
    assert datasets.main(["import", layout, str(source), str(out), *options]) == 0
    return out


def trained(job_file: JobFile, folder: Path, out: Path, model: str, split: str) -> Any:
    document = job_document(folder, model, "oracle", split, hyper=HYPER[model])
    assert run.main(["--job", str(job_file(document)), "--out", str(out)]) == 0
    return json.loads((out / "result.json").read_text())["metrics"]


def scores(artifact: Path, data: Path, out: Path) -> dict[str, list[Any]]:
    assert predict.main(["--bundle", str(artifact), "--data", str(data), "--out", str(out)]) == 0
    return dict(pacsv.read_csv(out).to_pydict())


def connections(random: np.random.Generator, count: int, services: list[str]) -> list[list[str]]:
    """Return connections of which those to one service are attacks, whatever their numbers."""
    found = []
    for index in range(count):
        service = services[index % len(services)]
        values = [f"{value:.3f}" for value in random.random(41)]
        values[1:4] = ("tcp", "udp")[index % 2], service, "SF"
        found.append([*values, "neptune" if service.startswith("http_443") else "normal", "15"])
    return found


@pytest.fixture(scope="module")
def kdd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder imported from files in the layout of NSL-KDD, with a service name that LightGBM would refuse."""
    return imported("nslkdd", write_kdd(tmp_path_factory.mktemp("kdd") / "source"))


def write_kdd(source: Path) -> Path:
    random = np.random.default_rng(3)
    source.mkdir()
    services = ["http", 'http_443: "[x]{ü}"', "smtp"]
    for name, count, known in (("Train", 600, services), ("Test", 150, [*services, "printer"])):
        with (source / f"KDD{name}+.txt").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(connections(random, count, known))
    return source


@pytest.mark.parametrize("model", ["gbt", "mlp"])
def test_nslkdd_trains_and_scores_new_rows_with_an_unseen_service(
    kdd: Path, job_file: JobFile, tmp_path: Path, model: str
) -> None:
    metrics = trained(job_file, kdd, tmp_path / "run", model, "published")
    assert metrics["auroc"] > 0.95
    description = json.loads((tmp_path / "run/artifact/model.json").read_text())
    assert (description["host_column"], description["time_column"], description["window_rows"]) == (None, None, 1)
    assert description["categories"]["service"] == ["http", 'http_443: "[x]{ü}"', "smtp"]
    found = [new_scores(tmp_path, service) for service in ("never, seen", "")]
    assert found[0] == found[1]
    assert (found[0]["host"], found[0]["time"]) == (["all"] * 60, list(range(60)))
    score = np.array(found[0]["score"])
    assert score[1::3].mean() > max(score[0::3].mean(), score[2::3].mean()) + 0.2


def new_scores(folder: Path, service: str) -> dict[str, list[Any]]:
    """Score 60 new connections, a third of them to a service that the model does not know."""
    new = connections(np.random.default_rng(5), 60, ["http", 'http_443: "[x]{ü}"', service])
    with (folder / "new.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS[:41], *(row[:41] for row in new)])
    return scores(folder / "run/artifact", folder / "new.csv", folder / "scores.csv")


def test_a_split_that_nslkdd_cannot_have_is_refused_by_the_role_it_lacks(
    kdd: Path, job_file: JobFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, role in (("hosts", "roles.host"), ("group", "roles.host"), ("time", "roles.time")):
        path = job_file(job_document(kdd, "gbt", "oracle", split))
        assert run.main(["--validate", "--job", str(path)]) == 78
        assert capsys.readouterr().err == (
            f"trainer: dataset 'nslkdd' declares no split '{split}'; it has random, published; "
            f"that split needs {role}, which this dataset does not have\n"
        )


@pytest.fixture(scope="module")
def smd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder imported from files in the layout of the Server Machine Dataset; one metric tells."""
    return imported("smd", write_smd(tmp_path_factory.mktemp("smd") / "source"))


def write_smd(source: Path) -> Path:
    random = np.random.default_rng(4)
    for part in ("test", "test_label"):
        (source / part).mkdir(parents=True)
    for machine in ("machine-1-1", "machine-1-2", "machine-2-1", "machine-2-2"):
        label = (np.arange(300) % 50 > 40).astype(int)
        values = np.clip(0.3 * random.random((300, 3)) + np.outer(label, [0.5, 0.0, 0.0]), 0, 1)
        np.savetxt(source / "test" / f"{machine}.txt", values, fmt="%.6f", delimiter=",")
        np.savetxt(source / "test_label" / f"{machine}.txt", label, fmt="%d")
    return source


@pytest.mark.parametrize(("model", "split"), [("gbt", "hosts"), ("mlp", "time")])
def test_smd_trains_and_scores_a_new_machine(
    smd: Path, job_file: JobFile, tmp_path: Path, model: str, split: str
) -> None:
    metrics = trained(job_file, smd, tmp_path / "run", model, split)
    assert metrics["auroc_host_mean"] > 0.9
    values = np.full((80, 3), 0.1)
    values[60:, 0] = 0.9
    lines = [f"new,{index},{','.join(str(value) for value in row)}" for index, row in enumerate(values)]
    (tmp_path / "new.csv").write_text("\n".join(["host,t,m00,m01,m02", *lines]) + "\n")
    found = scores(tmp_path / "run/artifact", tmp_path / "new.csv", tmp_path / "scores.csv")
    assert (found["host"], found["time"]) == (["new"] * 51, list(range(29, 80)))
    assert min(found["score"][-15:]) > max(found["score"][:30])


def test_the_guide_works_as_it_is_written(root: Path, tmp_path: Path) -> None:
    """Every shell block of the guide, in its order, beside files in the two public layouts."""
    write_smd(tmp_path / "ServerMachineDataset")
    write_kdd(tmp_path / "NSL-KDD")
    guide = (root / "docs/guides/import-public-data.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e"],
        input="\n".join(blocks),
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"predict: 1,173 windows of 3 hosts, [0-9]+ alarms \(.* on the validation windows\)\n", done.stderr
    )
    shown = re.findall(r"^```text\n(wrote imported/flows.*?)digest", guide, re.MULTILINE | re.DOTALL)
    assert shown[0] in done.stdout
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 3 * 391


def test_columns_may_have_any_names(job_file: JobFile, tmp_path: Path) -> None:
    """LightGBM refuses signs of JSON and twins: `x` has a feature `x.history.last`, and so has `x.history`."""
    random = np.random.default_rng(6)
    with (tmp_path / "odd.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "x.history", 'a,b:"c"', "[ü] {y}", "bad"])
        writer.writerows([*random.random(3).round(3), index % 2, index % 2] for index in range(300))
    folder = imported("csv", tmp_path / "odd.csv", "--label", "bad")
    assert trained(job_file, folder, tmp_path / "run", "gbt", "random")["auroc"] == 1.0
    assert len(scores(tmp_path / "run/artifact", tmp_path / "odd.csv", tmp_path / "scores.csv")["score"]) == 300
