"""Which hosts, models, datasets and tags there are, for a filter that finds nothing.

Guarantees that an empty list is never a mistyped name: a name that nothing has is refused with the names there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

from training.fleet.cli.commands import Call
from training.fleet.cli.remote import read
from training.fleet.model.errors import NotFoundError
from training.fleet.wire.names import KnownNames

SHOWN: Final = 10
"""How many names a refusal lists."""
_JOINED: Final = {"host": "on host", "model": "of model", "dataset": "on dataset", "tag": "with tag"}


def refuse_unknown(call: Call, wanted: Mapping[str, str | None], what: str = "job") -> None:
    """Refuse a filter that names what nobody knows; to be called where a list is empty.

    Args:
        call: This run of the command.
        wanted: Host, model, dataset and tag that the filter names, None where it names none.
        what: What was looked for.

    Raises:
        NotFoundError: It names something unknown.
    """
    named = {kind: name for kind, name in wanted.items() if name is not None}
    known = _names(call) if named else None
    if known is None:
        return
    for kind, name in named.items():
        there: list[str] = getattr(known, f"{kind}s")
        if name not in there:
            raise NotFoundError(f"found no {what} {_JOINED[kind]} {name}", _there(kind, name, there))


def _names(call: Call) -> KnownNames | None:
    try:
        return read(KnownNames, call.remote.names())
    except NotFoundError:
        return None  # a receiver of the version before does not say


def _there(kind: str, name: str, there: Sequence[str]) -> str:
    if not there:
        return f"no {kind} is known yet"
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return f"{nearest(name, there)}{kind}s are {', '.join(there[:SHOWN])}{more}"


def nearest(name: str, there: Sequence[str]) -> str:
    """Return "did you mean gpu-tower? " for a name that is nearly one of those there are, else nothing."""
    found = difflib.get_close_matches(name, there, 1, 0.6)
    return f"did you mean {found[0]}? " if found else ""
