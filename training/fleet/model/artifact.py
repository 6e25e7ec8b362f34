"""The key of an artifact, and the one path that is made of it.

Owns where an artifact lies below the root of a store: `<model>_<mode>/<sha256>/bundle.tar.zst`. Guarantees that a path
is made of checked names alone, so that no key leads out of the store. Leaves bytes to `store` and rows to `queue`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from training.fleet.model.errors import InvalidMessageError
from training.fleet.model.jobs import MODES
from training.fleet.model.names import SHA256, is_sha256
from training.fleet.model.parts import is_part_name

BUNDLE: Final = "bundle.tar.zst"
"""Name of the file that holds the artifact."""

_MODEL: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,63}")
_PATH: Final = re.compile(
    rf"(?P<model>{_MODEL.pattern})_(?P<mode>{'|'.join(MODES)})/(?P<sha256>{SHA256})/(?P<name>[^/]+)"
)


@dataclass(frozen=True, slots=True)
class ArtifactKey:
    """What names one artifact. The same bytes under another model or mode are another artifact.

    Attributes:
        sha256: The artifact id: what the bundle's bytes hash to.
        model: Model of the job.
        mode: Mode of the job.
    """

    sha256: str
    model: str
    mode: str

    @property
    def folder(self) -> str:
        """Path of the folder of all files of the artifact, below the store's root.

        Raises:
            InvalidMessageError: One of the names could not stand in a path.
        """
        if not is_sha256(self.sha256):
            raise InvalidMessageError(f"found the artifact id {self.sha256!r}", expected="64 lower-case hex digits")
        if not _MODEL.fullmatch(self.model):
            raise InvalidMessageError(
                f"found the model {self.model!r}", expected="letters, digits and any of _.- in its name"
            )
        if self.mode not in MODES:
            raise InvalidMessageError(f"found the mode {self.mode!r}", expected=f"one of {', '.join(MODES)}")
        return self._unchecked

    @property
    def path(self) -> str:
        """Path of the bundle below the store's root; see `folder`."""
        return f"{self.folder}/{BUNDLE}"

    def file(self, name: str) -> str:
        """Path of one of the artifact's small files; see `folder`.

        Raises:
            InvalidMessageError: The name could not stand in a path.
        """
        if not is_part_name(name):
            raise InvalidMessageError(
                f"found the file {ascii(name)[:80]}", expected="a name of a card, figure or metrics"
            )
        return f"{self.folder}/{name}"

    @property
    def shown_path(self) -> str:
        """The path as lists show it, of names that nobody has checked: a damaged row must not break a list."""
        return f"{self._unchecked}/{BUNDLE}"

    @property
    def _unchecked(self) -> str:
        return f"{self.model}_{self.mode}/{self.sha256}"


def parse_path(path: str) -> tuple[ArtifactKey, str] | None:
    """Return the artifact that a path below a store's root belongs to, and the file's name; None if to none."""
    found = _PATH.fullmatch(path)
    return found and (ArtifactKey(found["sha256"], found["model"], found["mode"]), found["name"])
