"""Bad input and outages, listed for the fleet as a whole: each gets its stated answer, and nothing is lost.

The list names one case of every sort; `tests/integration` has each sort in depth, `test_outage.py` the killed worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from live_receiver import read_answer
from processes import OPERATOR, WORKER, Fleet, wait_until
from test_outage import slow_fleet, starts

pytestmark = pytest.mark.xdist_group("bad-input")

MIB = 2**20
LARGEST = 64 * 1024
NOWHERE = "0" * 64
BUNDLE = b"a bundle of the test"
STORED = hashlib.sha256(BUNDLE).hexdigest()
HEAD = '[manifest]\nschema = 1\n[defaults]\nsplit_recipe = "time"\n[hosts.default]\nslots = 9\n'
JOB = '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {}\n'
JOBS = "".join(JOB.format(seed) for seed in (1, 2, 3))
TERMS = ("--lease-s", "600", "--max-artifact-bytes", str(LARGEST), "--floor-bytes", "0")


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    retry_after: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(fleet: Fleet, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    """Send one well-formed request as a worker that holds its token."""
    host, _, port = fleet.address.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        fields = {"Authorization": f"Bearer {WORKER}"} | {key.replace("_", "-"): text for key, text in headers.items()}
        connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body), fields)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(), answer.getheader("Retry-After"))
    finally:
        connection.close()


def claim(fleet: Fleet, number: int, worker: str = "pi") -> Reply:
    capability = {"hostname": worker, "ram_bytes": 2**34}
    body = {"claim_id": f"claim-{number:08d}", "worker": worker, "capability": capability}
    return call(fleet, "POST", "/v1/job/claim", body)


def beat(fleet: Fleet, lease: dict[str, Any]) -> Reply:
    return call(fleet, "POST", f"/v1/job/{lease['job_id']}/heartbeat", {"lease_id": lease["lease_id"]})


def upload(fleet: Fleet, lease: dict[str, Any], data: bytes) -> Reply:
    return call(fleet, "PUT", f"/v1/model/{hashlib.sha256(data).hexdigest()}", data, X_Lease_Id=lease["lease_id"])


class Bed:
    """A receiver with one job completed, one leased and one pending, and what must never change about them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.done: dict[str, Any] = claim(fleet, 1, "tower").json
        self.lease: dict[str, Any] = claim(fleet, 2, "pi").json
        assert beat(fleet, self.lease).status == 200
        assert upload(fleet, self.done, BUNDLE).status == 201
        assert self.complete(STORED).status == 200
        self.ended: dict[str, Any] = claim(fleet, 3, "server").json
        given_back = {"lease_id": self.ended["lease_id"], "kind": "preempted"}
        assert call(fleet, "POST", f"/v1/job/{self.ended['job_id']}/fail", given_back).status == 200
        self.state = self.seen()
        assert sorted(job[1] for job in self.state) == ["completed", "pending", "running"]

    def complete(self, artifact: str) -> Reply:
        body = {"lease_id": self.done["lease_id"], "artifact": artifact}
        return call(self.fleet, "POST", f"/v1/job/{self.done['job_id']}/complete", body)

    def seen(self) -> list[tuple[Any, ...]]:
        jobs = call(self.fleet, "GET", "/v1/jobs").json["jobs"]
        return [(job["id"], job["status"], job["host"], job["attempts_used"], job["artifact"]) for job in jobs]

    def raw(self, data: bytes) -> tuple[int, str, str]:
        """Send bytes as they are; return status, code and the whole text of the answer."""
        host, _, port = self.fleet.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as link:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                link.sendall(data)
            head, _, body = read_answer(link, 20).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), json.loads(body)["code"], body.decode()

    def incoming(self) -> list[Path]:
        return list((self.fleet.folder / "incoming").iterdir())

    def is_intact(self) -> None:
        """Fail unless the receiver answers, the lease lives, and nothing was lost, won or left over."""
        folder = self.fleet.folder
        assert call(self.fleet, "GET", "/healthz").status == 200
        assert beat(self.fleet, self.lease).status == 200
        assert self.seen() == self.state
        assert self.complete(STORED).status == 200
        wait_until("nothing is left of uploads", lambda: not self.incoming(), 5)
        stored = [path for path in (folder / "store").rglob("*") if path.is_file()]
        assert stored == [folder / "store" / "gbt_oracle" / STORED / "bundle.tar.zst"]
        assert stored[0].read_bytes() == BUNDLE
        assert [json.loads(line)["sha256"] for line in (folder / "index.jsonl").read_text().splitlines()] == [STORED]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Fleet(tmp_path_factory.mktemp("bad"), HEAD + JOBS, TERMS) as fleet:
        fleet.start_receiver()
        yield Bed(fleet)


