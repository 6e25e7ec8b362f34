"""How hosts are named and digests are written, as text of regular expressions and as questions."""

from __future__ import annotations

import re
from typing import Final

HOST_NAME: Final = r"[0-9a-z][0-9a-z._-]{0,62}"
"""A host and its worker: lower case, and never beginning with a dot or dash, so that it is a safe file name as well."""
SHA256: Final = r"[0-9a-f]{64}"
"""A SHA-256 in lower-case hex: a job, an artifact, a certificate."""


def is_host_name(text: str) -> bool:
    """Return True if a text names a host."""
    return re.fullmatch(HOST_NAME, text) is not None


def is_sha256(text: str) -> bool:
    """Return True if a text is a SHA-256 in lower-case hex."""
    return re.fullmatch(SHA256, text) is not None
