"""How a body is counted and timed while it arrives; by calls of the reader, on a loop whose waits are at once over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from training.fleet.api import arrival as module
from training.fleet.api.arrival import BODY_WAIT_S, PACE_BYTES, PACED, Arrival
from training.fleet.model.errors import RequestError, ShortBodyError, TooLargeError, UnavailableError
from training.fleet.wire.limits import MAX_BODY_BYTES

GONE: Message = {"type": "http.disconnect"}
Head = list[tuple[bytes, bytes]]


def piece(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def arriving(*messages: Message, head: Head | None = None, late: bool = False) -> Arrival:
    """Return a request whose messages come one by one; late ones come a turn of the loop after they are asked for."""
    left = list(messages)
    scope: Scope = {"type": "http", "headers": head or []}

    async def receive() -> Message:
        if late:
            for _ in range(3):
                await asyncio.sleep(0)
        return left.pop(0)

    return Arrival(scope, receive)


def done(work: Callable[[], Awaitable[object]]) -> object:
    async def run() -> object:
        return await work()

    return asyncio.run(run())


# ---- counted


def test_a_body_is_put_together_from_its_pieces_in_order() -> None:
    assert done(arriving(piece(b"a"), piece(b"b"), piece(b"c", more=False)).whole) == b"abc"
    assert done(arriving(piece(b"abc", more=False)).whole) == b"abc"
    assert done(arriving({"type": "http.request"}).whole) == b""


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([piece(b"abcd", more=False)], id="at once"),
        pytest.param([piece(b"ab"), piece(b"cd", more=False)], id="in two pieces"),
        pytest.param([piece(b"abcd"), piece(b"", more=False)], id="with an empty end"),
    ],
)
@pytest.mark.parametrize("head", [[], [(b"content-length", b"4")]])
def test_a_body_may_be_as_large_as_its_route_allows_and_not_a_byte_larger(messages: list[Message], head: Head) -> None:
    for limit in (4, 5):
        arrival = arriving(*messages, head=head)
        arrival.allow(limit)
        assert done(arrival.whole) == b"abcd"
        assert arrival.consumed
    arrival = arriving(*messages, head=head)
    arrival.allow(3)
    with pytest.raises(TooLargeError):
        done(arrival.whole)


def test_a_body_declared_too_large_is_refused_at_its_first_piece() -> None:
    arrival = arriving(piece(b"a"), head=[(b"content-length", b"5")])
    arrival.allow(4)
    with pytest.raises(TooLargeError, match="declared"):
        done(arrival.receive)


def test_pieces_that_were_read_before_count_with_the_rest() -> None:
    for limit, good in ((6, True), (5, False)):
        arrival = arriving(piece(b"abc"), piece(b"def", more=False))
        arrival.allow(limit)

        async def both(arrival: Arrival = arrival) -> bytes:
            first = await arrival.receive()
            return bytes(first["body"]) + await arrival.whole()

        if good:
            assert done(both) == b"abcdef"
        else:
            with pytest.raises(TooLargeError):
                done(both)


def test_a_body_without_a_limit_is_read_whole() -> None:
    arrival = arriving(piece(b"a" * MAX_BODY_BYTES), piece(b"b", more=False))
    arrival.allow(None)
    assert len(done(arrival.whole)) == MAX_BODY_BYTES + 1  # type: ignore[arg-type]
    arrival = arriving(piece(b"abc", more=False))
    arrival.allow(None)
    assert done(arrival.whole) == b"abc"


@pytest.mark.parametrize("messages", [[GONE], [piece(b"a"), GONE]])
def test_a_client_that_hangs_up_has_sent_no_body(messages: list[Message]) -> None:
    arrival = arriving(*messages)
    with pytest.raises(ClientDisconnect):
        done(arrival.whole)
    assert not arrival.consumed


# ---- who times it


def test_a_body_is_timed_here_where_the_handler_counts_it_and_where_it_may_be_larger_than_a_message() -> None:
    """The receiver's watch over slow connections passes over what is timed here, and over nothing else."""
    uncounted, message, manifest = (arriving(piece(b"a"), piece(b"b", more=False)) for _ in range(3))
    uncounted.allow(None)
    assert uncounted.scope[PACED] is True
    message.allow(MAX_BODY_BYTES)
    manifest.allow(MAX_BODY_BYTES + 1)
    assert PACED not in message.scope
    for arrival, paced in ((message, False), (manifest, True)):
        done(arrival.receive)
        assert arrival.scope[PACED] is paced


