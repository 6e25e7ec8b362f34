"""Owns the ways a training run can end badly, with the exit status and the kind that the worker is told.

    TrainerError           1   the trainer broke; another attempt may do better
    |- SpecError           78  the job can't be done by anybody as it is written; never retried
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
    """The job as written can't be done: an unknown key, a split the dataset lacks, data that break the contract."""

    exit_status: ClassVar[int] = 78
    kind = "spec_rejected"


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
    """Return the fault of a host that lacks libraries of a model, with the command that installs them."""
    extras = "trainer,torch" if "torch" in libraries else "trainer"
    return HostError(
        f"model {model} needs the libraries {', '.join(libraries)}, which this Python lacks; {installing(extras)}"
    )
