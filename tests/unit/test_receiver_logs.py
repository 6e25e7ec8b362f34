"""Claims about the lines of the receiver's log."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from live_receiver import LiveReceiver, manifest

from training.fleet.receiver.logs import JsonLines, start

NASTY = "\x1b[31mred\x1b]0;title\x07\t\r\nforged: line\x7f\u202e\u2028\x9b2J\ud800é"


def line_of(message: str, *arguments: object, data: dict[str, object] | None = None, error: bool = False) -> str:
    info = sys.exc_info() if error else None
    record = logging.LogRecord("training.fleet.api.app", logging.ERROR, "", 0, message, arguments, info)
    if data is not None:
        record.data = data
    return JsonLines().format(record)


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
