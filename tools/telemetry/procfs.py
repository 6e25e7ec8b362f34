"""Readers for the text files of Linux' /proc: pure functions from text to numbers.

Nothing here opens a file. A file that does not have the known form raises ValueError.

Source: proc(5), proc_pid_stat(5), proc_pid_io(5); net/snmp after RFC 4022 and RFC 4113 names.
"""

from __future__ import annotations

import os
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessStat(NamedTuple):
    """The used part of /proc/PID/stat."""

    state: str
    """One letter: R, S, D, Z, ..."""
    user_s: float
    """User CPU seconds, waited-for children included."""
    system_s: float
    """System CPU seconds, waited-for children included."""
    minor_faults: int
    """Page faults without disk access, waited-for children included."""
    major_faults: int
    """Page faults with disk access, waited-for children included."""
    threads: int
    """Threads of the process."""


class InterfaceCount(NamedTuple):
    """Counters of one network interface since it came up."""

    rx_bytes: int
    """Bytes received."""
    rx_packets: int
    """Packets received."""
    tx_bytes: int
    """Bytes sent."""
    tx_packets: int
    """Packets sent."""


def process_stat(text: str) -> ProcessStat:
    """Read /proc/PID/stat; the command name may hold spaces and brackets.

    Args:
        text: Content of the file.

    Returns:
        The used fields.

    Raises:
        ValueError: The text has another form.
    """
    fields = text[text.rindex(")") + 2 :].split()
    number = [int(field) for field in fields[1:18]]
    # number[n] is field n + 4 of proc_pid_stat(5).
    return ProcessStat(
        state=fields[0],
        user_s=(number[10] + number[12]) / TICKS_PER_S,
        system_s=(number[11] + number[13]) / TICKS_PER_S,
        minor_faults=number[6] + number[7],
        major_faults=number[8] + number[9],
        threads=number[16],
    )


def key_values(text: str) -> dict[str, int]:
    """Read lines of the form `key: 12` or `key: 12 kB`, as in /proc/PID/io, status and smaps_rollup.

    Args:
        text: Content of the file.

    Returns:
        The lines whose value begins with a number.
    """
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        first = value.split(None, 1)[:1]
        if first and first[0].isdigit():
            found[key] = int(first[0])
    return found


def snmp(text: str) -> dict[str, int]:
    """Read /proc/net/snmp.

    Args:
        text: Content of the file: pairs of lines, names and then values.

    Returns:
        Values by `Protocol.Name`, for example `Tcp.ActiveOpens`.

    Raises:
        ValueError: A pair of lines does not match.
    """
    lines = text.splitlines()
    found = {}
    for head, body in zip(lines[::2], lines[1::2], strict=True):
        protocol, *keys = head.split()
        for key, value in zip(keys, body.split()[1:], strict=True):
            found[f"{protocol[:-1]}.{key}"] = int(value)
    return found


def sockstat(text: str) -> dict[str, int]:
    """Read /proc/net/sockstat.

    Args:
        text: Content of the file, lines as `TCP: inuse 3 orphan 0 tw 1`.

    Returns:
        Values by `PROTOCOL.name`, for example `TCP.tw`.
    """
    found = {}
    for line in text.splitlines():
        protocol, *rest = line.split()
        for key, value in zip(rest[::2], rest[1::2], strict=True):
            found[f"{protocol[:-1]}.{key}"] = int(value)
    return found


def interfaces(text: str) -> dict[str, InterfaceCount]:
    """Read /proc/net/dev.

    Args:
        text: Content of the file: two head lines, then one line per interface.

    Returns:
        Counters by interface name.
    """
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        value = [int(field) for field in rest.split()]
        found[name.strip()] = InterfaceCount(value[0], value[1], value[8], value[9])
    return found
