"""The recorder: its plan, its readers, its labels, and short real recordings where this machine allows them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tools.telemetry import activities, columns, dataset, frames, lab, procfs, program, schedule
from tools.telemetry.sampler import Sampler, Snapshot, Target, rates
from training.contracts.dataset_folder import dataset_digest, read_dataset

# The plan.


def test_the_same_seed_gives_the_same_plan() -> None:
    assert schedule.plan(490, 6, 1200.0) == schedule.plan(490, 6, 1200.0)


def test_another_seed_gives_another_plan() -> None:
    assert schedule.plan(490, 6, 1200.0) != schedule.plan(491, 6, 1200.0)


def test_servers_and_desktops_take_turns() -> None:
    plans = schedule.plan(1, 5, 60.0)
    assert [plan.name for plan in plans] == ["server-1", "desktop-1", "server-2", "desktop-2", "server-3"]
    assert [plan.group for plan in plans] == ["server", "desktop", "server", "desktop", "server"]
    assert [plan.address for plan in plans] == [f"198.18.0.{n}" for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("seconds", [20.0, 180.0, 2400.0])
@pytest.mark.parametrize("seed", range(20))
def test_hostile_episodes_of_a_host_never_overlap_and_end_in_time(seed: int, seconds: float) -> None:
    for plan in schedule.plan(seed, 8, seconds):
        spans = [(p.start_s, p.end_s) for p in plan.phases if p.track == "hostile"]
        assert all(start < end <= seconds + 0.01 for start, end in spans)
        assert all(end <= start + 0.002 for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize("seed", range(20))
def test_hostile_work_takes_eight_to_twelve_percent_of_each_host(seed: int) -> None:
    for plan in schedule.plan(seed, 8, 2400.0):
        share = sum(p.end_s - p.start_s for p in plan.phases if p.track == "hostile") / 2400
        assert 0.08 < share < 0.125


def test_a_long_recording_has_every_hostile_kind_on_every_host() -> None:
    for plan in schedule.plan(490, 8, 2400.0):
        assert {p.work for p in plan.phases if p.track == "hostile"} == set(schedule.HOSTILE)


def test_benign_tracks_fill_the_whole_time_without_overlap() -> None:
    for plan in schedule.plan(3, 4, 600.0):
        for track in ("main", "second", "third"):
            phases = [p for p in plan.phases if p.track == track]
            assert phases[0].start_s == 0.0
            assert phases[-1].end_s == 600.0
            assert all(a.end_s == b.start_s for a, b in pairwise(phases))
            assert not {p.work for p in phases} & set(schedule.HOSTILE)


def test_every_planned_work_is_an_activity() -> None:
    works = {p.work for seed in range(10) for plan in schedule.plan(seed, 8, 2400.0) for p in plan.phases}
    assert works - {schedule.IDLE} <= set(activities.ACTIVITIES)
    assert all(0.1 <= p.intensity <= 1 for plan in schedule.plan(5, 8, 2400.0) for p in plan.phases)


# Reading /proc.

STAT = (
    "812 (a) (b c) S 1 812 812 0 -1 4194304 150 2000 3 4 250 60 40 20 20 0 7 0 5000 10000000 1500 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
)


def test_process_stat_survives_brackets_in_the_name_and_adds_ended_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "TICKS_PER_S", 100)
    assert procfs.process_stat(STAT) == procfs.ProcessStat(
        state="S", user_s=2.9, system_s=0.8, minor_faults=2150, major_faults=7, threads=7
    )


def test_process_stat_reads_the_running_kernel() -> None:
    found = procfs.process_stat(Path("/proc/self/stat").read_text())
    assert found.state == "R"
    assert found.threads >= 1
    assert found.minor_faults > 0


def test_a_cut_process_stat_is_refused() -> None:
    with pytest.raises(ValueError, match="substring"):
        procfs.process_stat("812 (python")


def test_key_values_keeps_numbers_alone() -> None:
    assert procfs.key_values("Name:\tpython\nPss:\t   12 kB\nrchar: 345\nempty:\n") == {"Pss": 12, "rchar": 345}


def test_snmp_pairs_names_with_values() -> None:
    text = "Tcp: ActiveOpens PassiveOpens MaxConn\nTcp: 5 7 -1\nUdp: InDatagrams\nUdp: 9\n"
    assert procfs.snmp(text) == {"Tcp.ActiveOpens": 5, "Tcp.PassiveOpens": 7, "Tcp.MaxConn": -1, "Udp.InDatagrams": 9}


def test_snmp_that_does_not_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        procfs.snmp("Tcp: ActiveOpens PassiveOpens\nTcp: 5\n")


def test_sockstat_reads_pairs() -> None:
    assert procfs.sockstat("sockets: used 9\nTCP: inuse 3 orphan 0 tw 12\n") == {
        "sockets.used": 9,
        "TCP.inuse": 3,
        "TCP.orphan": 0,
        "TCP.tw": 12,
    }


def test_interfaces_reads_both_directions() -> None:
    text = "Inter-|   Receive\n face |bytes\n  eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0\n"
    assert procfs.interfaces(text) == {"eth0": procfs.InterfaceCount(1000, 10, 2000, 20)}


# Reading frames.


def _frame(
    source: str, target: str, ports: tuple[int, int], *, protocol: int = 6, flags: int = 0, options: int = 0
) -> bytes:
    length = 5 + options
    ip = struct.pack(">BBHHHBBH", 0x40 | length, 0, 40, 0, 0, 64, protocol, 0)
    ip += socket.inet_aton(source) + socket.inet_aton(target) + bytes(options * 4)
    body = struct.pack(">HHIIBBHHH", *ports, 0, 0, 0x50, flags, 0, 0, 0)
    return bytes(12) + b"\x08\x00" + ip + body


HERE, THERE = "198.18.0.1", "198.18.0.2"
SYN, SYN_ACK, FIN_ACK, RST = 0x02, 0x12, 0x11, 0x04


def test_a_head_names_both_ends_even_behind_ip_options() -> None:
    found = frames.head(_frame(HERE, THERE, (40000, 8080), flags=SYN, options=3))
    assert found == frames.Head("tcp", b"\xc6\x12\x00\x01\x9c\x40", b"\xc6\x12\x00\x02\x1f\x90", SYN)


@pytest.mark.parametrize(
    ("frame", "protocol"),
    [
        (b"", "other"),
        (bytes(12) + b"\x08\x06" + bytes(28), "arp"),
        (bytes(12) + b"\x86\xdd" + bytes(60), "other"),
        (_frame(HERE, THERE, (1, 2))[:40], "other"),
        (_frame(HERE, THERE, (1, 2), protocol=17), "udp"),
        (_frame(HERE, THERE, (1, 2), protocol=1), "other"),
    ],
    ids=["empty", "arp", "ipv6", "cut short", "udp", "icmp"],
)
def test_a_head_knows_its_protocol(frame: bytes, protocol: str) -> None:
    assert frames.head(frame).protocol == protocol


def test_a_port_counts_directions_from_the_view_of_its_host() -> None:
    second = frames.PortSecond()
    second.add(_frame(HERE, THERE, (40000, 8080), flags=SYN), 74, outgoing=True)
    second.add(_frame(THERE, HERE, (8080, 40000), flags=SYN_ACK), 74, outgoing=False)
    second.add(_frame(HERE, THERE, (40000, 8080), flags=FIN_ACK), 1514, outgoing=True)
    second.add(_frame("198.18.0.3", HERE, (22, 40001), flags=RST), 600, outgoing=False)
    second.add(bytes(12) + b"\x08\x06" + bytes(28), 42, outgoing=False)
    assert second.counts() == {
        "small_out_packets": 1,
        "small_in_packets": 2,
        "large_out_packets": 1,
        "syn_out": 1,
        "synack_in": 1,
        "fin_out": 1,
        "rst_in": 1,
        "arp_in": 1,
        "flows": 2,
        "peers": 2,
        "syn_ports_out": 1,
    }


def test_every_count_of_a_port_is_a_realistic_column() -> None:
    second = frames.PortSecond()
    for outgoing in (True, False):
        for flags in (SYN, SYN_ACK, FIN_ACK, RST):
            second.add(_frame(HERE, THERE, (1, 2), flags=flags), 60, outgoing=outgoing)
            second.add(_frame(HERE, THERE, (1, 2), flags=flags), 1400, outgoing=outgoing)
        second.add(_frame(HERE, THERE, (1, 2), protocol=17), 60, outgoing=outgoing)
        second.add(bytes(12) + b"\x08\x06" + bytes(28), 42, outgoing=outgoing)
    measured = {name for name in columns.names("realistic") if not name.startswith(("port_", "mean_"))}
    assert set(second.counts()) == measured


# From snapshots to rows.


def test_counters_become_rates_and_gauges_stay() -> None:
    before = Snapshot(counters={"cpu_user": 1.0}, gauges={"processes": 4.0})
    after = Snapshot(counters={"cpu_user": 2.0}, gauges={"processes": 5.0})
    row = rates(before, after, 2.0)
    assert row["cpu_user"] == 0.5
    assert row["processes"] == 5.0


def test_a_counter_that_falls_is_neither_negative_nor_counted_twice() -> None:
    first, second, third = (Snapshot(counters={"cpu_user": value}) for value in (10.0, 7.0, 11.0))
    assert rates(first, second, 1.0)["cpu_user"] == 0.0
    assert rates(second, third, 1.0)["cpu_user"] == 1.0


def test_new_processes_and_their_switches_count_from_zero() -> None:
    before = Snapshot(switches={1: (100, 10), 2: (5, 5)})
    after = Snapshot(switches={1: (110, 11), 3: (4, 2)})
    row = rates(before, after, 1.0)
    assert (row["new_processes"], row["switches_voluntary"], row["switches_forced"]) == (1.0, 14.0, 3.0)


def test_files_are_told_as_created_changed_or_deleted() -> None:
    row = rates(Snapshot(files={"a": 1, "b": 1, "c": 1}), Snapshot(files={"a": 1, "b": 2, "d": 1, "e": 1}), 1.0)
    names = ("files", "files_created", "files_changed", "files_deleted")
    assert [row[name] for name in names] == [4, 2.0, 1.0, 1.0]


def test_the_sampler_fills_every_column_that_the_switch_does_not(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    sampler = Sampler([Target("server-1", os.getpid(), tmp_path, "lo")], os.getpid())
    (tmp_path / "file").write_text("x")
    row = sampler.rows(1.0)["server-1"]
    from_switch = {name for name in columns.names("realistic") if not name.startswith("port_")}
    assert set(row) == {column.name for column in columns.COLUMNS} - from_switch
    assert row["files"] == 2
    assert row["files_created"] == 1.0
    assert row["memory"] > 1_000_000
    assert row["minor_faults"] >= 0


# From rows to the dataset.


def test_a_second_is_labelled_when_an_episode_covers_at_least_half_of_it() -> None:
    episodes = [dataset.Episode("h", "mine", 1.5, 3.4), dataset.Episode("h", "encrypt", 6.0, 7.6)]
    assert dataset.labels([1, 2, 3, 4, 5, 6, 7, 8], episodes) == [0, 1, 1, 0, 0, 0, 1, 1]


def test_seconds_without_episodes_are_normal() -> None:
    assert dataset.labels([1, 2], []) == [0, 0]


def test_each_fold_holds_one_host_of_each_group() -> None:
    hosts = ["server-1", "desktop-1", "server-2", "desktop-2", "server-10"]
    assert dataset.folds(hosts) == [["desktop-1", "server-1"], ["desktop-2", "server-2"], ["server-10"]]


def test_the_published_split_tests_unseen_hosts_in_unseen_time() -> None:
    ticks = list(range(1, 301))
    seen = dataset.parts(ticks, held_out=False)
    held_out = dataset.parts(ticks, held_out=True)
    assert (seen.count("train"), seen.count("test"), seen.index("unused")) == (180, 0, 180)
    assert (held_out.count("train"), held_out.count("test"), held_out.index("test")) == (0, 60, 240)


def _raw(folder: Path, ticks: int = 5) -> Path:
    """Write the raw files of a recording of four hosts with one episode on server-1 from 2 to 4 s."""
    folder.mkdir()
    hosts = ["server-1", "desktop-1", "server-2", "desktop-2"]
    (folder / "recording.json").write_text(json.dumps({"hosts": hosts}))
    switched = set(columns.names("realistic"))
    row = {c.name: 1.5 for c in columns.COLUMNS if c.name not in switched or c.name.startswith("port_")}
    row |= {"port_in_packets": 0.0, "port_out_packets": 3.0, "port_out_bytes": 300.0}
    with (folder / "samples.jsonl").open("w") as out:
        for tick in range(ticks, 0, -1):
            out.writelines(json.dumps({"host": name, "t": tick, "elapsed_s": 1.0, **row}) + "\n" for name in hosts)
    (folder / "switch.jsonl").write_text('{"ready": "switch"}\n{"tick": 2, "host": "server-1", "syn_out": 7}\n')
    for name in hosts:
        (folder / f"{name}.jsonl").write_text(json.dumps({"ready": name}) + "\n")
    with (folder / "server-1.jsonl").open("a") as out:
        for track, work in (("hostile", "mine"), ("main", "database")):
            out.write(json.dumps({"track": track, "work": work, "start_s": 2.0, "end_s": 4.0, "status": 0}) + "\n")
    return folder


def test_rows_are_joined_labelled_and_ordered_by_host_and_time(tmp_path: Path) -> None:
    facts = dataset.write(_raw(tmp_path / "raw"), tmp_path / "lab")
    table = pq.read_table(tmp_path / "lab" / "lab.parquet").to_pydict()
    assert (facts["rows"], facts["hosts"], facts["positives"]) == (20, 4, 2)
    assert table["host"][::5] == ["desktop-1", "desktop-2", "server-1", "server-2"]
    assert table["t"][:5] == [1, 2, 3, 4, 5]
    assert table["label"][10:15] == [0, 0, 1, 1, 0]
    assert table["syn_out"][10:15] == [0.0, 7.0, 0.0, 0.0, 0.0]
    assert (table["mean_out_size"][0], table["mean_in_size"][0]) == (100.0, 0.0)
    episodes = (tmp_path / "lab" / "episodes.csv").read_text()
    assert episodes == "host,start_s,end_s,kind\nserver-1,2.0,4.0,mine\n"


def test_a_written_dataset_keeps_the_data_contract(tmp_path: Path) -> None:
    dataset.write(_raw(tmp_path / "raw"), tmp_path / "lab")
    found = read_dataset(tmp_path / "lab")
    stored = pq.read_schema(tmp_path / "lab" / "lab.parquet").names
    assert set(found.features.columns("oracle")) | {"host", "group", "part", "t", "label"} == set(stored)
    assert set(found.units) == set(found.features.columns("oracle"))
    assert set(found.splits) == {"random", "time", "hosts", "group", "published"}


def test_the_same_raw_files_give_the_same_dataset(tmp_path: Path) -> None:
    raw = _raw(tmp_path / "raw")
    for name in ("a", "b"):
        dataset.write(raw, tmp_path / name)
    assert dataset_digest(tmp_path / "a") == dataset_digest(tmp_path / "b")


def test_the_shipped_dataset_has_the_columns_of_the_recorder(root: Path) -> None:
    folder = root / "data" / "lab"
    declared = tomllib.loads((folder / "dataset.toml").read_text())
    table = pq.read_table(folder / "lab.parquet")
    assert table.column_names[5:] == [column.name for column in columns.COLUMNS]
    assert declared["units"] == {column.name: column.unit for column in columns.COLUMNS}
    assert declared["dataset"]["rows"] == table.num_rows
    assert declared["dataset"]["positives"] == sum(table["label"].to_pylist())
    assert (folder / "lab.parquet").stat().st_size < 3_000_000


def test_the_readme_of_the_shipped_dataset_explains_every_column(root: Path) -> None:
    text = (root / "data" / "lab" / "README.md").read_text()
    assert [c.name for c in columns.COLUMNS if f"| `{c.name}` | {c.unit} | {c.meaning} |" not in text] == []


# The work, without namespaces: on loopback only.


def _site(home: Path, seconds: float, seed: int = 1) -> activities.Site:
    return activities.Site(home, ("127.0.0.1",), time.monotonic() + seconds, 1.0, random.Random(seed))


def test_encryption_replaces_documents_and_restoring_brings_them_back(tmp_path: Path) -> None:
    activities.prepare(tmp_path, random.Random(1))
    activities.encrypt(_site(tmp_path, 0.8))
    locked = [path for path in (tmp_path / "documents").iterdir() if path.suffix == ".locked"]
    assert locked
    end = time.monotonic() + 60
    while any(path.suffix == ".locked" for path in (tmp_path / "documents").iterdir()):
        assert time.monotonic() < end
        activities.restore(_site(tmp_path, 5.0))
    assert all(path.suffix == ".txt" for path in (tmp_path / "documents").iterdir())


def test_the_keystream_decrypts_what_it_encrypted() -> None:
    data = activities.text(random.Random(2), 5000)
    locked = activities.keystream_xor(data, b"key")
    assert locked != data
    assert activities.keystream_xor(locked, b"key") == data


@pytest.mark.parametrize("work", ["compress", "checksum", "vault", "unpack", "edit", "database", "mine", "session"])
def test_work_ends_at_its_deadline_and_stays_in_its_home(tmp_path: Path, work: str) -> None:
    home = tmp_path / "home"
    activities.prepare(home, random.Random(1))
    began = time.monotonic()
    activities.ACTIVITIES[work](_site(home, 0.4))
    assert time.monotonic() - began < 3
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


# The program.


def _recorder(*words: str, cwd: Path, **options: object) -> subprocess.Popen[str]:
    script = Path(__file__).resolve().parents[2] / "tools" / "record_telemetry.py"
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--hosts", "3"], "found 3, expected 4 to 20 hosts"),
        (["--minutes", "0"], "found 0, expected minutes above 0 and at most 1440"),
        (["--hosts", "many"], "invalid _host_count value"),
    ],
)
def test_wrong_words_are_refused_with_what_was_expected(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main(words)
    assert told in capsys.readouterr().err


def test_check_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert program.main(["--check"]) == 69
    told = capsys.readouterr().err
    assert "found an ordinary user, expected root" in told
    assert "nsenter: not found; install iproute2, util-linux and gcc" in told


def test_check_refuses_a_system_without_namespaces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert program.main(["--check"]) == 69
    assert "found win32, expected Linux" in capsys.readouterr().err


def test_check_tells_that_nothing_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lab, "missing", list)
    assert program.main(["--check"]) == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_converting_a_folder_that_is_no_recording_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--convert", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "expected the raw folder of a recording" in capsys.readouterr().err


def test_converting_a_cut_raw_file_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = _raw(tmp_path / "raw")
    with (raw / "samples.jsonl").open("a") as out:
        out.write('{"host": "ser')
    assert program.main(["--convert", str(raw), "--out", str(tmp_path / "out")]) == 1
    assert "samples.jsonl: line 21 is cut short" in capsys.readouterr().err


def test_converting_a_recording_without_rows_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--convert", str(_raw(tmp_path / "raw", ticks=0)), "--out", str(tmp_path / "out")]) == 1
    assert "no rows" in capsys.readouterr().err


def test_an_earlier_raw_folder_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    monkeypatch.setattr(lab, "missing", list)
    assert program.main(["--out", str(tmp_path)]) == 1
    assert f"convert it with --convert {tmp_path / 'raw'} or remove it" in capsys.readouterr().err


# Real recordings.


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that ordinary users may pass through, as the hosts' work runs as nobody; skips where none can be."""
    lacks = lab.missing()
    if lacks:
        pytest.skip("; ".join(lacks))
    folder = Path(tempfile.mkdtemp(prefix="test-record-", dir="/tmp"))
    (folder / "tmp").mkdir()
    for path in (folder, folder / "tmp"):
        path.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


