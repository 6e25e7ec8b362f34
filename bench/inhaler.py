"""The reference for uploads: Starlette writing a body to a file, with or without hashing it inline, then a sync.

Run as `python -m bench.inhaler PORT FOLDER hash|plain`. No authentication, no checks.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.serve import serve


async def upload(request: Request) -> Response:
    """Answer `PUT /v1/model/{sha256}`."""
    hashing = sys.argv[3] == "hash"
    digest = hashlib.sha256()
    part = Path(sys.argv[2]) / "part"
    with part.open("wb", buffering=0) as file:
        async for piece in request.stream():
            if hashing:
                digest.update(piece)
            file.write(piece)
        os.fsync(file.fileno())
    part.replace(part.with_name("bundle"))
    return JSONResponse({"sha256": digest.hexdigest()}, status_code=201)


app = Starlette(routes=[Route("/v1/model/{sha256}", upload, methods=["PUT"])])

if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
