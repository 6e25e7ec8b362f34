"""Operators that are read again while the receiver runs."""

from __future__ import annotations

import pytest

from training.fleet.api.access import Access
from training.fleet.auth import Credentials
from training.fleet.model.errors import AuthenticationError, ConfigurationError


def operator(credentials: Credentials, token: bytes) -> str:
    return credentials.demand("operator", None, token, None, "operate").name


def test_the_operators_of_the_newest_file_are_in_force_and_the_enrolled_workers_stay() -> None:
    before = Credentials.of({"operator": "a" * 32})
    access = Access(before, lambda: Credentials.of({"operator": "b" * 32}))
    access.reload()
    assert operator(access.credentials, b"b" * 32) == "operator"
    with pytest.raises(AuthenticationError):
        operator(access.credentials, b"a" * 32)
    assert access.credentials.registry is before.registry
    assert access.problems == []


def test_a_faulty_file_changes_nothing_and_is_a_problem_until_one_is_good_again() -> None:
    faulty = [True]

    def reread() -> Credentials:
        if faulty[0]:
            raise ConfigurationError("found no table [operators]", "write one")
        return Credentials.of({"operator": "b" * 32})

    access = Access(Credentials.of({"operator": "a" * 32}), reread)
    for _ in range(2):
        access.reload()
        assert access.problems == ["the operators before stay in force: found no table [operators]; write one"]
        assert operator(access.credentials, b"a" * 32) == "operator"
    faulty[0] = False
    access.reload()
    assert access.problems == []
    assert operator(access.credentials, b"b" * 32) == "operator"


def test_operators_that_are_fixed_stay_as_they_are() -> None:
    credentials = Credentials.of({"operator": "a" * 32})
    access = Access(credentials)
    access.reload()
    assert access.credentials is credentials
    assert access.problems == []
