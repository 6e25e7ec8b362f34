"""Every error of the fleet, as one tree.

Owns the stable codes, HTTP statuses and exit statuses. Guarantees that an error carries what was found, what was
expected and what to do now as fields, and that the client raises the same class with the same fields as the receiver.
The text for people is made from the fields in one place, so no code needs to read a text.

    raise ConflictError(f"the job {job_id} is {status}", expected="a failed or cancelled job")
    raise UnavailableError("the receiver is stopping", "try again in a moment", retry_after_s=5.0)

    FleetError
    |- ConfigurationError      78  settings or manifest that a restart cannot fix
    |  '- ManifestError        422 a manifest with faults, all of them listed
    |- RequestError            400 a message that cannot be read
    |  |- InvalidMessageError  422 a readable message with wrong content
    |  |- ShortBodyError       400 a body shorter than it declared
    |  |- LengthRequiredError  411 an upload without Content-Length
    |  |- TooLargeError        413 a body over its limit
    |  |- DigestMismatchError  422 bytes that do not hash to their name
    |  |- RangeError           416 a range that begins behind the end of the file
    |  '- UpgradeRequiredError 426 a worker too old for this receiver
    |- AuthenticationError     401 no credential, or an unknown one
    |  |- RevokedError         401 a secret that was taken back
    |  '- InviteRefusedError   401 an invite that is unknown, used up or too old
    |- ForbiddenError          403 a known caller without the right
    |  |- HostRefusedError     403 a host the manifest does not admit
    |  '- CertificateMismatchError 403 the certificate of one worker with the secret of another
    |- NotFoundError           404 no such job, worker or artifact
    |  |- ArtifactLostError    404 an artifact that has a row and no whole file
    |  '- ArtifactPrunedError  410 an artifact whose files were removed on purpose
    |- MethodError             405 the path exists, the method does not
    |- IdentityInUseError      409 another machine uses the identity
    |- ConflictError           409 the state does not allow it
    |  |- StaleLeaseError      409 the lease is no longer the newest one
    |  |- OtherResultError     409 the job already has another artifact
    |  '- WouldShrinkError     409 a manifest that declares fewer jobs without permission to do so
    |- PreconditionError       412 what the caller relied on has moved
    |  '- ArtifactMissingError 412 a completion without a stored artifact
    |- UnavailableError        503 the receiver cannot serve now; try again
    |  |- TooManyTriesError    429 too many wrong tries from this address
    |  |- StorageFullError     507 no room for the bytes
    |  '- UnreachableError     69  nobody answers at the address
    '- TrainerError            a trainer that broke its contract
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypedDict, Unpack

EX_FAILURE = 1
EX_USAGE = 2
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78
MAX_TOLD = 3
"""Single faults that stand in the one line of an error; a terminal and a problem document list all of them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input.

    Attributes:
        place: Where: "jobs[3].hyper.max_iter (line 41)", a JSON pointer, or a setting's name.
        found: What stands there, shortened for people.
        expected: What would be right.
        remedy: What to do now, or empty. Often the nearest valid name.
    """

    place: str
    found: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return the fault as one line for people."""
        tail = f"; {self.remedy}" if self.remedy else ""
        return f"{self.place}: found {self.found}, expected {self.expected}{tail}"


class Details(TypedDict, total=False):
    """What any error can carry besides what was found and the remedy.

    Attributes:
        expected: What would be right, where the finding does not say it already.
        faults: The single faults, where there are several.
        retry_after_s: Seconds after which trying again makes sense, or None.
    """

    expected: str
    faults: tuple[Fault, ...]
    retry_after_s: float | None


