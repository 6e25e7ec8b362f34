"""Claims about the torch networks, their training loop and their resume."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as save_tensors
from synthetic import DECLARATION, job_document, synthetic_table, write_dataset

from training.trainer import run
from training.trainer.data.windows import Samples, Sequences
from training.trainer.exchange.checkpoint import FitCheckpoint
from training.trainer.faults import HostError, SpecError, TrainerError
from training.trainer.hyper import MODELS, completed_hyper
from training.trainer.models import InputShape, Setting, model_module

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:  # without it the tests are collected all the same, so that they are counted as skipped
    import torch

    from training.trainer.models import lstm, networks, tcn, transformer

pytestmark = pytest.mark.needs_torch

JobFile = Callable[..., Path]
SEQUENCE_MODELS = [name for name, model in MODELS.items() if model.inputs == "sequences"]
SMALL = {"max_epochs": 3, "epoch_windows": 300, "batch_rows": 32}
STEPS, CHANNELS = 6, 4


def hyper_of(model: str, **changes: Any) -> dict[str, Any]:
    values, faults = completed_hyper(model, SMALL | changes)
    assert faults == []
    return values


def setting_of(model: str, checkpoint: FitCheckpoint | None = None, device: str = "cpu", **changes: Any) -> Setting:
    checkpoint = checkpoint or FitCheckpoint(None, 0)
    return Setting(hyper_of(model, **changes), (), 5, 1, device, checkpoint, lambda _done, _numbers=None: None)


def samples(count: int = 400, seed: int = 3) -> Samples[Sequences]:
    """Two hosts whose anomalous rows lie higher in the first channel."""
    random = np.random.default_rng(seed)
    label = (np.arange(count) % 40 < 6).astype(np.int8)
    rows = random.standard_normal((count, CHANNELS)).astype(np.float32)
    rows[:, 0] += 3 * label
    ends = np.arange(STEPS - 1, count)
    return Samples(Sequences(rows, ends, STEPS), label[ends], (ends >= count // 2).astype(np.int32))


def trained(model: str, checkpoint: FitCheckpoint | None = None, **changes: Any) -> networks.Network:
    found = model_module(model).fit(samples(), samples(seed=4), setting_of(model, checkpoint, **changes))
    assert isinstance(found, networks.Network)
    return found


def weights(network: networks.Network) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in network.module.state_dict().items()}


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "artifact").iterdir())}


@pytest.mark.parametrize("model", SEQUENCE_MODELS)
def test_the_same_job_gives_the_same_bytes(synthetic: Path, job_file: JobFile, tmp_path: Path, model: str) -> None:
    document = job_document(synthetic, model, split="time", hyper=SMALL)
    for name in ("one", "two"):
        assert run.main(["--job", str(job_file(document)), "--out", str(tmp_path / name)]) == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert "model.safetensors" in content(tmp_path / "one")


@pytest.mark.parametrize("model", SEQUENCE_MODELS)
def test_hosts_never_seen_are_told_apart(synthetic: Path, job_file: JobFile, tmp_path: Path, model: str) -> None:
    hyper = {"max_epochs": 8, "epoch_windows": 600, "batch_rows": 32, "learning_rate": 0.01}
    document = job_document(synthetic, model, "oracle", hyper=hyper)
    assert run.main(["--job", str(job_file(document)), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["auroc_host_mean"] > 0.85
    assert (result["device"], result["fold"], result["seed"]) == ("cpu", 0, document["spec"]["seed"])


def test_labels_in_random_order_give_no_skill(shuffled: Path, job_file: JobFile, tmp_path: Path) -> None:
    document = job_document(shuffled, "cnn", hyper=SMALL)
    assert run.main(["--job", str(job_file(document)), "--out", str(tmp_path)]) == 0
    assert abs(json.loads((tmp_path / "result.json").read_text())["metrics"]["auroc"] - 0.5) < 0.08


def killed_at(command: list[str], ready: Callable[[], bool]) -> None:
    """Run a command and kill it when something is there; it must not end before."""
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 120
        while not ready():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name == "cnn" else pytest.mark.slow) for name in SEQUENCE_MODELS]
)
def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(
    synthetic: Path, job_file: JobFile, tmp_path: Path, model: str
) -> None:
    """Each model takes a dozen seconds; `test_a_fit_goes_on_exactly_from_any_step` stops all of them in every run."""
    document = job_document(synthetic, model, split="group", hyper=SMALL | {"max_epochs": 20, "patience": 20})
    assert run.main(["--job", str(job_file(document)), "--out", str(tmp_path / "whole")]) == 0
    resume = tmp_path / "resume"
    job = job_file(document | {"resume": str(resume), "checkpoint_s": 0})
    command = [sys.executable, "-m", "training.trainer.run", "--job", str(job), "--out", str(tmp_path / "cut")]
    killed_at(command, (resume / "part-01.safetensors").exists)
    assert (resume / "part-00" / "record.json").exists(), "the first fold was finished and kept"
    left = FitCheckpoint(resume / "part-01.safetensors", 0).load()
    assert left is not None, "the second fold was under way"
    assert run.main(command[3:]) == 0
    assert content(tmp_path / "whole") == content(tmp_path / "cut")
    assert list(resume.iterdir()) == []


class CutError(Exception):
    """Stands for a power cut right after a checkpoint."""


class CutCheckpoint(FitCheckpoint):
    """Saves at one step and ends the run there."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path, 0)
        self.left = after

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def save(self, tensors: Any, state: Any) -> None:
        super().save(tensors, state)
        raise CutError


