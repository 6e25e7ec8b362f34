"""What a trainer declares: its models and hyper-parameters, and the check of a job against them.

Owns reading a declaration, a JSON Schema document as `run.py --describe` prints it, and asking a trainer for it.
Guarantees that a trainer which hangs, prints without end or dies is a clear error within its time limit. Of JSON
Schema it reads `type`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `enum`, `required` and
`additionalProperties`; the trainer itself checks the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from training.fleet.manifest.findings import nearest, short
from training.fleet.model.errors import TrainerError
from training.fleet.model.jobs import Headline, Trainer
from training.trainer import hyper

MAX_DECLARATION_BYTES: Final = 4 * 2**20
_CONTRACT: Final = "see docs/reference/manifest.md"
MAX_METRIC_CHARS: Final = 200
_MOST_OF_A_LINE: Final = 300
_HEADLINE: Final = '{"name": the name of a metric, "direction": "higher" or "lower"}'
_NEEDED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "USERPROFILE")
_ROOT = Path(__file__).resolve().parents[3]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a table",
}
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("from {}", lambda value, bound: value >= bound),
    "exclusiveMinimum": ("above {}", lambda value, bound: value > bound),
    "maximum": ("to {}", lambda value, bound: value <= bound),
    "exclusiveMaximum": ("below {}", lambda value, bound: value < bound),
}

Trouble = tuple[str, str, str, str]
"""Key, found, expected, remedy."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One hyper-parameter, ready to check values.

    Attributes:
        expected: What a value must be, for people.
        kinds: Tests of its types, one of which must hold; empty is any type.
        values: The only values allowed, None when there are others.
        bounds: Tests of a number with their bounds.
    """

    expected: str
    kinds: tuple[Callable[[Any], bool], ...]
    values: tuple[Any, ...] | None
    bounds: tuple[tuple[Callable[[Any, Any], bool], float], ...]

    def fits(self, value: Any) -> bool:
        """Return True if a value is allowed."""
        if self.kinds and not any(kind(value) for kind in self.kinds):
            return False
        if self.values is not None and not any(type(item) is type(value) and item == value for item in self.values):
            return False
        if type(value) not in (int, float):
            return True
        return all(test(value, bound) for test, bound in self.bounds)


@dataclass(frozen=True, slots=True)
class Model:
    """The hyper-parameters of one model.

    Attributes:
        hyper: By name.
        required: Names without which a job is not complete.
        open: Further names are allowed.
    """

    hyper: Mapping[str, Parameter]
    required: tuple[str, ...]
    open: bool


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declaration, ready to check jobs.

    Attributes:
        models: What may stand in `hyper`, by model.
        modes: Modes the trainer knows, None when it does not say.
        splits: Splits the trainer knows, None when it does not say.
        needs_dataset: Jobs that name no dataset need the host's default one.
        contract: "sha256:<hex>" of the document.
        headline: The figure by which results are compared, None when the trainer does not say.
    """

    models: Mapping[str, Model]
    modes: tuple[str, ...] | None
    splits: tuple[str, ...] | None
    needs_dataset: bool
    contract: str
    headline: Headline | None = None

    def troubles(self, model: str, values: Mapping[str, Any]) -> Iterator[Trouble]:
        """Yield what is wrong with the hyper-parameters of a declared model.

        Args:
            model: A key of `models`.
            values: The job's `hyper` table.
        """
        declared = self.models[model]
        for key, value in values.items():
            hyper_parameter = declared.hyper.get(key)
            if hyper_parameter is None:
                if not declared.open:
                    yield key, f"the key {short(key)}", f"a hyper-parameter of {model}", nearest(key, declared.hyper)
            elif not hyper_parameter.fits(value):
                yield key, short(value), hyper_parameter.expected, ""
        for key in declared.required:
            if key not in values:
                expected = declared.hyper[key].expected if key in declared.hyper else "a value"
                yield key, "nothing", expected, f"{model} needs it"


def compiled(document: Any) -> Declaration:
    """Return a declaration ready to check jobs.

    Args:
        document: The decoded JSON Schema document.

    Raises:
        TrainerError: It is not of the documented form.
    """
    models = document.get("$defs") if isinstance(document, dict) else None
    if not isinstance(models, dict) or not models:
        raise TrainerError('the declaration has no "$defs"', _CONTRACT, expected="one schema per model in it")
    try:
        contract = hyper.contract_digest(document)
    except ValueError:
        raise TrainerError("the declaration holds NaN or an infinity", expected="plain JSON") from None
    return Declaration(
        models={name: _model(f"$defs.{name}", schema) for name, schema in models.items()},
        modes=_enum(document, "mode"),
        splits=_enum(document, "split_recipe"),
        needs_dataset=document.get("x-dataset") == "required",
        contract=contract,
        headline=_headline(document),
    )


def declaration_of(
    command: Sequence[str], schema_path: str | None, base: Path, timeout_s: float = 10
) -> dict[str, Any]:
    """Return what a trainer declares.

    The schema file wins; the project's own trainer is asked without starting it; any other is started with
    `--describe`, with a clean environment.

    Args:
        command: Argument vector, `{python}` stands for this interpreter.
        schema_path: JSON Schema file, relative to `base`, or None.
        base: Folder of the manifest; the command is started there.
        timeout_s: Seconds the command may take.

    Raises:
        TrainerError: No answer in time, or an answer that cannot be read.
    """
    if schema_path is not None:
        return _decoded(_read(base / schema_path), f"the file {schema_path}")
    if tuple(command) == Trainer().command:
        return hyper.describe()
    words = [word.replace("{python}", sys.executable) for word in command]
    return _decoded(_asked(words, base, timeout_s), f"{' '.join(command)} --describe")


