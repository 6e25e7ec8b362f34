"""Which environment variables may be given to a trainer, by a manifest or by a worker's settings.

Guarantees that the environment of a trainer stays what the worker makes it: nothing that loads other code, that belongs
to the worker, that chooses cards or threads, or that is a secret by its name.
"""

from __future__ import annotations

import re
from typing import Final

MAX_VARIABLES: Final = 64
MAX_VALUE_CHARS: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY")
_REASONS: Final = (
    (re.compile(r"CIS490_.*|STATE_DIRECTORY|CREDENTIALS_DIRECTORY|NOTIFY_SOCKET"), "belongs to the worker"),
    (re.compile(r"LD_.*|DYLD_.*|GCONV_PATH|BASH_ENV|ENV|IFS"), "loads other code into every program"),
    (re.compile(r"PYTHON.*"), "changes which code the trainer's Python runs"),
    (
        re.compile(r"CUDA_(VISIBLE_DEVICES|DEVICE_ORDER)|(NVIDIA|HIP|ROCR|ZE|GPU)_(VISIBLE_DEVICES|AFFINITY_MASK).*"),
        "chooses the card, which the lease does",
    ),
    (re.compile(r"(OMP|OPENBLAS|MKL|NUMEXPR)_NUM_THREADS"), "is set by the slot's share of the cores"),
    (re.compile(r"TMPDIR|TEMP|TMP"), "is the run's own folder"),
)
_OF_THE_HOST: Final = re.compile(r"HOME|PATH|USER|LOGNAME|USERPROFILE|APPDATA|LOCALAPPDATA|SYSTEMROOT|WINDIR|COMSPEC")


def refused(name: str, *, of_manifest: bool) -> str:
    """Return why a trainer is not given a variable, empty if it may have it.

    Args:
        name: The variable.
        of_manifest: The manifest sets its value for all hosts; else a host passes its own on.
    """
    if not _NAME.fullmatch(name):
        return "is no name of a variable: letters, digits and underscores"
    upper = name.upper()  # on Windows the case of a name means nothing
    for pattern, reason in _REASONS:
        if pattern.fullmatch(upper):
            return reason
    if _SECRET.search(upper):
        return "is a secret by its name, and trainers get none"
    return "belongs to each host" if of_manifest and _OF_THE_HOST.fullmatch(upper) else ""
