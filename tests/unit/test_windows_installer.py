"""What can be said of the Windows installer without a Windows: its syntax tree, its cmdlets, the commands it runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

from training.fleet.cli import views
from training.fleet.wire.identities import Invite
from training.fleet.worker import enrol, program

PARSER = Parser(Language(tree_sitter_powershell.language()))
TASKS = "learn.microsoft.com/powershell/module/scheduledtasks/"
MANAGEMENT = "learn.microsoft.com/powershell/module/microsoft.powershell.management/"
UTILITY = "learn.microsoft.com/powershell/module/microsoft.powershell.utility/"
SECURITY = "learn.microsoft.com/powershell/module/microsoft.powershell.security/"
CORE = "learn.microsoft.com/powershell/module/microsoft.powershell.core/"
ALLOWED = {
    "Copy-Item": (MANAGEMENT, {"LiteralPath", "Destination", "Recurse"}),
    "Disable-ScheduledTask": (TASKS, {"TaskName"}),
    "Enable-ScheduledTask": (TASKS, {"TaskName"}),
    "ForEach-Object": (CORE, set()),
    "Get-Acl": (SECURITY, {"LiteralPath"}),
    "Get-ChildItem": (MANAGEMENT, {"LiteralPath", "Recurse", "File"}),
    "Get-Command": (CORE, {"Name", "CommandType", "ErrorAction"}),
    "Get-Content": (MANAGEMENT, {"LiteralPath", "Raw", "Encoding"}),
    "Get-Date": (UTILITY, set()),
    "Get-FileHash": (UTILITY, {"LiteralPath", "Algorithm"}),
    "Get-ScheduledTask": (TASKS, {"TaskName", "ErrorAction"}),
    "Join-Path": (MANAGEMENT, {"Path", "ChildPath"}),
    "New-Item": (MANAGEMENT, {"ItemType", "Force", "Path"}),
    "New-Object": (UTILITY, {"TypeName", "ArgumentList"}),
    "New-ScheduledTaskAction": (TASKS, {"Execute", "Argument", "WorkingDirectory"}),
    "New-ScheduledTaskPrincipal": (TASKS, {"UserId", "LogonType", "RunLevel"}),
    "New-ScheduledTaskSettingsSet": (
        TASKS,
        {"ExecutionTimeLimit", "AllowStartIfOnBatteries", "DontStopIfGoingOnBatteries", "RestartCount"}
        | {"RestartInterval", "StartWhenAvailable", "MultipleInstances", "Priority"},
    ),
    "New-ScheduledTaskTrigger": (TASKS, {"AtStartup", "Once", "At", "RepetitionInterval"}),
    "New-TimeSpan": (UTILITY, {"Minutes"}),
    "Out-Host": (CORE, set()),
    "Pop-Location": (MANAGEMENT, set()),
    "Push-Location": (MANAGEMENT, {"LiteralPath"}),
    "Register-ScheduledTask": (TASKS, {"TaskName", "Action", "Trigger", "Principal", "Settings", "Force"}),
    "Remove-Item": (MANAGEMENT, {"LiteralPath", "Force", "ErrorAction"}),
    "Select-Object": (UTILITY, {"First"}),
    "Select-String": (UTILITY, {"LiteralPath", "Pattern", "SimpleMatch"}),
    "Set-Content": (MANAGEMENT, {"LiteralPath", "Value", "Encoding"}),
    "Set-StrictMode": (CORE, {"Version"}),
    "Sort-Object": (UTILITY, {"Property"}),
    "Split-Path": (MANAGEMENT, {"Path", "Parent"}),
    "Start-ScheduledTask": (TASKS, {"TaskName"}),
    "Start-Sleep": (UTILITY, {"Seconds"}),
    "Stop-ScheduledTask": (TASKS, {"TaskName", "ErrorAction"}),
    "Test-Path": (MANAGEMENT, {"LiteralPath"}),
    "Unregister-ScheduledTask": (TASKS, {"TaskName", "Confirm"}),
    "Where-Object": (CORE, set()),
    "Write-Host": (UTILITY, set()),
}
"""Cmdlet to where it is documented and the parameters that may be used; the page has the cmdlet's name.

