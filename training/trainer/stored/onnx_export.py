"""Owns turning a stored model into an ONNX file that gives the same scores.

Guarantees: the file appears whole, and only after it was loaded into ONNX Runtime and gave the scores of the original
to 1e-5, on windows drawn at random with a fixed seed and, where given, on telemetry. The random windows reach beyond
what the model saw in training, and for trees stand on their thresholds and just beside them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.contracts.dataset import expanded_columns
from training.needs import installing
from training.trainer.data.telemetry import Floats
from training.trainer.data.windows import Sequences, input_names, model_inputs
from training.trainer.faults import HostError, SpecError, TrainerError
from training.trainer.files import write_whole
from training.trainer.hyper import MODELS
from training.trainer.models import Fitted
from training.trainer.stored.child import limited
from training.trainer.stored.model_files import Description
from training.trainer.stored.scoring import host_windows, load_bundle, read_for

MAX_DIFFERENCE = 1e-5
RANDOM_WINDOWS = 500
SEED = 490
_CHUNK_WINDOWS = 4096
_STEP_LIMIT_S = 600.0
"""For the conversion, and for scoring a chunk twice; torch traces a network of 24 layers in a minute."""
_REACH = 3.0
"""Random metrics have this many standard deviations of the training rows as their own."""


def export(bundle: Path, out: Path, data: Path | None) -> tuple[float, int]:
    """Write a stored model as ONNX and compare the two.

    Args:
        bundle: A `bundle.tar.zst` or an artifact folder.
        out: The file to write, .onnx.
        data: Telemetry to compare on beside the random windows; None for none.

    Returns:
        The largest difference between two scores, and on how many windows.

    Raises:
        SpecError: Bundle or data are wrong.
        HostError: A file or a library is missing here.
        TrainerError: The scores differ; nothing was written.
    """
    if out.suffix != ".onnx":
        raise SpecError(f"{out.name}: found the suffix {out.suffix!r}, expected .onnx")
    _check_libraries()
    with tempfile.TemporaryDirectory() as folder:
        model, description = load_bundle(bundle, Path(folder))
        content = _content(Path(folder))
    text = _converted(model, description, content)
    found = difference(model, text, _all_inputs(model, description, data))
    write_whole(out, text)
    return found


def _converted(model: Fitted, description: Description, content: str) -> bytes:
    from onnx import helper

    from training.trainer.stored import onnx_graphs

    try:
        with limited(_STEP_LIMIT_S):
            graph = onnx_graphs.graph_of(description.model, model)
    except Exception as fault:
        # Each converter raises its own errors for what it can't express.
        raise TrainerError(f"the model can't be written as ONNX: {fault}; use the bundle itself") from fault
    helper.set_model_props(graph, properties(description, content))
    text: bytes = graph.SerializeToString()
    return text


def properties(description: Description, content: str) -> dict[str, str]:
    """Return what the ONNX file says about its model: text as it is, everything else as JSON."""
    columns = expanded_columns(description.columns, description.categories)
    kind = MODELS[description.model].inputs
    return {
        "model": description.model,
        "mode": description.mode,
        "columns": json.dumps(description.columns),
        "categories": json.dumps(description.categories),
        "window_rows": json.dumps(description.window_rows),
        "history": json.dumps(description.history),
        "threshold": json.dumps(description.threshold),
        "input_names": json.dumps(input_names(kind, columns, description.history)),
        "content": content,
    }


def difference(model: Fitted, text: bytes, inputs: Iterator[Floats | Sequences]) -> tuple[float, int]:
    """Return the largest difference between the scores of a model and of its ONNX file, and on how many windows.

    Raises:
        TrainerError: It is above `MAX_DIFFERENCE`.
    """
    session = _session(text)
    largest, count = 0.0, 0
    for part in inputs:
        with limited(_STEP_LIMIT_S):
            wanted, found = model.score(part), _onnx_scores(session, part)
        # A score that is no number makes the sum no number, and the comparison below false.
        largest = float(np.max(np.abs(found - wanted), initial=largest))
        count += len(wanted)
    if not largest <= MAX_DIFFERENCE:
        raise TrainerError(
            f"the exported model's scores differ by up to {largest:.3g} from the original's, expected at most "
            f"{MAX_DIFFERENCE:.0e}; nothing was written, use the bundle itself"
        )
    return largest, count


def random_inputs(model: Fitted, description: Description) -> Floats | Sequences:
    """Return `RANDOM_WINDOWS` windows, as the model sees windows, the same ones each time."""
    random = np.random.default_rng(SEED)
    if description.model == "gbt":
        return _at_thresholds(model, random)
    if MODELS[description.model].inputs == "statistics":
        return _around(model.mean, model.spread, (RANDOM_WINDOWS,), random)  # type: ignore[attr-defined]
    steps, scaled = description.window_rows, model.module  # type: ignore[attr-defined]
    rows = _around(scaled.mean.numpy(), scaled.spread.numpy(), (RANDOM_WINDOWS * steps,), random)
    return Sequences(rows, np.arange(1, RANDOM_WINDOWS + 1) * steps - 1, steps)


def _around(mean: Floats, spread: Floats, count: tuple[int, ...], random: np.random.Generator) -> Floats:
    drawn = random.standard_normal((*count, len(mean)), np.float32)
    out: Floats = mean + np.float32(_REACH) * spread * drawn
    return out


def _at_thresholds(model: Any, random: np.random.Generator) -> Floats:
    """Draw each feature from the float32 values at and beside the thresholds that trees compare it with."""
    booster = model.booster
    out = random.standard_normal((RANDOM_WINDOWS, booster.num_feature())).astype(np.float32)
    for feature, thresholds in _thresholds(booster.model_to_string()).items():
        near = np.array(thresholds, np.float64).astype(np.float32)
        values = np.concatenate([near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))])
        out[:, feature] = random.choice(values, RANDOM_WINDOWS)
    return out


def _thresholds(text: str) -> dict[int, list[float]]:
    """Return feature to the thresholds of its splits in a LightGBM text."""
    lines = (re.findall(rf"^{key}=(.*)$", text, re.MULTILINE) for key in ("split_feature", "threshold"))
    found: dict[int, list[float]] = {}
    for features, thresholds in zip(*lines, strict=True):
        for feature, threshold in zip(features.split(), thresholds.split(), strict=True):
            found.setdefault(int(feature), []).append(float(threshold))
    return found


def _all_inputs(model: Fitted, description: Description, data: Path | None) -> Iterator[Floats | Sequences]:
    drawn = random_inputs(model, description)
    yield drawn
    yield drawn[:1]
    if data is None:
        return
    for _, windows in host_windows(description, read_for(description, data)):
        inputs = model_inputs(MODELS[description.model].inputs, windows, description.history)
        for first in range(0, len(inputs), _CHUNK_WINDOWS):
            yield inputs[first : first + _CHUNK_WINDOWS]


def _session(text: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])


def _onnx_scores(session: Any, part: Floats | Sequences) -> npt.NDArray[np.float32]:
    if isinstance(part, Sequences):
        part = part.rows[part.ends[:, None] + np.arange(1 - part.length, 1)]  # (n, n_steps, n_channels)
    scores: npt.NDArray[np.float32] = session.run(["score"], {session.get_inputs()[0].name: part})[0]
    return scores


def _content(folder: Path) -> str:
    """Return "sha256:" and 64 hex digits over the model's files: one line each, digest and name, sorted."""
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n" for path in folder.iterdir())
    return "sha256:" + hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _check_libraries() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxmltools", "onnxscript") if not _is_there(name)]
    if missing:
        raise HostError(
            f"export needs the libraries {', '.join(missing)}, which this Python lacks; {installing('trainer,onnx')}"
        )


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
