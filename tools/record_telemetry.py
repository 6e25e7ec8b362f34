#!/usr/bin/env python3
"""Records a labelled telemetry dataset on this machine: see docs/guides/record-a-dataset.md.

    sudo python tools/record_telemetry.py --out DIR --minutes 40 --seed 490

A shim: the work is in `tools/telemetry`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tools.telemetry.program import main

    sys.exit(main())
