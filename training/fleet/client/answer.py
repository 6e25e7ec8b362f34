"""What a receiver answered, and what it means: a document, a message of `wire`, or the error it named.

Guarantees that an answer which is no receiver's ends in an error for people, whatever it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from training.fleet.model.errors import (
    BY_CODE,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FleetError,
    ForbiddenError,
    LengthRequiredError,
    NotFoundError,
    PreconditionError,
    RequestError,
    StorageFullError,
    TooLargeError,
    UnavailableError,
    UpgradeRequiredError,
    from_problem,
)
from training.fleet.wire.read import MismatchError, message

T = TypeVar("T")

RETRY_AFTER_CAP_S: Final = 300.0
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TYPE: Final = re.compile(r"[\w.+-]{1,50}/[\w.+-]{1,50}")
_BY_STATUS: dict[int, type[FleetError]] = {
    400: RequestError,
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    411: LengthRequiredError,
    412: PreconditionError,
    413: TooLargeError,
    426: UpgradeRequiredError,
    429: UnavailableError,
    503: UnavailableError,
    507: StorageFullError,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status.
        headers: Header fields, names in lower case.
        body: The whole body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float | None:
        """Seconds of `Retry-After`, at most five minutes; None without one or when it names a date."""
        text = self.headers.get("retry-after", "")
        return min(float(text), RETRY_AFTER_CAP_S) if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) else None


def document(answer: Answer) -> dict[str, Any]:
    """Return the JSON object in an answer.

    Raises:
        UnavailableError: There is none, so the program that answered is no receiver.
    """
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnavailableError(
            "the answer is not a receiver's", "check the address, and whether a proxy stands between"
        )
    return found


def read(kind: type[T], answer: Answer) -> T:
    """Return the message in an answer; fields it does not know are ignored.

    Raises:
        UnavailableError: A field is missing or of another type, so the program that answered is no receiver.
    """
    try:
        return message(kind, document(answer))
    except MismatchError as fault:
        if fault.found is None:
            raise UnavailableError(
                f"the receiver's answer lacks {fault.place}", "update the receiver if it is older than this worker"
            ) from None
        raise UnavailableError(
            f"the receiver's answer has a wrong {fault.place}: found {fault.found}", expected=fault.expected
        ) from None


def refusal(answer: Answer, url: str) -> FleetError:
    """Return the error an answer of 300 and above stands for."""
    if answer.status < 400:
        return ConfigurationError(
            f"{url} answered with a redirect ({answer.status}), which is not followed because it would carry the "
            "token along",
            "give the final address",
        )
    problem = _problem(answer)
    if problem is None:
        return UnavailableError(
            f"{url} answered {answer.status} without a receiver's reason ({_media_type(answer) or 'no content'}); "
            "does a proxy stand between?",
            "wait until the receiver answers again; if it never does, check the address and the proxy",
            retry_after_s=answer.retry_after_s,
        )
    if problem.get("code") not in BY_CODE:
        # A newer receiver's. Its status says what it means for this program.
        fallback = _BY_STATUS.get(answer.status) or (UnavailableError if answer.status >= 500 else RequestError)
        problem = {**problem, "code": fallback.code}
    return from_problem(problem, retry_after_s=answer.retry_after_s)


def _problem(answer: Answer) -> dict[str, Any] | None:
    """Return the problem document of a refusal; None when something else than a receiver has answered.

    Receivers of every version name a code of words, and the status once more. A proxy's own 404 or 413 does not, and
    it says nothing of a job or a result, so it must not be taken for the receiver's.
    """
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("status", answer.status) != answer.status:
        return None
    code = found.get("code")
    return found if isinstance(code, str) and _CODE.fullmatch(code) else None


def _media_type(answer: Answer) -> str:
    """Return what an answer says it is, empty where that is no name of a type."""
    found = _TYPE.match(answer.headers.get("content-type", ""))
    return found[0] if found else ""
