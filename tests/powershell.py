"""Walks a PowerShell script by its syntax tree, as far as this project's installer for Windows goes.

PowerShell itself does not run on the machines that test the project. This is the tests' own reading of it, so it
shows that the script does what its authors mean, not that PowerShell agrees. Whatever it does not know, a command, an
operator or a kind of statement, is an `UnknownError`; nothing is passed over.

The parts that follow PowerShell closely, because scripts get them wrong: a function returns everything that its
statements leave unclaimed; none, one or many of those arrive as nothing, one value or a list; names are looked up in
the callers' scopes; strict mode refuses unset variables and `Count` of one value; texts are compared without case; a
list given to a program becomes several arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

PARSER = Parser(Language(tree_sitter_powershell.language()))
SWITCHES = {"AtStartup", "File", "Force", "Once", "Parent", "Raw", "Recurse", "SimpleMatch", "AllowStartIfOnBatteries"}
SWITCHES |= {"DontStopIfGoingOnBatteries", "StartWhenAvailable"}
"""Parameters of cmdlets that take no value."""
FALSE = (None, False, 0, "")


class UnknownError(AssertionError):
    """The script does something that the tests do not know."""


class Thrown(Exception):  # noqa: N818 - it is the script's error, not the tests'
    """An error that ends the script unless it is caught; `kind` is its .NET type."""

    def __init__(self, message: str, kind: str = "Exception") -> None:
        super().__init__(message)
        self.kind = kind
        self.line = 0


class Exit(Exception):  # noqa: N818 - as `exit` in the script
    """The script ended with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Return(Exception):  # noqa: N818
    pass


class _Continue(Exception):  # noqa: N818
    pass


class _Break(Exception):  # noqa: N818
    pass


class Machine(Protocol):
    """What a script runs on."""

    environ: dict[str, str]

    def cmdlet(self, name: str, given: dict[str, Any], plain: list[Any], piped: list[Any]) -> list[Any]:
        """Run a cmdlet and return what it puts out."""

    def program(self, path: str, words: list[str]) -> tuple[int, list[str]]:
        """Run a program and return its status and the lines it printed."""

    def static(self, kind: str, member: str) -> Any:
        """Return a static member of a .NET type."""

    def show(self, line: str) -> None:
        """Take a line for the screen."""


def every(node: Node, *kinds: str) -> list[Node]:
    """Return the nodes of some kinds, in the script's order."""
    own = [node] if node.type in kinds else []
    return own + [found for child in node.children for found in every(child, *kinds)]


def text(node: Node | None) -> str:
    return "" if node is None or node.text is None else node.text.decode("utf-8")


def parts(node: Node) -> list[Node]:
    """Return what a node is made of, without comments, brackets and blanks."""
    return [one for one in node.children if one.is_named and one.type not in ("comment", "command_argument_sep")]


def truth(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) > 1 or (len(value) == 1 and truth(value[0]))
    return value not in FALSE


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(as_text(one) for one in value) if isinstance(value, list) else str(value)


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def collapsed(out: list[Any]) -> Any:
    """Return what a caller sees of what was put out."""
    return None if not out else out[0] if len(out) == 1 else out


def folded(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


def matcher(pattern: str) -> re.Pattern[str]:
    """Return a pattern of -like as a regular expression."""
    known = "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern)
    return re.compile(known, re.IGNORECASE | re.DOTALL)


def _same(left: Any, right: Any) -> Any:
    if isinstance(left, list):
        return [one for one in left if folded(one) == folded(right)]
    return folded(left) == folded(right)


def _other(left: Any, right: Any) -> Any:
    if isinstance(left, list):
        return [one for one in left if folded(one) != folded(right)]
    return folded(left) != folded(right)


def _replaced(left: Any, right: Any) -> Any:
    pattern, new = right
    return re.sub(pattern, lambda _: new, left, flags=re.IGNORECASE)


def _range(left: int, right: int) -> list[int]:
    return list(range(left, right + 1))


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "-eq": _same,
    "-ne": _other,
    "-gt": lambda left, right: left > right,
    "-lt": lambda left, right: left < right,
    "-like": lambda left, right: matcher(right).fullmatch(left) is not None,
    "-match": lambda left, right: re.search(right, left, re.IGNORECASE) is not None,
    "-notmatch": lambda left, right: re.search(right, left, re.IGNORECASE) is None,
    "-replace": _replaced,
    "-split": lambda left, right: re.split(right, left),
    "-join": lambda left, right: right.join(as_text(one) for one in as_list(left)),
    "+": lambda left, right: [*left, *as_list(right)] if isinstance(left, list) else left + right,
    "..": _range,
}
CASTS: dict[str, Callable[[Any], Any]] = {
    "string": as_text,
    "string[]": lambda value: [as_text(one) for one in as_list(value)],
    "int": int,
    "switch": truth,
}
NONE_GIVEN: dict[str, Any] = {"string": "", "string[]": [], "int": 0, "switch": False}


