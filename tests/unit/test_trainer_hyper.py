"""Claims about the trainer's declaration."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from training.trainer.hyper import (
    MODELS,
    Hyper,
    completed_hyper,
    contract_digest,
    describe,
    hyper_table,
    missing_libraries,
)


def test_the_declaration_names_modes_splits_and_the_models_that_can_run() -> None:
    found = describe()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["properties"]["mode"] == {"enum": ["realistic", "oracle"]}
    assert found["properties"]["split_recipe"] == {"enum": ["random", "time", "hosts", "group", "published"]}
    assert found["properties"]["model"] == {"enum": ["gbt", "mlp", "cnn", "gru", "lstm", "tcn", "transformer"]}
    assert list(found["$defs"]) == ["gbt", "mlp", "cnn", "gru", "lstm", "tcn", "transformer"]
    assert found["$defs"]["gbt"]["additionalProperties"] is False


def test_every_parameter_carries_type_range_default_unit_and_meaning() -> None:
    found = describe()["$defs"]["gbt"]["properties"]
    assert found["max_iter"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 10000,
        "default": 200,
        "description": "Boosting rounds at most; early stopping may end sooner.",
        "x-unit": "rounds",
    }
    assert found["learning_rate"]["type"] == "number"
    assert found["history"]["type"] == "boolean"


@pytest.mark.parametrize("model", list(MODELS))
def test_every_default_is_inside_its_own_range(model: str) -> None:
    values, faults = completed_hyper(model, {})
    assert faults == []
    assert completed_hyper(model, values) == (values, [])
    assert list(values) == [item.name for item in MODELS[model].hypers]


@pytest.mark.parametrize(
    ("hyper", "fault"),
    [
        ({"max_iter": 0}, "hyper.max_iter: found 0, expected integer from 1 to 10000"),
        ({"max_iter": 10.5}, "hyper.max_iter: found 10.5, expected integer from 1 to 10000"),
        ({"max_iter": True}, "hyper.max_iter: found True, expected integer from 1 to 10000"),
        ({"max_iter": "10"}, "hyper.max_iter: found '10', expected integer from 1 to 10000"),
        ({"max_iter": math.nan}, "hyper.max_iter: found nan, expected integer from 1 to 10000"),
        ({"learning_rate": math.inf}, "hyper.learning_rate: found inf, expected number from 0.0001 to 1.0"),
        ({"history": 1}, "hyper.history: found 1, expected true or false"),
        ({"max_itre": 10}, "hyper.max_itre: gbt has no such parameter, nearest is max_iter; it has max_iter, learning"),
    ],
)
def test_a_wrong_parameter_is_answered_with_what_is_allowed(hyper: dict[str, object], fault: str) -> None:
    _, faults = completed_hyper("gbt", hyper)
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_all_wrong_parameters_are_named_at_once() -> None:
    _, faults = completed_hyper("mlp", {"hidden": -1, "layers": 99, "nonsense": 1})
    assert [fault.split(":")[0] for fault in faults] == ["hyper.nonsense", "hyper.hidden", "hyper.layers"]


def test_whole_numbers_may_be_written_with_a_point_and_numbers_without() -> None:
    values, faults = completed_hyper("gbt", {"max_iter": 10.0, "learning_rate": 1})
    assert faults == []
    assert (values["max_iter"], values["learning_rate"]) == (10, 1.0)
    assert (type(values["max_iter"]), type(values["learning_rate"])) == (int, float)


def test_the_contract_digest_ignores_key_order_and_sees_every_change() -> None:
    one = {"title": "a", "$defs": {"m": {"x": 1, "y": 2.5}}}
    same = {"$defs": {"m": {"y": 2.5, "x": 1}}, "title": "a"}
    assert contract_digest(one) == contract_digest(same)
    assert contract_digest({"title": "é"}) == "sha256:17fc9dbaed22ce2d07e9a2bb624e57b3cd39cd72e937e0dd0eb4ddf8f03190d6"
    assert contract_digest(one) != contract_digest({"title": "a", "$defs": {"m": {"x": 1, "y": 2.6}}})


def test_missing_libraries_are_found_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_libraries("gbt") == []
    found = importlib_find_spec_without("lightgbm")
    monkeypatch.setattr("importlib.util.find_spec", found)
    assert missing_libraries("gbt") == ["lightgbm"]
    assert missing_libraries("mlp") == []


def importlib_find_spec_without(absent: str):  # type: ignore[no-untyped-def]
    return lambda name: None if name == absent else name


def test_the_table_has_a_row_per_parameter() -> None:
    text = hyper_table()
    assert "| `max_iter` | integer | 1 to 10000 | 200 | rounds | Boosting rounds at most" in text
    assert "| `history` | boolean | true, false | true | - |" in text
    assert text.count("\n| `") == sum(len(model.hypers) for model in MODELS.values())


def test_a_parameter_without_a_range_lets_nothing_through() -> None:
    assert Hyper("x", 1, "", "1").fault(1) == "found 1, expected integer from None to None"


def test_describe_prints_the_declaration_with_the_standard_library_alone(root: Path) -> None:
    """Blocked imports stand for a host that has nothing installed."""
    code = (
        "import sys\n"
        "for name in ('numpy', 'pyarrow', 'sklearn', 'lightgbm', 'safetensors', 'threadpoolctl', 'msgspec'):\n"
        "    sys.modules[name] = None\n"
        "sys.argv = ['run', '--describe']\n"
        "import runpy\n"
        "runpy.run_module('training.trainer.run', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == describe()


def test_describe_costs_less_than_three_tenths_of_a_second(root: Path) -> None:
    """Processor time, the best of three: on a busy machine the wall clock measures the neighbours."""
    command = [sys.executable, "training/trainer/run.py", "--describe"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    best = math.inf
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 0.3
