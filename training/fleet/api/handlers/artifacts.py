"""Artifacts and their parts on the way out.

Guarantees that a download takes little memory whatever its size, that a broken one is never taken for the whole, and
that nothing in a part from a host runs in a browser.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, TypeVar

from starlette.responses import Response

from training.fleet.api.answers import Stream
from training.fleet.api.fleet import Fleet
from training.fleet.api.ranges import Span, digest_field, not_modified, wanted
from training.fleet.api.request import Request
from training.fleet.blobs import Blob, Blobs
from training.fleet.database import Transaction
from training.fleet.database.queries import ArtifactLengthRow, PartRow
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import ArtifactLostError, ArtifactPrunedError, FleetError, NotFoundError
from training.fleet.model.parts import media_type

T = TypeVar("T")
PIECE_BYTES: Final = 256 * 1024
"""Read at a time: few turns of the loop for a large file, and little memory for each of many readers."""
SHORT_ID: Final = 12
"""Hex digits of a job id in the name of a file; `list` shows as many."""
SANDBOX: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A card or a figure comes from a host: a browser shows it, runs no script in it and asks nobody because of it."""
LOST: Final = "copy it back from a backup and run fsck; without one `cis490-jobs requeue JOB` trains its job again"


async def bundle(fleet: Fleet, request: Request) -> Response:
    """The bundle of an artifact, or a range of it."""
    sha256 = request.target

    def look(tx: Transaction) -> tuple[ArtifactKey, int, list[str]] | None:
        rows = fleet.queue.artifacts
        for key in _here(rows.of(tx, sha256), sha256):
            return key, rows.size_bytes(tx, key) or 0, rows.jobs(tx, key)
        return None

    found = await fleet.run(look)
    if found is None:
        raise NotFoundError(f"no artifact {sha256}", "`list` names the artifact of each completed job")
    key, size_bytes, jobs = found
    job = f"_{jobs[0][:SHORT_ID]}" if jobs else ""
    headers = {
        "content-type": "application/zstd",
        "content-disposition": f'attachment; filename="{key.model}_{key.mode}{job}.tar.zst"',
    }
    return await _sent(fleet, request, key.path, sha256, size_bytes, headers)


async def part(fleet: Fleet, request: Request) -> Response:
    """One of the small files beside an artifact: its card, a figure, its metrics."""
    sha256, name = request.target, request.file

    def look(tx: Transaction) -> tuple[ArtifactKey, PartRow] | None:
        rows = fleet.queue.artifacts
        every = ((key, row) for key in _here(rows.of(tx, sha256), sha256) for row in rows.parts(tx, key))
        return next(((key, row) for key, row in every if row.name == name), None)

    found = await fleet.run(look)
    if found is None:
        raise NotFoundError(f"no file {name} beside artifact {sha256}", "`show --json` lists those there are: parts")
    key, row = found
    headers = {
        "content-type": media_type(name),
        "content-disposition": f'inline; filename="{name}"',
        "content-security-policy": SANDBOX,
    }
    return await _sent(fleet, request, key.file(name), row.sha256, row.size_bytes, headers)


def _here(rows: Sequence[ArtifactLengthRow], sha256: str) -> list[ArtifactKey]:
    """Return the artifacts of a digest that are not gone.

    Raises:
        ArtifactPrunedError: All of them were pruned.
        ArtifactLostError: All of them are gone otherwise; their jobs are trained again.
    """
    here = [ArtifactKey(sha256, row.model, row.mode) for row in rows if row.gone is None]
    if rows and not here:
        gone = rows[0]
        if gone.gone == "pruned":
            raise ArtifactPrunedError(
                f"the artifact {sha256} was pruned on {gone.gone_at}",
                "`cis490-jobs show JOB` still has its metrics and digests; a backup from before has its files",
            )
        raise ArtifactLostError(
            f"the artifact {sha256} was found lost at {gone.gone_at}",
            "its job is trained again; ask for its new result",
        )
    return here


async def _sent(
    fleet: Fleet, request: Request, path: str, sha256: str, size_bytes: int, headers: dict[str, str]
) -> Response:
    """Return a file as a stream, or what the conditions of the request make of it.

    Raises:
        ArtifactLostError: The file is not there, or has another length than its row says.
        RangeError: The file ends before the range begins.
    """
    tag = f'"{sha256}"'
    headers |= {"etag": tag, "repr-digest": digest_field(sha256), "accept-ranges": "bytes"}
    blobs = fleet.store.blobs
    blob = await _in_thread(blobs, blobs.stat, path)
    if blob is None or blob.size_bytes != size_bytes:
        raise _lost(blobs.address(path), blob, size_bytes)
    if not_modified(request.head, tag):
        return Response(status_code=304, headers={name: headers[name] for name in ("etag", "repr-digest")})
    span = wanted(request.head, tag, size_bytes)
    headers |= span.headers
    if request.method == "HEAD":
        return Response(status_code=span.status, headers=headers)
    return Stream(_pieces(blobs, path, span), fleet.streams, span.status, headers)


def _lost(address: str, blob: Blob | None, size_bytes: int) -> ArtifactLostError:
    there = "is not there" if blob is None else f"has {blob.size_bytes} bytes"
    return ArtifactLostError(
        f"the artifact is lost: its file {address} {there}", LOST, expected=f"a file of {size_bytes} bytes"
    )


async def _pieces(blobs: Blobs, path: str, span: Span) -> AsyncGenerator[bytes, None]:
    """Yield a part of a file. What comes short breaks the connection, because its length was promised."""
    file = await _in_thread(blobs, blobs.open, path)
    try:
        file.seek(span.first)
        left = span.size_bytes
        while left:
            piece = await asyncio.to_thread(file.read, min(left, PIECE_BYTES))
            if not piece:
                raise FleetError(f"{path} ended early", "run fsck")
            left -= len(piece)
            yield piece
    finally:
        file.close()


async def _in_thread(blobs: Blobs, call: Callable[[str], T], path: str) -> T:
    """Look at a file without holding up the loop."""
    try:
        return await asyncio.to_thread(call, path)
    except OSError as error:
        raise blobs.fault(f"read {path}", error) from error
