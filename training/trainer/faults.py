"""Owns the errors that end a training run, each with its exit status and the failure kind that the worker reads.

    TrainerError           1   the trainer broke; another attempt may do better
    |- SpecError           78  no host can do the job as it is written; never retried
    |  '- CellError        78  one cell of a CSV file does not fit
    '- HostError           75  this host can't do it now; another one may

Every message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from training.needs import installing


class TrainerError(Exception):
    """A run that ends without a model."""

    exit_status: ClassVar[int] = 1
    kind: str = "trainer_error"


class SpecError(TrainerError):
    """No host can do the job: an unknown key, a split the dataset lacks, data that break the contract."""

    exit_status: ClassVar[int] = 78
    kind = "spec_rejected"


class CellError(SpecError):
    """A cell of a CSV file that is not what its column holds.

    Attributes:
        column: Name of the column.
        found: The cell as it stands in the file.
    """

    def __init__(self, place: str, column: str, found: str | bytes, expected: str) -> None:
        super().__init__(f"{place}, column {column!r}: found {repr(found)[:200]}, expected {expected}")
        self.column = column
        self.found = found


class HostError(TrainerError):
    """This host lacks something: memory, a library, the data folder.

    Attributes:
        kind: "host_fault", "oom_ram", "oom_gpu" or "disk_full".
    """

    exit_status: ClassVar[int] = 75
    kind = "host_fault"

    def __init__(self, message: str, kind: str = "host_fault") -> None:
        super().__init__(message)
        self.kind = kind


def lacking(model: str, libraries: Sequence[str]) -> HostError:
    """Return the error of a host without the libraries of a model, with the command that installs them."""
    extras = "trainer,torch" if "torch" in libraries else "trainer"
    return HostError(
        f"model {model} needs the libraries {', '.join(libraries)}, which this Python lacks; {installing(extras)}"
    )
