"""Runs the worker: `python -m training.fleet.worker`."""

import sys

from training.fleet.worker.program import main

sys.exit(main())
