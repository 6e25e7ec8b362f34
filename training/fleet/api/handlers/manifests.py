"""The manifest: handing one in, and reading those that came in force."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.fleet import Fleet
from training.fleet.api.request import Request
from training.fleet.model.errors import InvalidMessageError, RequestError
from training.fleet.model.names import is_sha256
from training.fleet.wire.manifests import ManifestList
from training.fleet.wire.people import Reload

TOML: Final = "application/toml"


async def apply(fleet: Fleet, request: Request) -> Response:
    """Bring the manifest in the body in force; it counts until the receiver's own file changes."""
    query, text = request.query, await request.arrival.whole()
    if not text.strip():
        raise RequestError("the body is empty", "send the text of a manifest", expected="a manifest (TOML)")
    message = Reload(query.get("allow_shrink") == "yes", query.get("if_plan"), query.get("keep_dropped") == "yes")
    plan = await fleet.loader.apply(
        text, message, request.caller.who, if_manifest=_expected(request), how=query.get("how", "apply")
    )
    return Json(plan, headers={"etag": f'"{plan.manifest}"'})


def _expected(request: Request) -> str | None:
    """Return the digest that `If-Match` names, None without one.

    Source: RFC 9110, section 13.1.1.
    """
    given = request.headers.get("if-match", "").strip()
    if given in ("", "*"):
        return None
    digest = given.strip('"')
    if not is_sha256(digest):
        raise InvalidMessageError(
            f"If-Match is {ascii(given)[:80]}", expected="the digest of one manifest in quotation marks, or *"
        )
    return digest


async def manifests(fleet: Fleet, _request: Request) -> Response:
    """The manifests that came in force, newest first, with who and when."""
    digest = fleet.queue.in_force.digest
    return Json(ManifestList(await fleet.run(lambda tx: fleet.queue.manifests.views(tx, digest))))


async def manifest(fleet: Fleet, request: Request) -> Response:
    """The text of one manifest that came in force."""
    digest = request.target
    text = await fleet.run(lambda tx: fleet.queue.manifests.text(tx, digest))
    return Response(text, media_type=TOML, headers={"etag": f'"{digest}"', "x-content-type-options": "nosniff"})
