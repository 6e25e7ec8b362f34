"""The example and the reference page of the manifest against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.fleet.manifest import load
from training.fleet.manifest.keys import DEFAULTS, JOB, TABLES
from training.fleet.model.capability import GIB
from training.fleet.model.jobs import DatasetRef
from training.fleet.model.placement import declared, judge
from training.trainer import hyper

ROW = re.compile(r"^\| `([a-z_]+)` \| (.+) \| (.+) \| .+ \|$", re.MULTILINE)


def rows(root: Path, table: str) -> dict[str, tuple[str, str]]:
    page = (root / "docs/reference/manifest.md").read_text()
    heading = "## `[[jobs]]`" if table == "jobs" else f"## `[{table}]`"
    section = page.partition(heading + "\n")[2].partition("\n## ")[0]
    return {name: (value, default) for name, value, default in ROW.findall(section)}


@pytest.mark.parametrize("table", [name for name in TABLES if name != "defaults"])
def test_the_page_has_every_key_of_the_code_and_no_other(root: Path, table: str) -> None:
    assert list(rows(root, table)) == list(TABLES[table])


def test_the_page_says_which_keys_defaults_take() -> None:
    assert set(JOB) - set(DEFAULTS) == {"model", "hyper", "grid", "random", "random_seed", "name"}


@pytest.mark.parametrize("table", ["hosts.NAME", "jobs", "manifest"])
def test_the_page_has_the_bounds_and_defaults_of_the_code(root: Path, table: str) -> None:
    for name, (value, default) in rows(root, table).items():
        key = TABLES[table][name]
        bounds = re.search(r"from (-?\d+) to (-?\d+)", key.expected)
        if bounds:
            assert value.startswith(f"{bounds[1]} to {bounds[2]}"), name
        if isinstance(key.default, bool | int):
            assert default == str(key.default).lower(), name
        elif isinstance(key.default, tuple):
            assert default == "`" + str(list(key.default)).replace("'", '"') + "`", name


def test_the_example_trains_every_model_in_both_modes_once(root: Path) -> None:
    manifest = load(root / "etc/training_manifest.toml.example")
    assert manifest.header.warnings == ()
    assert manifest.header.contract == hyper.contract_digest(hyper.describe())
    models = ("gbt", "mlp", "cnn", "gru", "lstm", "tcn", "transformer")
    wanted = [(model, mode) for model in models for mode in ("realistic", "oracle")]
    assert [(entry.spec.model, entry.spec.mode) for entry in manifest.jobs] == wanted
    assert {entry.spec.dataset for entry in manifest.jobs} == {DatasetRef("lab")}


def test_every_job_of_the_example_has_a_host_that_could_run_it(root: Path) -> None:
    manifest = load(root / "etc/training_manifest.toml.example")
    hosts = [
        (declared(name, policy, manifest.header.datasets), policy) for name, policy in manifest.header.hosts.items()
    ]
    assert [host.ram_bytes // GIB for host, _ in hosts] == [32, 64, 8, 10000]
    for entry in manifest.jobs:
        assert any(judge(entry.requirement, host, policy).eligible for host, policy in hosts), entry.position
