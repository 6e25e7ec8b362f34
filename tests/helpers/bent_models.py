"""Bends the files of a stored model at random, then loads and scores what came out.

`bent_models.py KIND ARTIFACT SEED COUNT` does so in a process of its own, as a library that crashes takes it along. It
writes one line before each case, its number, and one after it: `refused` or `scored`.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from training.trainer.data.telemetry import Floats
from training.trainer.data.windows import Sequences
from training.trainer.faults import SpecError
from training.trainer.hyper import MODELS
from training.trainer.stored import child
from training.trainer.stored.model_files import Description
from training.trainer.stored.scoring import _input_shape, load_bundle, scores

Bend = Callable[[random.Random, bytes], bytes]

NUMBERS = (
    "-1", "0", "1", "2", "-2", "15", "127", "2147483647", "-2147483648", "4294967296", "99999999999999999999", "-0",
    "007", "0x10", "1.", ".5", "-", "--", "nan", "inf", "-inf", "1e999", "-1e999", "1e-999", "1e300", "1e308", "1e31",
    "1e5", "1e+05", "3e+00", "0.1", "1e+9999", "\u0663", "1_0",
)  # fmt: skip
HEADERS = (
    "num_class=0", "num_class=3", "num_class=2000000000", "num_tree_per_iteration=0", "num_tree_per_iteration=7",
    "label_index=-5", "max_feature_idx=-1", "max_feature_idx=2147483647", "objective=multiclass num_class:3",
    "objective=lambdarank", "objective=binary sigmoid:-1", "objective=custom", "average_output", "version=v3",
    "feature_infos=none", "feature_names=", "tree", "Tree=0", "Tree=99", "end of trees", "parameters:",
    "monotone_constraints=1 1", "tree_sizes=", "tree_sizes=-1 -1", "tree_sizes=99999999999", "tree_sizes=0 0 0 0",
    "num_cat=1\ncat_boundaries=0 1\ncat_threshold=1", "num_cat=9", "is_linear=1", "pandas_categorical:[[1]]",
    "leaf_features=0 0 0", "leaf_coeff=1 1", "shrinkage=0", "num_leaves=1", "num_leaves=1000000000", "\0", "\r", "=",
)  # fmt: skip


def _byte(random: random.Random, content: bytes) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]


def _bit(random: random.Random, content: bytes) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]


def _cut(random: random.Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content))]


def _longer(random: random.Random, content: bytes) -> bytes:
    place = random.choice((0, random.randrange(len(content)), len(content)))
    return content[:place] + random.choice((b"\0", b"\xff", b"\n", b" ", content[:99])) + content[place:]


def _line(change: Callable[[random.Random, list[str], int], None], *keys: str) -> Bend:
    """Return a change of one line, of one of the keys if there are any."""

    def bend(random: random.Random, content: bytes) -> bytes:
        lines = content.decode("latin-1").split("\n")
        places = [place for place, line in enumerate(lines) if not keys or line.partition("=")[0] in keys]
        if places:
            change(random, lines, random.choice(places))
        return "\n".join(lines).encode("utf-8", "replace")

    return bend


def _number(random: random.Random, lines: list[str], place: int) -> None:
    key, _, rest = lines[place].partition("=")
    words = rest.split(" ")
    words[random.randrange(len(words))] = random.choice(NUMBERS)
    lines[place] = f"{key}={' '.join(words)}"


def _near(random: random.Random, lines: list[str], place: int) -> None:
    key, _, rest = lines[place].partition("=")
    words = rest.split(" ")
    words[random.randrange(len(words))] = str(random.randint(-40, 40))
    lines[place] = f"{key}={' '.join(words)}"


def _count(random: random.Random, lines: list[str], place: int) -> None:
    key, _, rest = lines[place].partition("=")
    words = rest.split(" ")
    lines[place] = f"{key}={' '.join(random.choice((words[1:], words + words, [*words, '0'], [])))}"


def _swap(random: random.Random, lines: list[str], place: int) -> None:
    other = random.randrange(len(lines))
    lines[place], lines[other] = lines[other], lines[place]


def _delete(_: random.Random, lines: list[str], place: int) -> None:
    del lines[place]


def _double(_: random.Random, lines: list[str], place: int) -> None:
    lines.insert(place, lines[place])


def _insert(random: random.Random, lines: list[str], place: int) -> None:
    lines.insert(place, random.choice(HEADERS))


def _replace(random: random.Random, lines: list[str], place: int) -> None:
    lines[place] = random.choice(HEADERS)


_ARRAYS = (
    "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child", "leaf_value",
    "leaf_weight", "leaf_count", "internal_value", "internal_weight", "internal_count",
)  # fmt: skip
TEXT: tuple[Bend, ...] = (
    _byte,
    _bit,
    _cut,
    _longer,
    _line(_number, *_ARRAYS, "num_leaves", "num_cat", "tree_sizes", "is_linear", "shrinkage", "Tree"),
    _line(_number, "split_feature", "left_child", "right_child", "num_leaves", "leaf_value"),
    _line(_near, "left_child", "right_child", "split_feature", "decision_type", "num_leaves", "threshold"),
    _line(_count, *_ARRAYS, "feature_names", "feature_infos", "tree_sizes"),
    _line(_swap),
    _line(_delete),
    _line(_double),
    _line(_insert),
    _line(_replace),
)
SIZES: tuple[Any, ...] = (-1, 0, 1, 2, 3, 7, 4096, 2**31, 2**63, 10**30, 1.5, 1e308, True, None, "1", [], [[]], {})


def _json(random: random.Random, content: bytes) -> bytes:
    """Change one value somewhere in a JSON text, or a key."""
    found = json.loads(content)
    table, key = random.choice(list(_places(found)))
    if isinstance(table, dict) and random.random() < 0.2:
        table[random.choice(("", "x", "\u0000", "hidden", "steps", key + "x"))] = table.pop(key)
    elif isinstance(table[key], str) and table[key].startswith("{") and random.random() < 0.9:
        table[key] = _json(random, table[key].encode()).decode()
    elif type(table[key]) is int and random.random() < 0.5:
        table[key] += random.choice((-4, -1, 1, 4, 2**32))
    else:
        table[key] = random.choice(SIZES)
    return json.dumps(found).encode()


def _places(found: Any) -> Any:
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in items:
        yield found, key
        yield from _places(value)


def _header(bend: Bend) -> Bend:
    """Return the same bend of the header of a safetensors file, whose length is right afterwards."""

    def bent(random: random.Random, content: bytes) -> bytes:
        size = struct.unpack("<Q", content[:8])[0]
        header = bend(random, content[8 : 8 + size])
        return struct.pack("<Q", len(header)) + header + content[8 + size :]

    return bent


def _length(random: random.Random, content: bytes) -> bytes:
    return struct.pack("<Q", random.choice((0, 1, 7, 2**20, 2**32, 2**63, 2**64 - 1))) + content[8:]


def _values(random: random.Random, content: bytes) -> bytes:
    place = len(content) - 4 * random.randint(1, 400)
    value = struct.pack("<f", random.choice((np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -1.0)))
    return content[:place] + value + content[place + 4 :]


TENSORS: tuple[Bend, ...] = (
    _header(_json),
    _header(_json),
    _header(_byte),
    _header(_bit),
    _length,
    _values,
    _byte,
    _cut,
)
DESCRIPTION: tuple[Bend, ...] = (_json, _json, _json, _byte, _bit, _cut, _longer)
KINDS: dict[str, tuple[str, tuple[Bend, ...]]] = {
    "text": ("model.txt", TEXT),
    "tensors": ("model.safetensors", TENSORS),
    "description": ("model.json", DESCRIPTION),
}


def bent(kind: str, content: bytes, seed: int, index: int) -> bytes:
    """Return a file after one to three changes, the same ones for the same seed and number."""
    chance = random.Random(f"{seed}.{index}")
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if kind == "text" or content:
            try:
                content = chance.choice(KINDS[kind][1])(chance, content)
            except (ValueError, IndexError, struct.error):
                # A change after a change that left nothing to change.
                break
    return content


def some_windows(description: Description) -> Floats | Sequences:
    """Return eight windows as a model of this description takes them."""
    shape, drawn = _input_shape(description), np.random.default_rng(7)
    if MODELS[description.model].inputs == "statistics":
        return (100 * drawn.standard_normal((8, shape.width))).astype(np.float32)
    rows = drawn.standard_normal((shape.steps + 7, shape.width)).astype(np.float32)
    return Sequences(rows, np.arange(8) + shape.steps - 1, shape.steps)


def used(folder: Path) -> str:
    """Load and score an artifact folder; return `refused` or `scored`."""
    try:
        with tempfile.TemporaryDirectory() as inner:
            model, description = load_bundle(folder, Path(inner))
        scores(model, description, some_windows(description))
    except SpecError:
        return "refused"
    return "scored"


def main(kind: str, artifact: str, seed: str, count: str) -> None:
    """Be the process that may crash."""
    child.confine()
    name = KINDS[kind][0]
    content = (Path(artifact) / name).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for path in Path(artifact).glob("model.*"):
            shutil.copyfile(path, Path(folder) / path.name)
        for index in range(int(count)):
            _say(str(index))
            (Path(folder) / name).write_bytes(bent(kind, content, int(seed), index))
            _say(used(Path(folder)))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
