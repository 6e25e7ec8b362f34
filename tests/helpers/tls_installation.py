"""A receiver with TLS as a person sets it up: `init`, its lines as settings, and the program as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
MANIFEST = """
[manifest]
schema = 1
[hosts.default]
[[jobs]]
model = "gbt"
mode = "oracle"
"""


class TlsInstallation:
    """A receiver on a free port of this machine, which speaks https under the name localhost.

    Args:
        folder: Where everything lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.manifest = folder / "training_manifest.toml"
        self.manifest.write_text(MANIFEST)
        self.environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.home)}
        self._state = {"STATE_DIRECTORY": str(folder / "state")}
        said = self.run("training.fleet.receiver", "init", "--host-names", "localhost", **self._state).stdout
        lines = dict(re.findall(r"(?m)^(CIS490_\w+)=(.*)$", said))
        self.settings = {
            **self._state, **lines, "CIS490_LISTEN_ADDR": "127.0.0.1:0", "CIS490_HOST_NAMES": "localhost",
            "CIS490_MANIFEST": str(self.manifest),
        }  # fmt: skip
        found = re.search(r"SHA-256 is ([0-9a-f]{64})", said)
        assert found is not None
        self.ca_sha256 = found[1]
        self.address = ""

    def __enter__(self) -> TlsInstallation:
        self.log = self.folder / "receiver.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "training.fleet.receiver"], env=self.environ | self.settings, stderr=log
            )
        end = time.monotonic() + WAIT_S
        while (found := re.search(r"https?://127.0.0.1:(\d+)", self.log.read_text())) is None:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            os.sched_yield()
        self.address = f"https://localhost:{found[1]}"
        # So that what it prints for people names the port that it got.
        self.settings["CIS490_LISTEN_ADDR"] = f"127.0.0.1:{found[1]}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(WAIT_S) == 0

    def reload(self) -> None:
        """Have the receiver read manifest and operators again."""
        self._process.send_signal(signal.SIGHUP)

    def run(self, module: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the project as a person, with nothing in the environment but what is given."""
        command = [sys.executable, "-P", "-m", module, *words]
        return subprocess.run(
            command, env=self.environ | more, capture_output=True, text=True, timeout=WAIT_S, check=False,
            stdin=subprocess.DEVNULL, cwd=self.folder,
        )  # fmt: skip

    def operator(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `cis490-trainer-receiver operator` on the receiver's machine."""
        return self.run("training.fleet.receiver", "operator", *words, **self.settings)

    def jobs(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `cis490-jobs`."""
        return self.run("training.fleet.cli", *words, **more)

    def line_of(self, *words: str) -> list[str]:
        """Return the words of the login that `operator` printed, without the program's name."""
        done = self.operator(*words)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("cis490-jobs login ")
        return done.stdout.split()[1:]
