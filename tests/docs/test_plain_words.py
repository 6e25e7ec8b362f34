"""The product, its docs and its scripts use no word that a reader with school English stops at."""

from __future__ import annotations

import re
from pathlib import Path

WORDS = {
    "mend": "fix, correct, remedy",
    "mends": "fixes, remedy",
    "mended": "fixed, corrected",
    "mending": "fixing, correcting",
    "anew": "again",
    "amiss": "wrong, problem",
    "heed": "apply, follow",
    "heeds": "applies, follows",
    "lend": "offer, allow",
    "lends": "offers, allows",
    "lent": "offered, allowed",
    "void": "invalid, cancelled",
    "whoever": "who, anyone who",
    "none that": "no ... that",
    "at most so many": "at most N",
    "in so many": "in N",
    "of so many": "of N",
}
"""Each word with what to say instead."""
READ = (
    "training/**/*.py", "training/**/*.sql", "tools/**/*.py", "bench/**/*.py", "docs/**/*.md", "etc/**/*", "*.md",
    "scripts/*", "changelog.d/*.md", "data/**/*.md",
)  # fmt: skip
ELSEWHERE = (
    "CHANGELOG.md",  # what was released is not written again
    "bench/throughput.py",  # holds a program in C, where void is a type
    "training/fleet/database/sqlite/migrations/0002_identities.sql",  # a released migration stays as it is
)
_WORD = re.compile(rf"\b({'|'.join(map(re.escape, WORDS))})\b", re.IGNORECASE)


def files(root: Path) -> list[str]:
    found = {path.relative_to(root).as_posix() for pattern in READ for path in root.glob(pattern) if path.is_file()}
    return sorted(file for file in found if file not in ELSEWHERE and "__pycache__" not in file)


def odd_words(text: str) -> list[str]:
    """Return the words of a text that are on the list, each with its line and what to say instead."""
    lines = enumerate(text.splitlines(), 1)
    return [f"{number}: {word}; say {WORDS[word.lower()]}" for number, line in lines for word in _WORD.findall(line)]


def test_product_docs_and_scripts_use_plain_words(root: Path) -> None:
    texts = ((file, (root / file).read_text(encoding="utf-8")) for file in files(root))
    assert [f"{file}:{word}" for file, text in texts for word in odd_words(text)] == []


def test_each_odd_word_is_found_with_its_line_and_what_to_say_instead() -> None:
    assert odd_words("Avoid this.\nMend it anew; none that fits.") == [
        "2: Mend; say fix, correct, remedy",
        "2: anew; say again",
        "2: none that; say no ... that",
    ]
