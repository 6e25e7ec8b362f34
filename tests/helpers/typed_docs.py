"""The commands in the pages of the docs, taken apart as a shell does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"(?ms)^```sh\n(.*?)^```$")
_HEREDOC = re.compile(r"(?ms)^([^\n]*<<'?(\w+)'?[^\n]*)\n.*?^\2$")
_ASSIGNED = re.compile(r"[A-Z_][A-Z0-9_]*=")
_BREAKS = {";", "&&", "||", "|", "&", "(", ")"}
_WRAPPED = re.compile(r"\$\(([^()]*)\)")


@dataclass(frozen=True)
class TypedCommand:
    """One command.

    Attributes:
        page: Where it stands, relative to the project.
        words: The program and its arguments, without what it is run by.
    """

    page: str
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """Return it as one line."""
        return shlex.join(self.words)


def pages() -> list[Path]:
    """Return the pages whose commands a person types."""
    return [ROOT / "README.md", ROOT / "docs/tutorial.md", *sorted((ROOT / "docs").glob("*/*.md"))]


def typed_in(text: str, page: str) -> Iterator[TypedCommand]:
    """Yield every command in the blocks of a page, in its order."""
    for block in _FENCE.findall(text):
        whole = _HEREDOC.sub(r"\1", block).replace("\\\n", " ")
        for line in whole.splitlines():
            for words in _commands(line):
                yield TypedCommand(page, tuple(words))


def typed() -> list[TypedCommand]:
    """Return every command of all pages."""
    return [
        command
        for page in pages()
        for command in typed_in(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
    ]


def _commands(line: str) -> Iterator[list[str]]:
    for inner in _WRAPPED.findall(line):
        yield from _commands(inner)
    lexer = shlex.shlex(_WRAPPED.sub("SAID", line), posix=True, punctuation_chars=True)
    lexer.wordchars += "$:,=@%+^!\\{}[]?*"
    words: list[str] = []
    skip = False
    for word in lexer:
        if word in _BREAKS:
            if words:
                yield _bare(words)
            words = []
        elif re.fullmatch(r"[<>]+&?", word):
            if words and words[-1] in ("1", "2"):
                words.pop()
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)
    if words:
        yield _bare(words)


def _bare(words: list[str]) -> list[str]:
    """Return a command without what runs it as somebody else, elsewhere, or with variables."""
    left = list(words)
    while left:
        if _ASSIGNED.match(left[0]) or left[0] in ("do", "then", "else", "sudo", "env", "--", "time", "nice"):
            left = left[1:]
        elif left[0] in ("-u", "-E", "-p", "--uid"):
            left = left[2:]
        elif left[0] == "xargs":
            left = [*(word for word in left[1:] if word != "-r"), "JOB"]
        elif left[0] in ("systemd-run", "runuser") or re.match(r"--(pipe|wait|uid=)", left[0]):
            left = left[1:]
        else:
            break
    return left or words
