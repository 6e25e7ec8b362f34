"""Every small break of a guard: what of the text of a file is replaced by what.

Owns which breaks are tried. In Python: a comparison that takes its limit in or leaves it out, or says the opposite; a
number in a comparison that is one off; a condition that is always true or never; a part of a condition left out; `not`
left out; a refusal left out (`raise` after other statements, a call of something that demands). In SQL: a term of a
condition left out, a comparison that takes its limit in or leaves it out, an assignment left out, the other order, one
more row, one side of `coalesce`; a trigger that refuses nothing.

A break that is found by every test that finds another one is not tried: `or` for `and` where each part is left out in
turn, the opposite of a condition that is tried as always true and as never. Assertions are no guards: they say what
cannot happen. Texts for people are left alone.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.table import FLEET, PART, ROOT

SQL = f"{FLEET}/database/sqlite"
FILES = tuple(
    sorted(
        str(path.relative_to(ROOT))
        for pattern in (
            "queue/*.py",
            "auth/*.py",
            "store/*.py",
            "api/**/*.py",
            "database/sqlite/*.sql",
            "database/sqlite/migrations/*.sql",
        )
        for path in (ROOT / FLEET).glob(pattern)
    )
)
"""What is swept."""


@dataclass(frozen=True)
class Guard:
    """One guard and its break.

    Attributes:
        file: The file, below the folder of the project.
        where: Function, statement, table or trigger.
        line: Number of its line.
        first: Number of the first line of its statement; where a condition spans lines, each of them may be run or not.
        last: Number of the last line of the replaced text.
        start: Where the replaced bytes begin.
        end: Where they end.
        old: The replaced text on one line.
        new: What stands there instead, on one line.
        number: Counts breaks that read alike.
    """

    file: str
    where: str
    line: int
    first: int
    last: int
    start: int
    end: int
    old: str
    new: str
    number: int = 1

    @property
    def name(self) -> str:
        """What it is called in results and in the list of accepted ones; lines that move do not change it."""
        again = f" ({self.number})" if self.number > 1 else ""
        return f"{self.file.removeprefix(FLEET + '/')} {self.where}: {self.old} -> {self.new}{again}"

    def broken(self, text: bytes) -> bytes:
        """Return the file with the break, every other line where it was."""
        lost = text[self.start : self.end].count(b"\n")
        new = "pass" + "\n" * lost if self.new == "pass" else f"({self.new}" + "\n" * lost + ")"
        return text[: self.start] + (new if self.file.endswith(".py") else self.new).encode() + text[self.end :]


def guards(file: str, root: Path = ROOT) -> list[Guard]:
    """Return every break of a file."""
    data = (root / file).read_bytes()
    found = _in_python(file, data) if file.endswith(".py") else _in_sql(file, data.decode())
    seen: Counter[tuple[str, str, str]] = Counter()
    numbered = []
    for guard in sorted(found, key=lambda one: (one.start, one.end, one.new)):
        key = (guard.where, guard.old, guard.new)
        seen[key] += 1
        numbered.append(Guard(**{**vars(guard), "number": seen[key]}))
    return numbered


# ---- Python

_SWAPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OTHER_WAY = {ast.Lt: -1, ast.LtE: 1, ast.Gt: 1, ast.GtE: -1}
"""How far a whole number on the right of a comparison is moved: the way that taking the limit in or out does not."""


def _in_python(file: str, data: bytes) -> Iterator[Guard]:
    lines = [0]
    for line in data.split(b"\n"):
        lines.append(lines[-1] + len(line) + 1)

    def made(node: ast.expr | ast.stmt, where: str, first: int, new: str) -> Guard:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        place = file, where, node.lineno, min(first, node.lineno), node.end_lineno
        return Guard(*place, start, end, _short(ast.unparse(node)), _short(new))

    def walk(node: ast.AST, where: str, first: int = 0, whole: bool = False) -> Iterator[Guard]:
        if isinstance(node, ast.Assert | ast.JoinedStr):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}".lstrip(".")
            children: list[ast.AST] = list(node.body)
        else:
            children = list(ast.iter_child_nodes(node))
            first = node.lineno if isinstance(node, ast.stmt) else first
            if where:
                yield from (made(target, where, first, new) for target, new in _breaks(node, whole))
        for child in children:
            yield from walk(child, where, first, isinstance(node, ast.If | ast.IfExp) and child is node.test)

    yield from walk(ast.parse(data), "")


def _short(text: str) -> str:
    return " ".join(text.split())


def _breaks(node: ast.AST, whole: bool) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield what is replaced by what in one node; `whole` is a condition that is tried as true and false anyway."""
    if isinstance(node, ast.Compare):
        yield from _other_comparisons(node, whole)
    elif isinstance(node, ast.BoolOp):
        yield from _other_parts(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and not whole:
        yield node, ast.unparse(node.operand)
    elif isinstance(node, ast.If | ast.IfExp):
        yield from ((node.test, word) for word in _constants(node.test))
    elif isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        yield node.test, "False"
    elif isinstance(node, ast.comprehension):
        yield from ((test, word) for test in node.ifs for word in _constants(test))
    elif isinstance(node, ast.Expr) and "demand" in _called(node.value):
        yield node, "pass"
    if isinstance(node, ast.If) and len(node.body) > 1:
        yield from ((inner, "pass") for inner in node.body if isinstance(inner, ast.Raise))


def _constants(test: ast.expr) -> tuple[str, ...]:
    if isinstance(test, ast.BoolOp):
        return ("False",) if isinstance(test.op, ast.And) else ("True",)
    return "True", "False"


def _called(node: ast.expr) -> str:
    call = node.value if isinstance(node, ast.Await) else node
    return ast.unparse(call.func) if isinstance(call, ast.Call) else ""


def _other_comparisons(node: ast.Compare, whole: bool) -> Iterator[tuple[ast.expr, str]]:
    for place, operator in enumerate(node.ops):
        ops = [*node.ops[:place], _SWAPS[type(operator)](), *node.ops[place + 1 :]]
        if not whole or type(operator) in _OTHER_WAY:
            yield node, ast.unparse(ast.Compare(node.left, ops, node.comparators))
        right = node.comparators[place]
        if type(operator) in _OTHER_WAY and isinstance(right, ast.Constant) and type(right.value) is int:
            yield right, str(right.value + _OTHER_WAY[type(operator)])


def _other_parts(node: ast.BoolOp) -> Iterator[tuple[ast.expr, str]]:
    conditions = ast.Call | ast.Compare | ast.Attribute | ast.BoolOp | ast.UnaryOp
    if isinstance(node.op, ast.Or) and not all(isinstance(value, conditions) for value in node.values):
        return  # "this or that": a default and no condition
    for place in range(len(node.values)):
        rest = [*node.values[:place], *node.values[place + 1 :]]
        yield node, ast.unparse(rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest))