def test_the_first_piece_of_a_message_is_not_timed_and_each_later_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_WAIT_S", 0.0)
    arrival = arriving(piece(b"a"), piece(b"b"), late=True)
    assert done(arrival.receive) == piece(b"a")
    with pytest.raises(ShortBodyError):
        done(arrival.receive)


def test_each_piece_of_a_body_without_a_limit_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_WAIT_S", 0.0)
    arrival = arriving(piece(b"a"), late=True)
    arrival.allow(None)
    with pytest.raises(ShortBodyError):
        done(arrival.receive)


def test_after_the_end_of_the_body_a_hang_up_may_take_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_WAIT_S", 0.0)
    arrival = arriving(piece(b"a", more=False), GONE, late=True)
    assert done(arrival.whole) == b"a"
    assert done(arrival.receive) == GONE


# ---- how fast it must come


def taken(*pieces: tuple[float, int]) -> int:
    """Return how many pieces are taken of a client that takes so many seconds for each, on the test's own clock."""
    left, now, count = list(pieces), [0.0], 0

    async def receive() -> Message:
        took_s, size_bytes = left.pop(0)
        now[0] += took_s
        for _ in range(3):  # turns in which a timer that is due fires
            await asyncio.sleep(0)
        return piece(b"a" * size_bytes)

    async def read() -> None:
        nonlocal count
        asyncio.get_running_loop().time = lambda: now[0]  # type: ignore[method-assign]
        arrival = Arrival({"type": "http", "headers": []}, receive)
        arrival.allow(None)
        with contextlib.suppress(ShortBodyError):
            while left:
                await arrival.receive()
                count += 1

    asyncio.run(read())
    return count


