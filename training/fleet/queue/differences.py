"""What two manifests say differently of hosts, datasets and the trainer.

Owns the comparison, table by table and key by key, and the words for hosts that get no more jobs. Pure: the same two
manifests give the same answer.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from training.fleet.model.jobs import Policy
from training.fleet.queue.in_force import DEFAULT_HOST, InForce
from training.fleet.wire.manifests import TableChange

NEAR: Final = 0.75
"""How alike two names of hosts must be to take one for a slip of the other, 0 to 1."""
_GOES_ON: Final = "what it trains now goes on"


def table_changes(before: InForce, after: InForce) -> list[TableChange]:
    """Return what changes besides the jobs, in the order hosts, datasets, trainer; nothing for the first manifest."""
    if not before.digest:
        return []
    found = [*_tables("host", before.hosts, after.hosts), *_tables("dataset", before.datasets, after.datasets)]
    change = _fields(asdict(before.trainer), asdict(after.trainer))
    return [*found, TableChange("trainer", "", "changed", change)] if change else found


def _tables(table: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[TableChange]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None:
            yield TableChange(table, name, "added", _fields(_silent(table), _body(new)))
        elif new is None:
            yield TableChange(table, name, "removed", _fields(_body(old), _silent(table)))
        elif change := _fields(_body(old), _body(new)):
            yield TableChange(table, name, "changed", change)


def _body(row: Any) -> dict[str, Any]:
    """Return the keys of a table; its name is none of them."""
    return {key: value for key, value in asdict(row).items() if key != "name"}


def _silent(table: str) -> dict[str, Any]:
    """Return what a table without a key says, so that only keys that were set are shown."""
    return asdict(Policy()) if table == "host" else {"digest": None}


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [_plain(old[key]), _plain(new[key])] for key in new if old[key] != new[key]}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def told(change: TableChange) -> str:
    """Return a change of a table as one line for the history."""
    name = f"{change.table} {change.name}".strip()
    fields = ", ".join(f"{key} {_word(old)} -> {_word(new)}" for key, (old, new) in change.change.items())
    if change.what == "changed":
        return f"{name}: {fields}"
    return f"{name}: {change.what}" + (f" ({fields})" if fields and change.what == "added" else "")


def _word(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# ---- what must not be overlooked


def shut_out(before: InForce, after: InForce) -> list[str]:
    """Return which hosts get no more jobs, or get them by another table, for people."""
    lines = []
    for host, old in sorted(before.hosts.items()):
        new = after.hosts.get(host)
        if new is None:
            lines.append(_removed(host, DEFAULT_HOST in after.hosts))
        elif _trains(old) and not _trains(new):
            why = "allow_jobs is empty" if not new.allow_jobs else "deny_jobs holds *"
            lines.append(f"host {host} may train nothing from now on ({why}); {_GOES_ON}")
    return lines


def _removed(host: str, default: bool) -> str:
    if host == DEFAULT_HOST:
        return "[hosts.default] is removed: hosts without a table of their own are refused from now on"
    if default:
        return f"host {host} has no table any more: [hosts.default] holds for it from now on"
    return f"host {host} has no table any more and is refused from now on; {_GOES_ON}"


def _trains(policy: Policy) -> bool:
    return bool(policy.allow_jobs) and "*" not in policy.deny_jobs


def slips(called: Iterable[str], after: InForce) -> list[str]:
    """Return tables of hosts whose name looks like that of another host, for people.

    Args:
        called: Hosts that ever called.
        after: The manifest.
    """
    met = set(called)
    tableless = sorted(name for name in met if name not in after.hosts)
    lines = []
    for name in sorted(after.hosts):
        near = difflib.get_close_matches(name, tableless, n=1, cutoff=NEAR)
        if near and name not in met and name != DEFAULT_HOST:
            rest = "[hosts.default] holds for it" if DEFAULT_HOST in after.hosts else "it is refused"
            lines.append(f"no host {name} ever called; did you mean {near[0]}? It has no table of its own, {rest}")
    return lines
