"""Claims about ONNX files: they give the scores of the stored model, or are not written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
from synthetic import ALL_MODELS, NEEDS_TORCH, packed, synthetic_table

from training.trainer import export
from training.trainer.data.telemetry import Floats
from training.trainer.data.windows import Sequences, model_inputs
from training.trainer.faults import TrainerError
from training.trainer.stored import onnx_export, onnx_graphs
from training.trainer.stored.model_files import Description
from training.trainer.stored.scoring import host_windows, load_bundle, read_for

pytestmark = pytest.mark.xdist_group("export")

KIND = {"gbt": "statistics", "mlp": "statistics"}


def in_this_process(arguments: list[str]) -> int:
    """Export without a child, so that faults can be put in and what is written can be read."""
    return export.exported(export._parser().parse_args(arguments))


def exported(artifact: Path, out: Path, *more: object) -> onnxruntime.InferenceSession:
    assert in_this_process(["--bundle", str(artifact), "--out", str(out), *map(str, more)]) == 0
    return onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])


def seen(artifact: Path, data: Path) -> tuple[Floats, Floats]:
    """Return what the model sees of all windows, as an array, and its own scores."""
    with tempfile.TemporaryDirectory() as folder:
        model, description = load_bundle(artifact, Path(folder))
    parts, scores = [], []
    for _, windows in host_windows(description, read_for(description, data)):
        inputs = model_inputs(KIND.get(description.model, "sequences"), windows, description.history)
        scores.append(model.score(inputs))
        if isinstance(inputs, Sequences):
            inputs = np.stack([inputs.rows[end - inputs.length + 1 : end + 1] for end in inputs.ends])
        parts.append(inputs)
    return np.concatenate(parts), np.concatenate(scores)


@pytest.mark.parametrize("model", ALL_MODELS)
def test_the_file_gives_the_scores_of_the_bundle(
    artifacts: dict[str, Path],
    synthetic: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
) -> None:
    data = synthetic / "synthetic.parquet"
    bundle = packed(artifacts[model], tmp_path / "bundle.tar.zst")
    session = exported(bundle, tmp_path / "model.onnx", "--data", data)
    shown = capsys.readouterr()
    assert re.fullmatch(r".*model\.onnx: differs by at most [0-9.e-]+ on 2031 windows\n", shown.out)
    assert shown.err == ""
    inputs, scores = seen(artifacts[model], data)
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type) == ("features" if model in KIND else "windows", "tensor(float)")
    assert given.shape[1:] == ([32] if model in KIND else [6, 8])
    assert (output.name, output.type, len(output.shape)) == ("score", "tensor(float)", 1)
    assert len(inputs) == 6 * 255
    (found,) = session.run(None, {given.name: inputs})
    np.testing.assert_allclose(found, scores, rtol=0, atol=1e-5)
    assert np.ptp(scores) > 0.01
    (one,) = session.run(None, {given.name: inputs[7:8]})
    np.testing.assert_allclose(one, scores[7:8], rtol=0, atol=1e-5)


def test_the_file_says_what_it_takes(artifacts: dict[str, Path], tmp_path: Path) -> None:
    exported(artifacts["mlp"], tmp_path / "model.onnx")
    found = {item.key: item.value for item in onnx.load(tmp_path / "model.onnx").metadata_props}
    stored = json.loads((artifacts["mlp"] / "model.json").read_text())
    assert found["model"] == "mlp"
    assert found["mode"] == "oracle"
    assert json.loads(found["columns"]) == ["bytes_in", "bytes_out", "cpu", "constant"]
    assert json.loads(found["categories"]) == {}
    assert json.loads(found["window_rows"]) == 6
    assert json.loads(found["history"]) is True
    assert json.loads(found["threshold"]) == stored["threshold"]
    assert json.loads(found["input_names"]) == stored["features"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", found["content"])
    assert len(found) == 9


def test_a_column_of_text_stands_as_its_known_values_among_the_inputs() -> None:
    description = Description(
        "gru", ("x", "service"), None, None, 30, False, 0.5, {"service": ("http", "smtp")}, "realistic"
    )
    found = onnx_export.properties(description, "sha256:1")
    assert json.loads(found["input_names"]) == ["x", "service=http", "service=smtp"]
    assert json.loads(found["columns"]) == ["x", "service"]
    assert json.loads(found["categories"]) == {"service": ["http", "smtp"]}
    assert found["content"] == "sha256:1"


def test_the_same_bundle_gives_the_same_content_and_another_one_another(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    contents = []
    for name, source in (("one", "gbt"), ("two", "gbt"), ("three", "mlp")):
        exported(artifacts[source], tmp_path / f"{name}.onnx")
        props = onnx.load(tmp_path / f"{name}.onnx").metadata_props
        contents.append(next(item.value for item in props if item.key == "content"))
    assert contents[0] == contents[1] != contents[2]


def test_a_threshold_is_rounded_down_so_that_no_float32_changes_sides() -> None:
    random = np.random.default_rng(1)
    thresholds = [*random.standard_normal(200).tolist(), 0.1, -0.1, 0.5, 1e-40, -1e-40, 1e30]
    text = f"tree\ntree_sizes=1 2\nthreshold={' '.join(map(repr, thresholds))}\nend\n"
    rounded = onnx_graphs.single_precision(text)
    found = [float(word) for word in rounded.splitlines()[1].removeprefix("threshold=").split()]
    assert rounded.splitlines()[0::2] == ["tree", "end"]
    for exact, single in zip(thresholds, found, strict=True):
        assert float(np.float32(single)) == single
        near = np.float32(exact)
        for value in (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))):
            assert (float(value) <= exact) is bool(value <= np.float32(single))


def test_values_on_a_threshold_and_beside_it_go_the_way_of_the_original(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, description = load_bundle(artifacts["gbt"], Path(folder))
    inputs = onnx_export.random_inputs(model, description)
    session = exported(artifacts["gbt"], tmp_path / "model.onnx")
    (found,) = session.run(None, {"features": inputs})
    np.testing.assert_allclose(found, model.score(inputs), rtol=0, atol=1e-5)
    rounded = lightgbm.Booster(model_str=onnx_graphs.single_precision(model.booster.model_to_string()))  # type: ignore[attr-defined]
    assert rounded.predict(inputs).tolist() == model.booster.predict(inputs).tolist()  # type: ignore[attr-defined]
    monkeypatch.setattr(onnx_graphs, "single_precision", lambda text: text)
    assert in_this_process(["--bundle", str(artifacts["gbt"]), "--out", str(tmp_path / "other.onnx")]) == 1
    assert not (tmp_path / "other.onnx").exists()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = in_this_process([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    return status, shown.err


def test_a_file_whose_scores_differ_is_not_written(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(name: str, model: Any) -> Any:
        graph = perceptron(name, model)
        bias = next(item for item in graph.graph.initializer if item.name == "bias1")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), "bias1"))
        return graph

    perceptron = onnx_graphs.graph_of
    monkeypatch.setattr(onnx_graphs, "graph_of", shifted)
    out = tmp_path / "model.onnx"
    status, error = refused(capsys, "--bundle", artifacts["mlp"], "--out", out)
    assert status == 1
    assert re.search(r"differ by up to 0\.0\d+ from the original's, expected at most 1e-05; nothing was written", error)
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_is_no_number_is_a_difference(artifacts: dict[str, Path]) -> None:
    class Broken:
        def score(self, inputs: Floats) -> Floats:
            return np.full(len(inputs), np.nan, np.float32)

    with tempfile.TemporaryDirectory() as folder:
        model, description = load_bundle(artifacts["mlp"], Path(folder))
    text = onnx_graphs.graph_of("mlp", model).SerializeToString()
    inputs = onnx_export.random_inputs(model, description)
    assert onnx_export.difference(model, text, iter([inputs]))[1] == 500
    with pytest.raises(TrainerError, match="differ by up to nan"):
        onnx_export.difference(Broken(), text, iter([inputs, inputs]))  # type: ignore[arg-type]


def raising(fault: Exception) -> Callable[..., None]:
    def broken(*arguments: object) -> None:
        raise fault

    return broken


def test_each_trouble_is_one_line_with_its_exit_status(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gbt, out = artifacts["gbt"], tmp_path / "model.onnx"
    pq.write_table(synthetic_table().drop(["cpu"]), tmp_path / "rows.parquet")
    (tmp_path / "damaged.tar.zst").write_bytes(packed(gbt, tmp_path / "whole.tar.zst").read_bytes()[:-20])
    assert refused(capsys, "--bundle", tmp_path / "damaged.tar.zst", "--out", out)[0] == 78
    assert refused(capsys, "--bundle", tmp_path / "nowhere", "--out", out)[0] == 75
    assert refused(capsys, "--bundle", gbt, "--out", tmp_path / "model.txt") == (
        78,
        "export: model.txt: found the suffix '.txt', expected .onnx\n",
    )
    status, error = refused(capsys, "--bundle", gbt, "--out", out, "--data", tmp_path / "rows.parquet")
    assert (status, "rows.parquet lacks the columns cpu;" in error) == (78, True)
    assert refused(capsys, "--bundle", gbt, "--out", tmp_path / "no/model.onnx")[0] == 75
    monkeypatch.setattr(onnx_export, "_is_there", lambda name: name != "onnxruntime")
    status, error = refused(capsys, "--bundle", gbt, "--out", out)
    assert status == 75
    assert f"lacks; in the checkout, run: {sys.executable} -m pip install '.[trainer,onnx]'\n" in error
    assert "needs the libraries onnxruntime," in error
    monkeypatch.undo()
    monkeypatch.setattr(onnx_graphs, "graph_of", raising(NotImplementedError("no such operator")))
    assert refused(capsys, "--bundle", gbt, "--out", out) == (
        1,
        "export: the model can't be written as ONNX: no such operator; use the bundle itself\n",
    )
    for fault in (MemoryError(), ImportError("no numpy")):
        monkeypatch.setattr(onnx_export, "export", raising(fault))
        assert refused(capsys, "--bundle", gbt, "--out", out)[0] == 75
    assert not out.exists()


@pytest.mark.parametrize("model", ["gbt", pytest.param("tcn", marks=NEEDS_TORCH)])
def test_the_terminal_shows_one_line(root: Path, artifacts: dict[str, Path], tmp_path: Path, model: str) -> None:
    done = subprocess.run(
        [sys.executable, "training/trainer/export.py", "--bundle", artifacts[model], "--out", tmp_path / "m.onnx"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert re.fullmatch(r".*m\.onnx: differs by at most [0-9.e-]+ on 501 windows\n", done.stdout)
