"""The guide for Windows hosts against the script it is about and against what the tests can try."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from windows_guide import GUIDE, NEEDS_A_PC, TYPED, commands, parameters_of


@pytest.fixture(scope="module")
def untried() -> str:
    """Return what the guide says of things not tried, without the checklist."""
    return GUIDE.read_text(encoding="utf-8").split("## Not yet tried on a real PC")[1].split("If you have a PC")[0]


def test_every_command_of_the_guide_is_typed_under_wine_or_needs_a_real_pc() -> None:
    assert [command for command in commands() if command not in {*TYPED, *NEEDS_A_PC}] == []
    assert [command for command in (*TYPED, *NEEDS_A_PC) if command not in commands()] == []
    assert [command for command in commands() if command in TYPED] == list(TYPED)


def test_a_command_that_no_test_types_is_named_as_such(untried: str) -> None:
    assert [command for command in NEEDS_A_PC if f"`{command}`" not in untried] == []


def test_a_command_added_to_the_guide_would_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "guide.md"
    lines = [
        "Run `schtasks /run /tn x`, see `a.log`.",
        "```powershell",
        "Get-Date",
        "wsl -l",
        "```",
        "`Get-Item x`",
    ]
    page.write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr("windows_guide.GUIDE", page)
    assert commands() == ["schtasks /run /tn x", "Get-Date", "wsl -l", "Get-Item x"]


def test_what_the_tests_stand_in_for_is_on_the_list_of_things_not_tried(root: Path, untried: str) -> None:
    installers = "".join(path.read_text() for path in (root / "training/fleet/install").glob("*.py"))
    script = (root / "scripts" / "install-training-worker-windows.ps1").read_text()
    wanted = {"icacls", *re.findall(r"\b[A-Z][a-z]+-[A-Z]\w+", script.partition("Install-Worker {")[2])}
    wanted |= {"schtasks", *re.findall(r'(?:_demand\(|_schtasks, )"(/\w+)"', installers)}
    wanted -= {"Install-Worker"}
    assert {"Get-Command", "/create", "/query", "/end", "/delete"} <= wanted
    assert sorted(name for name in wanted if f"`{name}`" not in untried) == []


def test_every_parameter_of_the_script_is_in_the_guide(root: Path) -> None:
    names = parameters_of((root / "scripts" / "install-training-worker-windows.ps1").read_text())
    assert len(names) == 14
    assert [name for name in names if not re.search(rf"-{name}\b", GUIDE.read_text(encoding="utf-8"))] == []
