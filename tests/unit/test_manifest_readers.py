"""A manifest is read alike with and without rtoml, which reads newer TOML than Python's own reader."""

from __future__ import annotations

import contextlib
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import rtoml
from hypothesis import given, settings
from hypothesis import strategies as st

from training.fleet.manifest import Manifest, parse
from training.fleet.manifest.source import load_bytes
from training.fleet.manifest.text import MAX_KEY_PARTS
from training.fleet.model.errors import Fault, ManifestError


@contextlib.contextmanager
def reader(module: Any) -> Iterator[None]:
    """Let another module, or none, stand where rtoml is installed."""
    with mock.patch.dict(sys.modules, {"rtoml": module}):
        yield


HEAD = b'[manifest]\nschema = 1\n[hosts.default]\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n[jobs.hyper]\n'


def outcome(data: bytes) -> Manifest | tuple[Fault, ...]:
    try:
        return parse(data, None)
    except ManifestError as error:
        return error.faults


def both(data: bytes) -> Manifest | tuple[Fault, ...]:
    """Return what a manifest is read as with rtoml, after comparing it with what it is read as without."""
    with reader(None):
        without = outcome(data)
    assert outcome(data) == without
    return without


READ = {
    "floats": "a = [-0.0, 5e-324, 1e-300, 0.1, 1_0.5, 1e3, 300.0]",
    "integers": "a = [9007199254740991, -9007199254740991, 0xff, 0o7, 0b1, -0, +1, 1_000]",
    "dotted keys": "a.b.c = 1\na.b.d = 2\n\"a\".e = 3\n'a'.f = 4",
    "tables": "[jobs.hyper.x.y]\n[jobs.hyper.z]\n[jobs.hyper.x]\nq = 1\n[[jobs.hyper.l]]\n[[jobs.hyper.l]]\nv = 1",
    "mixed lists": 'a = [1, "x", 2.5, [1], { b = 1 }, true]',
    "words for nothing": 'a = "null"\nb = ["null", "", "None"]',
    "text over lines": 'a = """\nb = 1\n[[jobs]]\n"""',
    "escapes": 'a = "\\u0041\\n\\\\"',
    "line ends": "a = 1\r\nb = [\r\n1\r\n]\r\n",
    "letters": 'a = "\u0301\U0010ffff\ufeff"\n"\u00e9" = 1',
    "braces in texts": 'a = "{"\nb = { c = "}", d = \'{\' } # {\ne = ["{", "}"]',
    "no time": "a = 'at 07:32'",
}
REFUSED = {
    "dates": "a = [1979-05-27T07:32:00Z, 1979-05-27T07:32:00.5-07:00]\nb = 1979-05-27\nc = 07:32:00.123456789",
    "special floats": "a = nan\nb = [-nan]\nc = inf\nd = { e = -inf }",
    "floats beyond the largest": "a = 1e400\nb = -1e400",
    "integers of 64 bits and more": "a = 9223372036854775807\nb = 9223372036854775808\nc = 0xffffffffffffffffffff",
    "tables in another order": "x.y = 1\n[no.x]\n[other]\n[no]\n[jobs.first.x]\n[jobs.second]\n[jobs.first]",
    "nine levels": "a = " + "[" * 9 + "]" * 9,
    "sixty levels": "a = " + "[" * 60 + "]" * 60,
    "a hundred levels": "a = " + "[" * 100 + "]" * 100,
    "three thousand levels": "a = " + "[" * 3000 + "]" * 3000,
    "a hundred thousand brackets": "a = " + "[" * 100_000,
    "a key of sixteen parts": ".".join("a" * MAX_KEY_PARTS) + " = 1",
    "a key of seventeen parts": ".".join("a" * (MAX_KEY_PARTS + 1)) + " = 1",
    "a key of a hundred thousand parts": ".".join("a" * 100_000) + " = 1",
    "a table of quoted parts": "[" + " . ".join(['"a"'] * 100) + "]",
    "an inline table of many parts": "x = { " + ".".join(["'a'"] * 3000) + " = 1 }",
    "duplicate keys": "a = 1\na = 2",
    "duplicate keys of an inline table": "a = { b = 1, b = 1 }",
    "a table twice": "[hosts.default]",
    "a table behind a dotted key": "a.b = 1\n[jobs.hyper.a]",
    "a list of tables behind a list": "a = []\n[[jobs.hyper.a]]",
    "null": "a = null",
    "NUL": 'a = "\x00"',
    "a control character": "a = 1 # \x07",
    "a control character behind a header": "[[jobs]] # \x07",
    "a lone carriage return": "a = 1\rb = 2",
    "a number that begins with zero": "a = 01",
    "a number of 5,000 digits": "a = " + "9" * 5000,
    "a number of 5,000 hex digits": "a = 0x" + "9" * 5000,
    "half a surrogate": 'a = "\\ud800"',
    # What TOML 1.1 allows and 1.0 does not.
    "a time without seconds": "a = 07:32",
    "a date without seconds": "a = [1979-05-27T07:32Z]",
    "an escape": 'a = "\\e[0m"',
    "an escape by number": 'a = "\\x41"',
    "a comma at the end": "a = { b = 1, }",
    "a comma at the end, with space": "a = { b = 1 , \t}",
    "a table over lines": "a = {\n  b = 1\n}",
    "a table over lines beside texts": 'a = { b = "}",\n  c = "{" }',
    "a table over lines in a table": "a = { b = { c = 1 }\n}",
    "a table over lines in a list": "a = [\n  { b = 1,\n    c = '#' } ]",
    "a comment in a table": "a = { b = 1 # }\n}",
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_what_python_reads_is_read_alike(text: str) -> None:
    (expected,) = tomllib.loads((HEAD.decode() + text).replace("\r\n", "\n"))["jobs"]
    found = both(HEAD + text.encode())
    assert isinstance(found, Manifest)
    assert found.jobs[0].spec.hyper == expected["hyper"]
    assert found.jobs[0].line == (None if '"""' in text else 4)


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_python_refuses_is_refused_alike(text: str) -> None:
    assert not isinstance(both(HEAD + text.encode()), Manifest)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + HEAD, HEAD + b'a = "\xff"', HEAD + b'a = "\xed\xa0\x80"'])
