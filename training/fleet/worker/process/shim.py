"""Stands between a worker and its trainer so that no process of a training outlives its worker or its lease.

Started by `local` as `python -I -S shim.py GRACE_S REPORT COMMAND...`; Linux only. It adopts every orphan of its tree
(child subreaper), starts the trainer in a session of its own and waits on its standard input, its life-line: a pipe
from the worker. The end of that pipe means that the worker has died. A worker that is started again may reopen the pipe
within `ADOPT_S`, and the training goes on. Otherwise, when told to, and after a normal end alike, every descendant gets
TERM, its grace, and KILL until none is left. Only then the report appears, whole, at REPORT.

One byte on the pipe is one order: `G` start the trainer, `T` stop with grace, `A` dump a traceback (SIGABRT) and stop
once that has ended it or its time is up, `K` kill now. It waits for the `G` so that it can get ready while the worker
writes its state; without one it ends.

The trainer's output is a pipe as well. The shim keeps its reading end as its own standard output, so that the trainer
is not broken off while nobody reads, and so that the next worker finds it there.
Needs a few modules of the standard library, because it starts before each training and stays as long.
"""

import ctypes
import os
import select
import signal
import sys
import time

assert sys.platform != "win32"

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ADOPT_S = 6.0
"""How long a worker that was started again may take over a trainer. With the next one and the kill, within 10 s."""
ORPHAN_GRACE_S = 2.0
"""Longest grace of a trainer whose worker died and did not come back."""
LEFTOVER_GRACE_S = 2.0
DUMP_S = 3.0
POLL_S = 0.02
FREEZE_ROUNDS = 20
REST_BYTES = 16384
REPORT_BYTES = 2**17
"""Room of the report: what nobody has read takes six characters a byte at most, the rest is small."""
TRAINER_OOM_SCORE = b"500"


class Shim:
    """One trainer and all it starts.

    Args:
        grace_s: Seconds between TERM and KILL.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.trainer = 0
        self.status: int | None = None
        self.asked = ""
        self.error = ""
        self.max_rss_bytes = 0
        self.term_at: float | None = None
        self.kill_at: float | None = None
        self._listening = True
        self._orphan_until: float | None = None
        self._wake, wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_write, False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, _noted)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    def start(self, command: list[str]) -> None:
        """Start the trainer and let go of its output, which now ends with its last process."""
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        output = os.open("/proc/self/fd/1", os.O_RDONLY)
        os.set_blocking(0, False)
        failed, failed_write = os.pipe()
        shim = os.getpid()
        self.trainer = os.fork()
        if self.trainer == 0:
            _become(command, failed_write, prctl, shim)
        os.close(failed_write)
        os.dup2(output, 1)
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
        self.error = os.read(failed, 1000).decode("utf-8", "replace")
        os.close(failed)

    def run(self) -> None:
        """Return when the trainer and every descendant are gone."""
        while not self._reaped():
            waits = (self.term_at, self.kill_at, self._orphan_until)
            self._hear(None if all(wait is None for wait in waits) else POLL_S)
            now = time.monotonic()
            if self._orphan_until is not None and now >= self._orphan_until:
                self._give_up_waiting()
            if self.term_at is not None and now >= self.term_at:
                self.stop("A", self.grace_s)
            if self.kill_at is not None and now >= self.kill_at:
                kill_all()

    def _hear(self, timeout_s: float | None) -> None:
        listening = self._listening and self._orphan_until is None
        ready = select.select([self._wake, 0] if listening else [self._wake], [], [], timeout_s)[0]
        if self._wake in ready and signal.SIGTERM in os.read(self._wake, 64):
            self.stop("T", self.grace_s)
        if 0 in ready or (self._listening and not listening):
            self._listen()

    def _listen(self) -> None:
        """Read the life-line. Nothing at all is its end; nothing yet is one that somebody holds."""
        try:
            orders = os.read(0, 64)
        except BlockingIOError:
            self._orphan_until = None
            return
        if not orders:
            self._orphan_until = self._orphan_until or time.monotonic() + ADOPT_S
            return
        self._orphan_until = None
        for order in orders.decode("latin-1"):
            self._obey(order)

    def rest(self) -> str:
        """Return the end of what was printed and nobody has read, one character a byte; empty while a worker reads."""
        self._listen()
        if self._listening and self._orphan_until is None:
            return ""
        os.set_blocking(1, False)
        found = b""
        try:
            while piece := os.read(1, 65536):
                found = (found + piece)[-REST_BYTES:]
        except BlockingIOError:
            pass  # somebody beyond this tree holds the output open
        return found.decode("latin-1")

    def _give_up_waiting(self) -> None:
        self._listening, self._orphan_until = False, None
        self.stop("L", min(self.grace_s, ORPHAN_GRACE_S))

    def _obey(self, order: str) -> None:
        if order == "K":
            self.stop("K", 0.0)
        elif order == "T":
            self.stop("T", self.grace_s)
        elif order == "A" and self.status is None and self.kill_at is None:
            self._dump()

    def _dump(self) -> None:
        """Abort the trainer. TERM waits, because the kernel lets it end a process whose abort has yet to be handled."""
        self.asked = self.asked or "A"
        self.term_at = time.monotonic() + DUMP_S
        os.kill(self.trainer, signal.SIGABRT)

    def stop(self, asked: str, grace_s: float) -> None:
        """Ask the whole tree to end now and kill what is left after the grace; a later call can only hurry it."""
        self.asked = self.asked or asked
        self.term_at = None
        end = time.monotonic() + grace_s
        if self.kill_at is None and grace_s > 0:
            signal_all(signal.SIGTERM)
        self.kill_at = end if self.kill_at is None else min(self.kill_at, end)

    def _reaped(self) -> bool:
        """Collect what has ended; True when nothing is left, which the kernel tells by ECHILD."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self.max_rss_bytes = max(self.max_rss_bytes, usage.ru_maxrss * 1024)
            if pid == self.trainer:
                self.status = os.waitstatus_to_exitcode(status)
                if self.kill_at is None:
                    self._clear_leftovers()

    def _clear_leftovers(self) -> None:
        """Stop what the trainer left behind. Nobody asked for that, so `asked` stays as it is."""
        self.term_at = None
        signal_all(signal.SIGTERM)
        self.kill_at = time.monotonic() + min(self.grace_s, LEFTOVER_GRACE_S)


