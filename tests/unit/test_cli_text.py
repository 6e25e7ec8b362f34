from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.fleet.cli.text import (
    Terminal,
    bar,
    cells,
    clean,
    cut,
    duration,
    moment,
    number,
    size,
    table,
    word,
)

WIDE = Terminal(80, 24, colour=False)
PIPE = Terminal()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ud800", "\\ud800"),
        ("Größe 漢字", "Größe 漢字"),
    ],
    ids=["plain", "escape", "whitespace", "c1", "bidi", "zero-width", "surrogate", "letters"],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text())
def test_a_clean_text_never_holds_a_control_character(text: str) -> None:
    assert all(ord(char) >= 32 and not 127 <= ord(char) < 160 for char in clean(text))


@given(st.text(), st.integers(2, 40))
def test_a_cut_text_always_fits(text: str, width: int) -> None:
    assert cells(cut(clean(text), width)) <= width


def test_wide_letters_count_two_cells() -> None:
    assert cells("漢字") == 4
    assert cells("e\u0301") == 1
    assert cut("漢字漢字", 6) == "漢字.."


def test_a_table_on_a_terminal_is_aligned_under_its_header() -> None:
    assert table(("A", "LONG"), [["xx", "1"], ["y", "22"]], WIDE) == ["A   LONG", "xx  1", "y   22"]


def test_a_table_in_a_pipe_has_no_header_and_one_tab_between_uncut_values() -> None:
    assert table(("A", "B"), [["x" * 300, "a\tb"]], PIPE) == ["x" * 300 + "\ta\\tb"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_of_a_table_is_wider_than_the_terminal(width: int) -> None:
    lines = table(("ONE", "TWO", "THREE"), [["a" * 30, "b" * 200, "c" * 50]], Terminal(width, 24))
    assert max(map(len, lines)) <= width


def test_spare_columns_that_say_the_same_in_every_row_are_said_once() -> None:
    rows = [["a" * 30, "b" * 30, "c" * 30], ["A" * 30, "B" * 30, "c" * 30]]
    assert table(("ONE", "TWO", "THREE"), rows, WIDE, ("THREE", "ONE")) == [
        f"ONE{' ' * 29}TWO",
        f"{'a' * 30}  {'b' * 30}",
        f"{'A' * 30}  {'B' * 30}",
        f"in every row: THREE {'c' * 30}",
    ]
    assert table(("ONE", "TWO", "THREE"), rows, PIPE, ("THREE",)) == ["\t".join(row) for row in rows]


def test_a_spare_column_that_tells_rows_apart_stays_and_moves_to_a_second_line() -> None:
    rows = [["a" * 50, "b" * 30], ["a" * 50, "B" * 30]]
    assert table(("ONE", "TWO"), rows, WIDE, ("TWO",)) == [
        "ONE", "  TWO",
        "a" * 50, "  " + "b" * 30,
        "a" * 50, "  " + "B" * 30,
    ]  # fmt: skip


def test_an_empty_table_on_a_terminal_is_its_header() -> None:
    assert table(("A", "B"), [], WIDE) == ["A  B"]


def test_colours_do_not_move_columns() -> None:
    lines = table(("STATUS", "X"), [["failed", "1"], ["completed", "2"]], Terminal(80, 24, colour=True))
    assert lines == ["\x1b[1mSTATUS     X\x1b[0m", "\x1b[31mfailed\x1b[0m     1", "\x1b[32mcompleted\x1b[0m  2"]


def test_colours_need_a_terminal_that_can_show_them_and_nobody_who_minds() -> None:
    assert Terminal.of(Screen(), {"TERM": "xterm"}).colour
    assert not Terminal.of(Screen(), {"TERM": "xterm", "NO_COLOR": "1"}).colour
    assert not Terminal.of(Screen(), {"TERM": "dumb"}).colour
    assert Terminal.of(io.StringIO(), {"TERM": "xterm"}) == Terminal(None, None, False)


def test_an_unknown_word_has_no_colour() -> None:
    assert word("failed", Terminal(80, 24, colour=True)) == "\x1b[31mfailed\x1b[0m"
    assert word("odd", Terminal(80, 24, colour=True)) == "odd"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (-1, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (11220, "3 h 07 min"),
        (93600, "1 d 02 h"),
    ],
)
def test_a_duration_reads_well(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (2**30, "1.0 GiB"), (2**40, "1.0 TiB")],
)
def test_a_size_reads_well(count: int, shown: str) -> None:
    assert size(count) == shown


def test_a_bar_is_full_at_the_end_and_never_overflows() -> None:
    assert bar(0, 10, 4) == "[....]"
    assert bar(5, 10, 4) == "[##..]"
    assert bar(11, 10, 4) == "[####]"
    assert bar(5, 0) == ""


def test_figures_have_four_digits_and_labels_no_fraction() -> None:
    assert number(0.123456) == "0.1235"
    assert number(12) == "12"
    assert number("a\x1b") == "a\\x1b"
    assert moment("2026-11-23T15:10:13.123Z") == "2026-11-23 15:10:13"
    assert moment(None) == "-"
