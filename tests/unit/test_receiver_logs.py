"""Claims about the lines of the receiver's log."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path

import pytest
from live_receiver import LiveReceiver, manifest

from training.fleet.receiver.logs import JsonLines, Repeats, TextLines, start

NASTY = "\x1b[31mred\x1b]0;title\x07\t\r\nforged: line\x7f\u202e\u2028\x9b2J\ud800é"


def line_of(
    message: str,
    *arguments: object,
    data: dict[str, object] | None = None,
    error: bool = False,
    form: logging.Formatter | None = None,
) -> str:
    info = sys.exc_info() if error else None
    record = logging.LogRecord("training.fleet.api.app", logging.ERROR, "", 0, message, arguments, info)
    if data is not None:
        record.data = data
    return (form or JsonLines()).format(record)


def broken() -> None:
    raise ValueError(NASTY)


def test_no_text_from_outside_breaks_a_line_or_drives_a_terminal() -> None:
    try:
        broken()
    except ValueError:
        line = line_of("failed: %s", NASTY, data={"path": NASTY, NASTY: [NASTY]}, error=True)
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert found["event"] == f"failed: {NASTY}"
    assert (found["path"], found[NASTY]) == (NASTY, [NASTY])
    assert "ValueError" in found["error"]


def test_what_is_no_json_is_logged_as_text() -> None:
    assert json.loads(line_of("x", data={"reason": OSError("no room")}))["reason"] == "no room"
    assert json.loads(line_of("x"))["source"] == "api.app"


def test_a_line_for_people_has_time_level_words_and_members() -> None:
    data: dict[str, object] = {"host": "pi", "why": "no room", "jobs": 3, "pages": [1, 2], "none": ""}
    line = line_of("claimed by %s", "bücher", data=data, form=TextLines())
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d error   claimed by bücher host=pi why="no room" jobs=3 pages=\[1, 2\] none=""', line
    )


def test_no_text_from_outside_drives_the_terminal_of_who_watches() -> None:
    try:
        broken()
    except ValueError:
        text = line_of("failed: %s", NASTY, data={"path": NASTY, NASTY: [NASTY]}, error=True, form=TextLines())
    first, *rest = text.splitlines()
    assert first.isprintable()
    assert "\\x1b[31mred\\x1b]0;title\\x07\\t\\r\\nforged" in first
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert "ValueError" in text


@pytest.mark.parametrize(
    ("form", "terminal", "text"),
    [("auto", True, True), ("auto", False, False), ("text", False, True), ("json", True, False)],
)
def test_text_is_for_terminals_unless_somebody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, form: str, terminal: bool, text: bool
) -> None:
    used: list[logging.Handler] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(logging, "basicConfig", lambda *, handlers, **_: used.extend(handlers))
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    levels = {name: logging.getLogger(name).level for name in ("uvicorn.error", "asyncio")}
    start("info", form)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    assert isinstance(used[0].formatter, TextLines) is text


def test_a_request_that_is_none_is_no_line_so_that_nobody_fills_the_disk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    kept = root.handlers[:], root.level, logging.raiseExceptions
    levels = {name: logging.getLogger(name).level for name in ("uvicorn.error", "asyncio")}
    root.handlers = []  # pytest's own would be closed by the new ones
    try:
        start("info")
        for parser in ("httptools", "h11"):
            folder = tmp_path / parser
            folder.mkdir()
            with LiveReceiver(folder, manifest(0), http_parser=parser) as live:
                assert live.raw(b"\x00 no request\r\n\r\n").startswith(b"HTTP/1.1 400")
                upgrade = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
                assert live.raw(upgrade).startswith(b"HTTP/1.1 200")
    finally:
        root.handlers, root.level, logging.raiseExceptions = kept
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert capfd.readouterr().err == ""


def test_the_same_trouble_is_said_once_a_minute_for_each_cause() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    assert [repeats.is_due("storage_full"), repeats.is_due("unavailable"), repeats.is_due("storage_full")] == [
        True,
        True,
        False,
    ]
    now[0] = 59.9
    assert not repeats.is_due("storage_full")
    now[0] = 60.0
    assert [repeats.is_due("storage_full"), repeats.is_due("storage_full")] == [True, False]
