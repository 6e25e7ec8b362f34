"""One row per host and second: reads the kernel's counters of each host and turns them into rates and gauges.

The processes of a host are those in its network namespace, so nothing a host starts can escape the count. CPU, faults
and I/O of ended processes stay counted through their parents, as the kernel adds them up. Counts of frames come from
`switch` and are joined later by `dataset`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.telemetry import procfs

_TREE_COUNTERS: Final = {
    "read_bytes": "rchar",
    "write_bytes": "wchar",
    "read_calls": "syscr",
    "write_calls": "syscw",
    "disk_read_bytes": "read_bytes",
    "disk_write_bytes": "write_bytes",
}
_SNMP_COUNTERS: Final = {
    "tcp_active_opens": "Tcp.ActiveOpens",
    "tcp_passive_opens": "Tcp.PassiveOpens",
    "tcp_attempt_fails": "Tcp.AttemptFails",
    "tcp_resets": "Tcp.EstabResets",
    "tcp_in_segments": "Tcp.InSegs",
    "tcp_out_segments": "Tcp.OutSegs",
    "tcp_retransmits": "Tcp.RetransSegs",
    "tcp_out_resets": "Tcp.OutRsts",
    "udp_in_datagrams": "Udp.InDatagrams",
    "udp_out_datagrams": "Udp.OutDatagrams",
    "udp_no_ports": "Udp.NoPorts",
}
_LOAD_S: Final = 60.0


@dataclass(frozen=True)
class Target:
    """A host as the sampler finds it."""

    name: str
    """Host name."""
    pid: int
    """A process that lives in its namespaces as long as the host does."""
    home: Path
    """Its home folder."""
    port: str
    """Name of its port at the switch."""


@dataclass
class Snapshot:
    """What one host's counters said at one moment."""

    counters: dict[str, float] = field(default_factory=dict)
    """Values that only grow, by column."""
    gauges: dict[str, float] = field(default_factory=dict)
    """Values of this moment, by column."""
    switches: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Voluntary and involuntary context switches by process."""
    files: dict[str, int] = field(default_factory=dict)
    """Change time in nanoseconds by file."""


def rates(before: Snapshot, after: Snapshot, elapsed_s: float) -> dict[str, float]:
    """Turn two snapshots of one host into one row.

    Args:
        before: The earlier snapshot. Its counters are raised into `after` where those fell, so a process that
            ends between two reads is not counted twice.
        after: The later snapshot.
        elapsed_s: Seconds between them, above 0.

    Returns:
        Value by column; counters as rates per second, never negative.
    """
    row = dict(after.gauges)
    for name, value in after.counters.items():
        after.counters[name] = max(value, before.counters[name])
        row[name] = (after.counters[name] - before.counters[name]) / elapsed_s
    for place, name in enumerate(("switches_voluntary", "switches_forced")):
        grown = (count[place] - before.switches.get(pid, (0, 0))[place] for pid, count in after.switches.items())
        row[name] = sum(max(0, value) for value in grown) / elapsed_s
    row["new_processes"] = len(after.switches.keys() - before.switches.keys()) / elapsed_s
    common = after.files.keys() & before.files.keys()
    row["files"] = len(after.files)
    row["files_created"] = (len(after.files) - len(common)) / elapsed_s
    row["files_deleted"] = (len(before.files) - len(common)) / elapsed_s
    row["files_changed"] = sum(after.files[name] != before.files[name] for name in common) / elapsed_s
    return row


class Sampler:
    """Takes snapshots of all hosts at once and gives one row per host."""

    def __init__(self, targets: list[Target], switch_pid: int) -> None:
        """Take the first snapshot.

        Args:
            targets: The hosts.
            switch_pid: A process in the switch's network namespace.
        """
        self._targets = targets
        self._switch_pid = switch_pid
        self._hosts = {_namespace(target.pid): target.name for target in targets}
        self._load = {target.name: 0.0 for target in targets}
        self._last = self._snapshots()

    def rows(self, elapsed_s: float) -> dict[str, dict[str, float]]:
        """Take a snapshot and give what changed since the last one.

        Args:
            elapsed_s: Seconds since the last snapshot.

        Returns:
            A row by host name.
        """
        now = self._snapshots()
        found = {name: rates(self._last[name], now[name], elapsed_s) for name in now}
        for name, row in found.items():
            fade = math.exp(-elapsed_s / _LOAD_S)
            self._load[name] = self._load[name] * fade + row["runnable"] * (1 - fade)
            row["load_60"] = self._load[name]
        self._last = now
        return found

    def _snapshots(self) -> dict[str, Snapshot]:
        ports = procfs.interfaces(Path(f"/proc/{self._switch_pid}/net/dev").read_text())
        processes: dict[str, list[int]] = {target.name: [] for target in self._targets}
        for pid in _pids():
            name = self._hosts.get(_namespace(pid))
            if name is not None:
                processes[name].append(pid)
        return {target.name: _snapshot(target, processes[target.name], ports) for target in self._targets}


def _snapshot(target: Target, pids: list[int], ports: dict[str, procfs.InterfaceCount]) -> Snapshot:
    taken = Snapshot()
    _add_network(taken, target, ports)
    totals = ("cpu_user", "cpu_system", "minor_faults", "major_faults", *_TREE_COUNTERS)
    taken.counters.update(dict.fromkeys(totals, 0.0))
    taken.gauges.update(dict.fromkeys(("memory", "threads", "runnable", "processes", "open_files"), 0.0))
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile; its parent counts it
            _add_process(taken, pid)
    taken.files = dict(_files(str(target.home)))
    return taken


def _add_process(taken: Snapshot, pid: int) -> None:
    folder = f"/proc/{pid}"
    stat = procfs.process_stat(_read(f"{folder}/stat"))
    io = procfs.key_values(_read(f"{folder}/io"))
    status = procfs.key_values(_read(f"{folder}/status"))
    taken.counters["cpu_user"] += stat.user_s
    taken.counters["cpu_system"] += stat.system_s
    taken.counters["minor_faults"] += stat.minor_faults
    taken.counters["major_faults"] += stat.major_faults
    for name, key in _TREE_COUNTERS.items():
        taken.counters[name] += io[key]
    taken.gauges["memory"] += procfs.key_values(_read(f"{folder}/smaps_rollup")).get("Pss", 0) * 1024
    taken.gauges["threads"] += stat.threads
    taken.gauges["runnable"] += stat.state in "RD"
    taken.gauges["processes"] += 1
    taken.switches[pid] = (status["voluntary_ctxt_switches"], status["nonvoluntary_ctxt_switches"])
    taken.gauges["open_files"] += len(os.listdir(f"{folder}/fd"))  # noqa: PTH208 - names only, many times a second


def _add_network(taken: Snapshot, target: Target, ports: dict[str, procfs.InterfaceCount]) -> None:
    folder = f"/proc/{target.pid}/net"
    port = ports[target.port]
    loopback = procfs.interfaces(_read(f"{folder}/dev"))["lo"]
    protocols = procfs.snmp(_read(f"{folder}/snmp"))
    sockets = procfs.sockstat(_read(f"{folder}/sockstat"))
    taken.counters.update({name: protocols[key] for name, key in _SNMP_COUNTERS.items()})
    taken.counters.update(
        port_in_bytes=port.tx_bytes,
        port_in_packets=port.tx_packets,
        port_out_bytes=port.rx_bytes,
        port_out_packets=port.rx_packets,
        loopback_bytes=loopback.rx_bytes,
        loopback_packets=loopback.rx_packets,
    )
    taken.gauges.update(
        tcp_in_use=sockets["TCP.inuse"], tcp_time_wait=sockets["TCP.tw"], tcp_established=protocols["Tcp.CurrEstab"]
    )


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names only


def _namespace(pid: int) -> int:
    """Give the inode of a process's network namespace; 0 when the process is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116 - many times a second
    except OSError:
        return 0


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - many times a second
        return file.read()


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """List the files below a folder with their change times; what vanishes meanwhile is left out."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                with contextlib.suppress(OSError):
                    yield entry.path, entry.stat(follow_symlinks=False).st_mtime_ns
