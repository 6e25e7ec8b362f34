"""The receiver as the operator's command sees it: questions, pages and short job ids.

Owns which path answers which question. Answers stay the receiver's JSON, so that `--json` shows them unchanged.
Leaves connections and retries to `client`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

from training.fleet.client.answer import Answer
from training.fleet.client.fetch import FileSource, OnBytes, fetch
from training.fleet.model.errors import DigestMismatchError, FleetError, MethodError, NotFoundError
from training.fleet.wire.people import MAX_PAGE
from training.fleet.wire.read import MismatchError, message

T = TypeVar("T")

CANDIDATES: Final = 10
"""How many jobs an ambiguous id names in its error."""
ANSWER_S: Final = 300.0
"""Longest wait for the answer to a change, seconds; applying a large manifest takes some."""
DOWNLOAD_S: Final = 60.0
"""Longest time without an answer while a file is fetched, seconds; a network that comes back within it costs nothing
but time."""


def read(kind: type[T], document: Any) -> T:
    """Return the receiver's JSON as a message.

    Args:
        kind: A dataclass of `wire`.
        document: What `Remote` returned, or a part of it.

    Raises:
        FleetError: A member is missing or has another type; receiver and command have different versions.
    """
    try:
        return message(kind, document)
    except MismatchError as fault:
        place = "the answer" + (f".{fault.place}" if fault.place else "")
        found = "nothing" if fault.found is None else fault.found
        raise FleetError(
            f"the receiver's answer cannot be read: {place}: found {found}, expected {fault.expected}"
            "; receiver and command have different versions",
            "update the older one",
        ) from None


class Connection(FileSource, Protocol):
    """The part of `client.Client` that is used here."""

    def request(self, method: str, target: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Return an answer as it is."""

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the JSON of an answer."""

    def post(
        self, path: str, body: dict[str, Any] | bytes, *, timeout_s: float | None = None
    ) -> tuple[int, dict[str, Any] | None]:
        """Return status and JSON of an answer."""

    def put(
        self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Return the JSON of an answer."""

    def text(self, path: str) -> bytes:
        """Return the bytes of an answer."""

    def close(self) -> None:
        """Close the connection."""


