"""Who may do what."""

from __future__ import annotations

import hashlib

import pytest

from training.fleet.auth import Credentials, Operator, Role, demand_wide_tokens, host_name, is_loopback
from training.fleet.model.errors import AuthenticationError, ConfigurationError, ForbiddenError

ALL = Credentials.of({"operator": "op-token", "worker": "worker-token", "read": "read-token"})
NONE = Credentials.of({})


@pytest.mark.parametrize(
    ("role", "authorization", "operator_token"),
    [
        pytest.param("operator", None, b"op-token", id="operator"),
        pytest.param("worker", b"Bearer worker-token", None, id="worker"),
        pytest.param("worker", b"bearer worker-token", None, id="scheme in lower case"),
        pytest.param("read", b"Bearer read-token", None, id="reader"),
        pytest.param("read", None, b"op-token", id="operator reads"),
        pytest.param("anyone", None, None, id="anyone"),
    ],
)
def test_a_right_token_passes(role: Role, authorization: bytes | None, operator_token: bytes | None) -> None:
    ALL.demand(role, authorization, operator_token)


@pytest.mark.parametrize(
    ("role", "authorization", "operator_token"),
    [
        pytest.param("operator", None, None, id="no operator token"),
        pytest.param("operator", None, b"", id="empty operator token"),
        pytest.param("operator", None, b"op-tokeN", id="wrong operator token"),
        pytest.param("operator", None, "tökén".encode("latin-1"), id="latin-1 operator token"),
        pytest.param("operator", None, "töken".encode(), id="UTF-8 operator token"),
        pytest.param("operator", None, b"\xff\xfe\x00", id="bytes that are no text"),
        pytest.param("operator", b"Bearer op-token", None, id="operator token in the wrong header"),
        pytest.param("operator", None, b"op-token ", id="operator token with a space"),
        pytest.param("worker", None, None, id="no bearer"),
        pytest.param("worker", b"worker-token", None, id="no scheme"),
        pytest.param("worker", b"Basic worker-token", None, id="another scheme"),
        pytest.param("worker", b"Bearer ", None, id="empty bearer"),
        pytest.param("worker", b"Bearer read-token", None, id="reader as worker"),
        pytest.param("worker", b"Bearer w\xf6rker-token", None, id="non-ASCII bearer"),
        pytest.param("worker", None, b"op-token", id="operator as worker"),
        pytest.param("read", b"Bearer worker-token", None, id="worker as reader"),
        pytest.param("read", None, b"wrong", id="wrong operator token for reading"),
    ],
)
def test_a_wrong_token_is_401_and_never_told(
    role: Role, authorization: bytes | None, operator_token: bytes | None
) -> None:
    with pytest.raises(AuthenticationError) as caught:
        ALL.demand(role, authorization, operator_token)
    assert "op-token" not in caught.value.message
    assert "worker-token" not in caught.value.message


@pytest.mark.parametrize("authorization", [None, b"", b"Bearer", b"Bearer ", b"Basic worker-token"])
def test_no_token_is_told_apart_from_a_wrong_one(authorization: bytes | None) -> None:
    with pytest.raises(AuthenticationError, match="no bearer token came; set CIS490_WORKER_TOKEN"):
        ALL.demand("worker", authorization, None)
    with pytest.raises(AuthenticationError, match="the bearer token is not this receiver's"):
        ALL.demand("worker", b"Bearer x", None)


def test_without_an_operator_token_nobody_is_operator_and_the_way_out_is_named() -> None:
    with pytest.raises(ForbiddenError, match="CIS490_OPERATOR_TOKEN"):
        NONE.demand("operator", None, b"anything")


@pytest.mark.parametrize("role", ["worker", "read", "anyone"])
def test_workers_and_readers_need_no_token_where_none_is_set(role: Role) -> None:
    NONE.demand(role, None, None)


# ---- operators who read


def reading(rights: str, authorization: bytes | None, read_token: str | None = "read-token") -> str:
    """Let an operator with some rights read; return how it was taken, or the code of the refusal."""
    operator = Operator("ann", hashlib.sha256(b"ann's token").digest(), frozenset(rights.split()))
    credentials = Credentials.of({"read": read_token}, [operator])
    try:
        return credentials.demand("read", authorization, b"ann's token").who
    except (AuthenticationError, ForbiddenError) as error:
        return error.code


@pytest.mark.parametrize("tokens", [{}, {"worker": "worker-token"}])
def test_where_workers_must_enrol_no_other_worker_may_ask_with_the_shared_token_or_without(
    tokens: dict[str, str | None],
) -> None:
    credentials = Credentials.of(tokens, enrolled_only=True)
    for authorization in (None, b"Bearer worker-token"):
        with pytest.raises(AuthenticationError, match="only enrolled workers may ask here"):
            credentials.demand("worker", authorization, None)


