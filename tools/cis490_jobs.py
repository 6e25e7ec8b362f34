#!/usr/bin/env python3
"""Run `cis490-jobs` from a bare checkout, without installing anything."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.fleet.cli import main

if __name__ == "__main__":
    sys.exit(main())
