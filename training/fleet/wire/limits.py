"""Bounds of the fields of messages, and the kinds of text that many messages share.

The receiver turns a `Limit` into a strict check and into the OpenAPI document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from training.fleet.model.names import HOST_NAME, SHA256

MAX_BODY_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a field, checked by the receiver and shown in the OpenAPI document.

    Attributes:
        pattern: Regular expression the text must match.
        min_length: Least number of characters or items.
        max_length: Largest number of characters or items.
        ge: Least number.
        le: Largest number.
    """

    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    ge: float | None = None
    le: float | None = None


Hex64 = Annotated[str, Limit(pattern=f"^{SHA256}$", min_length=64, max_length=64)]
"""A SHA-256 in lower-case hex: a job id, an artifact id."""
Token = Annotated[str, Limit(pattern="^[0-9A-Za-z_-]{8,64}$", min_length=8, max_length=64)]
"""A name made by a machine: a lease id, a claim id."""
HostName = Annotated[str, Limit(pattern=f"^{HOST_NAME}$", min_length=1, max_length=63)]
"""The name of a host and its worker, lower case."""
LeaseIds = Annotated[list[Token], Limit(max_length=64)]
Metrics = Annotated[dict[str, float | int | str | bool | None], Limit(max_length=256)]
"""Flat figures of a run, by name."""
