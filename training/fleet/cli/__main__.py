"""Run the operator's command with `python -m training.fleet.cli`."""

import sys

from training.fleet.cli.program import main

sys.exit(main())