# ---- the list: manifests --------------------------------------------------------------------------------------------

LOADED = {
    "half-written, yet valid TOML": (
        HEAD.replace("schema = 1", "schema = 1\njobs = 3") + JOBS[: len(JOBS) // 3],
        "manifest.jobs",
    ),
    "cut in the middle of a line": (HEAD + JOBS[:-12], "line 17"),
    "empty": ("", "manifest"),
    "invalid UTF-8": ((HEAD + JOBS).encode() + b'[hosts."\xff\xfe"]\n', "UTF-8"),
    "unknown key of a job": (HEAD + JOBS + "requires_cuda = true\n", "require_cuda"),
    "unknown table": (HEAD + JOBS + "[host.pi]\n", "hosts"),
    "unknown hyper-key": (HEAD + JOBS + "hyper = { max_iters = 5 }\n", "max_iter"),
    "unknown model": (HEAD + JOBS + JOB.format(4).replace("gbt", "gtb"), "gbt"),
    "text for a number": (HEAD + JOBS + 'priority = "high"\n', "priority"),
    "number for a text": (HEAD + JOBS + "dataset = 7\n", "dataset"),
    "hyper-key out of range": (HEAD + JOBS + "hyper = { max_iter = -1 }\n", "max_iter"),
    "NaN": (HEAD + JOBS + "hyper = { learning_rate = nan }\n", "learning_rate"),
    "infinity": (HEAD + JOBS + "hyper = { learning_rate = inf }\n", "learning_rate"),
    "number no double holds": (HEAD + JOBS + "hyper = { max_iter = 9007199254740993 }\n", "max_iter"),
    "100,000 brackets deep": (HEAD + JOBS + "train_hosts = " + "[" * 100_000, "deep"),
    "33 MiB": (HEAD + JOBS + "#" * 33 * MIB, "at most 33554432 bytes"),
}


@pytest.mark.parametrize(("text", "says"), LOADED.values(), ids=LOADED)
def test_a_bad_manifest_is_refused_and_loses_nothing(bed: Bed, text: str | bytes, says: str) -> None:
    bed.fleet.manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        status, code, answer = bed.raw(post("/v1/manifest/reload", b"", OPERATED))
        assert (status, code) == (422, "manifest_invalid")
        assert says in answer
        bed.is_intact()
    finally:
        bed.fleet.manifest.write_text(HEAD + JOBS)


# ---- the list: requests ---------------------------------------------------------------------------------------------

WORKING = f"Authorization: Bearer {WORKER}".encode()
OPERATED = f"X-Operator-Token: {OPERATOR}".encode()


def request(line: str, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([f"{line} HTTP/1.1".encode(), b"Host: 127.0.0.1", *headers, b"", body])


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    return request(f"POST {path}", *(headers or (WORKING,)), b"Content-Length: %d" % len(body), body=body)


def put(name: str, lease: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return request(f"PUT /v1/model/{name}", WORKING, b"X-Lease-Id: " + lease, *headers, body=body)


def held(bed: Bed) -> bytes:
    return str(bed.lease["lease_id"]).encode()


def to_job(verb: str, body: bytes) -> Callable[[Bed], bytes]:
    """Send a body to the leased job; LEASE in it stands for the lease's id."""
    return lambda bed: post(f"/v1/job/{bed.lease['job_id']}/{verb}", body.replace(b"LEASE", held(bed)))


def to_claim(body: dict[str, Any] | bytes, *headers: bytes) -> Callable[[Bed], bytes]:
    asked = {"claim_id": "claim-00000009", "worker": "pi", "capability": {"hostname": "pi"}}
    data = body if isinstance(body, bytes) else json.dumps({**asked, **body}).encode()
    return lambda _: post("/v1/job/claim", data, *headers)


def to_cancel(*headers: bytes, job: str = "") -> Callable[[Bed], bytes]:
    return lambda bed: post(f"/v1/job/{job or bed.lease['job_id']}/cancel", b"", *headers)


def bearer(token: bytes) -> bytes:
    return b"Authorization: Bearer " + token


REFUSED: dict[str, tuple[Callable[[Bed], bytes], int, str]] = {
    # bodies
    "empty body": (to_claim(b""), 400, "bad_request"),
    "half a JSON": (to_claim(b'{"claim_id": "cl'), 400, "bad_request"),
    "no object": (to_claim(b"[]"), 422, "invalid_message"),
    "huge JSON": (to_claim({"claim_id": "c" * 70_000}), 413, "too_large"),
    "deep JSON": (to_job("heartbeat", b'{"lease_id":"LEASE","progress":' + b"[" * 60_000), 400, "bad_request"),
    "invalid UTF-8": (to_job("heartbeat", b'{"lease_id":"LEASE","x":"\xff"}'), 400, "bad_request"),
    "lone surrogate": (to_job("fail", b'{"lease_id":"LEASE","kind":"lost","error":"\\ud800"}'), 400, "bad_request"),
    "NaN": (to_job("heartbeat", b'{"lease_id":"LEASE","progress":{"elapsed_s":NaN}}'), 400, "bad_request"),
    "number no double holds": (
        to_job("heartbeat", b'{"lease_id":"LEASE","progress":{"left_s":1e999}}'),
        400,
        "bad_request",
    ),
    "a key twice": (to_job("heartbeat", b'{"lease_id":"LEASE","lease_id":"LEASE"}'), 400, "bad_request"),
    "wrong type": (to_job("heartbeat", b'{"lease_id":["LEASE"]}'), 422, "invalid_message"),
    "text for a number": (to_job("heartbeat", b'{"lease_id":"LEASE","progress":{"step":"7"}}'), 422, "invalid_message"),
    "negative step": (to_job("heartbeat", b'{"lease_id":"LEASE","progress":{"step":-1}}'), 422, "invalid_message"),
    "missing field": (to_job("complete", b'{"lease_id":"LEASE"}'), 422, "invalid_message"),
    "unknown kind": (to_job("fail", b'{"lease_id":"LEASE","kind":"bored"}'), 422, "invalid_message"),
    "host name with a slash": (to_claim({"worker": "../pi"}), 422, "invalid_message"),
    "claim id with a line feed": (to_claim({"claim_id": "claim-0000\n0009"}), 422, "invalid_message"),
    # ids
    "short job id": (to_cancel(OPERATED, job="abc"), 404, "not_found"),
    "job id in upper case": (to_cancel(OPERATED, job="A" * 64), 404, "not_found"),
    "job id that climbs": (to_cancel(OPERATED, job="..%2f" * 12 + "abcd"), 404, "not_found"),
    "job id nobody has": (to_cancel(OPERATED, job=NOWHERE), 404, "not_found"),
    "lease id nobody has": (to_job("heartbeat", b'{"lease_id":"never-given-01"}'), 409, "stale_lease"),
    "odd lease id": (to_job("heartbeat", b'{"lease_id":"\' OR 1=1"}'), 422, "invalid_message"),
    "odd artifact id": (to_job("complete", b'{"lease_id":"LEASE","artifact":"../x"}'), 422, "invalid_message"),
    "artifact nobody sent": (
        to_job("complete", b'{"lease_id":"LEASE","artifact":"%s"}' % NOWHERE.encode()),
        412,
        "artifact_missing",
    ),
    # tokens
    "no worker token": (to_claim({}, b"X-None: 1"), 401, "unauthenticated"),
    "wrong worker token": (to_claim({}, bearer(b"guess")), 401, "unauthenticated"),
    "worker token in another scheme": (to_claim({}, f"Authorization: Basic {WORKER}".encode()), 401, "unauthenticated"),
    "non-ASCII worker token": (to_claim({}, bearer("geheimnüs".encode())), 401, "unauthenticated"),
    "worker token that is no UTF-8": (to_claim({}, bearer(b"\xff\xfe\x80")), 401, "unauthenticated"),
    "no operator token": (to_cancel(WORKING), 401, "unauthenticated"),
    "wrong operator token": (to_cancel(b"X-Operator-Token: guess"), 401, "unauthenticated"),
    "worker token for an operator's": (
        to_cancel(f"X-Operator-Token: {WORKER}".encode()),
        401,
        "unauthenticated",
    ),
    "non-ASCII operator token": (to_cancel("X-Operator-Token: geheimnüs".encode()), 401, "unauthenticated"),
    "empty operator token": (to_cancel(b"X-Operator-Token:"), 401, "unauthenticated"),
    # uploads
    "upload without length": (
        lambda bed: put(NOWHERE, held(bed), b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n\r\n"),
        411,
        "length_required",
    ),
    "oversized upload": (
        lambda bed: put(NOWHERE, held(bed), b"Content-Length: %d" % (LARGEST + 1), body=bytes(LARGEST + 1)),
        413,
        "too_large",
    ),
    "oversized upload that only says so": (
        lambda bed: put(NOWHERE, held(bed), b"Content-Length: 99999999999"),
        413,
        "too_large",
    ),
    "wrong-digest upload": (
        lambda bed: put(NOWHERE, held(bed), b"Content-Length: 5", body=b"other"),
        422,
        "digest_mismatch",
    ),
    "upload under a name that climbs": (
        lambda bed: put("..%2f" * 12 + "abcd", held(bed), b"Content-Length: 1", body=b"x"),
        404,
        "not_found",
    ),
    "upload under no lease": (
        lambda _: put(NOWHERE, b"never-given-01", b"Content-Length: 1", body=b"x"),
        409,
        "stale_lease",
    ),
    "upload under a lease that has ended": (
        lambda bed: put(NOWHERE, str(bed.ended["lease_id"]).encode(), b"Content-Length: 1", body=b"x"),
        409,
        "stale_lease",
    ),
    # what the state does not allow
    "second result of a completed job": (
        lambda bed: post(
            f"/v1/job/{bed.done['job_id']}/complete",
            json.dumps({"lease_id": bed.done["lease_id"], "artifact": NOWHERE}).encode(),
        ),
        409,
        "other_result",
    ),
    "failure of a completed job": (
        lambda bed: post(
            f"/v1/job/{bed.done['job_id']}/fail",
            json.dumps({"lease_id": bed.done["lease_id"], "kind": "trainer_error"}).encode(),
        ),
        409,
        "stale_lease",
    ),
    "cancellation of a completed job": (
        lambda bed: post(f"/v1/job/{bed.done['job_id']}/cancel", b"", OPERATED),
        409,
        "wrong_state",
    ),
    "requeue of a running job": (
        lambda bed: post(f"/v1/job/{bed.lease['job_id']}/requeue", b"", OPERATED),
        409,
        "wrong_state",
    ),
    "reload on a plan that has moved": (
        lambda _: post("/v1/manifest/reload", json.dumps({"if_plan": NOWHERE}).encode(), OPERATED),
        412,
        "plan_moved",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_and_loses_nothing(
    bed: Bed, sent: Callable[[Bed], bytes], status: int, code: str
) -> None:
    found = bed.raw(sent(bed))
    assert found[:2] == (status, code)
    for secret in (OPERATOR, WORKER, "Traceback", str(bed.fleet.folder)):
        assert secret not in found[2]
    bed.is_intact()


@pytest.mark.parametrize("part", [0, 1, len(BUNDLE) - 1])
def test_a_truncated_upload_loses_nothing_and_leaves_nothing(bed: Bed, part: int) -> None:
    data = BUNDLE[::-1]
    name = hashlib.sha256(data).hexdigest()
    host, _, port = bed.fleet.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(put(name, held(bed), b"Content-Length: %d" % len(data), body=data[:part]))
        wait_until("the upload is under way", bed.incoming, 5)
    bed.is_intact()


def test_a_reload_that_would_drop_jobs_is_refused_and_loses_nothing(bed: Bed) -> None:
    bed.fleet.manifest.write_text(HEAD + JOB.format(1))
    try:
        assert bed.raw(post("/v1/manifest/reload", b"", OPERATED))[:2] == (409, "would_shrink")
        bed.is_intact()
    finally:
        bed.fleet.manifest.write_text(HEAD + JOBS)


def test_everything_bad_together_costs_the_log_no_secret_and_no_traceback(bed: Bed) -> None:
    log = bed.fleet.log("receiver")
    for unwanted in (OPERATOR, WORKER, str(bed.lease["lease_id"]), "Traceback"):
        assert unwanted not in log
    assert bed.fleet.processes["receiver"].poll() is None


# ---- the receiver away, the worker frozen ---------------------------------------------------------------------------


def _outcomes(fleet: Fleet) -> list[str | None]:
    (job,) = fleet.listed()
    return [attempt["outcome"] for attempt in fleet.asked("show", job["id"])["attempts"]]


def test_a_receiver_away_for_longer_than_the_lease_costs_no_training(tmp_path: Path) -> None:
    """A minute, scaled down: a lease of 6 s and an absence of 8 s, in which the training ends after its lease."""
    with slow_fleet(tmp_path, ("--heartbeat-s", "0.3", "--lease-s", "6", "--ack-s", "6", "--backoff-s", "0")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1 and fleet.by_status() == {"running": 1})
        fleet.stop("receiver", signal.SIGKILL)
        gone_at = time.monotonic()
        wait_until("the lease has run out", lambda: time.monotonic() >= gone_at + 7)
        (tmp_path / "go").touch()
        wait_until("the artifact is packed", lambda: list((tmp_path / "tower").rglob("*.zst")))
        wait_until("eight seconds are over", lambda: time.monotonic() >= gone_at + 8)
        fleet.start_receiver()
        wait_until("the result is taken", lambda: fleet.by_status() == {"completed": 1})
        assert (starts(tmp_path), _outcomes(fleet)) == (1, ["completed"])


def test_the_late_result_of_a_frozen_worker_is_adopted(tmp_path: Path) -> None:
    """The lease is over and the job pending again, but nobody else has begun."""
    with slow_fleet(tmp_path, ("--heartbeat-s", "0.2", "--lease-s", "1", "--ack-s", "5", "--backoff-s", "0")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1 and fleet.by_status() == {"running": 1})
        fleet.processes["tower"].send_signal(signal.SIGSTOP)
        wait_until("the lease has run out", lambda: fleet.by_status() == {"pending": 1})
        (tmp_path / "go").touch()
        fleet.processes["tower"].send_signal(signal.SIGCONT)
        wait_until("the result is taken", lambda: fleet.by_status() == {"completed": 1})
        assert (starts(tmp_path), _outcomes(fleet)) == (1, ["completed"])
        (job,) = fleet.listed()
        actions = [event["action"] for event in fleet.asked("show", job["id"])["events"]]
        assert "expire" in actions


# ---- full disks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of four MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk is mounted for this test, which only root may do")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(folder: Path) -> Path:
    """Take all room that is left."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    return filler


def test_a_full_store_refuses_uploads_and_takes_the_result_once_there_is_room(tmp_path: Path, small: Path) -> None:
    terms = ("--heartbeat-s", "0.3", "--lease-s", "60", "--ack-s", "30", "--floor-bytes", "0")
    places = ("--store-root", str(small / "store"), "--incoming-root", str(small / "incoming"))
    with slow_fleet(tmp_path, (*terms, *places), jobs=2) as fleet:
        fleet.start_receiver()
        lease = claim(fleet, 1).json
        assert beat(fleet, lease).status == 200
        filler = _fill(small)
        full = upload(fleet, lease, b"x" * 5000)
        assert (full.status, full.json["code"], full.retry_after) == (507, "storage_full", "60")
        fleet.start_worker("tower")
        (tmp_path / "go").touch()
        wait_until("the worker waits for room", lambda: "waiting for the receiver" in fleet.log("tower"))
        assert fleet.by_status() == {"running": 2}
        assert list((small / "incoming").iterdir()) == []
        filler.unlink()
        assert fleet.stop("tower") == 0  # a new start tries at once, where the old one waits for its minute
        fleet.start_worker("tower")
        wait_until("the result is taken", lambda: fleet.by_status() == {"running": 1, "completed": 1})
        assert upload(fleet, lease, b"x" * 5000).status == 201
        assert starts(tmp_path) == 1


def test_an_upload_that_has_begun_keeps_its_room_when_the_disk_fills_up(tmp_path: Path, small: Path) -> None:
    places = ("--store-root", str(small / "store"), "--incoming-root", str(small / "incoming"))
    with slow_fleet(tmp_path, ("--floor-bytes", "0", *places), jobs=2) as fleet:
        fleet.start_receiver()
        lease, other = claim(fleet, 1).json, claim(fleet, 2, "tower").json
        data = os.urandom(2 * MIB)
        name, held = hashlib.sha256(data).hexdigest(), str(lease["lease_id"]).encode()
        host, _, port = fleet.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as link:
            link.sendall(put(name, held, b"Content-Length: %d" % len(data), body=data[:MIB]))
            wait_until("the upload is under way", lambda: list((small / "incoming").iterdir()), 5)
            _fill(small)
            assert upload(fleet, other, b"x" * 5000).status == 507
            link.sendall(data[MIB:])
            assert read_answer(link, 20).startswith(b"HTTP/1.1 201 ")
        assert (small / "store" / "slow_oracle" / name / "bundle.tar.zst").read_bytes() == data
        assert list((small / "incoming").iterdir()) == []


def test_a_full_disk_under_the_database_refuses_changes_and_loses_nothing(tmp_path: Path, small: Path) -> None:
    terms = ("--lease-s", "600", "--ack-s", "600", "--db", str(small / "queue.db"))
    with slow_fleet(tmp_path, terms, jobs=2) as fleet:
        fleet.start_receiver()
        lease = claim(fleet, 1).json
        assert beat(fleet, lease).status == 200
        assert upload(fleet, lease, BUNDLE).status == 201
        filler = _fill(small)
        full = claim(fleet, 2)
        assert (full.status, full.json["code"], full.retry_after) == (507, "storage_full", "30")
        completed = {"lease_id": lease["lease_id"], "artifact": STORED}
        path = f"/v1/job/{lease['job_id']}/complete"
        assert call(fleet, "POST", path, completed).status == 507
        assert beat(fleet, lease).status == 200
        assert fleet.by_status() == {"running": 1, "pending": 1}
        filler.unlink()
        assert call(fleet, "POST", path, completed).status == 200
        assert claim(fleet, 2).status == 200
        fleet.stop("receiver", signal.SIGKILL)
        fleet.start_receiver()
        assert fleet.by_status() == {"completed": 1, "claimed": 1}


def test_a_disk_that_comes_back_read_only_costs_no_training(tmp_path: Path, small: Path) -> None:
    """As an SD card does after errors: no start until it can be written, and not the status that ends all starts."""
    terms = ("--heartbeat-s", "0.3", "--lease-s", "60", "--ack-s", "30", "--db", str(small / "queue.db"))
    with slow_fleet(tmp_path, terms) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1 and fleet.counts() == {"running": 1})
        fleet.stop("receiver", signal.SIGKILL)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        assert fleet.launch_receiver().wait(40) == 75
        assert "read-only" in fleet.log("receiver").splitlines()[-1].lower()
        assert "Traceback" not in fleet.log("receiver")
        (tmp_path / "go").touch()
        wait_until("the artifact is packed", lambda: list((tmp_path / "tower").rglob("*.zst")))
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
        fleet.start_receiver()
        wait_until("the result is taken", lambda: fleet.counts() == {"completed": 1})
        assert starts(tmp_path) == 1