def _noted(_number: int, _frame: object) -> None:
    """Let the wake-up pipe tell; a default action would end the shim or drop the news."""


def _become(command: list[str], failed: int, prctl: object, shim: int) -> None:
    """Turn the forked child into the trainer."""
    try:
        os.setsid()
        if callable(prctl):
            prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != shim:
            os._exit(127)
        _prefer_as_oom_victim()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)  # noqa: S606 - the command comes from the worker, no shell is wanted
    except OSError as error:
        os.write(failed, f"{command[0]} cannot be started: {error.strerror}".encode())
    finally:
        os._exit(127)


def _prefer_as_oom_victim() -> None:
    try:
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, TRAINER_OOM_SCORE)
        os.close(score)
    except OSError:
        return


def descendants() -> list[int]:
    """Return the pids of every living descendant of this process."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the start-up time
        if entry.isdigit():
            parent = _parent(entry)
            if parent:
                parents.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    wave = [os.getpid()]
    while wave:
        wave = [child for pid in wave for child in parents.get(pid, [])]
        found += wave
    return found


def _parent(pid: str) -> int:
    """Return the parent of a living process, 0 for one that is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123
            state, parent = stream.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return 0
    return 0 if state in (b"Z", b"X") else int(parent)


def signal_all(number: int) -> None:
    """Send a signal to every descendant that still lives."""
    for pid in descendants():
        send(pid, number)


def kill_all() -> None:
    """Kill every descendant. All are stopped first, because newborns of a fork bomb would outrun the kill."""
    stopped: set[int] = set()
    for _ in range(FREEZE_ROUNDS):
        found = descendants()
        born = [pid for pid in found if pid not in stopped]
        if not born:
            break
        stopped.update(born)
        for pid in born:
            send(pid, signal.SIGSTOP)
    for pid in stopped:
        send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except OSError:
        return


class ReportFile:
    """The file of the report, which appears whole or not at all. Its room is taken at once, before a trainer can.

    It does what `training.fleet.files` does, by hand: this file runs alone, and nothing may delay the trainer.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(self._file, 0, REPORT_BYTES)
        except OSError:
            return  # it may still fit when it is written

    def write(self, text: str) -> None:
        """Put the text in place."""
        data = text.encode()
        os.ftruncate(self._file, os.pwrite(self._file, data, 0))
        os.fsync(self._file)
        os.close(self._file)
        os.replace(self._path + ".new", self._path)  # noqa: PTH105


def main(argv: list[str]) -> int:
    """Run one trainer and report how it ended.

    Args:
        argv: Grace in seconds, path of the report, the trainer's command.
    """
    started = time.monotonic()
    shim, rest, file = Shim(float(argv[0])), "", ReportFile(argv[1])
    if os.read(0, 1) == b"G":
        shim.start(argv[2:])
        shim.run()
        rest = shim.rest()
    else:
        shim.asked = "N"
    report = {
        "status": None if shim.error else shim.status,
        "asked": shim.asked,
        "error": shim.error,
        "max_rss_bytes": shim.max_rss_bytes,
        "duration_s": round(time.monotonic() - started, 3),
        "rest": rest,
        "unstartable": bool(shim.error),
    }
    import json  # only now: it must not delay the trainer

    file.write(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
