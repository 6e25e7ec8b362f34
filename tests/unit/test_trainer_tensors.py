"""Claims about reading tensors that nobody trusts."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from training.trainer.faults import SpecError
from training.trainer.models import InputShape, mlp
from training.trainer.models.stored_tensors import demand_shapes, read

HONEST = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file(path: Path, header: Any, data: bytes = bytes(8)) -> Path:
    """Write a file with a header, given as JSON or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_what_safetensors_wrote_is_read_as_it_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(HONEST, {"shape": "{}"}))
    texts, found = read(path)
    assert texts == {"shape": "{}"}
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in found.items()} == {
        "a": (np.float32, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
        "b": (np.float32, [1.0, 1.0, 1.0, 1.0]),
    }
    assert all(tensor.flags.writeable and tensor.flags.aligned for tensor in found.values())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "header is not JSON"),
        (b"[]", "header is no table of tensors"),
        (b'{"a":' * 60_000, "header is not JSON"),
        (b"\xff\xfe", "header is not JSON"),
        (b'{"a": %s, "a": %s}' % ((json.dumps(ENTRY).encode(),) * 2), "'a' is named twice"),
        ({"__metadata__": [1]}, "__metadata__ is no table of texts"),
        ({"__metadata__": {"shape": 1}}, "__metadata__ is no table of texts"),
        ({"a": []}, "tensor 'a' is not described by dtype, shape and data_offsets alone"),
        ({"a": ENTRY | {"more": 1}}, "tensor 'a' is not described by"),
        ({"a": ENTRY | {"dtype": "F64"}}, "tensor 'a' has the type 'F64', expected F32"),
        ({"a": ENTRY | {"dtype": ["F32"]}}, "expected F32"),
        ({"a": ENTRY | {"shape": [2.0]}}, r"tensor 'a' has the shape \[2.0\]"),
        ({"a": ENTRY | {"shape": [True, 2]}}, "tensor 'a' has the shape"),
        ({"a": ENTRY | {"shape": [-2]}}, "tensor 'a' has the shape"),
        ({"a": ENTRY | {"shape": "2"}}, "tensor 'a' has the shape '2'"),
        ({"a": ENTRY | {"shape": []}}, "tensor 'a' has an empty shape"),
        ({"a": ENTRY | {"shape": [0], "data_offsets": [0, 0]}}, "tensor 'a' has an empty shape"),
        ({"a": ENTRY | {"shape": [1, 1, 1, 1, 2]}}, "more than 4 dimensions"),
        ({"a": ENTRY | {"data_offsets": [0, 4, 8]}}, "no two offsets"),
        ({"a": ENTRY | {"data_offsets": [8, 0]}}, "does not fill the bytes from 8 to 0"),
        ({"a": ENTRY | {"shape": [2**31 - 1, 2**31 - 1]}}, "does not fill the bytes"),
        ({"a": ENTRY | {"shape": [2**40]}}, "expected whole numbers up to 2147483647"),
        ({"a": ENTRY | {"shape": [3], "data_offsets": [0, 12]}}, "its tensors take 12 bytes, the file holds 8"),
        ({"a": ENTRY, "b": ENTRY}, "tensor 'b' begins at byte 0, expected 8"),
        ({"a": ENTRY | {"shape": [1], "data_offsets": [4, 8]}}, "tensor 'a' begins at byte 4, expected 0"),
        ({"a": ENTRY | {"shape": [1], "data_offsets": [0, 4]}}, "its tensors take 4 bytes, the file holds 8"),
        ({}, "its tensors take 0 bytes, the file holds 8"),
    ],
)
def test_a_header_that_the_trainer_does_not_write_is_refused(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(file(tmp_path / "x", header))


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\1\0\0", b"\xff" * 16, struct.pack("<Q", 9) + b"{}      "])
def test_a_length_of_the_header_beyond_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SpecError, match="its header of"):
        read(tmp_path / "x")


def test_a_header_over_a_mebibyte_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="its header of 1048577 bytes"):
        read(file(tmp_path / "x", b"{" + b" " * (1 << 20)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(SpecError, match="tensor 'a' holds NaN or infinity"):
        read(file(tmp_path / "x", {"a": ENTRY}, np.array([1, value], np.float32).tobytes()))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"a": (2, 3)}, r"tensor 'b': found the shape \(4,\), expected None"),
        ({"a": (2, 3), "b": (4,), "c": (1,)}, r"tensor 'c': found the shape None, expected \(1,\)"),
        ({"a": (3, 2), "b": (4,)}, r"tensor 'a': found the shape \(2, 3\), expected \(3, 2\)"),
    ],
)
def test_tensors_of_another_model_are_refused(wanted: Any, message: str) -> None:
    demand_shapes(HONEST, {"a": (2, 3), "b": (4,)})
    with pytest.raises(SpecError, match=message):
        demand_shapes(HONEST, wanted)


PERCEPTRON = {
    "layer0.bias": np.zeros(4, np.float32),
    "layer0.weight": np.ones((3, 4), np.float32),
    "layer1.bias": np.zeros(1, np.float32),
    "layer1.weight": np.ones((4, 1), np.float32),
    "scaler.clip": np.array([5], np.float32),
    "scaler.mean": np.zeros(3, np.float32),
    "scaler.spread": np.ones(3, np.float32),
}


@pytest.mark.parametrize(
    ("changes", "width", "message"),
    [
        ({}, 4, r"tensor 'layer0.weight': found the shape \(3, 4\), expected \(4, 4\)"),
        ({"layer1.weight": np.ones((4, 2), np.float32)}, 3, r"found the shape \(4, 2\), expected \(4, 1\)"),
        ({"layer2.weight": np.ones((1, 1), np.float32)}, 3, "tensor 'layer2.bias': found the shape None"),
        ({"other": np.ones(1, np.float32)}, 3, "tensor 'other'"),
        ({"scaler.spread": np.array([1, 0, 1], np.float32)}, 3, "scaler.spread holds a number that is not above 0"),
        ({"scaler.clip": np.array([-1], np.float32)}, 3, "clip: found -1.0, expected number from 0.5 to 1000.0"),
    ],
)
def test_a_perceptron_that_no_job_makes_is_refused(tmp_path: Path, changes: Any, width: int, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(save(PERCEPTRON))
    assert mlp.load(tmp_path, InputShape("mlp", 3, 30)).score(np.zeros((2, 3), np.float32)).tolist() == [0.5, 0.5]
    (tmp_path / "model.safetensors").write_bytes(save(PERCEPTRON | changes))
    with pytest.raises(SpecError, match=message):
        mlp.load(tmp_path, InputShape("mlp", width, 30))


def test_a_perceptron_of_seven_hidden_layers_is_refused(tmp_path: Path) -> None:
    one, tensors = np.ones((1, 1), np.float32), {"scaler.clip": PERCEPTRON["scaler.clip"]}
    tensors |= {"scaler.mean": np.zeros(1, np.float32), "scaler.spread": np.ones(1, np.float32)}
    for index in range(8):
        tensors |= {f"layer{index}.weight": one, f"layer{index}.bias": one[0]}
    (tmp_path / "model.safetensors").write_bytes(save(tensors))
    with pytest.raises(SpecError, match="layers: found 7, expected integer from 1 to 6"):
        mlp.load(tmp_path, InputShape("mlp", 1, 30))