# ---- SQL

_TOKEN = re.compile(r"'(?:[^']|'')*'|[A-Za-z_:][\w:.]*|\d+|<=|>=|<>|\|\||--[^\n]*|\S")
_OPENS = {"WHERE", "HAVING", "WHEN", "CHECK", "ON"}
_CLOSES = {"GROUP", "ORDER", "LIMIT", "RETURNING", "HAVING", "BEGIN", "THEN", "WHERE", "JOIN", "LEFT", "CROSS", ";"}
_LIMITS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}


@dataclass(frozen=True)
class _Token:
    word: str
    start: int
    end: int
    depth: int


def _tokens(text: str) -> list[_Token]:
    found, depth = [], 0
    for match in _TOKEN.finditer(text):
        if match[0].startswith("--"):
            continue
        depth -= match[0] == ")"
        found.append(_Token(match[0], match.start(), match.end(), depth))
        depth += match[0] == "("
    return found


def _in_sql(file: str, text: str) -> Iterator[Guard]:
    marks = [(match.start(), match[1] or match[3] or f"migration {match[2]}") for match in PART.finditer(text)]
    ends = [*(start for start, _ in marks[1:]), len(text)][: len(marks)]  # a file of bare ALTERs has no part
    for (start, where), end in zip(marks, ends, strict=True):
        part = text[start:end]
        for first, last, new in _breaks_of(part, _tokens(part)):
            old, line = _short(part[first:last]), text.count("\n", 0, start + first) + 1
            begin = len(text[: start + first].encode())
            stop = begin + len(part[first:last].encode())
            yield Guard(file, where, line, line, line, begin, stop, old, _short(new))