class FleetError(Exception):
    """Anything the fleet refuses or fails at, with what to do now.

    Args:
        found: What is the case, for people.
        remedy: What to do now, for people; empty when the finding says it or nothing can be done.
        **details: As in `Details`.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = EX_FAILURE

    def __init__(self, found: str, remedy: str = "", **details: Unpack[Details]) -> None:
        super().__init__(found, remedy)
        self.found = found
        self.remedy = remedy
        self.expected = details.get("expected", "")
        self.faults = details.get("faults", ())
        self.retry_after_s = details.get("retry_after_s")

    def __str__(self) -> str:
        """Return the error as one line for people."""
        return self.message

    @property
    def message(self) -> str:
        """The error as one line for people: what was found, the first faults, what was expected, what to do now."""
        return "; ".join(filter(None, (self.finding, self.remedy)))

    @property
    def finding(self) -> str:
        """The same without what to do."""
        told = [str(fault) for fault in self.faults[:MAX_TOLD]]
        if len(self.faults) > MAX_TOLD:
            told.append(f"and {len(self.faults) - MAX_TOLD} more")
        return "; ".join([self.found, *told, *self._expectation()])

    @property
    def lines(self) -> list[str]:
        """The error for a terminal: one line, and one more for each single fault."""
        first = "; ".join([self.found, *self._expectation(), *filter(None, [self.remedy])])
        return [first, *(f"  {fault}" for fault in self.faults)]

    def _expectation(self) -> list[str]:
        return [f"expected {self.expected}"] if self.expected else []

    def problem(self) -> dict[str, Any]:
        """Return the error as an RFC 9457 problem document.

        `detail` is the one line for people; `found`, `expected`, `remedy` and `errors` hold the same as fields, and
        those that are empty are left out.

        Source: RFC 9457, Problem Details for HTTP APIs.
        """
        body: dict[str, Any] = {
            "type": f"urn:cis490:problem:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "found": self.found,
        }
        body |= {key: text for key in ("expected", "remedy") if (text := getattr(self, key))}
        if self.faults:
            body["errors"] = [asdict(fault) for fault in self.faults]
        return body


class ConfigurationError(FleetError):
    """Settings that a restart cannot fix."""

    code, exit_status = "bad_configuration", EX_CONFIG


class ManifestError(ConfigurationError):
    """A manifest with faults. Nothing of it is applied."""

    code, status = "manifest_invalid", 422


class RequestError(FleetError):
    """A message that cannot be read at all."""

    code, status = "bad_request", 400


class InvalidMessageError(RequestError):
    """A readable message whose content breaks the contract."""

    code, status = "invalid_message", 422


class ShortBodyError(RequestError):
    """A body that ended before its declared length."""

    code, status = "short_body", 400


class LengthRequiredError(RequestError):
    """An upload that does not say how long it is."""

    code, status = "length_required", 411


class TooLargeError(RequestError):
    """A body over its limit."""

    code, status = "too_large", 413


class DigestMismatchError(RequestError):
    """Bytes that do not hash to the name they were sent under."""

    code, status = "digest_mismatch", 422


class UpgradeRequiredError(RequestError):
    """A worker that is too old for this receiver."""

    code, status = "upgrade_required", 426


class AuthenticationError(FleetError):
    """No credential, or one that nobody knows."""

    code, status, exit_status = "unauthenticated", 401, EX_NOPERM


class RevokedError(AuthenticationError):
    """A secret that an operator has taken back, or that a newer enrolment has replaced."""

    code = "revoked"


class InviteRefusedError(AuthenticationError):
    """An invite that nobody gave, that is used up, or whose time is over."""

    code = "invite_refused"


class ForbiddenError(FleetError):
    """A known caller without the right to do this."""

    code, status, exit_status = "forbidden", 403, EX_NOPERM


class HostRefusedError(ForbiddenError):
    """A host that the manifest does not admit."""

    code = "host_refused"


class CertificateMismatchError(ForbiddenError):
    """A certificate that was issued to another worker than the secret shown with it.

    Args:
        found: Whose is which, for people.
        remedy: As for every error.
        worker: Whose secret was shown; empty on the client's side.
        **details: As for every error.
    """

    code = "certificate_mismatch"

    def __init__(self, found: str, remedy: str = "", *, worker: str = "", **details: Unpack[Details]) -> None:
        super().__init__(found, remedy, **details)
        self.worker = worker


class NotFoundError(FleetError):
    """No such job, worker or artifact."""

    code, status = "not_found", 404


class ArtifactLostError(NotFoundError):
    """An artifact that has a row and no whole file."""

    code = "artifact_lost"


class ArtifactPrunedError(NotFoundError):
    """An artifact whose files were removed on purpose; its metrics and digests are kept."""

    code, status = "artifact_pruned", 410


class RangeError(RequestError):
    """A range that begins behind the end of the file.

    Args:
        found: Which range, for people.
        remedy: As for every error.
        total_bytes: How long the file is; 0 on the client's side.
        **details: As for every error.
    """

    code, status = "range_beyond", 416

    def __init__(self, found: str, remedy: str = "", *, total_bytes: int = 0, **details: Unpack[Details]) -> None:
        super().__init__(found, remedy, **details)
        self.total_bytes = total_bytes


class MethodError(FleetError):
    """The path exists, the method does not.

    Args:
        found: Which method, for people.
        remedy: As for every error.
        allow: The methods that work, as the `Allow` header lists them; empty on the client's side.
        **details: As for every error.
    """

    code, status = "method_not_allowed", 405

    def __init__(self, found: str, remedy: str = "", *, allow: str = "", **details: Unpack[Details]) -> None:
        super().__init__(found, remedy, **details)
        self.allow = allow


class IdentityInUseError(FleetError):
    """Another machine uses the identity now. The same request may succeed once that one is silent."""

    code, status, exit_status = "identity_in_use", 409, EX_NOPERM


class ConflictError(FleetError):
    """The present state does not allow the change."""

    code, status = "wrong_state", 409


class StaleLeaseError(ConflictError):
    """The lease is no longer the newest one of its job; its trainer must stop."""

    code = "stale_lease"


class OtherResultError(ConflictError):
    """The job is completed with another artifact."""

    code = "other_result"


class WouldShrinkError(ConflictError):
    """A manifest that declares fewer jobs than the one in force, without permission to do so."""

    code = "would_shrink"


class PreconditionError(FleetError):
    """What the caller relied on has moved since."""

    code, status = "plan_moved", 412


class ArtifactMissingError(PreconditionError):
    """A completion that names an artifact the store does not hold."""

    code = "artifact_missing"


class UnavailableError(FleetError):
    """The receiver cannot serve this now; the same request may succeed later."""

    code, status, exit_status = "unavailable", 503, EX_TEMPFAIL


class TooManyTriesError(UnavailableError):
    """Too many wrong tries from one address; the next one is looked at after `Retry-After`."""

    code, status = "too_many_tries", 429


class StorageFullError(UnavailableError):
    """There is no room for the bytes."""

    code, status = "storage_full", 507


class UnreachableError(UnavailableError):
    """Nobody answers at the receiver's address, or in a way that no request can be made.

    Args:
        found: What happened, for people.
        remedy: As for every error.
        answered: Something is there, so that starting a receiver would change nothing.
        **details: As for every error.
    """

    code, exit_status = "unreachable", EX_UNAVAILABLE

    def __init__(self, found: str, remedy: str = "", *, answered: bool = False, **details: Unpack[Details]) -> None:
        super().__init__(found, remedy, **details)
        self.answered = answered


class TrainerError(FleetError):
    """A trainer that broke its contract.

    Args:
        found: What it did, for people.
        remedy: As for every error.
        kind: The failure kind, one of `jobs.FAIL_KINDS`.
        **details: As for every error.
    """

    code = "trainer_error"

    def __init__(
        self, found: str, remedy: str = "", *, kind: str = "trainer_error", **details: Unpack[Details]
    ) -> None:
        super().__init__(found, remedy, **details)
        self.kind = kind


PASSING = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""Refusals of the system that can end without a change of settings, such as a full disk."""