@pytest.mark.parametrize("rights", ["operate", "enrol", "operate enrol"])
def test_an_operator_without_the_right_to_read_may_not_read(rights: str) -> None:
    assert reading(rights, None) == "forbidden"
    assert reading(rights, b"Bearer ann's token") == "unauthenticated"
    assert reading(rights, b"") == "unauthenticated"


@pytest.mark.parametrize("rights", ["read", "read operate", "operate read enrol"])
def test_an_operator_with_the_right_to_read_reads_under_its_name(rights: str) -> None:
    assert reading(rights, None) == "operator:ann"
    assert reading(rights, b"Bearer wrong") == "operator:ann"
    assert reading(rights, None, read_token=None) == "operator:ann"


def test_an_operator_without_the_right_reads_as_a_reader_with_the_readers_token() -> None:
    assert reading("operate", b"Bearer read-token") == "reader"


def test_an_operator_without_the_right_reads_as_anyone_where_anyone_may() -> None:
    assert reading("operate", None, read_token=None) == "anyone"
    assert reading("operate", b"Bearer something", read_token=None) == "anyone"


def test_the_right_that_a_route_asks_for_is_the_one_that_counts() -> None:
    enroller = Credentials.of({}, [Operator("ann", hashlib.sha256(b"ann's token").digest(), frozenset({"enrol"}))])
    assert enroller.demand("operator", None, b"ann's token", right="enrol").rights == {"enrol"}
    for right in ("operate", "read", None):
        with pytest.raises(ForbiddenError, match=f"wants the role {right or 'operate'} and operator ann has enrol"):
            enroller.demand("operator", None, b"ann's token", right=right)  # type: ignore[arg-type]


def test_a_credential_never_shows_itself() -> None:
    assert repr(ALL) == "Credentials()"


def test_two_roles_may_not_share_a_token() -> None:
    with pytest.raises(ConfigurationError, match="same token"):
        Credentials.of({"operator": "same", "worker": "same"})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.8.7", "::1", "[::1]", "localhost", "LOCALHOST", "::1%lo"])
def test_loopback_is_known(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.evil.example", "128.0.0.1"]
)
def test_what_others_can_reach_is_not_loopback(address: str) -> None:
    assert not is_loopback(address)


def test_beyond_loopback_every_missing_or_short_token_is_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        demand_wide_tokens("0.0.0.0", {"operator": "a-long-enough-token", "worker": "short", "read": None})
    assert [(fault.place, fault.found) for fault in caught.value.faults] == [
        ("CIS490_READ_TOKEN", "not set"),
        ("CIS490_WORKER_TOKEN", "a token that workers share"),
    ]


def test_beyond_loopback_an_operator_and_a_read_token_suffice() -> None:
    demand_wide_tokens("0.0.0.0", {"operator": "a" * 16, "worker": None, "read": "c" * 16})


def test_beyond_loopback_named_operators_stand_in_for_the_operator_token() -> None:
    demand_wide_tokens("0.0.0.0", {"operator": None, "read": "c" * 16}, operators=True)
    with pytest.raises(ConfigurationError, match="CIS490_OPERATOR_TOKEN: found a short token"):
        demand_wide_tokens("0.0.0.0", {"operator": "short", "read": "c" * 16}, operators=True)


def test_named_operators_stand_in_for_no_other_token() -> None:
    with pytest.raises(ConfigurationError, match="CIS490_READ_TOKEN: found not set"):
        demand_wide_tokens("0.0.0.0", {"operator": "a" * 16}, operators=True)


def test_beyond_loopback_somebody_must_be_operator() -> None:
    with pytest.raises(ConfigurationError, match="CIS490_OPERATOR_TOKEN: found not set"):
        demand_wide_tokens("0.0.0.0", {"read": "c" * 16})


def test_on_loopback_no_token_is_needed() -> None:
    demand_wide_tokens("127.0.0.1", {})


def test_behind_a_proxy_loopback_needs_what_the_other_side_needs() -> None:
    with pytest.raises(ConfigurationError, match="can be reached from other hosts through a proxy") as caught:
        demand_wide_tokens("127.0.0.1", {}, fronted=True)
    assert [fault.place for fault in caught.value.faults] == ["CIS490_OPERATOR_TOKEN", "CIS490_READ_TOKEN"]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"Example.org", "example.org"),
        (b"example.org:8445", "example.org"),
        (b"[::1]:8445", "::1"),
        (b"[::1]", "::1"),
        (b"::1", "::1"),
        (b"\xe4.example:1", "ä.example"),
    ],
)
def test_the_host_header_gives_its_name(header: bytes, name: str) -> None:
    assert host_name(header) == name
