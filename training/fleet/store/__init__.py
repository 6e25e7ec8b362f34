"""The artifact store: bundles by digest, the list of them, and the order in which they come in.

`artifacts` has the files, `index` the list, `intake` the order: file, row, line. The row is the database's; see
`intake.Rows`.
"""

from training.fleet.store.artifacts import FLOOR_BYTES, MAX_BYTES, QUARANTINE, Store, Upload, measured, quarantine
from training.fleet.store.index import Index, index_line, index_lines
from training.fleet.store.intake import Intake, Rows
from training.fleet.store.parts import PartIntake, PartRows, PartUpload

__all__ = [
    "FLOOR_BYTES",
    "MAX_BYTES",
    "QUARANTINE",
    "Index",
    "Intake",
    "PartIntake",
    "PartRows",
    "PartUpload",
    "Rows",
    "Store",
    "Upload",
    "index_line",
    "index_lines",
    "measured",
    "quarantine",
]
