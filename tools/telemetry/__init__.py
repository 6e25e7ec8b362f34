"""The telemetry recorder: a small lab of network namespaces, its work, its sensors and its dataset.

`tools/record_telemetry.py` is the program. The modules, from the bottom up: `columns` (what is measured, in which
unit), `schedule` (who does what and when), `procfs` and `frames` (reading kernel text and packets), `activities` and
`services` (the work), `host` and `switch` (programs that run inside a namespace), `sampler` (one row per host and
second), `lab` (namespaces up and down), `dataset` (rows to parquet), `program` (the command line).
"""

from training.needs import demand

demand(78)