TEXTS = ("host", "group", "part")


def _left(folder: Path) -> list[str]:
    """Command lines of living processes that began below a folder, or work there."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if str((process / "cwd").readlink()).startswith(str(folder)):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def _wait_until_none_left(folder: Path) -> list[str]:
    end = time.monotonic() + 15
    while (left := _left(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _wait_for_rows(ground: Path, recorder: subprocess.Popen[str]) -> None:
    samples = ground / "out" / "raw" / "samples.jsonl"
    end = time.monotonic() + 30
    while not (samples.is_file() and samples.stat().st_size) and time.monotonic() < end:
        assert recorder.poll() is None, recorder.communicate()
        time.sleep(0.05)
    assert _left(ground)


def _start(ground: Path, seconds: float) -> subprocess.Popen[str]:
    words = ["--out", "out", "--hosts", "4", "--seed", "7", "--minutes", str(seconds / 60)]
    return _recorder(*words, cwd=ground, env={**os.environ, "TMPDIR": str(ground / "tmp")})


@pytest.mark.xdist_group("recorder")
def test_a_real_recording_of_four_hosts_is_whole_and_leaves_nothing_behind(ground: Path) -> None:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.count("\n")
    recorder = _start(ground, 12)
    told, faults = recorder.communicate(timeout=90)
    assert (recorder.returncode, faults) == (0, "")
    assert "rows 48, hosts 4" in told
    assert sorted(path.name for path in (ground / "out").iterdir()) == ["dataset.toml", "episodes.csv", "lab.parquet"]
    table = pq.read_table(ground / "out" / "lab.parquet").to_pydict()
    assert sum(table["port_out_packets"]) > 20
    assert sum(table["flows"]) > 5
    assert sum(table["cpu_user"]) > 0
    assert sum(table["label"]) >= 2
    for first in range(0, 48, 12):  # the probe at the port and the host's own kernel agree on directions
        total = {name: sum(values[first : first + 12]) for name, values in table.items() if name not in TEXTS}
        assert total["port_out_bytes"] + 5_000 >= 1000 * total["large_out_packets"]
        assert total["port_in_bytes"] + 5_000 >= 1000 * total["large_in_packets"]
        assert total["syn_out"] <= total["tcp_active_opens"] + 2
    read_dataset(ground / "out")
    assert _wait_until_none_left(ground) == []
    assert list((ground / "tmp").iterdir()) == []
    assert subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.count("\n") == links


@pytest.mark.xdist_group("recorder")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_recording_is_cleaned_up_and_can_be_converted(ground: Path, number: signal.Signals) -> None:
    recorder = _start(ground, 600)
    _wait_for_rows(ground, recorder)
    recorder.send_signal(number)
    _, faults = recorder.communicate(timeout=60)
    assert recorder.returncode == 128 + number
    assert "stopped; everything is removed but out/raw" in faults
    assert "Traceback" not in faults
    assert _wait_until_none_left(ground) == []
    assert list((ground / "tmp").iterdir()) == []
    converted = _recorder("--convert", "out/raw", "--out", "out", cwd=ground)
    assert converted.communicate(timeout=60)[1] == ""
    assert converted.returncode == 0


@pytest.mark.xdist_group("recorder")
def test_a_killed_recorder_takes_every_host_along(ground: Path) -> None:
    recorder = _start(ground, 600)
    _wait_for_rows(ground, recorder)
    recorder.kill()
    recorder.communicate(timeout=60)
    assert _wait_until_none_left(ground) == []
    assert [list(home.iterdir()) for home in (ground / "tmp").iterdir()] == [[]]


@pytest.mark.xdist_group("recorder")
def test_a_host_that_dies_ends_the_recording_with_its_name(ground: Path) -> None:
    recorder = _start(ground, 600)
    _wait_for_rows(ground, recorder)
    holders = Path(f"/proc/{recorder.pid}/task/{recorder.pid}/children").read_text().split()
    os.kill(int(holders[-1]), signal.SIGKILL)
    _, faults = recorder.communicate(timeout=60)
    assert recorder.returncode == 1
    assert "desktop-2: ended early with status -9, expected to run on" in faults
    assert _wait_until_none_left(ground) == []
