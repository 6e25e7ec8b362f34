"""Markdown of a host as text for a terminal, and as a page for a browser.

Reads what model cards use: headings, paragraphs, lists, quotes, tables, code, and marks within a line. Everything else
stays as it was written. Pure. Guarantees that nothing of the text steers a terminal or is markup of the page, and that
no input takes longer than its length allows.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from training.fleet.cli.text import Terminal, clean, table, wrapped

_HEADING: Final = re.compile(r"(#{1,6}) +(\S.*)")
_ITEM: Final = re.compile(r" {0,8}(?:[-*+]|[0-9]{1,3}[.)]) +(\S.*)")
_RULE_CELL: Final = re.compile(r" *:?-+:? *")
_INLINE: Final = re.compile(
    r"\\([\\`*_\[\]<>|#])"
    r"|!?\[([^\[\]]{0,300})\]\(([^()]{0,300})\)"
    r"|\*\*([^*]{1,300})\*\*"
    r"|`([^`]{1,300})`"
)
"""Marks within a line. Each part has a bound, so that no text makes the search slow."""
_FENCE: Final = "```"


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A block of a text.

    Attributes:
        kind: `heading`, `paragraph`, `item`, `quote`, `code` or `table`.
        text: Its text without marks, clean and in one line; empty for a table.
        level: 1 to 6 for a heading.
        rows: Cells of a table, the header first; empty for the others.
    """

    kind: str
    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()


def blocks(text: str) -> list[TextBlock]:
    """Return the blocks of a text in Markdown."""
    return list(_blocks(text.replace("\r\n", "\n").split("\n")))


def _blocks(lines: Sequence[str]) -> Iterator[TextBlock]:
    at = 0
    while at < len(lines):
        kind = _kind(lines[at])
        end = at + 1
        if kind == "code":
            while end < len(lines) and not lines[end].startswith(_FENCE):
                end += 1
            yield from (TextBlock("code", clean(line)) for line in lines[at + 1 : end])
            at = end + 1
            continue
        if kind in ("paragraph", "quote", "table"):
            while end < len(lines) and _kind(lines[end]) == kind:
                end += 1
        if kind:
            yield _block(kind, lines[at:end])
        at = end


def _kind(line: str) -> str:
    """Return what a line begins or goes on with; empty for an empty one."""
    for kind, begins in (("code", _FENCE), ("table", "|"), ("quote", ">")):
        if line.startswith(begins):
            return kind
    if _HEADING.fullmatch(line):
        return "heading"
    if _ITEM.fullmatch(line):
        return "item"
    return "paragraph" if line.strip() else ""


def _block(kind: str, lines: Sequence[str]) -> TextBlock:
    if kind == "table":
        return TextBlock(kind, rows=_rows(lines))
    if kind == "heading" and (found := _HEADING.fullmatch(lines[0])):
        return TextBlock(kind, plain(found[2]), len(found[1]))
    if kind == "item" and (found := _ITEM.fullmatch(lines[0])):
        return TextBlock(kind, plain(found[1]))
    texts = [line.lstrip("> ") if kind == "quote" else line.strip() for line in lines]
    return TextBlock(kind, plain(" ".join(texts)))


def _rows(lines: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return a table's cells, as many in each row as its header has; without a header there is an empty one."""
    found = [re.split(r"(?<!\\)\|", line.strip()[1:].removesuffix("|")) for line in lines]
    kept = [row for number, row in enumerate(found) if number != 1 or not all(map(_RULE_CELL.fullmatch, row))]
    width = len(kept[0])
    return tuple(tuple(plain(cell.strip()) for cell in [*row, *[""] * width][:width]) for row in kept)


def plain(text: str) -> str:
    """Return one line without its marks, and with control characters visible."""
    return clean(_INLINE.sub(_bare, text))


def _bare(found: re.Match[str]) -> str:
    escaped, label, target, bold, code = found.groups()
    if label is None:
        return str(escaped or bold or code)
    return f"{label} ({target})" if target else str(label)


# ---- for a terminal --------------------------------------------------------------------------------------------------


def lines(found: Sequence[TextBlock], terminal: Terminal) -> list[str]:
    """Return blocks as lines that fit a terminal, with an empty one between two of them."""
    shown: list[str] = []
    before = ""
    for block in found:
        if shown and not (block.kind == before and block.kind in ("item", "code")):
            shown.append("")
        shown += _shown(block, terminal)
        before = block.kind
    return shown


def _shown(block: TextBlock, terminal: Terminal) -> list[str]:
    if block.kind == "table":
        return _table(block.rows, terminal)
    if block.kind == "heading":
        under = [] if terminal.colour or block.level > 2 else ["=" if block.level == 1 else "-"]
        width = min(len(block.text), terminal.width or len(block.text))
        return [*wrapped(terminal.head(block.text), terminal.width), *(sign * width for sign in under)]
    begins = {"item": "- ", "quote": "| ", "code": "    "}.get(block.kind, "")
    # A paragraph goes on at the margin, because an indent would make a list of it.
    indent = "" if block.kind == "paragraph" else " " * len(begins)
    return wrapped(begins + block.text, terminal.width, indent)


def _table(cells: Sequence[Sequence[str]], terminal: Terminal) -> list[str]:
    """Return a table; one without a header is a list of names, each with what it says."""
    head, *rows = cells
    if any(head):
        # Columns of one name get different ones, because a table tells them apart by it.
        names = [name + " " * head[:number].count(name) for number, name in enumerate(head)]
        return table(names, rows, terminal)
    width = max((len(row[0]) for row in rows), default=0)
    lines = [f"{row[0]:<{width}}  {'  '.join(row[1:])}" for row in rows]
    return [part for line in lines for part in wrapped(line.rstrip(), terminal.width, " " * (width + 2))]


# ---- for a browser ---------------------------------------------------------------------------------------------------


def page(found: Sequence[TextBlock]) -> str:
    """Return blocks as the inside of a page in HTML."""
    parts: list[str] = []
    before = ""
    for block in found:
        if before == "item" != block.kind:
            parts.append("</ul>")
        if block.kind == "item" != before:
            parts.append("<ul>")
        parts.append(_marked(block))
        before = block.kind
    return "\n".join([*parts, *(["</ul>"] if before == "item" else [])])


def _marked(block: TextBlock) -> str:
    if block.kind == "table":
        head, *rows = block.rows
        cells = [_row(head, "th")] if any(head) else []
        return "<table>" + "".join([*cells, *(_row(row, "td") for row in rows)]) + "</table>"
    names = {"heading": f"h{block.level}", "item": "li", "quote": "blockquote", "code": "pre"}
    name = names.get(block.kind, "p")
    return f"<{name}>{html.escape(block.text)}</{name}>"


def _row(cells: Sequence[str], name: str) -> str:
    return "<tr>" + "".join(f"<{name}>{html.escape(cell)}</{name}>" for cell in cells) + "</tr>"
