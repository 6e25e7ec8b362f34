"""Trainers from hell, for tests of the worker: each does what `hyper.act` in its job says. Standard library alone."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any

from fake_trainer import artifact, main, say, step

MIB = 2**20
MEMORY_GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
MEMORY_LIMITS = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max")
NOBODY = 54321


def linger() -> None:
    """Live on for good in a child that ignores TERM."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
        os._exit(0)


# ---- processes


def ignores_term(out: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    return 0


def forks(out: Path) -> int:
    for _ in range(20):
        linger()
    artifact(out)
    return 0


def leaves_its_session(out: Path) -> int:
    if os.fork() == 0:
        os.setsid()
        linger()
        linger()
        os._exit(0)
    artifact(out)
    return 0


def makes_a_daemon(out: Path) -> int:
    """As daemon(3) does, with all files closed and another folder."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.closerange(0, 64)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        os._exit(0)
    os.wait()
    artifact(out)
    return 0


def bombs(out: Path) -> int:
    """Fork without end, up to a limit of processes."""
    if os.getuid() == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)


def kills_its_guardian(out: Path) -> int:
    linger()
    if os.fork() == 0:
        os.setsid()
        linger()
        os._exit(0)
    time.sleep(0.2)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
    return 0


def stops_itself(out: Path) -> int:
    os.kill(os.getpid(), signal.SIGSTOP)
    return 0


def hangs(out: Path) -> int:
    for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)
    return 0


def crashes(out: Path) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


# ---- output


def prints_binary(out: Path) -> int:
    os.write(1, bytes(range(256)) * 4096 + b"\xff\xfe\x00\x1b[2J\x1b]0;title\x07")
    return 1


def prints_without_end(out: Path) -> int:
    """So many MiB without a line feed, 200 unless the variable in its job says otherwise."""
    piece = b"x" * MIB
    for _ in range(int(json.loads(Path("../job.json").read_text())["spec"]["seed"])):
        left = memoryview(piece)
        while left:
            left = left[os.write(1, left) :]
    os.write(1, b"end")
    return 1


def closes_its_output(out: Path) -> int:
    os.close(1)
    os.close(2)
    time.sleep(0.3)
    artifact(out)
    return 0


# ---- results and progress


def result(out: Path, text: str) -> int:
    artifact(out)
    (out / "result.json").write_text(text)
    return 0


def huge_result(out: Path) -> int:
    result(out, "{")
    os.truncate(out / "result.json", 2**30)
    return 0


def nested_result(out: Path) -> int:
    return result(out, "[" * 500_000)


def no_json_result(out: Path) -> int:
    return result(out, "done, boss \x00")


def pipe_as_result(out: Path) -> int:
    result(out, "{}")
    (out / "result.json").unlink()
    os.mkfifo(out / "result.json")
    return 0


def device_as_result(out: Path) -> int:
    result(out, "{}")
    (out / "result.json").unlink()
    (out / "result.json").symlink_to("/dev/zero")
    return 0


def odd_metrics(out: Path) -> int:
    odd: dict[str, Any] = {"\ud800": 1, chr(0xD801): 2, "a\0b": 3, "n" * 5000: 4, "text": "\0", "big": 2**70}
    odd |= {"fine": 0.5} | {f"{number:05}" + "ä" * 150: "ö" * 150 for number in range(300)}
    return result(out, json.dumps({"metrics": odd, "error": "\ud800"}))


def garbage_as_progress(out: Path) -> int:
    with (out / "progress.jsonl").open("wb") as stream:
        stream.write(os.urandom(MIB) + b"\n" + b"[" * 100_000 + b"\n" + b"x" * (8 * MIB) + b"\n")
        stream.write(b'{"step": NaN, "steps": 1e999, "phase": "\\ud800\\u0000", "metrics": {"\\ud800": "\\u0000"}}\n')
    time.sleep(1.2)
    return result(out, "{}")


def pipe_as_progress(out: Path) -> int:
    os.mkfifo(out / "progress.jsonl")
    time.sleep(1.2)
    return result(out, "{}")


def device_as_progress(out: Path) -> int:
    (out / "progress.jsonl").symlink_to("/dev/zero")
    time.sleep(600)
    return 0


# ---- artifacts


def nothing(out: Path) -> int:
    return 0


def plain(out: Path) -> Path:
    artifact(out)
    return out / "artifact"


def link(out: Path) -> int:
    (plain(out) / "link").symlink_to("/etc/hostname")
    return 0


def link_up(out: Path) -> int:
    (plain(out) / "up").symlink_to("..")
    return 0


def link_to_itself(out: Path) -> int:
    (plain(out) / "loop").symlink_to("loop")
    return 0


def link_as_artifact(out: Path) -> int:
    (out / "artifact").symlink_to("/etc")
    return 0


def file_as_artifact(out: Path) -> int:
    (out / "artifact").write_text("model")
    return 0


def device(out: Path) -> int:
    """A block device where that is allowed, else a pipe."""
    try:
        os.mknod(plain(out) / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    except PermissionError:
        os.mkfifo(out / "artifact" / "disk")
    return 0


def pipe(out: Path) -> int:
    os.mkfifo(plain(out) / "pipe")
    return 0


def socket_file(out: Path) -> int:
    os.chdir(plain(out))
    with socket.socket(socket.AF_UNIX) as link:
        link.bind("socket")
    return 0


def hard_links(out: Path) -> int:
    os.link(plain(out) / "model.txt", out / "artifact" / "again.txt")
    return 0


def climbs_out(out: Path) -> int:
    """Write with `..` over what the worker keeps beside its folder."""
    top = plain(out) / ".." / ".."
    for name in ("state.json", "exit.json", "log.tail", "escaped"):
        (top / name).write_text('{"v": 1}')
    (top / "bundle.tar.zst").symlink_to("/dev/full")
    return 0


def many_files(out: Path) -> int:
    folder = plain(out)
    for number in range(100_000):
        if number % 10_000 == 0:
            say("more")
        os.close(os.open(f"{folder}/{number:06}", os.O_CREAT | os.O_WRONLY, 0o600))
    return 0


def many_folders(out: Path) -> int:
    folder = plain(out)
    for number in range(5_000):
        if number % 1_000 == 0:
            say("more")
        (folder / f"{number:06}").mkdir()
    return 0


def deep_folders(out: Path) -> int:
    os.chdir(plain(out))
    for _ in range(3000):
        Path("deeper").mkdir()
        os.chdir("deeper")
    return 0


def line_feed_in_name(out: Path) -> int:
    (plain(out) / "a\nb").write_text("x")
    return 0


def no_text_in_name(out: Path) -> int:
    Path(os.fsdecode(os.fsencode(plain(out)) + b"/\xff\xfe")).write_text("x")
    return 0


def long_name(out: Path) -> int:
    folder = plain(out) / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    (folder / ("f" * 98)).write_text("x")
    return 0


def sparse(out: Path) -> int:
    (plain(out) / "sparse").touch()
    os.truncate(out / "artifact" / "sparse", 2**40)
    return 0


def unreadable_file(out: Path) -> int:
    (plain(out) / "model.txt").chmod(0)
    return 0


def unreadable_folder(out: Path) -> int:
    (plain(out) / "inner").mkdir()
    (out / "artifact" / "inner" / "x").write_text("x")
    (out / "artifact" / "inner").chmod(0)
    return 0


def unreadable_output(out: Path) -> int:
    plain(out)
    out.chmod(0)
    return 0


def deletes_its_run(out: Path) -> int:
    import shutil

    plain(out)
    shutil.rmtree(out.parent)
    os.write(1, b"x" * 3 * MIB)
    time.sleep(1.2)
    return 0


def changing_file(out: Path) -> int:
    (plain(out) / "a.bin").write_bytes(os.urandom(64 * MIB))
    (out / "artifact" / "z.log").write_text("x")
    return 0


# ---- memory and disk


def eats_memory(out: Path) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (256 * MIB, 256 * MIB))
    return len([bytearray(16 * MIB) for _ in range(100)])


def eats_memory_until_killed(out: Path) -> int:
    """Eat on in a control group of 64 MiB, where this host allows one, until the system steps in."""
    if not _joined_a_small_group():
        resource.setrlimit(resource.RLIMIT_AS, (256 * MIB, 256 * MIB))
    held = []
    while True:
        held.append(b"x" * (8 * MIB))


def _joined_a_small_group() -> bool:
    for top in MEMORY_GROUPS:
        group = top / f"cis490-test-{os.getpid()}"
        try:
            group.mkdir()
            limits = [group / name for name in MEMORY_LIMITS if (group / name).exists()]
            for limit in limits:
                limit.write_text("0" if "swap" in limit.name else str(64 * MIB))
            if limits:
                (group / "cgroup.procs").write_text(str(os.getpid()))
                return True
        except OSError:
            continue
    return False


def fills_disk(out: Path) -> int:
    """Fill it file by file, and go on when there is no room left."""
    say("filling")
    step(out, 1, 2)
    for number in range(10**6):
        try:
            (out / f"{number}").write_bytes(bytes(MIB))
        except OSError:
            time.sleep(0.01)
    return 0


def fills_disk_and_says_so(out: Path) -> int:
    with (out / "one").open("wb", buffering=0) as stream:
        while stream.write(bytes(MIB)):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main(globals()))
