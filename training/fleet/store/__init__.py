"""The artifact store: bundles by digest, the list of them, and the order in which they come in.

`artifacts` has the files, `index` the list, `intake` the order: file, row, line. The row is the database's; see
`intake.Rows`.
"""

from training.fleet.store.artifacts import FLOOR_BYTES, MAX_BYTES, QUARANTINE, Store, Upload, measured, quarantine
from training.fleet.store.index import Index, Listed, index_line, index_lines
from training.fleet.store.intake import Intake, Rows
from training.fleet.store.parts import PartIntake, PartRows, PartUpload
from training.fleet.store.turns import Turns

__all__ = [
    "FLOOR_BYTES",
    "MAX_BYTES",
    "QUARANTINE",
    "Index",
    "Intake",
    "Listed",
    "PartIntake",
    "PartRows",
    "PartUpload",
    "Rows",
    "Store",
    "Turns",
    "Upload",
    "index_line",
    "index_lines",
    "measured",
    "quarantine",
]
