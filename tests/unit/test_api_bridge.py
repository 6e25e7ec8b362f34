"""The way from the event loop to the writer and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from training.fleet.api.bridge import Bridge
from training.fleet.model.errors import ConflictError


class Writer:
    """A database whose changes end when the test says so."""

    def __init__(self) -> None:
        self.deliver: Callable[[list[Callable[[], None]]], None]
        self.posted: list[tuple[Callable[[Any], Any], Callable[[Any, BaseException | None], None]]] = []

    def post(self, change: Callable[[Any], Any], settle: Callable[[Any, BaseException | None], None]) -> None:
        self.posted.append((change, settle))

    def commit(self, error: BaseException | None = None) -> None:
        """End all changes together, as one group of commits does."""
        posted, self.posted = self.posted, []

        def answer(change: Callable[[Any], Any], settle: Callable[[Any, BaseException | None], None]) -> None:
            settle(None if error else change("tx"), error)

        self.deliver([lambda one=one: answer(*one) for one in posted])  # type: ignore[misc]


def test_results_and_errors_arrive_in_order_and_each_is_timed() -> None:
    async def run() -> None:
        writer, took, order = Writer(), list[float](), list[str]()
        bridge = Bridge(writer, asyncio.get_running_loop(), took.append)  # type: ignore[arg-type]
        first, second = bridge.run(lambda tx: f"{tx} 1"), bridge.run(lambda tx: f"{tx} 2")
        first.add_done_callback(lambda _: order.append("first"))
        second.add_done_callback(lambda _: order.append("second"))
        writer.commit()
        assert await asyncio.gather(first, second) == ["tx 1", "tx 2"]
        assert order == ["first", "second"]
        failed = bridge.run(lambda _tx: None)
        writer.commit(ConflictError("no"))
        with pytest.raises(ConflictError):
            await failed
        assert len(took) == 3

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize("error", [None, ConflictError("no")])
def test_the_result_of_a_caller_that_has_gone_is_dropped_and_the_next_one_arrives(error: ConflictError | None) -> None:
    async def run() -> None:
        writer, troubles = Writer(), list[Any]()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: troubles.append(context))
        bridge = Bridge(writer, loop)  # type: ignore[arg-type]
        gone = bridge.run(lambda _tx: 1)
        gone.cancel()
        writer.commit(error)
        after = bridge.run(lambda _tx: 2)
        writer.commit()
        assert await after == 2
        assert gone.cancelled()
        assert troubles == []

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_notice_is_called_on_the_loop_and_dropped_when_the_loop_has_ended() -> None:
    heard: list[int] = []
    writer = Writer()

    async def run() -> Bridge:
        bridge = Bridge(writer, asyncio.get_running_loop())  # type: ignore[arg-type]
        await asyncio.to_thread(bridge.notify, lambda: heard.append(1))
        await asyncio.sleep(0)
        return bridge

    asyncio.run(run()).notify(lambda: heard.append(2))
    assert heard == [1]
