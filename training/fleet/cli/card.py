"""The commands `card` and `open`: a result as people look at it, its model card and its figures.

Guarantees that what a host has written runs nowhere: on a terminal control characters are visible, and the page that
`open` makes holds the card as text and the figures as pictures, with every script and every address outside forbidden.
"""

from __future__ import annotations

import base64
import contextlib
import html
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from training.fleet.cli import markdown
from training.fleet.cli.commands import Call
from training.fleet.cli.getting import LocalFile, ResultFile, bring, chosen
from training.fleet.cli.model_cache import ModelCache
from training.fleet.cli.text import clean
from training.fleet.cli.wanted import ReadyResult, wanted
from training.fleet.files import replace_shared
from training.fleet.model.errors import ConfigurationError
from training.fleet.model.parts import media_type

CARD: Final = "model_card.md"
PAGE: Final = "result.html"
OPENING_S: Final = 3.0
"""How long the desktop may take to say that it cannot open a page."""
_HEAD: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<style>
body { max-width: 60em; margin: 2em auto; padding: 0 1em; font-family: sans-serif; }
table { border-collapse: collapse; } td, th { padding: 0.2em 0.6em; border: 1px solid #bbb; text-align: left; }
img { max-width: 100%; }
</style>
"""


def card(call: Call) -> int:
    """Show the model card: laid out for a terminal, and as Markdown in a pipe."""
    file = _card(chosen(wanted(call), ("card",)))
    text = call.remote.small_file(file.at, file.sha256).decode("utf-8", "replace")
    if call.console.as_json:
        call.console.document({"name": file.name, "sha256": file.sha256, "text": text})
    elif call.console.terminal.width is None:
        call.console.lines([clean(line) for line in text.removesuffix("\n").split("\n")], whole=True)
    else:
        call.console.lines(markdown.lines(markdown.blocks(text), call.console.terminal), whole=True)
    return 0


def _card(files: Sequence[ResultFile]) -> ResultFile:
    """Return the card among texts, by the name that our trainer gives it."""
    return next((file for file in files if file.name == CARD), files[0])


def open_result(call: Call) -> int:
    """Fetch card and figures, make a page of them, and open it where there is a desktop."""
    result = wanted(call)
    cache = ModelCache.of_user(os.environ)
    folder: Path = call.options.output or cache.entry(result.artifact)
    brought = bring(call, chosen(result, ("card", "figures", "metrics")), folder, force=call.options.output is None)
    page = folder / PAGE
    try:
        replace_shared(page, _page(result, brought).encode())
    except OSError as fault:
        raise ConfigurationError(f"cannot write {page} ({fault.strerror})", "give another folder with -o") from None
    if call.options.output is None:
        cache.shrink(folder)
    opened = _opened(page)
    if call.console.as_json:
        call.console.document({"page": str(page), "files": [str(file.path) for file in brought], "opened": opened})
        return 0
    shown = [clean(str(path)) for path in (page, *(file.path for file in brought))]
    call.console.lines(["opened:" if opened else "there is no desktop here; look at:", *shown], whole=True)
    return 0


def _page(result: ReadyResult, brought: Sequence[LocalFile]) -> str:
    """Return the page. The figures are part of it, so that it can be sent to somebody as one file."""
    title = html.escape(clean(f"{result.job.model} {result.job.mode} {result.job.split} {result.short_id}"))
    texts = [file.path.read_text("utf-8", "replace") for file in brought if file.kind == "card"]
    figures = [_figure(file.path) for file in brought if file.kind == "figures"]
    cards = [markdown.page(markdown.blocks(text)) for text in texts]
    return "\n".join([f"{_HEAD}<title>{title}</title></head><body>", *cards, *figures, "</body></html>\n"])


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.name)
    return f'<h2>{name}</h2>\n<img alt="{name}" src="data:{media_type(path.name)};base64,{data}">'


def _opened(page: Path) -> bool:
    """Open a page with the program of the desktop for it; return False where there is none."""
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            os.startfile(page)  # noqa: S606 - a page that this program has made
            return True
        return False
    command = _opener(os.environ)
    if command is None:
        return False
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CIS490_")}
    quiet = subprocess.DEVNULL
    try:
        # The path is one that this program has made or that the person who types has named.
        process = subprocess.Popen(  # noqa: S603
            [command, str(page.absolute())],
            env=environ,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        return process.wait(OPENING_S) == 0
    except subprocess.TimeoutExpired:
        return True  # some desktops stay as long as the page is open
    except OSError:
        return False


def _opener(environ: Mapping[str, str]) -> str | None:
    """Return the program that opens files, None without a desktop."""
    if sys.platform == "darwin":
        return shutil.which("open")
    desktop = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    return shutil.which("xdg-open") if desktop else None