class Remote:
    """One receiver.

    Args:
        connection: A client for its address.
        address: Its address, for people.
    """

    def __init__(self, connection: Connection, address: str) -> None:
        self.connection = connection
        self.address = address

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def health(self) -> dict[str, Any]:
        """Return the fleet at a glance (`wire.people.Health`)."""
        return self.connection.get("/v1/health", {})

    def pages(self, path: str, filters: Mapping[str, str], limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the pages of a list until it or the limit ends.

        Args:
            path: "/v1/jobs", "/v1/workers", "/v1/identities" or "/v1/events".
            filters: Query of the list, without `limit` and `cursor`.
            limit: Most items in all, None for every one.
        """
        cursor: str | None = None
        while limit is None or limit > 0:
            query = {**filters, "limit": str(min(MAX_PAGE, limit or MAX_PAGE))}
            page = self.connection.get(path, query if cursor is None else {**query, "cursor": cursor})
            yield page
            cursor = page.get("next")
            if cursor is None:
                return
            if limit is not None:
                limit -= sum(len(items) for items in page.values() if isinstance(items, list))

    def collect(self, path: str, key: str, filters: Mapping[str, str], limit: int | None = None) -> dict[str, Any]:
        """Return a list as one page; `next` is the cursor where a limit ended it."""
        items: list[Any] = []
        last: dict[str, Any] = {}
        for last in self.pages(path, filters, limit):
            items += last.get(key) or ()
        return {**last, key: items, "next": last.get("next")}

    def names(self) -> dict[str, Any]:
        """Return what filters can name (`wire.names.KnownNames`)."""
        return self.connection.get("/v1/names", {})

    def job(self, job_id: str) -> dict[str, Any]:
        """Return everything about one job (`wire.people.JobDetail`)."""
        return self.connection.get(f"/v1/job/{job_id}", {})

    def why(self, job_id: str) -> dict[str, Any]:
        """Return why a job waits (`wire.people.Why`)."""
        return self.connection.get(f"/v1/job/{job_id}/why", {})

    def fetch(self, path: str, sha256: str, target: Path, *, progress: OnBytes, force: bool) -> bool:
        """Bring a file of a result here, whole and verified; see `client.fetch.fetch`.

        Raises:
            FleetError: What `client.fetch.fetch` raises, and where the receiver is too old to give files out.
        """
        try:
            return fetch(self.connection, path, sha256, target, progress=progress, force=force, deadline_s=DOWNLOAD_S)
        except MethodError as fault:
            raise FleetError("this receiver does not give files out", "update the receiver") from fault

    def small_file(self, path: str, sha256: str) -> bytes:
        """Return the bytes of a small file of a result, verified.

        Raises:
            DigestMismatchError: The bytes hash to something else.
        """
        body = self.connection.request("GET", path, headers={"Accept": "*/*"}).body
        found = hashlib.sha256(body).hexdigest()
        if found != sha256:
            raise DigestMismatchError(f"found bytes that hash to {found}", "try again", expected=sha256)
        return body

    def change(self, job_id: str, verb: str, if_status: str | None = None) -> dict[str, Any]:
        """Cancel or requeue a job; return where it stands now (`wire.worker.JobState`).

        Args:
            job_id: The job.
            verb: `cancel` or `requeue`.
            if_status: The status that the job must still have, None for any.
        """
        condition = "" if if_status is None else f"?if_status={if_status}"
        return self._post(f"/v1/job/{job_id}/{verb}{condition}", {})

    def reload(self, *, allow_shrink: bool, if_plan: str | None, keep_dropped: bool = False) -> dict[str, Any]:
        """Make the receiver read its manifest again; return what was done (`wire.people.Plan`)."""
        body: dict[str, Any] = {"allow_shrink": allow_shrink, "if_plan": if_plan}
        # Left out where it is not wanted, so that a receiver of an older version is not told of it.
        return self._post("/v1/manifest/reload", body | ({"keep_dropped": True} if keep_dropped else {}))

    def apply(
        self,
        manifest: bytes,
        *,
        allow_shrink: bool,
        if_plan: str | None,
        keep_dropped: bool,
        if_manifest: str | None,
        how: str = "apply",
    ) -> dict[str, Any]:
        """Hand a manifest in; return what was done (`wire.people.Plan`)."""
        query = {
            "if_plan": if_plan,
            "allow_shrink": "yes" if allow_shrink else None,
            "keep_dropped": "yes" if keep_dropped else None,
            "how": None if how == "apply" else how,
        }
        given = urlencode({key: value for key, value in query.items() if value is not None})
        headers = {} if if_manifest is None else {"If-Match": f'"{if_manifest}"'}
        path = f"/v1/manifest?{given}" if given else "/v1/manifest"
        return self.connection.put(path, manifest, headers=headers, timeout_s=ANSWER_S)

    def manifests(self) -> dict[str, Any]:
        """Return the manifests that came in force (`wire.manifests.ManifestList`)."""
        return self.connection.get("/v1/manifests", {})

    def manifest_text(self, digest: str) -> bytes:
        """Return the text of one of them."""
        return self.connection.text(f"/v1/manifest/{digest}")

    def plan(self, manifest: bytes) -> dict[str, Any]:
        """Return what a manifest would change (`wire.people.Plan`); empty bytes mean the receiver's own file."""
        return self._post("/v1/manifest/plan", manifest)

    def begin_backup(self, *, label: str | None, artifacts: bool, keep: int | None = None) -> dict[str, Any]:
        """Start a backup on the receiver's host; return what is known of it (`wire.people.Chore`)."""
        order = {"label": label, "artifacts": artifacts}
        return self._post("/v1/backup", order if keep is None else {**order, "keep": keep})

    def plan_prune(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return what a prune would remove (`wire.pruning.PrunePlan`)."""
        return self._post("/v1/prune/plan", order)

    def begin_prune(self, order: dict[str, Any]) -> dict[str, Any]:
        """Start to remove results; return what is known of it (`wire.people.Chore`)."""
        return self._post("/v1/prune", order)

    def begin_fsck(self, *, hashes: bool) -> dict[str, Any]:
        """Start a check of the receiver's files; return what is known of it (`wire.people.Chore`)."""
        return self._post("/v1/fsck", {"hashes": hashes})

    def chore(self) -> dict[str, Any]:
        """Return the receiver's newest backup or check (`wire.people.Chore`)."""
        return self.connection.get("/v1/chore", {})

    def invite(self, worker: str, ttl_s: int) -> dict[str, Any]:
        """Make a one-time code for a host (`wire.identities.Invite`)."""
        return self._post("/v1/invite", {"worker": worker, "ttl_s": ttl_s})

    def change_worker(self, worker: str, verb: str) -> dict[str, Any]:
        """Revoke or rotate a worker's secret, or accept what it lost; return the answer.

        That is `wire.people.AcceptedLoss` for `accept` and else `wire.identities.IdentityView`.
        """
        return self._post(f"/v1/worker/{worker}/{verb}", {})

    def _post(self, path: str, body: dict[str, Any] | bytes) -> dict[str, Any]:
        status, document = self.connection.post(path, body, timeout_s=ANSWER_S)
        if document is None:
            raise FleetError(f"the receiver answered {status} to {path} without a body", "update the older of the two")
        return document

    def resolve(self, prefix: str) -> str:
        """Return the id of the job that people mean.

        Args:
            prefix: 4 to 64 lower-case hex digits that its id begins with, or its name.

        Raises:
            NotFoundError: No job has such an id, or that name.
            FleetError: Several jobs do; the message names them.
        """
        by_id = is_id_prefix(prefix)
        if by_id and len(prefix) == 64:
            return prefix
        key = "id_prefix" if by_id else "name"
        found = self.connection.get("/v1/jobs", {key: prefix, "limit": str(CANDIDATES + 1)}).get("jobs") or []
        if not found:
            what = "whose id begins with" if by_id else "of the name"
            raise NotFoundError(f"found no job {what} {prefix}", "`cis490-jobs list --all` shows all of them")
        if len(found) > 1:
            raise FleetError(_ambiguous(prefix, found), "give more digits of the one you mean")
        return str(found[0]["id"])


def is_id_prefix(text: str) -> bool:
    """Return True if a word can be the first digits of a job id; a job's name never is."""
    return re.fullmatch("[0-9a-f]{4,64}", text) is not None


def _ambiguous(prefix: str, found: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"{job['id'][:16]} ({job['model']} {job['mode']})" for job in found[:CANDIDATES])
    more = " and more" if len(found) > CANDIDATES else ""
    return f"{prefix} fits several jobs: {shown}{more}"
