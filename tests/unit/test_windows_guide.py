"""The guide for Windows hosts against the script it is about and against what the tests can try."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from powershell import PARSER, every, text
from tree_sitter import Node
from windows_guide import GUIDE, NEEDS_A_PC, TYPED, commands
from windows_pc import CMDLETS


@pytest.fixture(scope="module")
def tree(root: Path) -> Node:
    return PARSER.parse((root / "scripts" / "install-training-worker-windows.ps1").read_bytes()).root_node


@pytest.fixture(scope="module")
def untried() -> str:
    """Return what the guide says of things not tried, without the checklist."""
    return GUIDE.read_text(encoding="utf-8").split("## Not yet tried on a real PC")[1].split("Whoever has a PC")[0]


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


def test_what_the_tests_stand_in_for_is_on_the_list_of_things_not_tried(tree: Node, untried: str) -> None:
    used = {text(one.child_by_field_name("command_name")) for one in every(tree, "command")} & set(CMDLETS)
    wanted = sorted(name for name in used if "ScheduledTask" in name)
    types = {text(one.children[0]).strip("[]") for one in every(tree, "invokation_expression", "member_access")}
    wanted += sorted(name for name in types if re.fullmatch(r"[A-Z][\w.]+", name))
    assert (len(wanted), wanted[0], wanted[-1]) == (20, "Disable-ScheduledTask", "TimeSpan")
    assert [name for name in [*wanted, "icacls.exe"] if f"`{name}`" not in untried] == []


def test_every_parameter_of_the_script_is_in_the_guide(tree: Node) -> None:
    block = every(tree, "param_block")[0]
    names = [text(every(one, "variable")[0]).lstrip("$") for one in every(block, "script_parameter")]
    assert [name for name in names if not re.search(rf"-{name}\b", GUIDE.read_text(encoding="utf-8"))] == []