class Walk:
    """A script on a machine.

    Args:
        source: The script.
        machine: What it runs on.
        folder: Where the script lies, as the script names it.
    """

    def __init__(self, source: bytes, machine: Machine, folder: str) -> None:
        self.tree = PARSER.parse(source).root_node
        assert not self.tree.has_error
        self.machine = machine
        self.functions = {text(parts(one)[0]).lower(): one for one in every(self.tree, "function_statement")}
        self.scopes: list[dict[str, Any]] = [{"psscriptroot": folder, "lastexitcode": None}]

    def run(self, given: Mapping[str, Any]) -> int:
        """Run the script, or the lines of a session, with parameters and return its exit status."""
        out: list[Any] = []
        try:
            for part in parts(self.tree):
                if part.type == "param_block":
                    self._bind(part, dict(given), [])
                else:
                    self._all(part, out)
        except Exit as ended:
            return ended.status
        for line in out:
            self.machine.show(as_text(line))
        return 0

    # ---- statements

    def _all(self, block: Node, out: list[Any]) -> None:
        for statement in parts(block):
            if statement.type in ("statement_list", "script_block_body", "script_block"):
                self._all(statement, out)
            else:
                self._statement(statement, out)

    def _statement(self, node: Node, out: list[Any]) -> None:
        known: dict[str, Callable[[Node, list[Any]], None]] = {
            "pipeline": self._pipeline,
            "flow_control_statement": self._flow,
            "if_statement": self._if,
            "foreach_statement": self._foreach,
            "for_statement": self._for,
            "try_statement": self._try,
            "function_statement": lambda _node, _out: None,
        }
        if node.type not in known:
            raise UnknownError(f"a statement of the kind {node.type}: {text(node)}")
        try:
            known[node.type](node, out)
        except Thrown as error:
            error.line = error.line or node.start_point[0] + 1
            raise

    def _pipeline(self, node: Node, out: list[Any]) -> None:
        [chain] = parts(node)
        if chain.type == "assignment_expression":
            self._assign(*parts(chain))
            return
        stages, piped = parts(chain), []
        for number, stage in enumerate(stages):
            piped = self._stage(stage, piped, last=number == len(stages) - 1)
        out += piped

    def _stage(self, node: Node, piped: list[Any], *, last: bool) -> list[Any]:
        if node.type == "command":
            return self._command(node, piped, last=last)
        inner = self._inner(node)
        value = self.value(inner)
        silent = inner.type == "post_increment_expression" or text(inner).startswith("[void]")
        return [] if silent else as_list(value)

    def _assign(self, left: Node, operator: Node, right: Node) -> None:
        value = self._of(right)
        name = text(left).lstrip("$").lower()
        if text(operator) == "+=":
            value = OPERATORS["+"](self._named(name), value)
        if name.startswith("env:"):
            self.machine.environ[text(left)[5:]] = as_text(value)
        else:
            self.scopes[-1][name] = value

    def _flow(self, node: Node, out: list[Any]) -> None:
        word, values = text(node.children[0]), parts(node)
        found: list[Any] = []
        for value in values:
            self._pipeline(value, found)
        if word == "exit":
            raise Exit(int(collapsed(found)))
        out += found
        raise {"return": _Return, "continue": _Continue, "break": _Break}[word]

    def _if(self, node: Node, out: list[Any]) -> None:
        condition, block, *others = parts(node)
        if truth(self._of(condition)):
            self._all(block, out)
            return
        for other in others:
            for clause in parts(other) if other.type == "elseif_clauses" else [other]:
                *asked, then = parts(clause)
                if all(truth(self._of(one)) for one in asked):
                    self._all(then, out)
                    return

    def _foreach(self, node: Node, out: list[Any]) -> None:
        variable, values, block = parts(node)
        for value in as_list(self._of(values)):
            self.scopes[-1][text(variable).lstrip("$").lower()] = value
            try:
                self._all(block, out)
            except _Continue:
                continue

    def _for(self, node: Node, out: list[Any]) -> None:
        first, condition, step, block = parts(node)
        self._pipeline(parts(first)[0], [])
        try:
            while truth(self._of(parts(condition)[0])):
                self._all(block, out)
                self._pipeline(parts(step)[0], [])
        except _Break:
            return

    def _try(self, node: Node, out: list[Any]) -> None:
        block, *clauses = parts(node)
        last = [one for one in clauses if one.type == "finally_clause"]
        catches = [one for found in clauses if found.type == "catch_clauses" for one in parts(found)]
        try:
            self._all(block, out)
        except Thrown as error:
            caught = next((one for one in catches if _catches(one, error)), None)
            if caught is None:
                raise
            self.scopes.append({"_": ErrorRecord(error)})
            try:
                self._all(parts(caught)[-1], out)
            finally:
                self.scopes.pop()
        finally:
            for clause in last:
                self._all(parts(clause)[0], out)

    # ---- commands

    def _command(self, node: Node, piped: list[Any], *, last: bool) -> list[Any]:
        name, *elements = parts(node)
        if name.type == "command_invokation_operator":
            return self._program(elements[0], elements[1:], shown=last)
        given, plain = self._arguments(elements)
        own = self.functions.get(text(name).lower())
        if own is not None:
            return self._function(own, given, plain)
        if text(name) in ("ForEach-Object", "Where-Object"):
            return self._each(plain[0], piped, keep=text(name) == "Where-Object")
        if text(name) == "Out-Host":
            for line in piped:
                self.machine.show(as_text(line))
            return []
        return self.machine.cmdlet(text(name), given, plain, piped)

    def _program(self, name: Node, elements: list[Node], *, shown: bool) -> list[Any]:
        bare = ("generic_token", "command_parameter")
        found = [part for element in elements for part in parts(element)]
        values = [text(one) if one.type in bare else self.value(self._inner(one)) for one in found]
        words = [as_text(word) for value in values for word in as_list(value)]
        status, lines = self.machine.program(as_text(self._path(name)), words)
        self.scopes[0]["lastexitcode"] = status
        return list(lines)

    def _path(self, node: Node) -> Any:
        """Return the value after the call operator, which the grammar takes for a word of its own."""
        found = every(node, "variable", "string_literal")[0]
        value = self.value(self._inner(found))
        for member in every(node, "path_command_name_token"):
            value = self._member(value, text(member).lstrip("."))
        return value

    def _arguments(self, elements: list[Node]) -> tuple[dict[str, Any], list[Any]]:
        given: dict[str, Any] = {}
        plain: list[Any] = []
        waiting = ""
        for one in [part for element in elements for part in parts(element)]:
            if one.type == "command_parameter":
                waiting = text(one).lstrip("-").rstrip(":")
                given[waiting] = True
                waiting = "" if waiting in SWITCHES else waiting
                continue
            value = text(one) if one.type == "generic_token" else self.value(self._inner(one))
            if waiting:
                given[waiting] = value
            else:
                plain.append(value)
            waiting = ""
        return given, plain

    def _function(self, node: Node, given: dict[str, Any], plain: list[Any]) -> list[Any]:
        out: list[Any] = []
        block = parts(parts(node)[1])
        self.scopes.append({})
        try:
            if block[0].type == "param_block":
                self._bind(block[0], given, plain)
            elif given or plain:
                raise UnknownError(f"{text(parts(node)[0])} takes no parameters, and got {given} {plain}")
            self._all(block[-1], out)
        except _Return:
            pass
        finally:
            self.scopes.pop()
        return out

    def _bind(self, block: Node, given: dict[str, Any], plain: list[Any]) -> None:
        rest, known = list(plain), {name.lower(): value for name, value in given.items()}
        for parameter in every(block, "script_parameter"):
            name = text(every(parameter, "variable")[0]).lstrip("$").lower()
            kind = text(every(parameter, "type_literal")[-1]).strip("[]").lower()
            kind = "string[]" if "string[]" in text(parameter).lower() else kind
            value = known.pop(name) if name in known else rest.pop(0) if rest else NONE_GIVEN[kind]
            self.scopes[-1][name] = CASTS[kind](value)
        if known or rest:
            raise UnknownError(f"more parameters than are declared: {known} {rest}")

    def _each(self, block: Node, piped: list[Any], *, keep: bool) -> list[Any]:
        found: list[Any] = []
        for value in piped:
            out: list[Any] = []
            self.scopes.append({"_": value})
            try:
                self._all(block, out)
            finally:
                self.scopes.pop()
            found += ([value] if truth(collapsed(out)) else []) if keep else out
        return found

    # ---- values

    def _inner(self, node: Node) -> Node:
        """Go down to what a row of nodes with one child each stands for."""
        while len(node.children) == 1 and node.type not in ("variable", "command", "string_literal"):
            if node.type in LEAVES:
                break
            node = node.children[0]
        return node

    def _of(self, pipeline: Node) -> Any:
        """Return what an assignment or a bracket sees: an expression as it is, of a command what it puts out."""
        stages = parts(parts(pipeline)[0])
        if parts(pipeline)[0].type == "pipeline_chain" and len(stages) == 1 and stages[0].type != "command":
            return self.value(stages[0])
        out: list[Any] = []
        self._pipeline(pipeline, out)
        return collapsed(out)

    def value(self, node: Node) -> Any:
        """Return the value of an expression."""
        node = self._inner(node)
        known = VALUES.get(node.type)
        if known is None:
            raise UnknownError(f"an expression of the kind {node.type}: {text(node)}")
        return known(self, node)

    def _binary(self, node: Node) -> Any:
        left, *between, right = node.children
        if not between:
            raise UnknownError(text(node))
        operator = text(between[-1]).lower()
        if operator in ("-and", "-or"):
            first = truth(self.value(left))
            return truth(self.value(right)) if first == (operator == "-and") else first
        if operator not in OPERATORS:
            raise UnknownError(f"the operator {operator}: {text(node)}")
        return OPERATORS[operator](self.value(left), self.value(right))

    def _unary(self, node: Node) -> Any:
        inner = parts(node)[-1]
        if inner.type == "cast_expression":
            return self.value(inner)
        if not text(node).startswith("-not"):
            raise UnknownError(text(node))
        return not truth(self.value(inner))

    def _cast(self, node: Node) -> Any:
        kind, inner = parts(node)
        if text(kind) != "[void]":
            raise UnknownError(text(node))
        self.value(inner)

    def _step(self, node: Node) -> Any:
        name = text(parts(node)[0]).lstrip("$").lower()
        self.scopes[-1][name] = self._named(name) + 1

    def _items(self, node: Node) -> list[Any]:
        return [self.value(one) for one in parts(node)]

    def _array(self, node: Node) -> list[Any]:
        out: list[Any] = []
        self._all(node, out)
        return out

    def _variable(self, node: Node) -> Any:
        return self._named(text(node).lstrip("$").strip("{}"))

    def _named(self, name: str) -> Any:
        if name.lower().startswith("env:"):
            return self.machine.environ.get(name[4:])
        fixed = {"null": None, "true": True, "false": False}
        if name.lower() in fixed:
            return fixed[name.lower()]
        for scope in reversed(self.scopes):
            if name.lower() in scope:
                return scope[name.lower()]
        raise Thrown(f"The variable '${name}' cannot be retrieved because it has not been set.", "RuntimeException")

    def _string(self, node: Node) -> str:
        inner = node.children[0] if node.type == "string_literal" else node
        if inner.type == "verbatim_string_characters":
            return text(inner)[1:-1].replace("''", "'")
        if inner.type != "expandable_string_literal":
            raise UnknownError(f"a text of the kind {inner.type}")
        return self._expanded(inner)

    def _expanded(self, node: Node) -> str:
        raw, at, said = node.text or b"", 1, ""
        for one in parts(node):
            start, end = one.start_byte - node.start_byte, one.end_byte - node.start_byte
            said += _unescaped(raw[at:start].decode("utf-8")) + as_text(self.value(one))
            at = end
        return said + _unescaped(raw[at:-1].decode("utf-8"))

    def _access(self, node: Node) -> Any:
        first, last = parts(node)
        if first.type == "type_literal":
            return self.machine.static(text(first).strip("[]"), text(last))
        return self._member(self.value(first), text(last))

    def _member(self, value: Any, name: str) -> Any:
        if name == "Count":
            if not isinstance(value, list):
                raise Thrown("The property 'Count' cannot be found on this object.", "RuntimeException")
            return len(value)
        if isinstance(value, str) and name in ("Trim",):
            return value.strip
        if value is None or isinstance(value, str | int | list) or not hasattr(value, name):
            raise Thrown(f"The property '{name}' cannot be found on this object: {value!r}", "RuntimeException")
        return getattr(value, name)

    def _call(self, node: Node) -> Any:
        first, name, given = parts(node)
        if first.type == "type_literal":
            called = self.machine.static(text(first).strip("[]"), text(name))
        else:
            called = self._member(self.value(first), text(name))
        return called(*[self.value(one) for found in parts(given) for one in parts(found)])

    def _element(self, node: Node) -> Any:
        value, index = (self.value(one) for one in parts(node))
        if max(as_list(index)) >= len(value):
            raise Thrown("Index was outside the bounds of the array.", "IndexOutOfRangeException")
        return [value[one] for one in index] if isinstance(index, list) else value[index]

    def _block(self, node: Node) -> Any:
        return parts(node)[0]