def _breaks_of(text: str, tokens: list[_Token]) -> Iterator[tuple[int, int, str]]:
    index = text.startswith("CREATE INDEX")  # which rows an index holds decides how fast it is, and nothing else
    for place, token in enumerate(tokens):
        word, following = token.word.upper(), tokens[place + 1 : place + 2]
        if word in _OPENS and not index and _is_condition(text, word, following):
            yield from _terms(text, _until(tokens, place + 1, token.depth, _CLOSES))
        elif word == "SET" or (word in ("BY", "COALESCE") and following):
            yield from _lists(text, tokens, place)
        elif word == "LIMIT" and following[0].word.isdigit():
            yield following[0].start, following[0].end, str(int(following[0].word) + 1)
        elif word in _LIMITS and not index:
            start, end = tokens[place - 1].start, following[0].end
            yield start, end, f"{text[start : token.start]}{_LIMITS[word]}{text[token.end : end]}"
        elif word == "RAISE" and "WHEN" not in text:
            yield token.start, text.index(")", token.start) + 1, "1"


def _is_condition(text: str, word: str, following: list[_Token]) -> bool:
    if word == "ON":
        return text.startswith("-- name") and following[0].word.upper() != "CONFLICT"
    return bool(following)


def _until(tokens: list[_Token], place: int, depth: int, closes: set[str]) -> list[_Token]:
    """Return the tokens of a clause: up to one that closes it on its own level, or the end of that level."""
    found = []
    for token in tokens[place:]:
        if token.depth < depth or (token.depth == depth and token.word.upper() in closes):
            break
        if found and found[0].word == "(" and token.word == ")" and token.depth == depth and _bare(tokens, place):
            return found[1:]
        found.append(token)
    return found


def _bare(tokens: list[_Token], place: int) -> bool:
    return tokens[place - 1].word.upper() == "CHECK"


def _terms(text: str, tokens: list[_Token], neutral: str = "1") -> Iterator[tuple[int, int, str]]:
    """Yield a condition without each of its terms."""
    for word, without in (("OR", "0"), ("AND", "1")):
        parts = _split(tokens, word)
        if len(parts) > 1:
            for part in parts:
                yield from _terms(text, part, without)
            return
    if not tokens:
        return
    start, end = tokens[0].start, tokens[-1].end
    yield start, end, neutral
    inner = tokens[1:-1] if tokens[0].word == "(" and _one_pair(tokens) else []
    if any(len(_split(inner, word)) > 1 for word in ("OR", "AND")):
        yield from _terms(text, inner)


def _one_pair(tokens: list[_Token]) -> bool:
    depth = tokens[0].depth
    return tokens[-1].depth == depth and all(token.depth > depth for token in tokens[1:-1])


def _split(tokens: list[_Token], word: str) -> list[list[_Token]]:
    """Split a condition at AND or OR on its own level; the AND of BETWEEN joins no terms."""
    parts: list[list[_Token]] = [[]]
    if not tokens:
        return parts
    between = False
    for token in tokens:
        here = token.depth == tokens[0].depth
        between = between or (here and token.word.upper() == "BETWEEN")
        if here and token.word.upper() == word and not (between and word == "AND"):
            parts.append([])
        else:
            parts[-1].append(token)
            between = between and not (here and token.word.upper() == "AND")
    return parts


def _lists(text: str, tokens: list[_Token], place: int) -> Iterator[tuple[int, int, str]]:
    """Yield what can be left out of a list: an assignment, a side of `coalesce`; and the other order."""
    word, depth = tokens[place].word.upper(), tokens[place].depth
    if word == "COALESCE":
        inside = _until(tokens, place + 2, depth + 1, set())
        yield from (
            (tokens[place].start, inside[-1].end + 1, text[p[0].start : p[-1].end]) for p in _split(inside, ",")
        )
        return
    before = tokens[place - 1].word.upper()
    if word == "BY" and before != "ORDER":
        return
    for part in _split(_until(tokens, place + 1, depth, _CLOSES), ","):
        start, end, written = part[0].start, part[-1].end, text[part[0].start : part[-1].end]
        if word == "BY":
            yield start, end, written.removesuffix(" DESC") if written.endswith(" DESC") else f"{written} DESC"
        else:
            yield start, end, f"{part[0].word} = {part[0].word}"
