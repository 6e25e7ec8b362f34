"""One-time codes of operators: good once, until their end, and the same exchange again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from training.fleet.auth import Logins, operators_of
from training.fleet.auth.identities import new_code
from training.fleet.model.errors import InviteRefusedError

TOKEN, OTHER = "a" * 64, "b" * 64


def test_a_code_becomes_an_operator_with_the_roles_it_was_made_for(tmp_path: Path) -> None:
    logins = Logins(tmp_path / "logins")
    code = logins.offer("alice", ("read", "operate"), 0.0, 60)
    done = logins.exchange(code, TOKEN, 59.0)
    assert (done.name, done.roles) == ("alice", ("read", "operate"))
    (path,) = logins.files()
    (operator,) = operators_of(path.read_text(), "here")
    assert (operator.name, operator.digest.hex(), operator.rights) == ("alice", TOKEN, {"read", "operate"})
    assert [stat.S_IMODE(path.stat().st_mode) for path in (path, path.parent)] == [0o600, 0o700]


def test_the_same_exchange_again_is_answered_and_another_is_refused(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    code = logins.offer("alice", ("read",), 0.0, 60)
    first = logins.exchange(code, TOKEN, 1.0)
    assert Logins(tmp_path).exchange(code, TOKEN, 2.0) == first
    with pytest.raises(InviteRefusedError):
        logins.exchange(code, OTHER, 3.0)
    assert TOKEN in logins.files()[0].read_text()


@pytest.mark.parametrize("now", [60.0, 61.0])
def test_a_code_ends_and_the_next_one_clears_it_away(tmp_path: Path, now: float) -> None:
    logins = Logins(tmp_path)
    code = logins.offer("alice", ("read",), 0.0, 60)
    with pytest.raises(InviteRefusedError):
        logins.exchange(code, TOKEN, now)
    logins.offer("bob", ("read",), now, 60)
    assert len(list(tmp_path.glob("code-*"))) == 1


@pytest.mark.parametrize("code", ["x" * 32, "../../etc/passwd", ""])
def test_a_code_that_nobody_made_is_refused(tmp_path: Path, code: str) -> None:
    with pytest.raises(InviteRefusedError):
        Logins(tmp_path / "none").exchange(code, TOKEN, 0.0)


def test_an_exchange_that_the_power_cut_in_two_is_finished_by_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins = Logins(tmp_path)
    code = logins.offer("alice", ("read",), 0.0, 60)
    logins.exchange(code, TOKEN, 1.0)
    logins.files()[0].unlink()  # the code was written, the operator was not
    with pytest.raises(InviteRefusedError):
        logins.exchange(code, OTHER, 2.0)
    logins.exchange(code, TOKEN, 2.0)
    assert len(logins.files()) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}', "\xff"])
def test_a_code_whose_file_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    logins = Logins(tmp_path)
    code = logins.offer("alice", ("read",), 0.0, 60)
    (path,) = tmp_path.glob("code-*")
    path.write_text(text)
    with pytest.raises(InviteRefusedError):
        logins.exchange(code, TOKEN, 1.0)


def test_an_operator_ends_with_the_codes_that_were_made_for_it(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    logins.exchange(logins.offer("alice", ("read",), 0.0, 60), TOKEN, 1.0)
    unused, other = logins.offer("alice", ("read",), 1.0, 60), logins.offer("bob", ("read",), 1.0, 60)
    assert logins.remove("alice")
    assert not logins.remove("alice")
    assert logins.files() == []
    with pytest.raises(InviteRefusedError):
        logins.exchange(unused, OTHER, 2.0)
    assert logins.exchange(other, OTHER, 2.0).name == "bob"


def test_no_code_is_taken_for_a_flag_by_the_command_that_is_typed_with_it() -> None:
    """With dashes one code in 64 began with one, and the printed command ended with "expected one argument"."""
    codes = {new_code() for _ in range(1000)}
    assert len(codes) == 1000
    assert all(len(code) == 32 and code.isalnum() for code in codes)