@pytest.mark.parametrize("after", [1, 10, 11, 22])
@pytest.mark.parametrize("model", SEQUENCE_MODELS)
def test_a_fit_goes_on_exactly_from_any_step(tmp_path: Path, model: str, after: int) -> None:
    path = tmp_path / "fit.safetensors"
    with pytest.raises(CutError):
        trained(model, CutCheckpoint(path, after))
    torch.rand(100)  # another process has another state of the generator
    gone_on, whole = trained(model, FitCheckpoint(path, 3600)), trained(model)
    assert weights(gone_on) == weights(whole)
    assert (gone_on.curve, gone_on.fit_summary) == (whole.curve, whole.fit_summary)


def test_a_best_epoch_before_the_cut_is_not_forgotten(tmp_path: Path) -> None:
    """Validation labels are turned round, so every epoch makes it worse and the first stays the best."""
    unseen = samples(seed=4)
    worse = Samples(unseen.inputs, (1 - unseen.label).astype(np.int8), unseen.host)

    def fitted(checkpoint: FitCheckpoint) -> networks.Network:
        setting = setting_of("cnn", checkpoint, learning_rate=0.01)
        found = model_module("cnn").fit(samples(), worse, setting)
        assert isinstance(found, networks.Network)
        return found

    path = tmp_path / "fit.safetensors"
    with pytest.raises(CutError):
        fitted(CutCheckpoint(path, 22))
    gone_on, whole = fitted(FitCheckpoint(path, 3600)), fitted(FitCheckpoint(None, 0))
    assert whole.fit_summary["epochs"] == 1
    assert gone_on.fit_summary == whole.fit_summary
    assert weights(gone_on) == weights(whole)


