"""Conditions and ranges of a download, and digests in header fields.

Owns what `If-None-Match`, `Range` and `If-Range` make of an answer whose `ETag` is strong. A range that cannot be read,
or several of them, are answered with the whole file, as the standard allows.

Source: RFC 9110, sections 13 and 14; RFC 9530 for `Repr-Digest`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from training.fleet.model.errors import RangeError, RequestError

_ONE: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256=:([0-9A-Za-z+/=]{1,64}):")


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a file that is sent.

    Attributes:
        first: Where it begins.
        size_bytes: How long it is.
        total_bytes: How long the file is.
        partial: Whether it is sent as a part (206), even if it is all of the file.
    """

    first: int
    size_bytes: int
    total_bytes: int
    partial: bool

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        return 206 if self.partial else 200

    @property
    def headers(self) -> dict[str, str]:
        """The header fields that tell of it."""
        found = {"content-length": str(self.size_bytes)}
        if self.partial:
            found["content-range"] = f"bytes {self.first}-{self.first + self.size_bytes - 1}/{self.total_bytes}"
        return found


def not_modified(head: Mapping[bytes, bytes], tag: str) -> bool:
    """Return True if the client has the file already (`If-None-Match`)."""
    given = head.get(b"if-none-match", b"").decode("latin-1")
    return given.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in given.split(","))


def wanted(head: Mapping[bytes, bytes], tag: str, total_bytes: int) -> Span:
    """Return what of a file is sent.

    Raises:
        RangeError: The file ends before the range begins.
    """
    whole = Span(0, total_bytes, total_bytes, partial=False)
    found = _ONE.fullmatch(head.get(b"range", b"").strip())
    # A date is no match either: no answer here carries one.
    if found is None or head.get(b"if-range", tag.encode()).strip() != tag.encode():
        return whole
    first, last = (int(number) if number else None for number in found.groups())
    if first is None:
        if last is None:
            return whole
        first, last = max(0, total_bytes - last), total_bytes - 1 if last else -1
    elif last is not None and last < first:
        return whole  # no range by the grammar
    end = total_bytes - 1 if last is None else min(last, total_bytes - 1)
    if end < first:
        raise RangeError(
            f"found the range {found[0].decode()}",
            "ask from the beginning",
            expected=f"a range within the file's {total_bytes} bytes",
            total_bytes=total_bytes,
        )
    return Span(first, end - first + 1, total_bytes, partial=True)


def digest_field(sha256: str) -> str:
    """Return a digest as `Repr-Digest` carries it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def sent_digest(head: Mapping[bytes, bytes]) -> str:
    """Return the SHA-256 that the client declares of its body in `Repr-Digest`, in hex.

    Raises:
        RequestError: There is none.
    """
    found = _SHA256.search(head.get(b"repr-digest", b"").decode("latin-1"))
    try:
        digest = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise RequestError(
            "the Repr-Digest header is missing or holds no SHA-256", expected="sha-256=:BASE64: of the body"
        )
    return digest.hex()
