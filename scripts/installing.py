#!/usr/bin/env python3
"""Run an installer from a bare checkout: `worker` or `receiver`, then its words. The scripts beside this call it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    if sys.argv[1] == "worker":
        from training.fleet.worker.program import main
    else:
        from training.fleet.install.receiver import main
    sys.exit(main(sys.argv[2:]))
