"""The operators of a receiver: the command that makes one, and the file."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from training.fleet import receiver, settings
from training.fleet.model.errors import ConfigurationError
from training.fleet.receiver import options
from training.fleet.receiver.operators import credentials_of


def chosen(path: Path | None, **flags: str) -> settings.Settings:
    given = {**flags, **({} if path is None else {"operators": str(path)})}
    return settings.read(options.table({"STATE_DIRECTORY": "/nowhere"}), given, {})


def test_a_token_is_shown_once_with_the_lines_for_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert receiver.main(["operator", "alice", "--roles", "read,enrol", "--token"]) == 0
    shown = capsys.readouterr()
    token = shown.out.strip()
    assert re.fullmatch(r"[0-9A-Za-z_-]{43}", token)
    assert token not in shown.err
    lines = shown.err[shown.err.index("[operators") :]
    entry = {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "roles": ["read", "enrol"]}
    assert tomllib.loads(lines) == {"operators": {"alice": entry}}
    path = tmp_path / "operators.toml"
    path.write_text(lines)
    path.chmod(0o640)
    caller = credentials_of(chosen(path), {}).demand("operator", None, token.encode(), None, "enrol")
    assert (caller.who, sorted(caller.rights)) == ("operator:alice", ["enrol", "read"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Alice"], "found the name 'Alice'"),
        (["operator"], "is who holds CIS490_OPERATOR_TOKEN"),
        (["alice", "--roles", "read,root"], "expected some of read, operate, enrol"),
        (["alice", "--roles", ""], "expected some of read, operate, enrol"),
    ],
)
def test_a_name_or_role_that_is_none_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert receiver.main(["operator", *words]) == 78
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("mode", [0o644, 0o642, 0o641])
def test_a_file_that_everybody_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "operators.toml"
    path.write_text("")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"run chmod o= "):
        credentials_of(chosen(path), {})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="correct --operators"):
        credentials_of(chosen(tmp_path / "none.toml"), {})
    path = tmp_path / "operators.toml"
    path.write_bytes(b"\xff" * 10)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="correct --operators"):
        credentials_of(chosen(path), {})
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigurationError, match="larger than 1048576 bytes"):
        credentials_of(chosen(path), {})


@pytest.mark.parametrize(
    ("flags", "only"),
    [
        ({}, False),
        ({"enrolled_only": "true"}, True),
        ({"listen_addr": "0.0.0.0:1"}, True),
        ({"listen_addr": "[::1]:1"}, False),
    ],
)
def test_workers_must_be_enrolled_beyond_loopback_and_where_it_is_set(flags: dict[str, str], only: bool) -> None:
    assert credentials_of(chosen(None, **flags), {}).enrolled_only is only
