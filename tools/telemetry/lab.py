"""The lab: one network namespace per host, one for the switch, veth pairs between them, and no way out.

The namespaces have no names and belong to nobody but the processes in them: when those end, the kernel removes
namespaces, bridge and veth pairs. Each process ends when its standard input closes, which also happens when the
recorder is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tools.telemetry.host import NOBODY
from tools.telemetry.sampler import Target
from tools.telemetry.schedule import HostPlan
from tools.telemetry.switch import BRIDGE, PORT_PREFIX

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_PREFIX_BITS: Final = 24
_STOP_S: Final = 10.0
TOOLS: Final = ("ip", "unshare", "nsenter", "cc")
"""System programs a recording needs: iproute2, util-linux, a C compiler."""


class LabError(Exception):
    """The lab could not be built, or a part of it ended early. The message says what to do."""


def missing() -> list[str]:
    """Name what this machine lacks for a recording.

    Returns:
        One line per lack, with its remedy; empty when a recording can begin.
    """
    lacks = []
    if not sys.platform.startswith("linux"):
        return [f"found {sys.platform}, expected Linux: network namespaces exist only there"]
    if os.geteuid() != 0:
        lacks.append("found an ordinary user, expected root: namespaces need it; run the same line with sudo")
    lacks += [
        f"{tool}: not found; install iproute2, util-linux and gcc" for tool in TOOLS if shutil.which(tool) is None
    ]
    if not lacks:
        tried = subprocess.run(
            ["unshare", "--net", "--pid", "--fork", "ip", "link", "add", "lab", "type", "bridge"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode:
            lacks.append(
                f"this kernel refuses a namespace with a bridge: {tried.stderr.strip()}; use a full machine or VM"
            )
    return lacks


class Lab:
    """A running lab; use it in a `with` block, whose end removes everything but the raw files."""

    def __init__(self, plans: Sequence[HostPlan], *, seed: int, seconds: float, scratch: Path, raw: Path) -> None:
        """Keep the wishes; `__enter__` builds.

        Args:
            plans: One plan per host.
            seed: Seed of the hosts' random choices.
            seconds: Length of the recording.
            scratch: Folder for the hosts' home folders; removed at the end.
            raw: Folder for the events and counts the parts tell.
        """
        self._plans = plans
        self._seed = seed
        self._seconds = seconds
        self._scratch = scratch
        self._raw = raw
        self._parts: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        """Build the lab and wait until every host is ready."""
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the lab down."""
        self.close()

    @property
    def switch_pid(self) -> int:
        """Process id of the switch's holder."""
        return self._parts["switch"].pid

    def targets(self) -> list[Target]:
        """Describe the hosts for the sampler."""
        return [
            Target(plan.name, self._parts[plan.name].pid, self._home(plan), PORT_PREFIX + plan.name)
            for plan in self._plans
        ]

    def start(self, at: float) -> None:
        """Tell every part the monotonic time of second 0."""
        for part in self._parts.values():
            _send(part, {"at": at})

    def check(self) -> None:
        """See that every part still runs.

        Raises:
            LabError: One ended; the message names it and its log.
        """
        for name, part in self._parts.items():
            if part.poll() is not None:
                raise LabError(
                    f"{name}: ended early with status {part.returncode}, expected to run on; see {self._log(name)}"
                )

    def close(self) -> None:
        """End every process of the lab and remove the home folders. Safe to repeat."""
        for part in self._parts.values():
            if part.stdin is not None:
                part.stdin.close()
        for part in self._parts.values():
            try:
                part.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                part.kill()  # unshare takes its child along: --kill-child
                part.wait()
        self._parts.clear()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _build(self) -> None:
        self._raw.mkdir(parents=True, exist_ok=True)
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._scratch.chmod(0o711)
        os.chown(self._scratch, NOBODY, NOBODY)  # so that a host can remove its own home
        self._begin("switch")
        self._wait_ready("switch")
        for plan in self._plans:
            self._begin(plan.name)
            self._wire(plan)
            _send(self._parts[plan.name], self._order(plan))
        for plan in self._plans:
            self._wait_ready(plan.name)

    def _begin(self, name: str) -> None:
        module = "tools.telemetry.switch" if name == "switch" else "tools.telemetry.host"
        with self._events(name).open("w") as events, self._log(name).open("w") as log:
            self._parts[name] = subprocess.Popen(  # noqa: S603 - fixed words
                ["unshare", "--net", "--pid", "--fork", "--kill-child", sys.executable, "-m", module],  # noqa: S607
                stdin=subprocess.PIPE,
                stdout=events,
                stderr=log,
                text=True,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,  # Ctrl-C reaches the recorder alone
            )
        self._wait_namespace(name)

    def _wait_namespace(self, name: str) -> None:
        """Wait until the part has left the recorder's own network namespace."""
        mine = Path("/proc/self/ns/net").stat().st_ino
        for _ in _polls(_STOP_S):
            self.check()
            if Path(f"/proc/{self._parts[name].pid}/ns/net").stat().st_ino != mine:
                return
        raise LabError(f"{name}: no network namespace after {_STOP_S:.0f} s; see {self._log(name)}")

    def _wait_ready(self, name: str) -> None:
        for _ in _polls(_STOP_S * 3):
            self.check()
            if self._events(name).stat().st_size:
                return
        raise LabError(f"{name}: not ready after {_STOP_S * 3:.0f} s; is the machine overloaded? See {self._log(name)}")

    def _wire(self, plan: HostPlan) -> None:
        """Connect a host to the switch; the pair is born in the switch's namespace and never seen outside."""
        host, port = self._parts[plan.name].pid, PORT_PREFIX + plan.name
        _ip(self.switch_pid, f"link add {port} type veth peer name eth0 netns {host}")
        _ip(self.switch_pid, f"link set {port} master {BRIDGE} up")
        _ip(host, "link set lo up")
        # Without this the pair would carry packets of up to 64 KiB, which no wire does.
        _ip(host, "link set eth0 gso_max_segs 1 up")
        _ip(host, f"address add {plan.address}/{_PREFIX_BITS} dev eth0")

    def _order(self, plan: HostPlan) -> dict[str, Any]:
        peers = [other.address for other in self._plans if other.name != plan.name]
        return {
            **asdict(plan),
            "home": str(self._home(plan)),
            "peers": peers,
            "seed": self._seed,
            "seconds": self._seconds,
        }

    def _home(self, plan: HostPlan) -> Path:
        return self._scratch / plan.name

    def _events(self, name: str) -> Path:
        return self._raw / f"{name}.jsonl"

    def _log(self, name: str) -> Path:
        return self._raw / f"{name}.log"


def _polls(seconds: float) -> Iterator[None]:
    """Give the turns of a bounded wait, with a short sleep between them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def _send(part: subprocess.Popen[str], message: dict[str, Any]) -> None:
    if part.stdin is None:
        raise LabError("a part of the lab has no standard input; this is a fault of the recorder")
    try:
        part.stdin.write(json.dumps(message) + "\n")
        part.stdin.flush()
    except BrokenPipeError as fault:
        raise LabError("a part of the lab ended before its start; see the .log files beside the raw data") from fault


def _ip(pid: int, words: str) -> None:
    """Run `ip` inside a part's network namespace."""
    command = ["nsenter", "--net", "--target", str(pid), "ip", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words and own names
    if done.returncode:
        raise LabError(f"`ip {words}` failed: {done.stderr.strip()}; is the kernel built with bridge and veth?")
