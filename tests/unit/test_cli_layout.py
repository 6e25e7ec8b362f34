"""Tables and texts on terminals of any width: nothing is cut, and no line breaks within a word."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.fleet.cli.text import Terminal, cells, clean, folded, table, wrapped

WIDTHS = st.sampled_from([80, 140])
NAMES = ("ID", "MODEL", "HYPER", "STATUS", "HOST", "UPDATED", "DETAIL")
WORD = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789=._-漢é"), min_size=1, max_size=30)
TEXT = st.lists(WORD, min_size=0, max_size=20).map(" ".join)


@st.composite
def rows(draw: st.DrawFn) -> list[list[str]]:
    """Rows as lists have them: an id, short words, and long texts, equal ones among them."""
    count = draw(st.integers(1, 12))
    shared = draw(TEXT)
    return [
        [
            f"{number:012x}",
            draw(WORD),
            draw(st.one_of(TEXT, st.just(shared))),
            draw(st.sampled_from(["pending", "completed", "failed"])),
            draw(st.sampled_from(["-", "gpu-tower"])),
            f"2026-11-30 17:25:{number:02d}",
            draw(TEXT),
        ]
        for number in range(count)
    ]


def blocks(lines: Sequence[str]) -> list[list[str]]:
    """The lines of each row of a table, header and footer left out."""
    found: list[list[str]] = []
    for line in lines:
        if re.match(r"[0-9a-f]{12}(  |$)", line):
            found.append([])
        if found and not line.startswith("in every row:"):
            found[-1].append(line)
    return found


@settings(max_examples=150, deadline=None)
@given(rows(), WIDTHS, st.sets(st.sampled_from(["STATUS", "HOST", "MODEL"])))
def test_every_word_of_every_row_is_on_the_screen(found: list[list[str]], width: int, spare: set[str]) -> None:
    lines = table(NAMES, found, Terminal(width, 24), sorted(spare))
    assert all(cells(line) <= width for line in lines)
    shown, below = blocks(lines), " ".join(lines[-4:])
    assert len(shown) == len(found)
    for row, block in zip(found, shown, strict=True):
        words = " ".join(block).split()
        for name, value in zip(NAMES, row, strict=True):
            said_below = name in spare and len({other[NAMES.index(name)] for other in found}) == 1
            for word in value.split():
                assert word in words or (said_below and word in below) or value == "-", (name, word)


@settings(max_examples=150, deadline=None)
@given(rows(), WIDTHS)
def test_two_rows_that_differ_in_any_column_differ_on_the_screen(found: list[list[str]], width: int) -> None:
    same = [["0" * 12, *row[1:]] for row in found]
    shown = [tuple(block) for block in blocks(table(NAMES, same, Terminal(width, 24), ("STATUS", "HOST")))]
    for first, row in zip(shown, same, strict=True):
        for second, other in zip(shown, same, strict=True):
            assert (first == second) == (row == other)


@pytest.mark.parametrize("width", [80, 140])
def test_a_time_keeps_its_time_of_day_beside_long_texts(width: int) -> None:
    found = [["2026-11-30 17:25:03", "operator:alice", "x" * 70, "because " * 30]]
    lines = table(("TIME", "WHO", "ABOUT", "WHY"), found, Terminal(width, 24))
    assert any(line.startswith("2026-11-30 17:25:03  operator:alice") for line in lines)
    assert max(map(len, lines)) <= width


def test_a_word_that_is_longer_than_the_line_is_the_only_one_that_is_broken() -> None:
    lines = table(("A", "B"), [["a", "b" * 100]], Terminal(40, 24))
    assert lines == ["A", "  B", "a", "  " + "b" * 38, "  " + "b" * 38, "  " + "b" * 24]


@given(st.text(), WIDTHS)
def test_a_folded_text_keeps_its_words_and_their_order(text: str, width: int) -> None:
    safe = clean(text)
    lines = wrapped(safe, width, "    ")
    assert " ".join(lines).split() == safe.split()
    longest = max((cells(word) for word in safe.split(" ")), default=0)
    assert all(cells(line) <= max(width, longest + 4) for line in lines)


def test_further_lines_of_a_fact_stand_under_its_value() -> None:
    assert folded(["status    pending; the trainer has failed with words"], 40) == [
        "status    pending; the trainer has",
        "          failed with words",
    ]
    assert folded(["\x1b[1mred and green\x1b[0m"], 13) == ["\x1b[1mred and green\x1b[0m"]
    assert folded(["a b"], None) == ["a b"]
