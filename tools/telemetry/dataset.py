"""From the raw files of a recording to a dataset folder: rows joined, labelled, and written as parquet and TOML.

The rows are ordered by host and time, the same raw files give the same rows. Needs pyarrow. Reading datasets is the
trainer's business.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tools.telemetry.columns import COLUMNS, ORACLE_EXTRA, REALISTIC, names
from tools.telemetry.schedule import GROUPS

NAME: Final = "lab"
WINDOW_S: Final = 30
_GAP_S: Final = 60
_TRAIN_FRACTION: Final = 0.6
_LABEL_SHARE: Final = 0.5
_FROM_SWITCH: Final = frozenset(name for name in names(REALISTIC) if not name.startswith(("port_", "mean_")))


_DECLARATION: Final = """\
# Columns of {name}.parquet: roles, tiers, units, split recipes. Written by tools/record_telemetry.py.
schema = 1

[dataset]
name = "{name}"
file = "{name}.parquet"
rows = {rows}
hosts = {hosts}
positives = {positives}
content_sha256 = "{digest}"
task = "binary: does hostile-like work run on this host in second t, given its telemetry up to and including t"

[roles]
host = "host"
group = "group"     # {groups}: two profiles of everyday work
time = "t"          # seconds since the start of the recording; the hosts are aligned
label = "label"     # 1 = hostile-like work runs for at least half of the second, 0 = it does not

# What a probe at the host's switch port can count.
[features]
realistic = [
{realistic}
]
# realistic + what only an agent on the host can read. "oracle" uses both lists.
oracle_extra = [
{oracle_extra}
]
never = ["host", "group", "part", "t"]   # not features in either mode

[windows]
length = {window}          # rows (seconds) of one host, ending at t; never across hosts
label = "last"       # the label of the last row

[splits.random]
kind = "random_rows"          # leaks: neighbouring seconds of one episode fall on both sides
test_fraction = 0.3

[splits.time]
kind = "time"                 # per host: first part trains, last part tests
train_fraction = {train_fraction}
gap = {gap}                      # rows dropped between the two parts

[splits.hosts]
kind = "leave_hosts_out"      # a host is only ever scored by a model that never saw it
folds = [
{folds}
]

[splits.group]
kind = "leave_group_out"      # hardest: train on one group, test on the other
column = "group"

[splits.published]
kind = "column"               # fixed: trains on the first part of most hosts, tests on the last part of the others
column = "part"               # train, test or unused