@pytest.mark.parametrize(
    ("pieces", "count"),
    [
        pytest.param([(0.9, PACE_BYTES)] * 4, 4, id="enough each time"),
        pytest.param([(1.1, PACE_BYTES)], 0, id="too late"),
        pytest.param([(0.4, PACE_BYTES // 2)] * 6, 6, id="half in less than half the time"),
        pytest.param([(0.6, PACE_BYTES // 2)] * 3, 1, id="half in more than half the time"),
        pytest.param([(0.4, 1)] * 6, 2, id="a drip"),
        pytest.param([(0.6, PACE_BYTES - 1), (0.3, 1), (0.9, 1)], 3, id="the last byte begins a new wait"),
        pytest.param([(0.6, PACE_BYTES - 1), (0.6, 1)], 1, id="a byte before it does not"),
    ],
)
def test_a_body_must_bring_so_many_bytes_in_each_so_many_seconds(pieces: list[tuple[float, int]], count: int) -> None:
    """Times are parts of the longest wait."""
    assert taken(*((part * BODY_WAIT_S, size_bytes) for part, size_bytes in pieces)) == count


# ---- given up


def why() -> UnavailableError:
    return UnavailableError("a newer one has come", "send it again")


def test_a_reader_that_waits_is_given_the_error_at_once_and_one_that_does_not_at_its_next_piece() -> None:
    async def waiting() -> None:
        arrival = Arrival({"type": "http", "headers": []}, asyncio.Event().wait)  # type: ignore[arg-type]
        arrival.allow(None)
        reading = asyncio.create_task(arrival.receive())
        await asyncio.sleep(0)
        arrival.give_up(why())
        arrival.give_up(why())  # again is no trouble
        with pytest.raises(UnavailableError, match="a newer one has come"):
            await asyncio.wait_for(reading, 10)
        arrival.give_up(why())  # after its end neither

    asyncio.run(waiting())
    arrival = arriving(piece(b"a"))
    arrival.allow(None)
    arrival.give_up(why())
    with pytest.raises(UnavailableError):
        done(arrival.receive)
    assert done(arrival.receive) == piece(b"a")  # once: the rest may be read and dropped


def test_giving_up_twice_before_the_reader_runs_is_one_end() -> None:
    """Its timer has fired then and can be set no more."""

    async def twice() -> None:
        arrival = Arrival({"type": "http", "headers": []}, asyncio.Event().wait)  # type: ignore[arg-type]
        arrival.allow(None)
        reading = asyncio.create_task(arrival.receive())
        await asyncio.sleep(0)
        arrival.give_up(why())
        timer = arrival._timer
        assert timer is not None
        for _ in range(1000):
            if timer.expired():
                break
            await asyncio.sleep(0)
        arrival.give_up(why())
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(reading, 10)

    asyncio.run(twice())


# ---- what the head says of it


@pytest.mark.parametrize(
    ("head", "has_body", "is_small"),
    [
        ([], False, False),
        ([(b"content-length", b"0")], False, True),
        ([(b"content-length", b"1")], True, True),
        ([(b"content-length", b"%d" % MAX_BODY_BYTES)], True, True),
        ([(b"content-length", b"%d" % (MAX_BODY_BYTES + 1))], True, False),
        ([(b"content-length", b"9999999")], True, False),
        ([(b"content-length", b"0000001")], True, True),
        ([(b"content-length", b"00000001")], True, False),
        ([(b"content-length", b"9" * 5000)], True, False),
        ([(b"content-length", b"-1")], True, False),
        ([(b"transfer-encoding", b"chunked")], True, False),
        ([(b"transfer-encoding", b"chunked"), (b"content-length", b"1")], True, False),
        ([(b"upgrade", b"h2c"), (b"content-length", b"1")], True, False),
    ],
)
def test_the_head_says_if_a_body_follows_and_if_it_is_small(head: Head, has_body: bool, is_small: bool) -> None:
    arrival = arriving(head=head)
    assert (arrival.has_body(), arrival.is_small()) == (has_body, is_small)


def test_a_length_has_at_most_18_digits() -> None:
    assert arriving().declared_bytes() == -1
    assert arriving(head=[(b"content-length", b"0")]).declared_bytes() == 0
    assert arriving(head=[(b"content-length", b"9" * 18)]).declared_bytes() == 10**18 - 1
    for given in (b"9" * 19, b"-1", b"+1", b"1e3", b"", b" 1"):
        with pytest.raises(RequestError):
            arriving(head=[(b"content-length", given)]).declared_bytes()


# ---- dropped


@pytest.mark.parametrize(
    ("messages", "most", "all_of_it", "left"),
    [
        pytest.param([piece(b"ab"), piece(b"cd", more=False)], 10, True, 0, id="less than may be"),
        pytest.param([piece(b"ab"), piece(b"cd", more=False)], 3, True, 0, id="its end is begun"),
        pytest.param([piece(b"ab"), piece(b"cd", more=False)], 2, False, 1, id="as much as may be"),
        pytest.param([piece(b"ab"), piece(b"cd", more=False)], 0, False, 2, id="nothing"),
        pytest.param([piece(b"ab"), GONE, piece(b"cd")], 10, False, 1, id="the client hangs up"),
    ],
)
def test_the_rest_of_a_body_is_dropped_up_to_a_number_of_bytes(
    messages: list[Message], most: int, all_of_it: bool, left: int
) -> None:
    remaining = list(messages)

    async def receive() -> Message:
        return remaining.pop(0)

    arrival = Arrival({"type": "http", "headers": [(b"content-length", b"9" * 9)]}, receive)
    assert asyncio.run(arrival.drop(most)) is all_of_it
    assert len(remaining) == left
