from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.fleet import single_file
from training.fleet.model.jobs import FAIL_KINDS
from training.fleet.settings import Setting
from training.fleet.worker import identity
from training.fleet.worker.options import TABLE
from training.fleet.worker.process import shim


@pytest.fixture(scope="module")
def guide(root: Path) -> str:
    return (root / "docs/guides/worker.md").read_text()


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_every_setting_stands_in_the_guide_with_flag_variable_and_default(guide: str, setting: Setting) -> None:
    [row] = [line for line in guide.splitlines() if line.startswith(f"| `{setting.flag}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == f"`{setting.variable}`"
    if isinstance(setting.default, bool):
        assert cells[2] == str(setting.default).lower()
    elif isinstance(setting.default, int | float):
        assert float(cells[2]) == setting.default
    elif isinstance(setting.default, str):
        assert cells[2] == f"`{setting.default}`"


@pytest.mark.parametrize("kind", FAIL_KINDS)
def test_every_failure_kind_stands_in_the_guide(guide: str, kind: str) -> None:
    assert f"`{kind}`" in guide


def test_the_example_settings_name_only_real_settings(root: Path) -> None:
    lines = (root / "etc/training-worker.env.example").read_text().splitlines()
    names = {line.lstrip("#").partition("=")[0] for line in lines if line.lstrip("#").startswith("CIS490_")}
    assert names <= {setting.variable for setting in TABLE} | {"CIS490_WORKER_TOKEN_FILE"}


def test_the_unit_gives_a_trainer_time_to_stop_and_heeds_exit_78(root: Path) -> None:
    unit = (root / "etc/systemd/cis490-training-worker.service").read_text().splitlines()
    assert "RestartPreventExitStatus=78" in unit
    assert "TimeoutStopSec=90" in unit
    stop_limit_s = next(setting.default for setting in TABLE if setting.name == "stop_limit_s")
    assert stop_limit_s <= 80


def test_the_unit_lets_a_worker_that_died_take_over_its_trainers_in_time(root: Path) -> None:
    unit = (root / "etc/systemd/cis490-training-worker.service").read_text().splitlines()
    assert "KillMode=process" in unit
    assert "Restart=always" in unit
    assert "RestartSec=1" in unit
    assert shim.ADOPT_S >= 5


def test_the_unit_tells_the_worker_the_boot_that_doctor_reads(root: Path) -> None:
    unit = (root / "etc/systemd/cis490-training-worker.service").read_text().splitlines()
    assert f"Environment={identity.BOOT}=%b" in unit


def test_the_page_says_how_large_the_single_file_is(root: Path) -> None:
    said = re.search(r"one file of about (\d+) KB", (root / "docs/reference/worker-file.md").read_text())
    assert said is not None
    assert len(single_file.own_single_file().data) / 1000 == pytest.approx(int(said[1]), rel=0.1)
