"""Whose secret it is, and which machine may use it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.helpers.clock import Clock
from training.fleet.auth import Credentials, Identity, Operator, Peer, Registry, Sessions, neighbourhood, operators_of
from training.fleet.auth.identities import digest_of, id_of, key_of, secret_of
from training.fleet.model.errors import (
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    IdentityInUseError,
    RequestError,
    RevokedError,
)

DIGEST = "a" * 64
ID = "0123456789abcdef01"


def identity(**more: str | bool | None) -> Identity:
    whole = Identity(ID, "w1", digest_of("key"), created_at="2026-01-01T00:00:00.000Z")
    return dataclasses.replace(whole, **more)


def registry(*identities: Identity) -> Registry:
    found = Registry()
    for one in identities or (identity(),):
        found.put(one)
    return found


# ---- secrets


def test_a_secret_is_put_together_and_taken_apart() -> None:
    secret = secret_of(ID, "key")
    assert secret == f"cis490w.{ID}.key"
    assert (id_of(secret), key_of(secret)) == (ID, "key")
    assert (id_of("something-else"), key_of("something-else")) == ("", "")
    assert (id_of("something.else"), key_of("something.else")) == ("", "")


def test_the_right_key_gives_the_worker() -> None:
    assert registry().authenticate(secret_of(ID, "key").encode()) == (identity(), False)


def test_the_next_key_is_told_apart() -> None:
    rotating = identity(next_digest=digest_of("next"))
    assert registry(rotating).authenticate(secret_of(ID, "next").encode()) == (rotating, True)
    assert registry(rotating).authenticate(secret_of(ID, "key").encode()) == (rotating, False)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(b"cis490w.unknown.key", id="an unknown id"),
        pytest.param(f"cis490w.{ID}.kez".encode(), id="a wrong key"),
        pytest.param(f"cis490w.{ID}.".encode(), id="no key"),
        pytest.param(f"cis490w.{ID}".encode(), id="no dot"),
        pytest.param(f"cis490w.{ID}.{digest_of('key')}".encode(), id="the digest as the key"),
        pytest.param(b"cis490w.\xff\xfe.\xff", id="bytes that are no text"),
        pytest.param(b"cis490w.nobody.nobody's key", id="the key of the dummy comparison"),
    ],
)
def test_any_other_secret_is_nobodys(token: bytes) -> None:
    with pytest.raises(AuthenticationError) as caught:
        registry().authenticate(token)
    assert type(caught.value) is AuthenticationError


def test_a_revoked_identity_is_told_to_its_holder_alone() -> None:
    gone = registry(identity(revoked_at="2026-01-02T00:00:00.000Z"))
    with pytest.raises(RevokedError, match=r"worker w1 was revoked at 2026-01-02"):
        gone.authenticate(secret_of(ID, "key").encode())
    with pytest.raises(AuthenticationError) as caught:
        gone.authenticate(secret_of(ID, "wrong").encode())
    assert not isinstance(caught.value, RevokedError)


def test_an_unknown_id_costs_the_same_comparisons_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    seen: list[int] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, two: seen.append(len(two)) or real(one, two))
    for token in (secret_of(ID, "wrong"), secret_of("unknown", "wrong")):
        with pytest.raises(AuthenticationError):
            registry().authenticate(token.encode())
    assert seen == [64, 64, 64, 64]


def test_the_living_identity_of_a_worker_is_the_one_that_was_not_revoked() -> None:
    first = identity(id="first", revoked_at="2026-01-02T00:00:00.000Z")
    second = identity(id="second", created_at="2026-01-02T00:00:00.000Z")
    for order in ([first, second], [second, first]):
        found = registry(*order)
        assert found.living("w1") == second
        found.put(dataclasses.replace(second, revoked_at="2026-01-03T00:00:00.000Z"))
        assert found.living("w1") is None
        assert found.newest("w1") is not None
        assert found.newest("w1").id == "second"  # type: ignore[union-attr]
    assert registry().newest("nobody") is None


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({}, "enrolled"),
        ({"rotate": True}, "rotating"),
        ({"next_digest": DIGEST}, "rotating"),
        ({"rotate": True, "next_digest": DIGEST, "revoked_at": "2026-01-02T00:00:00.000Z"}, "revoked"),
    ],
)
def test_the_state_of_an_identity_says_whether_a_new_key_is_under_way(more: dict[str, Any], state: str) -> None:
    assert identity(**more).state == state


def test_a_wall_clock_that_was_set_back_hides_no_living_identity() -> None:
    living = identity(id="living", created_at="2026-01-01T00:00:00.000Z")
    gone = identity(id="gone", created_at="2026-06-01T00:00:00.000Z", revoked_at="2026-06-02T00:00:00.000Z")
    assert registry(living, gone).living("w1") == registry(gone, living).living("w1") == living


def test_of_revoked_identities_the_one_that_enrolled_last_is_shown() -> None:
    older = identity(id="older", revoked_at="2026-01-02T00:00:00.000Z")
    newer = identity(id="newer", created_at="2026-01-02T00:00:00.000Z", revoked_at="2026-01-03T00:00:00.000Z")
    assert registry(older, newer).newest("w1") == registry(newer, older).newest("w1") == newer


def test_an_identity_shows_no_digest() -> None:
    assert digest_of("key") not in repr(identity(next_digest=digest_of("next")))
    assert "digest" not in repr(identity())


# ---- certificates


def worker(peer: Peer | None, *, wanted: bool = False) -> object:
    credentials = dataclasses.replace(Credentials.of({}), registry=registry(), certificate_wanted=wanted)
    return credentials.demand("worker", f"Bearer {secret_of(ID, 'key')}".encode(), None, peer)


def test_a_certificate_must_be_that_of_the_worker_whose_secret_is_shown() -> None:
    assert worker(Peer("w1", DIGEST)) is not None
    with pytest.raises(ForbiddenError, match="certificate is that of worker w2 and the secret that of w1"):
        worker(Peer("w2", DIGEST))


def test_a_certificate_can_be_demanded() -> None:
    assert worker(None) is not None
    assert worker(Peer("w1", DIGEST), wanted=True) is not None
    with pytest.raises(AuthenticationError, match="must show a client certificate"):
        worker(None, wanted=True)


# ---- operators

FILE = f"""
[operators.alice]
token_sha256 = "{digest_of("token-of-alice")}"
roles = ["read", "operate"]
[operators.bob-2]
token_sha256 = "{digest_of("token-of-bob")}"
roles = ["enrol"]
"""


def test_a_file_names_operators_with_their_rights() -> None:
    alice, bob = operators_of(FILE, "here")
    assert (alice.name, alice.digest.hex(), alice.rights) == (
        "alice",
        digest_of("token-of-alice"),
        {"read", "operate"},
    )
    assert (bob.name, bob.rights) == ("bob-2", {"enrol"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[operators", "is no TOML"),
        ("", "expected one table [operators.NAME] at least"),
        ("operators = 3", "expected one table [operators.NAME] at least"),
        ("[operators.Alice]\n", "operators.Alice: found 'Alice'"),
        ("[operators.a]\nroles = ['read']", "operators.a.token_sha256: found no digest"),
        ("[operators.a]\ntoken_sha256 = 'token'\nroles = ['read']", "operators.a.token_sha256: found no digest"),
        (f"[operators.a]\ntoken_sha256 = '{DIGEST}'\nroles = ['root']", "operators.a.roles: found ['root']"),
        (f"[operators.a]\ntoken_sha256 = '{DIGEST}'\nroles = []", "operators.a.roles: found []"),
        (f"[operators.a]\ntoken_sha256 = '{DIGEST}'\nroles = 'read'", "operators.a.roles: found 'read'"),
        (f"[operators.a]\ntoken_sha256 = '{DIGEST}'\nroles = ['read']\ntoken = 'x'", "operators.a.token: found an unk"),
        (f"[operators.a]\ntoken_sha256 = '{DIGEST}'\nroles = {{ read = 1 }}", "operators.a.roles: found {'read': 1}"),
        ("[operators]\na = 3", "operators.a.token_sha256"),
        (f"{FILE}\n[others]", "others: found an unknown key"),
    ],
)
def test_a_faulty_file_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        operators_of(text, "here")
    assert said in caught.value.message
    assert "operators file here" in caught.value.message


def test_two_operators_may_not_share_a_token_or_a_name() -> None:
    one = Operator("one", b"1" * 32)
    with pytest.raises(ConfigurationError, match="same token"):
        Credentials.of({}, [one, dataclasses.replace(one, name="two")])
    with pytest.raises(ConfigurationError, match="names an operator 'operator'"):
        Credentials.of({"operator": "token"}, [dataclasses.replace(one, name="operator")])


# ---- sessions

HOME, COPY = "a" * 32, "b" * 32


def at(place: str, start: int) -> str:
    return f"{place}.{start:032x}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(clock, 90)


def meet(sessions: Sessions, session: str, *, looks: bool = False, places: int = 1) -> None:
    with sessions.present("w1", session, looks=looks, places=places):
        pass


def test_as_many_places_as_the_manifest_gives_use_an_identity(sessions: Sessions, clock: Clock) -> None:
    meet(sessions, at(HOME, 1), places=2)
    meet(sessions, at(COPY, 1), places=2)
    with pytest.raises(IdentityInUseError, match="2 worker programs use the identity of w1 already"):
        meet(sessions, at("c" * 32, 1), places=2)
    clock.now += 60
    meet(sessions, at(COPY, 1), places=2)
    clock.now += 31
    meet(sessions, at("c" * 32, 1), places=2)
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(HOME, 1), places=2)


def test_a_place_that_was_silent_comes_back_while_there_is_room(sessions: Sessions, clock: Clock) -> None:
    meet(sessions, at(HOME, 1), places=2)
    clock.now += 91
    for session in (at(COPY, 1), at(HOME, 1), at(COPY, 1)):
        meet(sessions, session, places=2)


def test_a_start_that_was_taken_over_stays_out_beside_other_places(sessions: Sessions) -> None:
    meet(sessions, at(COPY, 1), places=3)
    for start in (1, 2):
        meet(sessions, at(HOME, start), places=3)
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(HOME, 1), places=3)


def test_of_more_places_than_a_reload_leaves_the_earliest_stays(sessions: Sessions) -> None:
    for place in (HOME, COPY):
        meet(sessions, at(place, 1), places=2)
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(COPY, 1), places=1)
    meet(sessions, at(HOME, 1), places=1)


def test_a_visit_from_elsewhere_waits_only_for_a_name_whose_places_are_taken(sessions: Sessions) -> None:
    meet(sessions, at(HOME, 1), places=2)
    stranger = "f" * 16 + ".visit"
    meet(sessions, stranger, looks=True, places=2)
    meet(sessions, at(COPY, 1), places=2)
    with pytest.raises(IdentityInUseError):
        meet(sessions, stranger, looks=True, places=2)


def test_another_place_waits_until_the_first_was_silent(sessions: Sessions, clock: Clock) -> None:
    meet(sessions, at(HOME, 1))
    clock.now += 90
    with pytest.raises(IdentityInUseError, match="another machine uses the identity of worker w1"):
        meet(sessions, at(COPY, 1))
    clock.now += 0.1
    meet(sessions, at(COPY, 1))
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(HOME, 1))


def test_a_machine_that_names_its_place_is_not_told_to_name_it(sessions: Sessions) -> None:
    meet(sessions, at(HOME, 1))
    with pytest.raises(IdentityInUseError) as refused:
        meet(sessions, at(COPY, 1))
    assert "does not name" not in refused.value.message


@pytest.mark.parametrize(("session", "found"), [("", "found none in"), ("here", "found 'here' in")])
def test_who_names_no_session_is_told_what_was_found(sessions: Sessions, session: str, found: str) -> None:
    with pytest.raises(RequestError, match=found):
        meet(sessions, session, looks=True)


def test_a_session_lives_as_long_as_a_call_of_it_waits(sessions: Sessions, clock: Clock) -> None:
    with sessions.present("w1", at(HOME, 1)):
        clock.now += 1000
        with pytest.raises(IdentityInUseError):
            meet(sessions, at(COPY, 1))
    clock.now += 91
    meet(sessions, at(COPY, 1))


def test_the_silence_of_a_session_begins_with_the_end_of_its_last_call(sessions: Sessions, clock: Clock) -> None:
    with sessions.present("w1", at(HOME, 1)):
        clock.now += 1000
    clock.now += 90
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(COPY, 1))
    clock.now += 1
    meet(sessions, at(COPY, 1))


def test_a_call_that_fails_ends_like_any_other(sessions: Sessions, clock: Clock) -> None:
    with pytest.raises(ConnectionError), sessions.present("w1", at(HOME, 1)):
        clock.now += 1000
        raise ConnectionError
    clock.now += 90
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(COPY, 1))
    clock.now += 1
    meet(sessions, at(COPY, 1))


def test_one_session_calls_again_and_again(sessions: Sessions) -> None:
    for _ in range(3):
        meet(sessions, at(HOME, 1))


def test_a_start_anew_in_the_same_place_takes_over_at_once_and_for_good(sessions: Sessions) -> None:
    for start in range(1, 4):
        meet(sessions, at(HOME, start))
    for start in (1, 2):
        with pytest.raises(IdentityInUseError):
            meet(sessions, at(HOME, start))
    meet(sessions, at(HOME, 3))


def test_the_call_of_a_start_that_was_taken_over_does_not_keep_others_out_for_ever(
    sessions: Sessions, clock: Clock
) -> None:
    with sessions.present("w1", at(HOME, 1)):
        meet(sessions, at(HOME, 2))
    clock.now += 91
    meet(sessions, at(COPY, 1))


NO_SESSION = ["", "here", at(HOME, 1).upper(), at(HOME, 1) + "0", at(HOME, 1) + "\n", HOME, f"{HOME}.visit", "a" * 15]


@pytest.mark.parametrize("session", NO_SESSION)
def test_who_names_no_session_is_another_machine_beside_one_that_lives(
    sessions: Sessions, clock: Clock, session: str
) -> None:
    meet(sessions, at(HOME, 1))
    for looks in (False, True):
        with pytest.raises(IdentityInUseError, match=r"does not name \(expected: X-Worker-Session\)"):
            meet(sessions, session, looks=looks)
    assert sessions.clashed() == ["w1"]
    clock.now += 90.1
    with pytest.raises(RequestError, match=r"found .+ in X-Worker-Session; expected PLACE\.START, 32 hex digits each"):
        meet(sessions, session, looks=True)
    meet(sessions, at(COPY, 1))  # it holds nothing


@pytest.mark.parametrize("session", NO_SESSION)
def test_who_names_no_session_is_refused_where_nobody_lives(sessions: Sessions, session: str) -> None:
    with pytest.raises(RequestError, match="does not say where it runs"):
        meet(sessions, session)
    assert sessions.clashed() == []
    meet(sessions, at(COPY, 1))  # it holds nothing


VISIT = f"{'a' * 16}.visit"


def test_a_visit_of_the_workers_own_host_looks_and_leaves_the_identity_to_it(sessions: Sessions, clock: Clock) -> None:
    meet(sessions, at(HOME, 1))
    clock.now += 60
    meet(sessions, VISIT, looks=True)
    meet(sessions, at(HOME, 1))
    clock.now += 60
    meet(sessions, VISIT, looks=True)
    clock.now += 31
    meet(sessions, at(COPY, 1))  # the visit did not count as having heard the worker
    assert sessions.clashed() == []


def test_a_visit_where_nobody_lives_takes_nothing(sessions: Sessions) -> None:
    meet(sessions, VISIT, looks=True)
    meet(sessions, at(COPY, 1))
    with pytest.raises(IdentityInUseError):
        meet(sessions, VISIT, looks=True)


def test_a_visit_may_change_nothing(sessions: Sessions) -> None:
    meet(sessions, at(HOME, 1))
    with pytest.raises(RequestError, match="to look only"):
        meet(sessions, VISIT)
    assert sessions.clashed() == []


def test_a_restart_of_the_receiver_gives_an_identity_to_nobody_else(sessions: Sessions, clock: Clock) -> None:
    sessions.remember("w1", HOME)
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(COPY, 1))
    meet(sessions, at(HOME, 7))
    meet(sessions, at(HOME, 8))
    sessions.remember("w1", HOME)
    clock.now += 91
    meet(sessions, at(COPY, 1))
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(HOME, 8))


def test_who_is_let_in_is_told_where_the_identity_is_held_now(sessions: Sessions) -> None:
    with sessions.present("w1", VISIT, looks=True) as place:
        assert place == ""
    with sessions.present("w1", at(HOME, 1)) as place:
        assert place == HOME


def test_a_new_identity_begins_anew(sessions: Sessions) -> None:
    meet(sessions, at(HOME, 1))
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(COPY, 1))
    assert sessions.clashed_s("w1") == 0
    sessions.forget("w1")
    assert sessions.clashed_s("w1") is None
    meet(sessions, at(COPY, 1))


def test_a_clash_is_shown_for_a_while(sessions: Sessions, clock: Clock) -> None:
    assert sessions.clashed_s("w1") is None
    meet(sessions, at(HOME, 1))
    with pytest.raises(IdentityInUseError):
        meet(sessions, at(COPY, 1))
    clock.now += 299
    assert sessions.clashed_s("w1") == 299
    assert sessions.clashed() == ["w1"]
    clock.now += 1
    assert sessions.clashed_s("w1") is None
    assert sessions.clashed() == []


# ---- addresses


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9%eth0", "2001:db8:1:2::/64"),
        ("", ""),
        ("a-socket", "a-socket"),
    ],
)
def test_a_caller_is_told_by_its_address_or_its_network(address: str, found: str) -> None:
    assert neighbourhood(address) == found
