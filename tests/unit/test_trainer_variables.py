"""Variables that a manifest or a host gives to trainers, and those that nobody may give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.fleet.manifest import parse
from training.fleet.model.errors import ConfigurationError, ManifestError
from training.fleet.model.jobs import contract_with
from training.fleet.model.variables import refused
from training.fleet.worker.options import options
from training.fleet.worker.start import Seat, environment

HEAD = '[manifest]\nschema = 1\n[hosts.default]\n[trainer]\ncommand = ["x"]\n'
NEVER = [
    ("LD_PRELOAD", "loads other code"),
    ("DYLD_INSERT_LIBRARIES", "loads other code"),
    ("PYTHONPATH", "changes which code"),
    ("pythonstartup", "changes which code"),
    ("CIS490_WORKER_TOKEN", "belongs to the worker"),
    ("CREDENTIALS_DIRECTORY", "belongs to the worker"),
    ("CUDA_VISIBLE_DEVICES", "chooses the card"),
    ("OMP_NUM_THREADS", "is set by the slot"),
    ("TMPDIR", "is the run's own folder"),
    ("HF_TOKEN", "is a secret by its name"),
    ("WANDB_API_KEY", "is a secret by its name"),
    ("DB_PASSWORD", "is a secret by its name"),
    ("A=B", "is no name of a variable"),
    ("", "is no name of a variable"),
]


@pytest.mark.parametrize(("name", "reason"), NEVER)
def test_a_variable_that_undoes_the_scrubbing_is_refused(name: str, reason: str) -> None:
    assert refused(name, of_manifest=True).startswith(reason)
    assert refused(name, of_manifest=False).startswith(reason)


def test_what_belongs_to_each_host_is_not_the_manifests() -> None:
    assert refused("PATH", of_manifest=True) == "belongs to each host"
    assert refused("PATH", of_manifest=False) == ""


@pytest.mark.parametrize("table", ['env = { MY_FLAG = "1", b = "" }\n', '[trainer.env]\nMY_FLAG = "1"\nb = ""\n'])
def test_the_manifest_gives_variables(table: str) -> None:
    assert dict(parse((HEAD + table).encode(), None).header.trainer.env) == {
        "MY_FLAG": "1",
        "b": "",
    }


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('env = { LD_PRELOAD = "x" }\n', "trainer.env (line 6): found 'LD_PRELOAD', which loads other code into every"),
        ("env = { A = 1 }\n", "trainer.env (line 6): found a table with the keys 'A', expected a table of at most 64"),
        ("env = 3\n", "trainer.env (line 6): found 3, expected a table of at most 64 texts"),
    ],
)
def test_wrong_variables_are_faults_with_their_place(table: str, expected: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse((HEAD + table).encode(), None)
    assert str(caught.value.faults[0]).startswith(expected)


def test_variables_join_the_contract_that_workers_compare() -> None:
    contract = "sha256:" + "a" * 64
    assert contract_with(contract, {}) == contract
    with_one, with_other = (contract_with(contract, {"A": value}) for value in "12")
    assert len({contract, with_one, with_other}) == 3
    assert re.fullmatch("sha256:[0-9a-f]{64}", with_one or "")
    assert contract_with(None, {"A": "1"}) is None


def test_a_trainer_gets_what_host_and_manifest_give_and_nothing_else(tmp_path: Path) -> None:
    here = {"http_proxy": "http://p:1", "HF_TOKEN": "secret", "OTHER": "x", "PATH": "/bin"}
    given = {"MY_FLAG": "1", "LD_PRELOAD": "evil.so"}
    found = environment(Seat(1), tmp_path, here, pass_env=("http_proxy",), given=given)
    assert (found["http_proxy"], found["MY_FLAG"], found["PATH"]) == ("http://p:1", "1", "/bin")
    assert not {"HF_TOKEN", "OTHER", "LD_PRELOAD"} & set(found)


def test_a_host_names_what_it_passes_on(tmp_path: Path) -> None:
    chosen = options({"work_dir": str(tmp_path), "pass_env": ["http_proxy", "NO_PROXY"]}, {})
    assert chosen.rules.pass_env == ("http_proxy", "NO_PROXY")
    with pytest.raises(ConfigurationError) as caught:
        options({"work_dir": str(tmp_path), "pass_env": ["HF_TOKEN", "PYTHONPATH"]}, {})
    assert [fault.found for fault in caught.value.faults] == [
        "'HF_TOKEN', which is a secret by its name, and trainers get none",
        "'PYTHONPATH', which changes which code the trainer's Python runs",
    ]
