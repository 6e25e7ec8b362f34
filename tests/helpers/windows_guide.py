"""The commands in the guide for Windows hosts, and what its script hands on to Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "add-a-windows-host.md"
INSTALLER = "powershell -ExecutionPolicy Bypass -File scripts\\install-training-worker-windows.ps1"
PYTHON = '& "$env:ProgramFiles\\cis490\\venv\\Scripts\\python.exe"'
SETTINGS = '--config "$env:ProgramData\\cis490\\worker.toml"'
FOLDER = '--work-dir "$env:ProgramFiles\\cis490\\self-test"'
TYPED = (
    "cis490-jobs --receiver https://receiver.example:8445 invite gpu-tower",
    f"{INSTALLER} -Receiver https://receiver.example:8445 -HostName gpu-tower -Code CODE -CaSha256 HEX",
    'Get-Content "$env:ProgramData\\cis490\\worker.log" -Tail 20',
    "cis490-jobs hosts",
    'Push-Location "$env:ProgramFiles\\cis490\\code"',
    f"{PYTHON} -m training.fleet.worker doctor {SETTINGS} {FOLDER}",
    "Pop-Location",
    f"{INSTALLER} -Pause",
    f"{INSTALLER} -Resume",
    f"{INSTALLER} -Uninstall",
    "cis490-jobs identity revoke gpu-tower",
)
"""What the tests type as it stands there, in the guide's order."""
NEEDS_A_PC = {
    f"{INSTALLER} -Torch cuda -TorchIndex URL": "takes gigabytes from a package index, and a card to be of use",
    "Get-ScheduledTaskInfo -TaskName cis490-training-worker": "asks the Task Scheduler",
    f"{PYTHON} -m training.fleet.worker status": "asks the Task Scheduler",
    'icacls "$env:ProgramData\\cis490\\worker.secret"': "asks for rights; Wine has no icacls",
    "scripts/test-windows.sh": "starts the tests",
}
_FENCE = re.compile(r"^```(?:sh|powershell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_KNOWN = r"(?:cis490-jobs|icacls|schtasks|powershell|py|python|pip|[A-Z][a-z]+-[A-Z]\w+) |scripts/"
_INLINE = re.compile(rf"`((?:{_KNOWN})[^`]*)`")


def commands() -> list[str]:
    """Return every command of the guide once, in its order: lines of blocks, and what stands within a sentence."""
    whole = GUIDE.read_text(encoding="utf-8")
    found = [(match.start(), line) for match in _FENCE.finditer(whole) for line in match[1].splitlines() if line]
    prose = _FENCE.sub(lambda match: " " * len(match[0]), whole)
    found += [(match.start(), match[1]) for match in _INLINE.finditer(prose)]
    return list(dict.fromkeys(line for _, line in sorted(found, key=lambda one: one[0])))


def parameters_of(script: str) -> list[str]:
    """Return the parameters that the script declares."""
    block = script.partition("\nparam(\n")[2].partition("\n)\n")[0]
    return re.findall(r"\[(?:string|string\[\]|switch)\]\$(\w+)", block)


def handed_on(script: str, given: Mapping[str, Any]) -> list[str]:
    """Return the words that the script hands on to Python for its parameters, read off its lines that say so."""
    words: list[str] = []
    for line in script.splitlines():
        told = re.fullmatch(r"    if \(\$(\w+)\) \{ \$words \+= (.*) \}(?: #.*)?", line)
        if told and told[1] in given:
            flag, value = re.fullmatch(r"(?:@\()?'([\w-]+)'(?:, (.*)\))?", told[2]).groups()  # type: ignore[union-attr]
            words.append(flag)
            words += {
                None: [],
                f"${told[1]}": [given[told[1]]],
                "(($Dataset -join ',') + ',')": [f"{given[told[1]]},"],
            }[value]
        if line == "    if ($words.Count -eq 0) { $words += 'install' }" and not words:
            words.append("install")
    return words
