"""Cards as the driver shows them: each is judged by itself, and only those that the process may use are offered."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from training.fleet.capability import limits, nvml, smi, visible
from training.fleet.capability.cards import find
from training.fleet.capability.device import Device
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.worker.start import seat

A = "RTX 3060, GPU-aa, 12288, 11000, 550.1"
B = "Tesla K80, GPU-bb, 11441, 11441, 550.1"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "nvidia-smi"


def says(tool: Path, text: str, status: int = 0, listing: str = "") -> None:
    answer = f"cat <<'END'\n{text}\nEND\nexit {status}"
    tool.write_text(f"#!/bin/sh\nif [ \"$1\" = -L ]; then cat <<'END'\n{listing}\nEND\nexit 0; fi\n{answer}\n")
    tool.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "status", "uuids", "word"),
    [
        (f"WARNING: row remapping failed\n{A}\n{B}", 14, ["GPU-aa", "GPU-bb"], "row remapping"),
        (f"{A}\nUnable to determine the device handle for GPU 0000:0B:00.0: Unknown Error", 15, ["GPU-aa"], "0B:00.0"),
        ("No devices were found", 6, [], "No devices were found"),
        (f"{A}\n{B}, Default", 0, ["GPU-aa"], "expected"),
    ],
)
def test_good_cards_are_kept_whatever_else_the_tool_says(
    tool: Path, text: str, status: int, uuids: list[str], word: str
) -> None:
    says(tool, text, status)
    problems: list[str] = []
    assert [device.gpu.uuid for device in smi.devices(problems)] == uuids
    assert any(word in problem for problem in problems)


def test_a_tool_that_does_not_know_a_field_is_asked_for_fewer(tool: Path) -> None:
    tool.write_text(
        '#!/bin/sh\ncase "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; '
        f'-L) exit 0;; esac\necho "{A}"\n'
    )
    tool.chmod(0o755)
    problems: list[str] = []
    assert [device.gpu.uuid for device in smi.devices(problems)] == ["GPU-aa"]
    assert problems == []


@pytest.mark.parametrize(("mode", "offered"), [("Default", 1), ("Exclusive_Process", 1), ("Prohibited", 0)])
def test_a_prohibited_card_is_not_offered(tool: Path, mode: str, offered: int) -> None:
    says(tool, f"{A}, 0, {mode}, 8.6, [N/A]")
    problems: list[str] = []
    assert len(find(problems)) == offered
    assert any("prohibited" in problem for problem in problems) is (offered == 0)


LISTING = """GPU 0: NVIDIA H100 (UUID: GPU-aa)
  MIG 3g.40gb     Device  0: (UUID: MIG-one)
  MIG 1c.2g.20gb  Device  1: (UUID: MIG-two)
GPU 1: Tesla K80 (UUID: GPU-bb)"""


def test_slices_are_cards_of_their_own_and_their_card_is_none(tool: Path) -> None:
    says(tool, f"{A}, 0, Default, 9.0, Enabled\n{B}, 1, Default, 3.7, [N/A]", listing=LISTING)
    found = [(gpu.uuid, gpu.vram_gib, gpu.mig) for gpu in find([])]
    assert found == [("MIG-one", 40, "3g.40gb"), ("MIG-two", 20, "1c.2g.20gb"), ("GPU-bb", 11, "")]


def test_a_card_that_is_cut_into_no_slices_is_not_offered(tool: Path) -> None:
    says(tool, f"{A}, 0, Default, 9.0, Enabled", listing="GPU 0: NVIDIA H100 (UUID: GPU-aa)")
    problems: list[str] = []
    assert find(problems) == ()
    assert "MIG is on" in problems[0]


def test_a_card_that_does_not_know_its_memory_or_is_lost_costs_no_other() -> None:
    class LostError(Exception):
        pass

    def handle(number: int) -> int:
        if number == 0:
            raise LostError("GPU is lost")
        return number

    def memory(number: int) -> object:
        if number == 1:
            raise LostError("Not Supported")
        return types.SimpleNamespace(total=8 * GIB, free=7 * GIB)

    binding = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: b"550",
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetName=lambda number: f"Card {number}",
        nvmlDeviceGetUUID=lambda number: f"GPU-{number}",
    )
    problems: list[str] = []
    found = [(device.gpu.uuid, device.gpu.vram_gib) for device in nvml.devices(binding, problems)]
    assert found == [("GPU-1", 0), ("GPU-2", 8)]
    assert problems == ["GPU card 0 is left out: GPU is lost"]


def device(uuid: str, number: int, *slices: str) -> Device:
    parts = tuple(Gpu("H100", part, GIB, GIB, "", number, "", "1g.10gb") for part in slices)
    return Device(Gpu(f"card {uuid}", uuid, GIB, GIB, "", number), parts, bool(parts))


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        ("0", ["GPU-aa"]),
        ("2,0", ["GPU-cc", "GPU-aa"]),
        ("GPU-b", ["GPU-bb"]),
        ("GPU-", []),
        ("0,7,2", ["GPU-aa"]),
        ("-1", []),
        ("", []),
        ("MIG-two", ["MIG-two"]),
        ("MIG-two,MIG-one", ["MIG-two", "MIG-one"]),
    ],
)
def test_the_workers_own_environment_hides_cards(value: str, uuids: list[str]) -> None:
    devices = [device("GPU-aa", 0), device("GPU-bb", 1), device("GPU-cc", 2), device("GPU-dd", 3, "MIG-one", "MIG-two")]
    found = visible.shown(devices, {"CUDA_VISIBLE_DEVICES": value}, [])
    assert [gpu.uuid for one in found for gpu in one.slices or (one.gpu,)] == uuids


@pytest.mark.parametrize(
    ("own", "files", "gib", "cores"),
    [
        ("0::/user.slice/lab", {"user.slice/memory.max": 4, "user.slice/lab/memory.max": 8}, 4, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, None, 3),
        ("5:memory:/job/1\n4:cpu,cpuacct:/job", {"memory/job/memory.limit_in_bytes": 2}, 2, None),
        ("4:cpuacct,cpu:/job", {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"}, None, 1),
        ("0::/../../outside", {"memory.max": 1}, 1, None),
    ],
)
def test_the_limit_of_any_group_above_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, int | str], gib: int, cores: int
) -> None:
    monkeypatch.setattr(limits, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text(own)
    for name, value in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(value * GIB) if isinstance(value, int) else value)
    assert limits.memory_bytes() == (gib and gib * GIB)
    assert limits.cores() == cores


@pytest.mark.parametrize(("card", "missing"), [("GPU-1", ""), ("GPU-gone", "GPU-gone")])
def test_a_seat_has_the_card_of_the_lease_or_says_that_it_is_missing(card: str, missing: str) -> None:
    cards = (Gpu("a", "GPU-0", 8 * GIB, 8 * GIB, ""), Gpu("b", "GPU-1", 4 * GIB, 0, ""))
    found = seat(Capability("pi", gpus=cards, cuda_usable=True), 0, 1, cuda=True, card=card)
    assert (found.gpu and found.gpu.uuid, found.missing) == (None if missing else card, missing)
