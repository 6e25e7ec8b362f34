"""Owns the ONNX graph of each kind of model: what the model sees in, `score` (n,) float32 out.

Models on statistics take `features` (n, n_features) float32, models on rows `windows` (n, n_steps, n_channels) float32,
both in the metrics' own units: the scaler is part of the graph. `n` is free.

Source: ONNX operator schemas, onnx.ai/onnx/operators.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.trainer.data.telemetry import Floats
from training.trainer.hyper import MODELS
from training.trainer.models import Fitted

if TYPE_CHECKING:
    from training.trainer.models.gbt import Trees
    from training.trainer.models.mlp import Perceptron
    from training.trainer.models.networks import Network

OPSET = 18
IR_VERSION = 10
INPUTS = {"statistics": "features", "sequences": "windows"}
OUTPUT = "score"
_EXPORT_WINDOWS = 2


def graph_of(name: str, model: Fitted) -> Any:
    """Return the ONNX model of a trained model.

    Args:
        name: Its name in `hyper.MODELS`.
        model: What the model's module loaded.
    """
    if MODELS[name].inputs == "sequences":
        return network_graph(model)  # type: ignore[arg-type]
    return trees_graph(model) if name == "gbt" else perceptron_graph(model)  # type: ignore[arg-type]


def trees_graph(trees: Trees) -> Any:
    """Return the graph of trees: LightGBM's converter, then the probability of class 1 alone."""
    with _quiet():
        from onnxmltools.convert import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        booster = lightgbm.Booster(model_str=single_precision(trees.booster.model_to_string()))
        inputs = [(INPUTS["statistics"], FloatTensorType([None, booster.num_feature()]))]
        model = convert_lightgbm(booster, initial_types=inputs, zipmap=False)
    graph = model.graph
    probabilities = next(output.name for output in graph.output if output.name != "label")
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "anomalous"))
    graph.node.append(helper.make_node("Gather", [probabilities, "anomalous"], [OUTPUT], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"]))
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def single_precision(text: str) -> str:
    """Round every threshold of a LightGBM text down to float32.

    ONNX keeps thresholds as float32. A float32 value is at most a threshold exactly if it is at most the next float32
    at or below it; rounding to the nearest instead would send values near a threshold the other way.
    """
    # The list of sizes would be wrong now; without it the text is read from its beginning to its end.
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^threshold=(.*)$", _rounded_down, text, flags=re.MULTILINE)


def _rounded_down(line: re.Match[str]) -> str:
    exact = np.array(line[1].split(), np.float64)
    near = exact.astype(np.float32)
    below = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
    return "threshold=" + " ".join(repr(float(value)) for value in below)


def perceptron_graph(model: Perceptron) -> Any:
    """Return the graph of a perceptron: scale, cut, layers, sigmoid."""
    constants: dict[str, Floats] = {"mean": model.mean, "spread": model.spread}
    constants |= {"low": np.array(-model.clip, np.float32), "high": np.array(model.clip, np.float32)}
    nodes = [
        helper.make_node("Sub", [INPUTS["statistics"], "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["state0"]),
    ]
    count = len(model.layers) // 2
    for index in range(count):
        weight, bias, out = f"weight{index}", f"bias{index}", f"state{index + 1}"
        constants |= {weight: model.layers[2 * index], bias: model.layers[2 * index + 1]}
        nodes.append(helper.make_node("Gemm", [f"state{index}", weight, bias], [f"raw{index}"]))
        kind = "Relu" if index < count - 1 else "Sigmoid"
        nodes.append(helper.make_node(kind, [f"raw{index}"], [out]))
    nodes.append(helper.make_node("Squeeze", [f"state{count}", "last"], [OUTPUT]))
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(np.array([1], np.int64), "last"))
    inputs = helper.make_tensor_value_info(INPUTS["statistics"], TensorProto.FLOAT, ["n", len(model.mean)])
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "mlp", [inputs], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def network_graph(network: Network) -> Any:
    """Return the graph of a torch network with its scaler and a sigmoid, traced by torch."""
    import torch

    steps, channels = network.shape["steps"], network.shape["channels"]
    module = torch.nn.Sequential(network.module, torch.nn.Sigmoid()).eval()
    windows = torch.zeros(_EXPORT_WINDOWS, steps, channels)
    with _quiet():
        program = torch.onnx.export(
            module,
            (windows,),
            input_names=[INPUTS["sequences"]],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return onnx.load_from_string(program.model_proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what converters print, log and warn of their own ways from the terminal; whether they are right is checked.

    Their faults are raised and pass through.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
