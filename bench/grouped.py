"""The grouped reference: the same statements behind one writer thread that commits once for all waiting requests.

Run as `python -m bench.grouped PORT DATABASE`. No authentication, no validation.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.serve import serve
from bench.statements import claim, complete, connect

Change = Callable[[sqlite3.Connection], Any]


class Writer:
    """One thread, one connection, one commit for everything that waits."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._inbox: queue.SimpleQueue[tuple[Change, asyncio.Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def run(self, change: Change) -> asyncio.Future[Any]:
        """Return the result of a change once it is durable."""
        waiter: asyncio.Future[Any] = self._loop.create_future()
        self._inbox.put((change, waiter))
        return waiter

    def _serve(self) -> None:
        connection = connect(self._path)
        while True:
            batch = [self._inbox.get()]
            while not self._inbox.empty():
                batch.append(self._inbox.get())
            connection.execute("BEGIN IMMEDIATE")
            results = [(waiter, change(connection)) for change, waiter in batch]
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._answer, results)

    @staticmethod
    def _answer(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for waiter, result in results:
            if not waiter.cancelled():
                waiter.set_result(result)


async def claim_job(request: Request) -> Response:
    """Answer `POST /v1/job/claim`."""
    message = await request.json()
    lease = await request.app.state.writer.run(lambda connection: claim(connection, message["worker"]))
    return Response(status_code=204) if lease is None else JSONResponse(lease)


async def complete_job(request: Request) -> Response:
    """Answer `POST /v1/job/{id}/complete`."""
    job_id, message = request.path_params["id"], await request.json()
    done = await request.app.state.writer.run(
        lambda connection: complete(connection, job_id, message["lease_id"], message["artifact"])
    )
    return JSONResponse({"id": job_id, "status": "completed"}, status_code=200 if done else 409)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Start the writer with the application."""
    app.state.writer = Writer(Path(sys.argv[2]), asyncio.get_running_loop())
    yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/v1/job/claim", claim_job, methods=["POST"]),
        Route("/v1/job/{id}/complete", complete_job, methods=["POST"]),
    ],
)

if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
