"""Programs that the receiver hands out as one file each.

`cis490-jobs` and the installer need no token, because who fetches them has none yet, and they hold nothing secret: who
is told to fetch one is told its digest as well, so that nothing runs which the receiver did not mean.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from training.fleet.api.fleet import Fleet
from training.fleet.api.handlers.read import NO_CACHE, is_unchanged
from training.fleet.api.request import Request
from training.fleet.model.errors import NotFoundError
from training.fleet.single_file import INSTALLER, JOBS, WORKER, PackedProgram, own_single_file


async def worker_file(_fleet: Fleet, request: Request) -> Response:
    """The worker of this receiver's version as one file; its ETag is the SHA-256 of the bytes."""
    return await _handed_out(request, WORKER)


async def jobs_file(_fleet: Fleet, request: Request) -> Response:
    """The command `cis490-jobs` of this receiver's version as one file; its ETag is the SHA-256 of the bytes."""
    return await _handed_out(request, JOBS)


async def installer_file(_fleet: Fleet, request: Request) -> Response:
    """The installer of a worker of this receiver's version as one file; its ETag is the SHA-256 of the bytes."""
    try:
        return await _handed_out(request, INSTALLER)
    except OSError:
        raise NotFoundError("this receiver was not installed from a checkout", "install it in a clone") from None


async def _handed_out(request: Request, program: PackedProgram) -> Response:
    found = await asyncio.to_thread(own_single_file, program)
    tag = f'"{found.sha256}"'
    if is_unchanged(request, tag):
        return Response(status_code=304, headers={"etag": tag, **NO_CACHE})
    name = {"content-disposition": f'attachment; filename="{program.name}"'}
    return Response(found.data, headers={**name, "etag": tag, **NO_CACHE}, media_type="application/zip")
