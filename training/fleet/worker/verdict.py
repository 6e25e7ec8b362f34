"""Why a training ended, as one of the failure kinds.

Pure: it gets what was seen and returns a verdict. The error in it is the trainer's own: what `result.json` says, else
the last error line it printed.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from training.fleet.model.jobs import FailKind
from training.fleet.worker.log import plain
from training.fleet.worker.memory_words import says_gpu_memory, says_memory
from training.fleet.worker.process.ending import TrainerEnding

EXIT_ELSEWHERE: Final = 75
EXIT_WRONG_SPEC: Final = 78
MAX_ERROR_CHARS: Final = 4000
SHORT_RUN_S: Final = 1.0
OWN_KINDS: Final = frozenset({"oom_gpu", "oom_ram", "disk_full", "host_fault", "trainer_error"})
"""Kinds a trainer may name in its result."""
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Fault|Exit|Interrupt|Killed)\b")
_SIGKILL = 9
_NT_ERRORS = range(0xC0000000, 0xD0000000)
_NT_STATUSES = {
    0xC0000005: "access violation",
    0xC0000017: "out of memory",
    0xC000001D: "illegal instruction",
    0xC00000FD: "stack overflow",
    0xC0000135: "a DLL is missing",
    0xC000013A: "CTRL_C or CTRL_BREAK",
    0xC0000142: "a DLL did not start",
    0xC000012D: "out of memory",
    0xC0000409: "fatal error of the program",
}
"""Source: Microsoft, [MS-ERREF] 2.3.1, NTSTATUS values."""
_NT_OUT_OF_MEMORY = (0xC0000017, 0xC000012D)
_LOOKED_AT_LINES = 30
_QUOTED_LINES = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """The verdict on a training that is no success.

    Attributes:
        kind: Which failure.
        error: The same for people.
        cancelled: Whether the operator cancelled the job, so that it never comes back to this host.
    """

    kind: FailKind
    error: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of a training.

    Attributes:
        ending: How its processes ended.
        stopped: The verdict with which the worker stopped it, None when it did not.
        result: Its `result.json`, empty without one.
        log_tail: The end of its output.
        has_artifact: Whether it left an artifact.
        oom_killed: Whether the system killed a process for want of memory meanwhile.
        disk_full: Whether less disk is free than the worker keeps free.
    """

    ending: TrainerEnding
    stopped: Failure | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    log_tail: str = ""
    has_artifact: bool = False
    oom_killed: bool = False
    disk_full: bool = False


def judge(evidence: Evidence) -> Failure | None:
    """Return what went wrong, None when the training is a success.

    A trainer that ended by itself is judged by what it did, even when a wish to stop it came at the same moment.
    """
    ending = evidence.ending
    if evidence.stopped is not None and ending.asked:
        return evidence.stopped
    if ending.asked == "L":
        return Failure("lost", "the worker died while the trainer ran; the trainer was stopped with it")
    if ending.asked == "N":
        return Failure("preempted", "the worker was restarted before the trainer ran")
    if ending.status is None:
        return _never_ran(ending)
    if ending.status == 0:
        return None if evidence.has_artifact else Failure("no_artifact", _nothing_made(evidence))
    return Failure(_kind(evidence), _own_error(evidence)[:MAX_ERROR_CHARS])


def _never_ran(ending: TrainerEnding) -> Failure:
    if not ending.error:
        return Failure("lost", "the trainer is gone and nobody saw how it ended")
    kind: FailKind = "trainer_error" if ending.unstartable else "host_fault"
    return Failure(kind, plain(ending.error)[:MAX_ERROR_CHARS])


def _nothing_made(evidence: Evidence) -> str:
    duration_s = evidence.ending.duration_s
    haste = ", in under a second: is this a trainer at all" if duration_s < SHORT_RUN_S else ""
    said = _last_error_line(evidence.log_tail)
    return (
        f"the trainer ended with status 0 after {duration_s:.2f} s and left nothing in artifact/{haste}"
        + (f"; it said: {said}" if said else "")
    )[:MAX_ERROR_CHARS]


def _kind(evidence: Evidence) -> FailKind:
    status, named = evidence.ending.status, evidence.result.get("kind")
    if status == EXIT_WRONG_SPEC:
        return "spec_rejected"
    if isinstance(named, str) and named in OWN_KINDS and named != "trainer_error":
        return named  # type: ignore[return-value]
    kind = _kind_by_traces(evidence)
    return "host_fault" if status == EXIT_ELSEWHERE and kind == "trainer_error" else kind


def _kind_by_traces(evidence: Evidence) -> FailKind:
    said = f"{evidence.log_tail[-8192:]}\n{evidence.result.get('error', '')}"
    if says_gpu_memory(said):
        return "oom_gpu"
    killed = evidence.ending.status in (-_SIGKILL, 128 + _SIGKILL)
    out_of_memory = (killed and evidence.oom_killed) or evidence.ending.status in _NT_OUT_OF_MEMORY
    if out_of_memory or says_memory(said, oom_killed=evidence.oom_killed):
        return "oom_ram"
    return "disk_full" if evidence.disk_full or _DISK_FULL.search(said) else "trainer_error"


def _own_error(evidence: Evidence) -> str:
    named = evidence.result.get("error")
    if isinstance(named, str) and named.strip():
        return plain(named).strip()
    status = evidence.ending.status or 0
    how = _signal_text(status, evidence.oom_killed) if status < 0 else f"the trainer ended with {_status_text(status)}"
    said = _last_error_line(evidence.log_tail)
    if not said:
        return f"{how} and printed nothing"
    return f"{how}; it said: {said}" if status < 0 or status in _NT_ERRORS else said


def _signal_text(status: int, oom_killed: bool) -> str:
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    why = " because the system ran out of memory" if oom_killed and -status == _SIGKILL else ""
    return f"the trainer was killed by signal {-status} ({name}){why}"


def _status_text(status: int) -> str:
    """Return an exit status for people; Windows has statuses of its own for programs that it ended."""
    if status not in _NT_ERRORS:
        return f"status {status}"
    return f"status 0x{status:08X} ({_NT_STATUSES.get(status, 'ended by Windows')})"


def _last_error_line(log_tail: str) -> str:
    """Return the last line that reads like an error and what follows it, else the last line."""
    lines = [line.rstrip() for line in log_tail.splitlines() if line.strip()][-_LOOKED_AT_LINES:]
    for index in range(len(lines) - 1, -1, -1):
        if _ERROR_LINE.match(lines[index]):
            return "\n".join(lines[index : index + _QUOTED_LINES])
    return lines[-1].strip() if lines else ""
