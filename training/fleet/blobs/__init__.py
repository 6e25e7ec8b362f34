"""Where artifacts' bytes lie: one protocol, and one module for each kind of place that fulfils it.

`protocol` says what such a place must do. Who works with blobs imports from here and knows no kind of place;
`open_blobs` chooses one.
"""

from __future__ import annotations

from pathlib import Path

from training.fleet.blobs.folder import Folder
from training.fleet.blobs.protocol import Blob, Blobs, Data, Leftover, NewBlob

__all__ = ["Blob", "Blobs", "Data", "Leftover", "NewBlob", "open_blobs"]


def open_blobs(root: Path, incoming: Path, floor_bytes: int = 0) -> Blobs:
    """Return the place for blobs that the settings name. Nothing is made or looked at yet.

    Args:
        root: Where blobs lie.
        incoming: Where uploads are written until they are whole.
        floor_bytes: Free space that no upload may touch.
    """
    return Folder(root, incoming, floor_bytes)
