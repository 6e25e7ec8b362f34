"""What the worker's doctor says about the card and the folder of a host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from training.fleet.model.capability import GIB, Capability, Gpu, Problem
from training.fleet.worker import doctor
from training.fleet.worker.options import options

CARD = Gpu("RTX 3060", "GPU-1", 12 * GIB, 11 * GIB, "550.1")
BARE = Capability("box")
SEEN = Capability("box", gpus=(CARD,), cuda_present=True, cuda_usable=True, torch_version="2.4")


def bus(folder: Path, vendor: str = "0x10de", kind: str = "0x030000") -> Path:
    """Return a bus with one device on it."""
    device = folder / "bus/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    return folder / "bus"


def test_a_host_without_a_card_is_well(tmp_path: Path) -> None:
    assert doctor.gpu(BARE, tmp_path, tmp_path) == ("ok", "no NVIDIA card; jobs that require CUDA run elsewhere", "")
    assert doctor.gpu(BARE, tmp_path, bus(tmp_path, vendor="0x8086"))[0] == "ok"
    assert doctor.cuda(BARE) == ("ok", "no card to use", "")


def test_a_card_on_the_bus_that_no_driver_shows_is_told(tmp_path: Path) -> None:
    state, found, remedy = doctor.gpu(BARE, tmp_path, bus(tmp_path))
    assert (state, found) == ("warn", "an NVIDIA card is built in and no driver shows it here")
    assert "nvidia-smi must list the card" in remedy


def test_a_card_that_this_user_may_not_use_fails_with_the_groups_to_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    assert doctor.gpu(BARE, tmp_path, tmp_path / "none")[0] == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    state, found, remedy = doctor.gpu(BARE, tmp_path, tmp_path / "none")
    assert (state, found.endswith(f"may not use {tmp_path}/nvidia0")) == ("fail", True)
    assert remedy.startswith("sudo usermod -aG video,render ")


def test_a_driver_that_does_not_work_fails(tmp_path: Path) -> None:
    broken = replace(BARE, problems=(Problem("GPU tool: nvidia-smi ended with status 9: no driver", "gpu"),))
    assert doctor.gpu(broken, tmp_path, tmp_path)[:2] == ("fail", "GPU tool: nvidia-smi ended with status 9: no driver")


def test_a_card_in_use_warns(tmp_path: Path) -> None:
    busy = replace(SEEN, gpus=(replace(CARD, free_vram_bytes=GIB),))
    state, found, remedy = doctor.gpu(busy, tmp_path, tmp_path)
    assert (state, found) == (
        "warn",
        "card RTX 3060 has 1 of 12 GiB free, driver 550.1; card RTX 3060 is in use",
    )
    assert remedy == "nvidia-smi shows what holds it; end that"


@pytest.mark.parametrize(
    ("change", "state", "says"),
    [
        ({}, "ok", "torch 2.4 runs on it"),
        ({"cuda_usable": False, "torch_version": None}, "warn", "torch is not installed"),
        (
            {
                "cuda_usable": False,
                "problems": (Problem("torch is there but CUDA does not work: old driver", "torch"),),
            },
            "fail",
            "torch is there but CUDA does not work: old driver",
        ),
    ],
)
def test_torch_is_judged_where_there_is_a_card(change: dict[str, object], state: str, says: str) -> None:
    found = doctor.cuda(replace(SEEN, **change))  # type: ignore[arg-type]
    assert found[0] == state
    assert found[1].startswith(says)


def test_a_trainer_that_does_not_answer_is_looked_for_beside_the_single_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.selftest, "OWN_COMMAND", ("no-such-trainer",))
    chosen = options({"work_dir": str(tmp_path)}, {})
    state, found, remedy = doctor.trainer(chosen)
    assert (state, "cannot be started" in found) == ("fail", True)
    assert remedy == "correct it or the manifest's [trainer]"
    monkeypatch.setattr(doctor, "PACKED", True)
    assert doctor.trainer(chosen)[2] == "give the folder of the checkout that holds the trainer with --trainer-dir"


def test_a_work_folder_that_cannot_be_made_or_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = options({"work_dir": str(tmp_path)}, {})
    assert doctor.work_folder(there)[0] == "ok"

    def refused(self: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refused)
    assert doctor.work_folder(there) == (
        "fail",
        f"{tmp_path} cannot be written (Read-only file system)",
        "check its owner",
    )
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    absent = options({"work_dir": str(tmp_path / "a/b")}, {})
    state, found, remedy = doctor.work_folder(absent)
    assert (state, f"cannot make it in {tmp_path}" in found) == ("fail", True)
    assert remedy == "run doctor as the worker's user with its settings, or correct --work-dir"


def test_windows_is_asked_for_a_task_and_linux_for_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def told(kind: str) -> Callable[[str], tuple[str, str, str]]:
        return lambda name: asked.append(f"{kind} {name}") or ("ok", "", "")  # type: ignore[func-returns-value]

    monkeypatch.setattr(doctor, "task", told("task"))
    monkeypatch.setattr(doctor, "unit", told("unit"))
    for longest in (None, 120):
        monkeypatch.setattr(doctor.system, "LONGEST_ROOT", longest)
        doctor.service()
    assert asked == ["unit cis490-training-worker", "task cis490-training-worker"]