[units]
{units}
"""


@dataclass(frozen=True)
class Episode:
    """A stretch of hostile-like work that really ran."""

    host: str
    """Host name."""
    kind: str
    """Name of the activity."""
    start_s: float
    """Seconds since the start of the recording."""
    end_s: float
    """Seconds since the start of the recording."""


def labels(ticks: Sequence[int], episodes: Iterable[Episode]) -> list[int]:
    """Label the seconds of one host.

    Args:
        ticks: Seconds; k stands for the second that ends k seconds after the start.
        episodes: The episodes of that host.

    Returns:
        1 where an episode covers at least half of the second, else 0.
    """
    spans = [(episode.start_s, episode.end_s) for episode in episodes]
    return [int(any(min(end, tick) - max(start, tick - 1) >= _LABEL_SHARE for start, end in spans)) for tick in ticks]


def parts(ticks: Sequence[int], *, held_out: bool) -> list[str]:
    """Mark the sides of the published split for the seconds of one host: unseen hosts in unseen time.

    Args:
        ticks: Seconds in order.
        held_out: Whether the host belongs to the last fold.

    Returns:
        `test` in the later part of a held-out host, `train` in the first part of another one, else `unused`.
    """
    train_end = int(len(ticks) * _TRAIN_FRACTION)
    if held_out:
        return ["test" if place >= train_end + _GAP_S else "unused" for place in range(len(ticks))]
    return ["train" if place < train_end else "unused" for place in range(len(ticks))]


def folds(hosts: Sequence[str]) -> list[list[str]]:
    """Divide hosts into folds of one host of each group.

    Args:
        hosts: Names `<group>-<number>`.

    Returns:
        One fold per number.
    """
    numbers = sorted({int(host.rpartition("-")[2]) for host in hosts})
    return [sorted(host for host in hosts if host.rpartition("-")[2] == str(number)) for number in numbers]


def write(raw: Path, out: Path) -> dict[str, int]:
    """Make the dataset folder from the raw files.

    Args:
        raw: Folder of a recording: `recording.json`, `samples.jsonl`, `switch.jsonl`, `<host>.jsonl`.
        out: Folder for `lab.parquet`, `dataset.toml` and `episodes.csv`, made when missing.

    Returns:
        The facts of the dataset: rows, hosts, positives, size_bytes.

    Raises:
        ValueError: A raw file is cut short or holds no rows.
    """
    recording = json.loads((raw / "recording.json").read_text())
    hosts = sorted(recording["hosts"])
    episodes = [episode for host in hosts for episode in _episodes(raw, host)]
    rows = _rows(raw, hosts, episodes)
    if not rows:
        raise ValueError(f"{raw}: no rows; the recording ended before its first second")
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{NAME}.parquet"
    pq.write_table(
        _table(rows), target, compression="zstd", compression_level=19, use_dictionary=["host", "group", "part"]
    )
    _write_episodes(out / "episodes.csv", episodes)
    facts = {
        "rows": len(rows),
        "hosts": len(hosts),
        "positives": sum(row["label"] for row in rows),
        "size_bytes": target.stat().st_size,
    }
    (out / "dataset.toml").write_text(_toml(facts, hosts, hashlib.sha256(target.read_bytes()).hexdigest()))
    return facts


def _rows(raw: Path, hosts: Sequence[str], episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    counted = {(line["host"], line["tick"]): line for line in _lines(raw / "switch.jsonl") if "tick" in line}
    by_host: dict[str, list[dict[str, Any]]] = {host: [] for host in hosts}
    for line in _lines(raw / "samples.jsonl"):
        seen = counted.get((line["host"], line["t"]), {})
        line.update({name: seen.get(name, 0) for name in _FROM_SWITCH})
        for side in ("in", "out"):
            packets = line[f"port_{side}_packets"]
            line[f"mean_{side}_size"] = line[f"port_{side}_bytes"] / packets if packets else 0.0
        by_host[line["host"]].append(line)
    for host, rows in by_host.items():
        rows.sort(key=lambda row: row["t"])
        ticks = [row["t"] for row in rows]
        found = labels(ticks, [episode for episode in episodes if episode.host == host])
        sides = parts(ticks, held_out=host in folds(hosts)[-1])
        for row, label, side in zip(rows, found, sides, strict=True):
            row.update(group=host.rpartition("-")[0], label=label, part=side)
    return [row for host in hosts for row in by_host[host]]


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema(
        [("host", pa.string()), ("group", pa.string()), ("part", pa.string()), ("t", pa.int32()), ("label", pa.int8())]
        + [(column.name, pa.float32()) for column in COLUMNS]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _episodes(raw: Path, host: str) -> Iterator[Episode]:
    for line in _lines(raw / f"{host}.jsonl"):
        if line.get("track") == "hostile":
            yield Episode(host, line["work"], line["start_s"], line["end_s"])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for number, text in enumerate(file, 1):
            try:
                yield json.loads(text)
            except ValueError as fault:
                raise ValueError(f"{path}: line {number} is cut short; remove it and convert again") from fault


def _write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["host", "start_s", "end_s", "kind"])
        writer.writerows([e.host, f"{e.start_s:.1f}", f"{e.end_s:.1f}", e.kind] for e in episodes)


def _toml(facts: dict[str, int], hosts: Sequence[str], digest: str) -> str:
    return _DECLARATION.format(
        name=NAME,
        digest=digest,
        groups=" or ".join(GROUPS),
        realistic=_wrapped(names(REALISTIC)),
        oracle_extra=_wrapped(names(ORACLE_EXTRA)),
        window=WINDOW_S,
        train_fraction=_TRAIN_FRACTION,
        gap=_GAP_S,
        folds="\n".join(f"  {json.dumps(fold)}," for fold in folds(hosts)),
        units="\n".join(f'{column.name} = "{column.unit}"' for column in COLUMNS),
        **facts,
    )


def _wrapped(words: Sequence[str]) -> str:
    lines = [words[at : at + 5] for at in range(0, len(words), 5)]
    return "\n".join("  " + ", ".join(f'"{word}"' for word in line) + "," for line in lines)
