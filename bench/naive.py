"""The naive reference: Starlette and sqlite3, a connection per thread, one commit per request.

Run as `python -m bench.naive PORT DATABASE`. No authentication, no validation.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.serve import serve
from bench.statements import claim, complete, connect

_local = threading.local()


def _connection() -> sqlite3.Connection:
    if not hasattr(_local, "connection"):
        _local.connection = connect(Path(sys.argv[2]))
    connection: sqlite3.Connection = _local.connection
    return connection


def _claim(body: bytes) -> Response:
    connection = _connection()
    connection.execute("BEGIN IMMEDIATE")
    lease = claim(connection, json.loads(body)["worker"])
    connection.execute("COMMIT")
    return Response(status_code=204) if lease is None else JSONResponse(lease)


def _complete(job_id: str, body: bytes) -> Response:
    connection, message = _connection(), json.loads(body)
    connection.execute("BEGIN IMMEDIATE")
    done = complete(connection, job_id, message["lease_id"], message["artifact"])
    connection.execute("COMMIT")
    return JSONResponse({"id": job_id, "status": "completed"}, status_code=200 if done else 409)


async def claim_job(request: Request) -> Response:
    """Answer `POST /v1/job/claim`."""
    return await run_in_threadpool(_claim, await request.body())


async def complete_job(request: Request) -> Response:
    """Answer `POST /v1/job/{id}/complete`."""
    return await run_in_threadpool(_complete, request.path_params["id"], await request.body())


app = Starlette(
    routes=[
        Route("/v1/job/claim", claim_job, methods=["POST"]),
        Route("/v1/job/{id}/complete", complete_job, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
