"""What a place for artifacts' bytes must do.

Owns the whole contract, so that a second kind of place is written against one page and tested by one suite
(`tests/conformance/test_blobs.py`). A blob is bytes under a key, a path of checked names with slashes between them.
Guarantees nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from training.fleet.model.errors import FleetError

Data = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Blob:
    """What is known of a blob without reading it.

    Attributes:
        key: Its key.
        size_bytes: Its length.
        modified_at: When its bytes were last written, in seconds since the epoch.
    """

    key: str
    size_bytes: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something among the uploads under way that nobody brings any more.

    Attributes:
        address: How people find it.
        own: Whether an upload has made it; anything else is left alone.
    """

    address: str
    own: bool


class NewBlob(Protocol):
    """A blob on its way in, which nobody else knows.

    Calls may come from any thread, one after the other; `discard` may come while another call is under way.
    """

    def write(self, data: Data, /) -> None:
        """Append bytes.

        Raises:
            StorageFullError: There is no more room.
            UnavailableError: The blob was discarded meanwhile.
            FleetError: The place failed.
        """

    def place(self, key: str, /) -> bool:
        """Give the bytes their key, durably. Nothing is left on the way in afterwards, whatever happens.

        Returns:
            True when it is new; False when the blob was there already, which is kept as it is.

        Raises:
            StorageFullError: There is no more room.
            FleetError: The place failed.
        """

    def discard(self) -> None:
        """Remove what was written and nothing else. Does nothing when it is gone or placed."""


class Blobs(Protocol):
    """A place for blobs. Every method may be called from any thread; all of them may wait for a disk or a network.

    Attributes:
        on_broken: Called once when the place can no longer be trusted to keep what it is given, with what it failed at;
            on the thread that saw it.
    """

    on_broken: Callable[[str], None]

    # ---- the place

    def make(self) -> None:
        """Make the place where there is none, durably, and leave what is in it alone.

        Raises:
            ConfigurationError: It cannot be made.
            FleetError: It refuses for now.
        """

    def prepare(self) -> None:
        """Make the place, check that uploads can use it, and remove what aborted ones have left.

        Raises:
            ConfigurationError: It cannot be used as it is configured.
            FleetError: It refuses for now.
        """

    def held(self) -> AbstractContextManager[None]:
        """Keep every other program out as long as the block runs, as far as such a place can.

        Raises:
            ConfigurationError: Another program holds it.
            UnavailableError: It refuses for now.
        """

    @property
    def broken(self) -> str:
        """What the place failed at, for people; empty while all is well. It takes a restart to clear it."""

    def free_bytes(self) -> int:
        """Return the room left for uploads, 0 when it cannot be found out."""

    def address(self, key: str, /) -> str:
        """Return how people find a blob, whether it is there or not."""

    # ---- uploads

    def begin(self, size_bytes: int, /) -> NewBlob:
        """Begin to bring a blob of a length.

        Raises:
            StorageFullError: There is no room for it.
            UnavailableError: The place has failed, or refuses for now.
        """

    def leftovers(self) -> Iterator[Leftover]:
        """Yield what lies in the place of uploads and belongs to no upload under way.

        Raises:
            FleetError: The place refuses.
        """

    def sweep(self) -> int:
        """Remove what uploads have left that no longer live, and return how many there were.

        Raises:
            FleetError: The place refuses.
        """

    # ---- blobs

    def has(self, key: str, /) -> bool:
        """Return True if a blob is there, and make sure that it stays there if so.

        Raises:
            FleetError: The place refuses.
        """

    def stat(self, key: str, /) -> Blob | None:
        """Return what is known of a blob, None where there is none.

        Raises:
            OSError: The place refuses.
        """

    def open(self, key: str, /) -> BinaryIO:
        """Return a blob, open for reading and seeking.

        Raises:
            FileNotFoundError: There is none.
            OSError: The place refuses.
        """

    def list(self, prefix: str = "", /) -> Iterator[Blob]:
        """Yield the blobs below a prefix that ends at a slash, by key; all without one.

        Raises:
            FleetError: The place refuses.
        """

    def move(self, key: str, target: str, /) -> None:
        """Give a blob another key that is free, durably.

        Raises:
            FileNotFoundError: There is no such blob.
            FileExistsError: There is a blob at the target; both stay as they are.
            OSError: The place refuses.
        """

    def delete(self, key: str, /) -> None:
        """Remove a blob, durably. One that is gone already is fine.

        Raises:
            OSError: The place refuses.
        """

    def share(self, key: str, target: Path, /) -> bool:
        """Give a blob a second name outside the place without copying it; False where that is not possible.

        Raises:
            FileNotFoundError: There is no such blob.
        """

    def fault(self, doing: str, error: OSError, /) -> FleetError:
        """Return the error of the fleet for one that another method raised, with what to do about it."""
