"""A real worker that kills itself with SIGKILL at a chosen moment: `doomed_worker.py MOMENT WORK_DIR FLAGS...`.

A moment is the so-manyth time that the worker is about to change something outside of itself: write, rename or delete
a file of its folder, start a process, send a request. Half a moment later is after that, while the answer is on its
way. Moment 0 never comes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from training.fleet.capability import libraries
from training.fleet.worker.program import main

ON_FILES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
OTHERS = {"subprocess.Popen", "http.client.send"}
ANSWER_S = 0.004


class Doom:
    """Counts moments and ends the process at one of them."""

    def __init__(self, moment: float, folder: str) -> None:
        self.moment, self.folder = moment, folder
        self.seen = 0
        self.guard = threading.Lock()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.counts(event, args):
            return
        with self.guard:
            self.seen += 1
            seen = self.seen
        if seen == int(self.moment):
            if self.moment != int(self.moment):
                threading.Thread(target=self.end_later, daemon=True).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def counts(self, event: str, args: tuple[Any, ...]) -> bool:
        if event in ON_FILES:
            writes = event != "open" or (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR))
            return bool(writes) and isinstance(args[0], str | os.PathLike) and str(args[0]).startswith(self.folder)
        return event in OTHERS

    def end_later(self) -> None:
        time.sleep(ANSWER_S)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    libraries.try_torch = lambda problems, timeout_s: (None, False)  # type: ignore[assignment]
    sys.addaudithook(Doom(float(sys.argv[1]), sys.argv[2]))
    sys.exit(main(["--work-dir", sys.argv[2], *sys.argv[3:]]))