Those for tasks were compared with their pages; for the others, the pages say where to look.
"""
CALLERS = {"Find-Python", "Invoke-Program", "Test-Worker"}
"""Functions that start programs."""


@pytest.fixture(scope="module")
def source(root: Path) -> bytes:
    return (root / "scripts" / "install-training-worker-windows.ps1").read_bytes()


@pytest.fixture(scope="module")
def tree(source: bytes) -> Node:
    return PARSER.parse(source).root_node


def every(node: Node, *kinds: str) -> Iterator[Node]:
    if node.type in kinds:
        yield node
    for child in node.children:
        yield from every(child, *kinds)


def text(node: Node | None) -> str:
    return "" if node is None or node.text is None else node.text.decode("ascii")


def functions(tree: Node) -> dict[str, Node]:
    return {text(next(every(one, "function_name"))): one for one in every(tree, "function_statement")}


def named(command: Node) -> str:
    return text(command.child_by_field_name("command_name"))


def parameters(command: Node) -> set[str]:
    elements = command.child_by_field_name("command_elements")
    children = [] if elements is None else elements.children
    return {text(one).lstrip("-").rstrip(":") for one in children if one.type == "command_parameter"}


def words(node: Node) -> list[str]:
    """Return the texts in the first list in a piece of the script; a variable in one stays as it is written."""
    found = next(every(node, "array_expression"))
    return [text(one).strip("'\"") for one in every(found, "string_literal", "variable") if not within_text(one)]


def within_text(node: Node) -> bool:
    return node.parent is not None and (node.parent.type == "expandable_string_literal" or within_text(node.parent))


def test_the_script_is_ascii_and_parses(source: bytes, tree: Node) -> None:
    assert source.isascii()
    assert [text(one)[:60] for one in every(tree, "ERROR")] == []
    assert not tree.has_error
    assert source.startswith(b"#Requires -Version 5.1\n")


def test_the_last_line_alone_starts_something(source: bytes, tree: Node) -> None:
    [body] = [one for one in tree.children if one.type == "statement_list"]
    kinds = [one.type for one in body.children if one.type != "comment"]
    assert set(kinds[:-1]) == {"function_statement"}
    assert text(body.children[-1]) == "Invoke-Installer"
    assert source.endswith(b"\nInvoke-Installer\n")


def test_a_script_that_was_cut_off_runs_nothing(source: bytes) -> None:
    lines = source.splitlines(keepends=True)
    running = []
    for count in range(1, len(lines), 3):
        cut = PARSER.parse(b"".join(lines[:count])).root_node
        if not cut.has_error:
            body = [one for part in cut.children if part.type == "statement_list" for one in part.children]
            running += [count for one in body if one.type not in ("function_statement", "comment")]
    assert running == []


def test_every_command_is_a_documented_cmdlet_or_a_function_of_the_script(tree: Node) -> None:
    own, wrong = functions(tree), []
    for command in every(tree, "command"):
        name = named(command)
        if name in own or any(one.type == "command_invokation_operator" for one in command.children):
            continue
        unknown = parameters(command) - ALLOWED[name][1] if name in ALLOWED else {"the cmdlet itself"}
        wrong += [f"{name}: {one}" for one in unknown]
    assert wrong == []


def test_programs_are_started_in_three_places_and_their_status_is_looked_at(tree: Node) -> None:
    starting = {
        name
        for name, body in functions(tree).items()
        if any(one.type == "command_invokation_operator" for one in every(body, "command_invokation_operator"))
    }
    assert starting == CALLERS
    for name in ("Find-Python", "Invoke-Program"):
        assert "$LASTEXITCODE" in {text(one) for one in every(functions(tree)[name], "variable")}


def test_strict_mode_is_on_and_errors_end_the_script(tree: Node) -> None:
    first = [text(one) for one in every(functions(tree)["Invoke-Installer"], "pipeline")][:2]
    assert first == ["Set-StrictMode -Version Latest", "$ErrorActionPreference = 'Stop'"]


@pytest.mark.parametrize(
    ("cmdlet", "wanted"),
    [
        ("New-ScheduledTaskSettingsSet", "-ExecutionTimeLimit ([TimeSpan]::Zero)"),
        ("New-ScheduledTaskSettingsSet", "-AllowStartIfOnBatteries"),
        ("New-ScheduledTaskSettingsSet", "-DontStopIfGoingOnBatteries"),
        ("New-ScheduledTaskSettingsSet", "-RestartCount 999"),
        ("New-ScheduledTaskSettingsSet", "-RestartInterval (New-TimeSpan -Minutes 1)"),
        ("New-ScheduledTaskSettingsSet", "-MultipleInstances IgnoreNew"),
        ("New-ScheduledTaskSettingsSet", "-Priority 6"),
        ("New-ScheduledTaskTrigger", "-AtStartup"),
        ("New-ScheduledTaskTrigger", "-RepetitionInterval (New-TimeSpan -Minutes 5)"),
        ("New-ScheduledTaskPrincipal", "-UserId 'S-1-5-19'"),
        ("New-ScheduledTaskPrincipal", "-LogonType ServiceAccount"),
        ("New-ScheduledTaskPrincipal", "-RunLevel Limited"),
    ],
)
def test_the_task_starts_at_boot_and_is_never_ended_by_the_system(tree: Node, cmdlet: str, wanted: str) -> None:
    calls = [text(one) for one in every(functions(tree)["Install-Task"], "command") if named(one) == cmdlet]
    assert any(wanted in call for call in calls)


def test_the_secret_is_for_the_system_administrators_and_the_task_alone(tree: Node) -> None:
    lists = [words(one) for one in every(functions(tree)["Register-Identity"], "command") if "icacls.exe" in text(one)]
    assert lists == [
        ["$file", "/inheritance:r", "/grant:r", "*S-1-5-18:F", "*S-1-5-32-544:F", "*S-1-5-19:M", "/Q"],
    ]


def test_the_code_goes_to_the_worker_in_the_environment_alone(tree: Node) -> None:
    used = [one for one in every(tree, "variable") if text(one).lower() == "$code"]
    places = [text(one.parent) if one.parent is not None else "" for one in used]
    statements = [line for line in text(tree).splitlines() if re.search(r"\$Code\b", line)]
    assert len(places) == 3
    assert [line.strip() for line in statements] == [
        "[string]$Code = '',",
        "if ($Code) { $env:CIS490_INVITE = $Code }",
    ]


def test_the_parameters_are_those_that_an_invite_prints(tree: Node) -> None:
    made = Invite(
        worker="pc", code="c0de", ttl_s=900, expires_at="2026-01-01T00:15:00Z", ca_sha256="ab" * 32, replaces=False
    )
    printed = views.invite(made, "https://receiver.example:8445")[1]
    block = next(every(tree, "param_block"))
    declared = {text(next(every(one, "variable"))).lstrip("$") for one in every(block, "script_parameter")}
    given = set(re.findall(r" -([A-Z]\w*)", printed.split(".ps1")[1]))
    assert given == {"Receiver", "HostName", "Code", "CaSha256"}
    assert given <= declared
    help_text = text(next(one for one in tree.children if text(one).startswith("<#")))
    assert set(re.findall(r"\.PARAMETER (\w+)", help_text)) == declared


def test_the_worker_takes_the_enrol_command(tree: Node) -> None:
    command, *flags = words(functions(tree)["Register-Identity"])
    assert command == "enrol"
    parsed = enrol._parser({}).parse_args([*flags, "--ca-sha256", "ab"])
    assert (parsed.receiver, parsed.host, str(parsed.secret_file)) == ("$Receiver", "$HostName", "$Secret")


def test_the_worker_takes_the_self_test_command(tree: Node) -> None:
    parsed = program._parsed([*words(functions(tree)["Test-Worker"]), "--dataset", "lab=C:\\data"])
    assert parsed["self_test"]
    assert (str(parsed["config"]), str(parsed["work_dir"])) == ("$Settings", "$Root\\self-test")


def test_the_worker_takes_the_command_of_the_task(tree: Node) -> None:
    line = next(text(one) for one in every(functions(tree)["Install-Task"], "string_literal"))
    flag, module, *flags = shlex.split(line[1:-1].replace('`"', '"'), posix=True)
    assert (flag, module) == ("-m", "training.fleet.worker")
    parsed = program._parsed(flags)
    assert {name for name, value in parsed.items() if value} == {"config", "work_dir", "log_file"}


def test_pip_takes_the_command_that_installs_and_packages_are_pinned_by_hash(tree: Node) -> None:
    given = words(functions(tree)["Install-Package"])
    assert given[:3] == ["-m", "pip", "install"]
    assert {"--require-hashes", "--no-deps"} <= set(given)
    asked = "import sys; from pip._internal.commands import create_command as c; c('install').parse_args(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", asked, *given[3:]], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_question_about_python_is_one_that_python_answers(tree: Node) -> None:
    texts = [text(one).strip("'") for one in every(functions(tree)["Find-Python"], "string_literal")]
    [question] = [one for one in texts if "import sys" in one]
    said = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.splitlines() == ["True", sys.executable, sys.base_prefix]
    assert '"' not in question
