"""The script for Windows, as far as its text shows it: it finds a Python, hands its parameters on, and decides nothing.

No PowerShell runs on the machines of the tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from windows_guide import handed_on, parameters_of

from training.fleet.cli import trail
from training.fleet.install import worker
from training.fleet.wire.identities import Invite

CALL = '& $found.Source -IB "$PSScriptRoot\\installing.py" worker $words'


@pytest.fixture(scope="module")
def source(root: Path) -> str:
    return (root / "scripts" / "install-training-worker-windows.ps1").read_bytes().decode("ascii")


@pytest.fixture(scope="module")
def body(source: str) -> list[str]:
    """Return the lines of the one function."""
    return [
        line.strip() for line in source.partition("\nfunction Install-Worker {\n")[2].partition("\n}\n")[0].splitlines()
    ]


def test_the_last_line_alone_starts_something(source: str) -> None:
    """So a script that was cut off runs nothing: what is open is closed in its second last line."""
    comment, rest = source.split("\n#>\n")
    assert comment.startswith("#Requires -Version 5.1\n<#\n")
    parameters, function = rest.split("\n)\n\nfunction Install-Worker {\n")
    assert parameters.startswith("[CmdletBinding()]\nparam(\n")
    assert all(line.startswith("    ") for line in parameters.splitlines()[2:])
    lines = function.splitlines()
    assert lines[-3:] == ["}", "", "Install-Worker"]
    assert all(line.startswith("    ") for line in lines[:-3])
    assert source.endswith("\nInstall-Worker\n")


def test_it_starts_a_python_to_ask_its_version_and_one_to_install_and_nothing_else(body: list[str]) -> None:
    starting = [line for line in body if re.search(r"(^|[^&])&\s|Invoke-|Start-|\biex\b", line)]
    assert starting == ["& $found.Source -IBc 'import sys; sys.exit(sys.version_info < (3, 11))'", CALL]
    assert body[body.index(CALL) + 1] == "exit $LASTEXITCODE"
    cmdlets = set(re.findall(r"\b[A-Z][a-z]+-[A-Z]\w+", "\n".join(body)))
    assert cmdlets == {"Get-Command", "Select-Object", "Push-Location", "Pop-Location", "Remove-Item"}


def test_the_question_about_python_is_one_that_python_answers(body: list[str]) -> None:
    [question] = [line.partition("'")[2].rstrip("'") for line in body if "-IBc" in line]
    assert '"' not in question  # which PowerShell 5.1 would drop
    for asked, status in ((question, 0), (question.replace("(3, 11)", "(99,)"), 1)):
        assert subprocess.run([sys.executable, "-IBc", asked], timeout=60, check=False).returncode == status


def test_there_is_no_logic_in_it_but_to_find_a_python(source: str, body: list[str]) -> None:
    code = source.partition("\n#>\n")[2].splitlines()
    assert len(code) <= 60
    plain = re.compile(r"if \(\$\w+\) \{ \$(words \+=|names =|env:CIS490_INVITE =) .* \}( #.*)?")
    choices = [line for line in body if line.startswith("if (") and not plain.fullmatch(line)]
    assert choices == [
        "if ($words.Count -eq 0) { $words += 'install' }",
        "if ($null -eq $found -or $found.Source -like '*\\WindowsApps\\*') { continue }",
        "if ($LASTEXITCODE -ne 0) { continue }",
    ]
    assert [line for line in body if line.startswith(("for", "while", "switch"))] == ["foreach ($name in $names) {"]


def test_the_one_time_code_goes_to_python_in_the_environment_alone(source: str, body: list[str]) -> None:
    assert [line for line in body if "$Code" in line] == [
        "if ($Code) { $env:CIS490_INVITE = $Code } # no list of processes shows it there"
    ]
    assert body[-4:] == [
        "finally {",
        "Pop-Location -StackName cis490 -ErrorAction SilentlyContinue",
        "Remove-Item -LiteralPath 'Env:CIS490_INVITE' -ErrorAction SilentlyContinue",
        "}",
    ]


def test_neither_powershell_nor_what_it_starts_works_in_a_folder_that_an_installer_removes(body: list[str]) -> None:
    """The script may be called in the folder of the code, and Windows keeps a folder that a program works in.

    `CurrentDirectory` is that of PowerShell's process; what it starts begins in its location. A path after `-Python`
    has been looked up by then.
    """
    places = [line.partition(" #")[0] for line in body if "Directory" in line or "-Location" in line]
    assert places == [
        "[Environment]::CurrentDirectory = $env:SystemRoot",
        "Push-Location -LiteralPath $env:SystemRoot -StackName cis490",
        "Pop-Location -StackName cis490 -ErrorAction SilentlyContinue",
    ]
    pushed, called = (next(n for n, line in enumerate(body) if line.startswith(part)) for part in ("Push-", CALL))
    assert pushed == called - 1
    assert pushed > next(n for n, line in enumerate(body) if "Get-Command" in line)


def test_the_parameters_are_those_that_an_invite_prints_and_each_is_explained(source: str) -> None:
    made = Invite(
        worker="pc", code="c0de", ttl_s=900, expires_at="2026-01-01T00:15:00Z", ca_sha256="ab" * 32, replaces=False
    )
    printed = trail.invite_lines(made, "https://receiver.example:8445")[1]
    given = set(re.findall(r" -([A-Z]\w*)", printed.split(".ps1")[1]))
    assert given == {"Receiver", "HostName", "Code", "CaSha256"}
    assert given <= set(parameters_of(source))
    assert re.findall(r"\.PARAMETER (\w+)", source) == parameters_of(source)


def test_python_takes_what_the_script_hands_on(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WINDOWS", True)
    given = {"Receiver": "https://r", "HostName": "pc", "CaSha256": "ab", "Dataset": "a=C:\\a\\", "DryRun": True}
    words = handed_on(source, {**given, "WithoutTrainer": True})
    parsed = worker._parser(words[0], {}).parse_args(words[1:])
    assert words[0] == "install"
    assert (parsed.receiver, parsed.host, parsed.ca_sha256, parsed.trainer) == ("https://r", "pc", "ab", "")
    assert worker._datasets(parsed) == ("a=C:\\a\\",)
    assert parsed.dry_run
    assert handed_on(source, {"Uninstall": True, "Purge": True}) == ["uninstall", "--purge"]
    assert handed_on(source, {"Pause": True, "Resume": True}) == ["pause", "resume"]
    left = {"Code", "Python"}
    every = handed_on(source, dict.fromkeys(parameters_of(source), "x"))
    assert len([word for word in every if word != "x" and word != "x,"]) == len(parameters_of(source)) - len(left)


def test_a_dataset_that_ends_in_a_backslash_does_not_end_before_the_quote_that_powershell_adds(source: str) -> None:
    """PowerShell 5.1 puts quotes around a word with a space and takes no care of a backslash before them."""
    assert handed_on(source, {"Dataset": "lab=D:\\My data\\"})[-1] == "lab=D:\\My data\\,"
