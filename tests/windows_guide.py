"""The commands in the guide for Windows hosts: which the tests under Wine type, and which need a real PC."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "add-a-windows-host.md"
INSTALLER = "powershell -ExecutionPolicy Bypass -File scripts\\install-training-worker-windows.ps1"
PYTHON = '& "$env:ProgramFiles\\cis490\\venv\\Scripts\\python.exe"'
SETTINGS = '--config "$env:ProgramData\\cis490\\worker.toml"'
FOLDER = '--work-dir "$env:ProgramFiles\\cis490\\self-test"'
TYPED = (
    "cis490-jobs --receiver https://receiver.example:8445 invite gpu-tower",
    f"{INSTALLER} -Receiver https://receiver.example:8445 -HostName gpu-tower -Code CODE -CaSha256 HEX",
    'Get-Content "$env:ProgramData\\cis490\\worker.log" -Tail 20',
    "cis490-jobs workers",
    'Set-Location "$env:ProgramFiles\\cis490\\code"',
    f"{PYTHON} -m training.fleet.worker doctor {SETTINGS} {FOLDER}",
    f"{INSTALLER} -Pause",
    f"{INSTALLER} -Resume",
    f"{INSTALLER} -Uninstall",
    "cis490-jobs worker revoke gpu-tower",
)
"""What the tests type as it stands there, in the guide's order."""
NEEDS_A_PC = {
    f"{PYTHON} -m pip install torch": "takes gigabytes from a package index, and a card to be of use",
    "Get-ScheduledTaskInfo -TaskName cis490-training-worker": "asks the Task Scheduler",
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
