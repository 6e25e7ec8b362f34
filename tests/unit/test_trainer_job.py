"""Claims about the job description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.trainer.exchange.job import parsed_job, read_job
from training.trainer.faults import HostError, SpecError


def document(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "v": 1,
        "job_id": "ab" * 32,
        "spec": {
            "model": "gbt",
            "mode": "realistic",
            "hyper": {"max_iter": 5},
            "split_recipe": "hosts",
            "train_hosts": ["a*"],
            "seed": 3,
        },
        "dataset": {"name": "lab", "path": "data/lab", "digest": "sha256:00"},
        "threads": 2,
        "device": "cuda",
        "resume": None,
        "something_new": 1,
    }
    return whole | changes


def spec(**changes: Any) -> dict[str, Any]:
    return document(spec=document()["spec"] | changes)


def test_a_whole_job_is_read_field_by_field_and_unknown_keys_are_ignored() -> None:
    job = parsed_job(document())
    assert (job.job_id, job.model, job.mode, job.split_recipe) == ("ab" * 32, "gbt", "realistic", "hosts")
    assert (job.train_hosts, job.seed, job.threads, job.device) == (("a*",), 3, 2, "cuda")
    assert (job.dataset_name, job.dataset_folder, job.dataset_digest) == ("lab", Path("data/lab"), "sha256:00")
    assert (job.hyper["max_iter"], job.hyper["learning_rate"]) == (5, 0.1)
    assert job.spec == document()["spec"]


def test_optional_keys_have_stated_defaults() -> None:
    small = {
        "v": 1,
        "spec": {"model": "mlp", "mode": "oracle", "split_recipe": "time", "seed": 0},
        "dataset": {"name": "x", "path": "y"},
    }
    job = parsed_job(small)
    assert (job.job_id, job.train_hosts, job.threads, job.device, job.dataset_digest) == ("", ("*",), 1, "cpu", None)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ([], "the job description is list, expected an object"),
        (document(v=2), "v: found 2, expected 1"),
        (document(spec=3), "spec: found 3, expected an object"),
        (document(dataset=None), "dataset: found None, expected an object"),
        (document(dataset={"name": "x"}), "dataset.path: found None, expected text that is not empty"),
        (document(threads=0), "threads: found 0, expected a whole number from 1 to 1024"),
        (document(threads=True), "threads: found True, expected a whole number from 1 to 1024"),
        (document(device="tpu"), "device: found 'tpu', expected one of cpu, cuda"),
        (
            spec(model="gtb"),
            "spec.model: found 'gtb', expected one of gbt, mlp, cnn, gru, lstm, tcn, transformer; nearest is gbt",
        ),
        (spec(mode=None), "spec.mode: found None, expected one of realistic, oracle"),
        (spec(split_recipe="host"), "spec.split_recipe: found 'host', expected one of random, time, hosts, group"),
        (spec(seed=-1), "spec.seed: found -1, expected a whole number from 0 to 9007199254740991"),
        (spec(seed=1.5), "spec.seed: found 1.5, expected a whole number"),
        (spec(seed=float("nan")), "spec.seed: found nan, expected a whole number"),
        (spec(train_hosts=[]), "spec.train_hosts: found [], expected a list of host names or globs"),
        (spec(train_hosts="a"), "spec.train_hosts: found 'a', expected a list of host names or globs"),
        (spec(hyper=[]), "spec.hyper: found [], expected an object"),
        (spec(hyper={"max_itre": 3}), "spec.hyper.max_itre: gbt has no such parameter, nearest is max_iter"),
    ],
)
def test_each_fault_names_key_found_and_expected(found: Any, line: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed_job(found)
    assert line in str(caught.value)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parsed_job({"v": 3, "spec": {}, "dataset": {}})
    text = str(caught.value)
    for key in ("v:", "spec.model:", "spec.mode:", "spec.split_recipe:", "spec.seed:"):
        assert key in text


def test_an_unreadable_file_is_the_hosts_trouble_and_a_broken_one_the_jobs(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    with pytest.raises(HostError, match=r"job\.json can't be read: No such file"):
        read_job(path)
    path.write_text("{")
    with pytest.raises(SpecError, match=r"job\.json is not JSON"):
        read_job(path)
    path.write_text("[" * 100_000)
    with pytest.raises(SpecError, match=r"job\.json is not JSON"):
        read_job(path)
    path.write_text(" " * ((1 << 20) + 1))
    with pytest.raises(SpecError, match="larger than 1 MiB"):
        read_job(path)
    path.write_text(json.dumps(document()))
    assert read_job(path).model == "gbt"