def passing(error: OSError, found: str, remedy: str) -> UnavailableError | None:
    """Return the error for a trouble that can end by itself or with the disk's, so that a restart may help.

    Args:
        error: What the system said.
        found: The same for people.
        remedy: What to do now.

    Returns:
        None when settings or rights are wrong instead.
    """
    if error.errno not in PASSING:
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageFullError(found, remedy) if full else UnavailableError(found, remedy)


def _tree(root: type[FleetError]) -> list[type[FleetError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in _tree(branch))]


BY_CODE: dict[str, type[FleetError]] = {error.code: error for error in _tree(FleetError)}
"""Code to class, for the client."""


def from_problem(problem: dict[str, Any], *, retry_after_s: float | None = None) -> FleetError:
    """Return the error that a problem document describes.

    Args:
        problem: A decoded RFC 9457 document. Missing or odd members are tolerated.
        retry_after_s: The answer's `Retry-After`, if any.

    Returns:
        An instance of the class with that code; `FleetError` itself when the code is unknown.
    """
    kind = BY_CODE.get(str(problem.get("code")), FleetError)
    faults = tuple(
        Fault(*(str(item.get(key, "")) for key in ("place", "found", "expected", "remedy")))
        for item in problem.get("errors") or ()
        if isinstance(item, dict)
    )
    # A receiver of an older version, or a proxy in front of it, sends `detail` alone.
    told = problem if "found" in problem else {"found": problem.get("detail") or problem.get("title")}
    found, expected, remedy = (str(told.get(key) or "") for key in ("found", "expected", "remedy"))
    found = found or "the receiver gave no reason"
    return kind(found, remedy, expected=expected, faults=faults, retry_after_s=retry_after_s)
