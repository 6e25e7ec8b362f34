"""What a person asks who has a one-time code: a token of their own."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.callers import address
from training.fleet.api.fleet import Fleet
from training.fleet.api.handlers.enrolment import NO_STORE
from training.fleet.api.request import Request
from training.fleet.model.errors import InviteRefusedError
from training.fleet.wire.identities import LoggedIn, Login

_log = logging.getLogger(__name__)


async def login(fleet: Fleet, request: Request, message: Login) -> Response:
    """Exchange a one-time code for the token of an operator."""
    caller = address(request)
    fleet.limiter.enter(caller)
    try:
        offer = await asyncio.to_thread(fleet.logins.exchange, message.code, message.token_sha256, time.time())
    except InviteRefusedError:
        _log.warning("login refused", extra={"data": {"from": caller}})
        raise
    except BaseException:
        fleet.limiter.forgive(caller)
        raise
    fleet.limiter.forgive(caller)
    fleet.access.reload()
    _log.info("logged in", extra={"data": {"operator": offer.name, "roles": list(offer.roles), "from": caller}})
    return Json(LoggedIn(offer.name, list(offer.roles)), headers=NO_STORE)