def _model(place: str, schema: Any) -> Model:
    properties = schema.get("properties", {}) if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        raise TrainerError(f"the declaration's {place} is {short(schema)}", expected="an object schema with properties")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(item, str) for item in required):
        raise TrainerError(f"the declaration's {place}.required is {short(required)}", expected="a list of names")
    parameters = {name: _parameter(f"{place}.properties.{name}", item) for name, item in properties.items()}
    return Model(parameters, tuple(required), schema.get("additionalProperties") is True)


def _parameter(place: str, schema: Any) -> Parameter:
    if not isinstance(schema, dict):
        raise TrainerError(f"the declaration's {place} is {short(schema)}", expected="a schema")
    for bound in _BOUNDS:
        if bound in schema and not _TYPES["number"](schema[bound]):
            raise TrainerError(f"the declaration's {place}.{bound} is {short(schema[bound])}", expected="a number")
    values = schema.get("enum")
    if values is not None and not isinstance(values, list):
        raise TrainerError(f"the declaration's {place}.enum is {short(values)}", expected="a list")
    kinds = _kinds(schema)
    return Parameter(
        expected=_expected(schema, kinds),
        kinds=tuple(_TYPES[kind] for kind in kinds),
        values=None if values is None else tuple(values),
        bounds=tuple((test, schema[bound]) for bound, (_, test) in _BOUNDS.items() if bound in schema),
    )


def _enum(document: dict[str, Any], key: str) -> tuple[str, ...] | None:
    properties = document.get("properties", {})
    schema = properties.get(key, {}) if isinstance(properties, dict) else {}
    values = schema.get("enum") if isinstance(schema, dict) else None
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise TrainerError(f"the declaration's properties.{key}.enum is {short(values)}", expected="a list of names")
    return tuple(values)


def _headline(document: dict[str, Any]) -> Headline | None:
    found = document.get("headline_metric")
    if found is None:
        return None
    name, direction = (found.get("name"), found.get("direction")) if isinstance(found, dict) else (None, None)
    # As a worker takes metrics from a trainer: printable, and not longer than a line.
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_METRIC_CHARS:
        raise TrainerError(f"the declaration's headline_metric is {short(found)}", _CONTRACT, expected=_HEADLINE)
    if direction not in ("higher", "lower"):
        raise TrainerError(f"the declaration's headline_metric.direction is {short(direction)}", expected=_HEADLINE)
    return Headline(name, "lower" if direction == "lower" else "higher")


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return [name for name in kinds if isinstance(name, str) and name in _TYPES]


def _expected(schema: Mapping[str, Any], kinds: Sequence[str]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(short, schema['enum'][:20]))}"
    words = [" or ".join(_NAMES[kind] for kind in kinds) or "a value"]
    words += [text.format(f"{schema[bound]:.15g}") for bound, (text, _) in _BOUNDS.items() if bound in schema]
    return " ".join(words)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DECLARATION_BYTES + 1)
    except OSError as error:
        raise TrainerError(f"the trainer's schema file {path.name} cannot be read: {error.strerror}") from error


def _decoded(data: bytes, source: str) -> dict[str, Any]:
    if len(data) > MAX_DECLARATION_BYTES:
        raise TrainerError(f"{source} gave more than {MAX_DECLARATION_BYTES} bytes", expected="a JSON Schema document")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TrainerError(f"{source} gave no JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise TrainerError(f"{source} gave {short(document)}", expected="a JSON Schema document")
    return document


def _asked(words: Sequence[str], base: Path, timeout_s: float) -> bytes:
    """Run a trainer with `--describe` and return what it printed."""
    environment = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    environment["PYTHONPATH"] = str(_ROOT)
    try:
        child = subprocess.Popen(  # noqa: S603 - running the operator's own command is what the key is for
            [*words, "--describe"],
            cwd=base,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise TrainerError(f"the trainer {words[0]} cannot be started: {error}") from error
    answer, complaint = _Reader(child.stdout), _Reader(child.stderr)
    try:
        status = child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise TrainerError(f"{' '.join(words)} --describe gave no answer within {timeout_s:g} s") from None
    finally:
        _end(child)
        answer.join(timeout_s)
        complaint.join(timeout_s)
    if status != 0:
        last = complaint.data.decode(errors="replace").strip().rpartition("\n")[2]
        raise TrainerError(f"{' '.join(words)} --describe ended with status {status}: {_visible(last)}")
    return answer.data


def _visible(line: str) -> str:
    """Return a trainer's own last line: whole, unless it is very long, with control characters escaped."""
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line[:_MOST_OF_A_LINE])
    return shown or "it wrote no reason"


class _Reader(threading.Thread):
    """Reads a pipe to its end and keeps the first bytes, because a trainer may print without end."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        self.data = b""
        self._pipe = pipe
        self.start()

    def run(self) -> None:
        assert self._pipe is not None
        with self._pipe as pipe:
            self.data = pipe.read(MAX_DECLARATION_BYTES + 1)
            while pipe.read(65536):
                pass


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the trainer with everything it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