class ErrorRecord:
    """What `$_` is where an error was caught."""

    def __init__(self, error: Thrown) -> None:
        self._error = error
        self.InvocationInfo = self
        self.ScriptLineNumber = error.line

    def __str__(self) -> str:
        return str(self._error)


KINDS = {"IO.FileNotFoundException": "IO.IOException", "IO.DirectoryNotFoundException": "IO.IOException"}
"""Type of an error to the type that it is one of."""


def _catches(clause: Node, error: Thrown) -> bool:
    wanted = [text(one).strip("[]") for one in every(parts(clause)[0], "type_literal")]
    typed = parts(clause)[0].type == "catch_type_list"
    return not typed or error.kind in wanted or KINDS.get(error.kind) in wanted


def _unescaped(raw: str) -> str:
    return re.sub(r"`(.)", r"\1", raw)


_BINARY = ("logical_expression", "bitwise_expression", "comparison_expression", "additive_expression")
_ARGUMENT = ("logical_argument_expression", "comparison_argument_expression", "additive_argument_expression")
VALUES: dict[str, Callable[[Walk, Node], Any]] = {
    **dict.fromkeys((*_BINARY, *_ARGUMENT, "range_expression"), Walk._binary),
    "expression_with_unary_operator": Walk._unary,
    "cast_expression": Walk._cast,
    "post_increment_expression": Walk._step,
    "array_literal_expression": Walk._items,
    "array_expression": Walk._array,
    "parenthesized_expression": lambda walk, node: walk._of(parts(node)[0]),
    "sub_expression": lambda walk, node: collapsed(walk._array(node)),
    "variable": Walk._variable,
    "string_literal": Walk._string,
    "decimal_integer_literal": lambda _walk, node: int(text(node)),
    "member_access": Walk._access,
    "invokation_expression": Walk._call,
    "element_access": Walk._element,
    "script_block_expression": Walk._block,
}
LEAVES = {"decimal_integer_literal", "array_expression", "parenthesized_expression", "script_block_expression"}


def legacy_line(words: list[str]) -> str:
    """Return the command line that Windows PowerShell 5.1 makes of words: quoted for blanks alone, nothing escaped."""
    return " ".join(f'"{word}"' if re.search(r"\s", word) else word for word in words if word)


def split_line(line: str) -> list[str]:
    """Return the words that a program sees in its command line.

    Source: Microsoft, Parsing C command-line arguments.
    """
    found, word, quoted, begun = [], "", False, False
    for slashes, mark in re.findall(r'(\\*)("|[^\\]|$)', line):
        if mark == '"':
            word += "\\" * (len(slashes) // 2)
            begun = True
            if len(slashes) % 2:
                word += mark
            else:
                quoted = not quoted
        elif mark.isspace() and not quoted:
            word += slashes
            if begun or word:
                found.append(word)
            word, begun = "", False
        else:
            word += slashes + mark
    return [*found, word] if begun or word else found