def test_bytes_that_are_no_text_are_refused_alike(data: bytes) -> None:
    assert not isinstance(both(data), Manifest)


def test_a_key_of_too_many_parts_names_its_line() -> None:
    found = both(HEAD + b".".join([b"x"] * 5000) + b" = 1")
    assert found == (Fault("line 8", "tables or lists nested too deep", "at most 8 levels", "flatten them"),)


PIECES = st.sampled_from(
    ["a", "b", "jobs", " = ", "=", ".", "[", "]", "[[jobs]]", "{", "}", ",", "\n", "\n", " ", "#", '"', "'", '"x"', "1",
     "-0", "1.5", "07:32", "07:32:00", "1979-05-27", "true", "nan", "1e9", "\\e", "\\u0041", '"""', "'''", "\r\n", "\t",
     "{ a = 1 }", "{ a = 1, }", "{ a = '}' }", "a = {", "\u00e9", "\x7f"]
)  # fmt: skip


@settings(max_examples=1500)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_pieces_of_toml_in_any_order_are_read_alike(text: str) -> None:
    found = both(HEAD + text.encode())
    try:
        tomllib.loads((HEAD.decode() + text).replace("\r\n", "\n"))
    except ValueError:
        assert not isinstance(found, Manifest)


def test_a_plain_manifest_is_read_by_rtoml_alone_and_one_in_doubt_by_python_alone() -> None:
    asked: list[str] = []
    spy = types.SimpleNamespace(loads=lambda text: asked.append(text) or rtoml.loads(text))
    plain, *doubtful = b"a = { b = 'x' }", b"a = { b = 1, }", b"a = {\n}", b'a = "\\e"', b"a = '''x'''"
    with reader(spy), mock.patch("tomllib.loads", side_effect=AssertionError("read twice")):
        assert isinstance(outcome(HEAD + plain), Manifest)
    with reader(spy):
        for text in doubtful:
            outcome(HEAD + text)
    assert asked == [(HEAD + plain).decode()]


def test_a_manifest_with_a_fault_is_told_in_the_words_of_pythons_reader() -> None:
    with mock.patch("tomllib.loads", side_effect=tomllib.TOMLDecodeError("It is wrong (at line 8, column 3)")):
        (fault,) = outcome(HEAD + b"a = 2000-01-01")
    assert str(fault) == "line 8, column 3: found 'a = 2000-01-01', expected valid TOML (it is wrong)"


def test_a_trainer_is_asked_once_also_where_the_manifest_is_read_twice(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('{\"$defs\": {\"gbt\": {}}}', file=open('asked', 'a'))\n")
    trainer = b'[trainer]\ncommand = ["{python}", "mine.py"]\n'
    with pytest.raises(ManifestError):
        load_bytes(trainer + HEAD + b"a = nan", tmp_path)
    assert (tmp_path / "asked").read_text().count("gbt") == 1
