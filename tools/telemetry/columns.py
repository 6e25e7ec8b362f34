"""Columns of the recorded dataset: name, unit, tier and meaning.

The table here is the one source for the sampler, `dataset.toml` and the README. `realistic` columns can be counted at
the switch port of a host; `oracle_extra` columns need an agent on the host. It measures nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REALISTIC: Final = "realistic"
ORACLE_EXTRA: Final = "oracle_extra"


@dataclass(frozen=True)
class Column:
    """One measured column."""

    name: str
    """Column name in the parquet file."""
    unit: str
    """Unit of the value; `1/s` for counts per second, `1` for plain counts."""
    tier: str
    """`realistic` or `oracle_extra`."""
    meaning: str
    """What is counted, in one line."""


_PORT = (
    ("port_in_bytes", "B/s", "bytes the port sent to the host"),
    ("port_out_bytes", "B/s", "bytes the port got from the host"),
    ("port_in_packets", "1/s", "frames to the host"),
    ("port_out_packets", "1/s", "frames from the host"),
    ("mean_in_size", "B", "mean frame size to the host; 0 without frames"),
    ("mean_out_size", "B", "mean frame size from the host; 0 without frames"),
    ("small_in_packets", "1/s", "frames under 128 B to the host"),
    ("small_out_packets", "1/s", "frames under 128 B from the host"),
    ("large_in_packets", "1/s", "frames over 1,000 B to the host"),
    ("large_out_packets", "1/s", "frames over 1,000 B from the host"),
    ("syn_in", "1/s", "TCP SYN without ACK to the host"),
    ("syn_out", "1/s", "TCP SYN without ACK from the host"),
    ("synack_in", "1/s", "TCP SYN with ACK to the host"),
    ("synack_out", "1/s", "TCP SYN with ACK from the host"),
    ("fin_in", "1/s", "TCP FIN to the host"),
    ("fin_out", "1/s", "TCP FIN from the host"),
    ("rst_in", "1/s", "TCP RST to the host"),
    ("rst_out", "1/s", "TCP RST from the host"),
    ("udp_in", "1/s", "UDP datagrams to the host"),
    ("udp_out", "1/s", "UDP datagrams from the host"),
    ("arp_in", "1/s", "ARP frames to the host, broadcasts included"),
    ("arp_out", "1/s", "ARP frames from the host"),
    ("flows", "1", "distinct TCP and UDP flows seen in the second"),
    ("peers", "1", "distinct remote IPv4 addresses seen in the second"),
    ("syn_ports_out", "1", "distinct destination ports of SYNs from the host in the second"),
)

_AGENT = (
    ("cpu_user", "s/s", "user CPU time of all processes of the host, ended children included"),
    ("cpu_system", "s/s", "system CPU time, likewise"),
    ("memory", "B", "resident memory, a page shared by n processes counted 1/n in each (PSS)"),
    ("minor_faults", "1/s", "page faults without disk access"),
    ("major_faults", "1/s", "page faults with disk access"),
    ("read_bytes", "B/s", "bytes read by read() and its kin, sockets and pipes included"),
    ("write_bytes", "B/s", "bytes written by write() and its kin, sockets and pipes included"),
    ("read_calls", "1/s", "read system calls"),
    ("write_calls", "1/s", "write system calls"),
    ("disk_read_bytes", "B/s", "bytes fetched from the block device"),
    ("disk_write_bytes", "B/s", "bytes dirtied for the block device"),
    ("processes", "1", "processes"),
    ("threads", "1", "threads"),
    ("new_processes", "1/s", "processes not there one second ago"),
    ("runnable", "1", "processes running or in disk wait"),
    ("load_60", "1", "runnable, exponentially smoothed with 60 s"),
    ("switches_voluntary", "1/s", "voluntary context switches of live processes"),
    ("switches_forced", "1/s", "involuntary context switches of live processes"),
    ("open_files", "1", "open file descriptors"),
    ("tcp_in_use", "1", "TCP sockets in use"),
    ("tcp_time_wait", "1", "TCP sockets in TIME_WAIT"),
    ("tcp_established", "1", "established TCP connections"),
    ("tcp_active_opens", "1/s", "TCP connections begun by the host, loopback included"),
    ("tcp_passive_opens", "1/s", "TCP connections accepted, loopback included"),
    ("tcp_attempt_fails", "1/s", "TCP connection attempts that failed"),
    ("tcp_resets", "1/s", "established TCP connections reset"),
    ("tcp_in_segments", "1/s", "TCP segments received, loopback included"),
    ("tcp_out_segments", "1/s", "TCP segments sent, loopback included"),
    ("tcp_retransmits", "1/s", "TCP segments sent again"),
    ("tcp_out_resets", "1/s", "TCP RST segments sent"),
    ("udp_in_datagrams", "1/s", "UDP datagrams received"),
    ("udp_out_datagrams", "1/s", "UDP datagrams sent"),
    ("udp_no_ports", "1/s", "UDP datagrams to closed ports"),
    ("loopback_bytes", "B/s", "bytes over the host's loopback"),
    ("loopback_packets", "1/s", "packets over the host's loopback"),
    ("files", "1", "files in the host's home folder"),
    ("files_created", "1/s", "files new in the home folder"),
    ("files_changed", "1/s", "files in the home folder with a new change time"),
    ("files_deleted", "1/s", "files gone from the home folder"),
)

COLUMNS: Final[tuple[Column, ...]] = tuple(
    [Column(name, unit, REALISTIC, meaning) for name, unit, meaning in _PORT]
    + [Column(name, unit, ORACLE_EXTRA, meaning) for name, unit, meaning in _AGENT]
)
"""Every measured column in file order."""


def names(tier: str) -> list[str]:
    """Name the columns of one tier in file order.

    Args:
        tier: `realistic` or `oracle_extra`.

    Returns:
        The names.
    """
    return [column.name for column in COLUMNS if column.tier == tier]
