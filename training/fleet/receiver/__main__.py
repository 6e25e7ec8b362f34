"""`python -m training.fleet.receiver`."""

import sys

from training.fleet.receiver import main

sys.exit(main())
