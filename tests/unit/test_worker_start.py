"""What a trainer is started with, and the settings of the worker."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training.fleet.capability.checkout import CHECKOUT
from training.fleet.model.capability import Capability, Gpu
from training.fleet.model.errors import ConfigurationError, TrainerError
from training.fleet.worker import start
from training.fleet.worker.options import options
from training.fleet.worker.start import Contracts, Seat, argument_vector, environment, job_document, seat

SMALL = Gpu("small", "GPU-1", 8 * 2**30, 7 * 2**30, "1")
LARGE = Gpu("large", "GPU-2", 24 * 2**30, 23 * 2**30, "1")
SPEC = {"v": 1, "model": "gbt", "mode": "oracle", "hyper": {}, "split_recipe": "hosts", "train_hosts": ["*"], "seed": 1}


def script(folder: Path, text: str) -> list[str]:
    path = folder / "trainer.py"
    path.write_text(text)
    return ["{python}", "trainer.py"]


def test_cores_are_shared_evenly_and_never_fall_below_one() -> None:
    host = Capability("box", cpu_count=5)
    assert seat(host, 0, 2, cuda=True) == Seat(2)
    assert seat(host, 0, 9, cuda=True) == Seat(1)
    assert seat(host, 0, 2, threads=7, cuda=True) == Seat(7)


def test_the_largest_card_goes_to_the_first_slot_and_cards_go_round() -> None:
    host = Capability("box", gpus=(SMALL, LARGE), cuda_usable=True)
    assert [seat(host, slot, 3, cuda=True).gpu for slot in range(3)] == [LARGE, SMALL, LARGE]
    assert seat(host, 0, 1, cuda=True).device == "cuda"


def test_a_card_that_is_not_usable_is_not_offered() -> None:
    assert seat(Capability("box", gpus=(SMALL,)), 0, 1, cuda=True).device == "cpu"


def test_a_card_that_the_lease_keeps_free_is_not_offered() -> None:
    assert seat(Capability("box", gpus=(SMALL,), cuda_usable=True), 0, 1, cuda=False) == Seat(1)


def test_a_card_that_something_else_uses_is_not_offered() -> None:
    gamed = replace(LARGE, free_vram_bytes=11 * 2**30)
    assert seat(Capability("box", gpus=(SMALL, gamed), cuda_usable=True), 0, 1, cuda=True).gpu == SMALL
    assert seat(Capability("box", gpus=(gamed,), cuda_usable=True), 0, 1, cuda=True).device == "cpu"


def test_the_environment_is_an_allow_list() -> None:
    given = {"PATH": "/bin", "CIS490_WORKER_TOKEN": "s", "SSH_AUTH_SOCK": "s", "Path": "C:", "PYTHONSTARTUP": "evil"}
    found = environment(Seat(3, LARGE), Path("/scratch"), given)
    assert found["PATH"] == "/bin"
    assert {"CIS490_WORKER_TOKEN", "SSH_AUTH_SOCK", "PYTHONSTARTUP"}.isdisjoint(found)
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("GPU-2", "PCI_BUS_ID")
    assert (found["OMP_NUM_THREADS"], found["TMPDIR"], found["PYTHONPATH"]) == ("3", "/scratch", str(CHECKOUT))
    assert environment(Seat(1), Path("/s"), {})["CUDA_VISIBLE_DEVICES"] == ""


def test_an_installed_package_is_not_put_in_front_of_the_trainers_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "CHECKOUT", Path("/usr/lib/python3/site-packages"))
    assert "PYTHONPATH" not in environment(Seat(1), Path("/s"), {})


def test_a_command_is_made_absolute_where_it_names_files(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    (tmp_path / "folder").mkdir()
    command = ["{python}", "own.py", "--own.py", "folder", "-m", "x.y", "/abs", "", "nul\0"]
    assert argument_vector(command, tmp_path) == [
        sys.executable, str(tmp_path / "own.py"), "--own.py", "folder", "-m", "x.y", "/abs", "", "nul\0",
    ]  # fmt: skip


FOLDERS = {"default": Path("/data/lab"), "lab": Path("/data/lab"), "smd": Path("/data/smd")}
HELD = {"default": "sha256:1", "lab": "sha256:1", "smd": "sha256:2"}


def test_a_job_that_names_no_dataset_gets_the_default_under_its_proper_name() -> None:
    found = job_document("a" * 64, SPEC, FOLDERS, HELD, Seat(2), None)
    assert found == {
        "v": 1,
        "job_id": "a" * 64,
        "spec": {key: value for key, value in SPEC.items() if key != "v"},
        "dataset": {"name": "lab", "path": "/data/lab", "digest": "sha256:1"},
        "threads": 2,
        "device": "cpu",
        "resume": None,
    }


def test_a_resume_folder_is_given_by_its_path() -> None:
    assert job_document("a" * 64, SPEC, {}, {}, Seat(1), Path("/state/resume/a"))["resume"] == "/state/resume/a"


def test_a_default_that_has_no_other_name_keeps_it() -> None:
    found = job_document("a" * 64, SPEC, {"default": Path("/d")}, {"default": "sha256:1"}, Seat(2), None)
    assert found["dataset"]["name"] == "default"


def test_a_host_without_datasets_gives_none() -> None:
    assert job_document("a" * 64, SPEC, {}, {}, Seat(1), None)["dataset"] is None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"name": "other"}, "'other', which this host does not hold"),
        ({"name": "smd", "digest": "sha256:9"}, "wants sha256:9"),
    ],
)
def test_a_dataset_this_host_does_not_hold_is_the_hosts_fault(wanted: dict[str, str], said: str) -> None:
    with pytest.raises(TrainerError, match=said) as caught:
        job_document("a" * 64, {**SPEC, "dataset": wanted}, FOLDERS, HELD, Seat(1), None)
    assert caught.value.kind == "host_fault"


def test_a_named_dataset_is_given(tmp_path: Path) -> None:
    spec = {**SPEC, "dataset": {"name": "smd", "digest": "sha256:2"}}
    assert job_document("a" * 64, spec, FOLDERS, HELD, Seat(1), None)["dataset"]["path"] == "/data/smd"


def test_the_own_trainers_contract_is_known_without_a_child(tmp_path: Path) -> None:
    assert Contracts("sha256:1", tmp_path).digest(start.OWN_COMMAND, tmp_path) == "sha256:1"


def test_a_trainer_is_asked_once_until_its_file_changes(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    command = script(tmp_path, f"open({str(asked)!r}, 'a').write('x'); print('{{\"title\": 1}}')")
    contracts = Contracts(None, tmp_path)
    first = contracts.digest(command, tmp_path)
    assert contracts.digest(command, tmp_path) == first
    assert asked.read_text() == "x"
    script(tmp_path, "print('{\"title\": 2}')")
    os.utime(tmp_path / "trainer.py", (1, 1))
    assert contracts.digest(command, tmp_path) != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit('no libraries')", "answers --describe with status 1: no libraries"),
        ("raise SystemExit(3)", "answers --describe with status 3"),
        ("print('hello')", "prints no JSON object"),
        ("print('[1]')", "prints no JSON object"),
        ("print('{\"a\": NaN}')", "prints no JSON object"),
        ("print('[' * 100000)", "prints no JSON object"),
        ("print(' ' * 2**21)", "prints no JSON object"),
        ("import time; time.sleep(60)", r"does not answer --describe within 0\.5 s"),
    ],
)
def test_a_trainer_that_declares_nothing_is_the_hosts_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    if "sleep" in text:
        monkeypatch.setattr(start, "_DESCRIBE_TIMEOUT_S", 0.5)
    with pytest.raises(TrainerError, match=said) as caught:
        Contracts(None, tmp_path).digest(script(tmp_path, text), tmp_path)
    assert caught.value.kind == "host_fault"


def test_a_trainer_that_cannot_be_started_declares_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"cannot be started \(No such file or directory\)"):
        Contracts(None, tmp_path).digest(["no-such-trainer"], tmp_path)


def test_settings_have_defaults_and_the_first_dataset_is_the_default(tmp_path: Path) -> None:
    found = options({"dataset": ["lab=/data/lab", "smd=/data/smd"]}, {"STATE_DIRECTORY": str(tmp_path)})
    assert (found.receiver, found.receiver_is_set, found.slots) == ("http://127.0.0.1:8445", False, 1)
    assert found.work_dir == tmp_path / "worker"
    assert found.rules.folders == FOLDERS
    assert found.rules.trainer_dir == CHECKOUT
    assert (found.rules.grace_s, found.rules.stall_s, found.rules.min_free_bytes) == (20.0, 1800.0, 2**30)


def test_settings_come_from_the_environment_and_flags_win() -> None:
    environ = {"CIS490_RECEIVER": "https://pi.lab", "CIS490_DATASET": "default=/d,lab=/l", "CIS490_WORKER_TOKEN": "t"}
    found = options({"receiver": "https://other.lab"}, environ)
    assert (found.receiver, found.receiver_is_set, found.token) == ("https://other.lab", True, "t")
    assert found.rules.folders == {"default": Path("/d"), "lab": Path("/l")}


@pytest.mark.parametrize("item", ["lab", "=x", "lab="])
def test_a_dataset_without_name_or_folder_is_refused(item: str) -> None:
    with pytest.raises(ConfigurationError, match="NAME=FOLDER, such as lab=/data/lab"):
        options({"dataset": [item]}, {})


def test_a_dataset_named_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'lab' twice"):
        options({"dataset": ["lab=/a", "lab=/b"]}, {})