@pytest.mark.parametrize("model", SEQUENCE_MODELS)
def test_a_stored_network_scores_like_the_trained_one(tmp_path: Path, model: str) -> None:
    network = trained(model)
    assert network.save(tmp_path) == ["model.safetensors"]
    again = model_module(model).load(tmp_path, InputShape(model, network.shape["channels"], network.shape["steps"]))
    inputs = samples(seed=9).inputs
    assert again.score(inputs).tolist() == network.score(inputs).tolist()
    first = (tmp_path / "model.safetensors").read_bytes()
    again.save(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == first


def with_shape(path: Path, **changes: Any) -> None:
    """Write a file again whose shape says something else; keys that a shape does not have go to its hyper table."""
    with safe_open(path, framework="np") as file:
        shape = json.loads(file.metadata()["shape"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    for key, value in changes.items():
        (shape if key in shape else shape["hyper"])[key] = value
    path.write_bytes(save_tensors(tensors, {"shape": json.dumps(shape)}))


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("gru", {"hidden": 4096}, r"found the shape \(96,\), expected \(12288,\)"),
        ("gru", {"hidden": 10**9}, "hyper.hidden: found 1000000000, expected integer from 1 to 4096"),
        ("lstm", {"layers": 12}, r"layers\.1\.bias_hh_l0': found the shape None"),
        ("cnn", {"kernel": 255}, "convolutions"),
        ("tcn", {"layers": True}, "hyper.layers: found True"),
        ("transformer", {"heads": 64, "head_width": 512, "layers": 24}, "found the shape"),
        ("transformer", {"steps": 100_000}, "its shape has steps 100000, expected"),
        ("cnn", {"channels": 1}, "its shape has channels 1, expected"),
        ("cnn", {"clip": float("nan")}, "its shape is not JSON: NaN is not a number in JSON"),
        ("cnn", {"hyper": []}, "its shape names no hyper-parameters"),
        ("cnn", {"x" * 100_000: 1}, "its shape names 'xxx"),
    ],
)
def test_a_network_that_no_job_makes_is_refused(
    tmp_path: Path, model: str, changes: dict[str, Any], message: str
) -> None:
    network = trained(model)
    network.save(tmp_path)
    with_shape(tmp_path / "model.safetensors", **changes)
    shape = InputShape(model, network.shape["channels"], network.shape["steps"])
    with pytest.raises(SpecError, match=message) as caught:
        model_module(model).load(tmp_path, shape)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("model", SEQUENCE_MODELS)
def test_a_window_is_scored_alike_alone_and_among_others(model: str) -> None:
    network, inputs = trained(model), samples(seed=9).inputs
    alone = [float(network.score(inputs[np.array([index])])[0]) for index in (0, 17, 300)]
    assert alone == pytest.approx(network.score(inputs)[[0, 17, 300]].tolist(), abs=1e-6)


def test_scaling_is_fitted_on_training_rows_alone() -> None:
    train = samples()
    part = Sequences(train.inputs.rows, train.inputs.ends[:10], STEPS)
    mean, spread = networks.scaler(part)
    assert mean == pytest.approx(train.inputs.rows[:15].mean(axis=0), abs=1e-6)
    assert spread == pytest.approx(train.inputs.rows[:15].std(axis=0), abs=1e-6)
    changed = train.inputs.rows.copy()
    changed[15:] = 1e6
    assert networks.scaler(Sequences(changed, part.ends, STEPS))[0].tolist() == mean.tolist()


def test_a_constant_channel_is_centred_and_not_blown_up() -> None:
    rows = np.full((20, 2), 7.0, np.float32)
    mean, spread = networks.scaler(Sequences(rows, np.arange(STEPS - 1, 20), STEPS))
    assert (mean.tolist(), spread.tolist()) == ([7.0, 7.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("step", "part"), [(0, 0.2), (3, 0.8), (4, 1.0), (5, 1.0), (52, 0.5 * (1 + np.cos(np.pi * 47 / 95))), (99, 0.0003)]
)
def test_the_learning_rate_rises_and_then_falls_as_a_cosine(step: int, part: float) -> None:
    assert networks.learning_rate_part(step, 100) == pytest.approx(part, abs=1e-4)


@pytest.mark.parametrize("limit", [0.5, 1000.0], ids=["cut", "left as they are"])
def test_gradients_are_cut_to_the_bits_that_torch_gives(limit: float) -> None:
    torch.manual_seed(3)
    one, other = (torch.nn.LSTM(5, 7) for _ in range(2))
    for parameter, twin in zip(one.parameters(), other.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter)
        twin.grad = parameter.grad.clone()
    networks.cut_gradients(list(one.parameters()), limit)
    torch.nn.utils.clip_grad_norm_(other.parameters(), limit)
    for parameter, twin in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter.grad, twin.grad)


def test_training_stops_when_no_epoch_is_better() -> None:
    network = trained("cnn", max_epochs=50, patience=2, learning_rate=1e-06)
    assert len(network.curve) == int(network.fit_summary["epochs"]) + 2
    assert [point["step"] for point in network.curve] == list(range(1, len(network.curve) + 1))


def test_a_positive_weight_raises_the_scores() -> None:
    inputs = samples(seed=9).inputs
    low, high = (trained("cnn", positive_weight=weight).score(inputs).mean() for weight in (0.1, 30.0))
    assert high > low + 0.05


def test_mixed_precision_is_ignored_on_the_cpu() -> None:
    assert weights(trained("gru", mixed_precision=True)) == weights(trained("gru"))


@pytest.mark.parametrize(("loss", "score"), [(float("nan"), 0.5), (0.5, float("nan"))])
def test_a_fit_that_left_the_numbers_says_so(loss: float, score: float) -> None:
    train, setting = samples(), setting_of("cnn")
    shape = {"channels": CHANNELS, "steps": STEPS, "hyper": setting.hyper}
    module = networks.scaled_network(
        model_module("cnn").build,  # type: ignore[attr-defined]
        shape,
        torch.zeros(CHANNELS),
        torch.ones(CHANNELS),
    )
    loop = networks._Loop(module, train, setting, torch.device("cpu"))
    loop.loss_sum.fill_(loss)
    with pytest.raises(TrainerError, match=r"is not a number any more in epoch 1 .*; use a smaller learning_rate"):
        loop.judge(train, np.full(len(train), score, np.float32))


@pytest.mark.skipif(
    HAS_TORCH and torch.cuda.is_available(), reason="this machine has a card; the claim is about one without"
)
def test_a_job_for_cuda_without_a_card_is_tried_elsewhere(
    synthetic: Path, job_file: JobFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(job_document(synthetic, "gru", split="time") | {"device": "cuda"})
    assert run.main(["--job", str(job), "--out", str(tmp_path)]) == HostError.exit_status
    assert "finds no usable card here; install a CUDA build of torch" in capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text())["kind"] == "host_fault"


def test_a_network_too_large_for_memory_is_out_of_memory(
    synthetic: Path, job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(networks, "scaler", too_large)
    assert (
        run.main(["--job", str(job_file(job_document(synthetic, "gru", split="time"))), "--out", str(tmp_path)]) == 75
    )
    assert json.loads((tmp_path / "result.json").read_text())["kind"] == "oom_ram"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("RuntimeError", "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_the_cards_memory_running_out_is_reported_as_such(
    synthetic: Path, job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    def full(*_: Any) -> None:
        raise (torch.OutOfMemoryError if kind == "OutOfMemoryError" else RuntimeError)(words)

    monkeypatch.setattr(networks, "scaler", full)
    assert (
        run.main(["--job", str(job_file(job_document(synthetic, "gru", split="time"))), "--out", str(tmp_path)]) == 75
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["kind"], "smaller batch_rows" in result["error"]) == ("oom_gpu", True)


def test_one_fold_of_a_split_trains_and_tests_alone(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    found = {}
    for fold in (0, 2):
        document = job_document(synthetic, "gbt", hyper={"max_iter": 5, "fold": fold})
        assert run.main(["--job", str(job_file(document)), "--out", str(tmp_path / str(fold))]) == 0
        found[fold] = json.loads((tmp_path / str(fold) / "artifact" / "metrics.json").read_text())
    assert [entry["name"] for entry in found[2]["folds"]] == ["fold 2/3"]
    assert sorted(found[2]["hosts"]) == ["a2", "b2"]
    assert [entry["name"] for entry in found[0]["folds"]] == ["fold 1/3", "fold 2/3", "fold 3/3", "final"]
    assert found[2]["hosts"]["a2"] == found[0]["hosts"]["a2"]
    assert json.loads((tmp_path / "2" / "result.json").read_text())["fold"] == 2


def test_a_fold_that_the_split_lacks_is_refused(
    synthetic: Path, job_file: JobFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(job_document(synthetic, "gbt", hyper={"fold": 4}))
    assert run.main(["--job", str(job), "--out", str(tmp_path)]) == 78
    assert "hyper.fold is 4, but split hosts of this dataset has 3 folds" in capsys.readouterr().err


def test_no_step_of_a_causal_block_sees_a_later_row() -> None:
    block = tcn.Block(CHANNELS, 8, 3, 2, 0.0).eval()
    state = torch.randn(2, CHANNELS, 12)
    later = state.clone()
    later[:, :, 7:] += 5
    before, after = block(state), block(later)
    assert torch.equal(before[:, :, :7], after[:, :, :7])
    assert not torch.equal(before[:, :, 7:], after[:, :, 7:])


def test_the_last_step_of_the_tcn_sees_as_many_rows_as_it_says() -> None:
    network = tcn.Tcn(1, 4, 3, 3, 0.0).eval()
    states = network.blocks(torch.zeros(1, 1, 60).requires_grad_())
    inputs = torch.randn(1, 1, 60, requires_grad=True)
    network.blocks(inputs)[0, :, -1].sum().backward()
    assert inputs.grad is not None
    assert states.shape == (1, 4, 60)
    assert int((inputs.grad != 0).sum()) <= 1 + 2 * 2 * (2**3 - 1) == 29
    assert bool((inputs.grad[0, 0, :31] == 0).all())


def test_the_lstm_begins_by_remembering() -> None:
    layer = lstm.Lstm(CHANNELS, 5, 2, 0.0).layers[1]
    assert layer.bias_ih_l0[5:10].tolist() == [1.0] * 5


def test_positions_are_the_sinusoids_of_the_paper() -> None:
    found = transformer.sinusoids(3, 4)
    wanted = [[np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)] for t in range(3)]
    assert found.numpy() == pytest.approx(np.array(wanted), abs=1e-6)


def test_attention_is_that_of_torch() -> None:
    layer = transformer.Layer(8, 2, 0.0).eval()
    state = torch.randn(3, 5, 8)
    query, key, value = layer.projections(state).view(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(3, 5, 8)
    assert layer._attention(state).detach().numpy() == pytest.approx(wanted.detach().numpy(), abs=1e-6)


def showing() -> Any:
    """Return what stands for a network and shows what it was given."""

    class Rows(torch.nn.Module):
        def forward(self, windows: Any) -> Any:
            self.given = windows
            return windows[:, -1, 0]

    return Rows()


def test_patches_end_with_the_last_row_and_begin_with_zeros() -> None:
    inner = showing()
    patches = networks.Patches(1, 7, 3, 3, inner)
    with torch.no_grad():
        patches.merge.weight.copy_(torch.eye(3)[:, None, :])
        patches.merge.bias.zero_()
    patches(torch.arange(1.0, 8.0).view(1, 7, 1))
    assert inner.given.tolist() == [[[0, 0, 1], [2, 3, 4], [5, 6, 7]]]


def test_a_patch_of_one_row_gives_the_network_every_row() -> None:
    seen: list[tuple[int, int]] = []

    def build(channels: int, steps: int, _: Any) -> Any:
        seen.append((channels, steps))
        return showing()

    for patch in (1, 4):
        shape = {"channels": 2, "steps": 10, "hyper": hyper_of("cnn", patch=patch, patch_width=5)}
        networks.scaled_network(build, shape, torch.zeros(2), torch.ones(2))
    assert seen == [(2, 10), (5, 3)]


@pytest.mark.parametrize("model", SEQUENCE_MODELS)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_windows_of_any_length_fit(model: str, steps: int) -> None:
    network = networks.scaled_network(
        model_module(model).build,  # type: ignore[attr-defined]
        {"channels": CHANNELS, "steps": steps, "hyper": hyper_of(model)},
        torch.zeros(CHANNELS),
        torch.ones(CHANNELS),
    )
    assert network(torch.randn(7, steps, CHANNELS)).shape == (7,)


def test_train_hosts_limit_training_and_never_testing(synthetic: Path, job_file: JobFile, tmp_path: Path) -> None:
    document = job_document(synthetic, "gru", split="group", hyper=SMALL, train_hosts=["a*", "b1", "b2"])
    assert run.main(["--job", str(job_file(document)), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "artifact" / "metrics.json").read_text())
    assert sorted(metrics["hosts"]) == ["a1", "a2", "a3", "b1", "b2", "b3"]


def test_an_odd_dataset_is_refused_before_anything_is_trained(tmp_path: Path, job_file: JobFile) -> None:
    folder = write_dataset(tmp_path / "data", synthetic_table(), DECLARATION.replace("length = 6", "length = 500"))
    job = job_file(job_document(folder, "gru"))
    assert run.main(["--job", str(job), "--out", str(tmp_path / "out")]) == 78
