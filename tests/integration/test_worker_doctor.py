"""`cis490-training-worker doctor` against real receivers, with real causes for everything that it finds."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD, TOKEN, LiveReceiver, manifest
from stub_receiver import StubReceiver, problem
from tls_site import Site

from training.fleet.auth import Credentials
from training.fleet.capability import cards, libraries
from training.fleet.capability.detect import detect
from training.fleet.client import Client
from training.fleet.model.capability import Datasets, Gpu
from training.fleet.tls.certificates import DAY_S
from training.fleet.wire.worker import Claim
from training.fleet.worker import reach
from training.fleet.worker.enrol import enrol_host
from training.fleet.worker.identity import session
from training.fleet.worker.options import options
from training.fleet.worker.program import main

TOKENS = {"operator": TOKEN, "read": "a-read-token-for-tests"}
SECRETS = (*TOKENS.values(), "a-worker-token-for-tests", "cis490w.")
Found = dict[str, dict[str, str]]


@pytest.fixture(autouse=True)
def plain_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the host have no settings, no card and no torch, whatever this machine has."""
    for name in [name for name in os.environ if name.startswith("CIS490_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setattr(libraries, "try_torch", lambda *_: libraries.TorchView())
    monkeypatch.setattr(cards, "find", lambda problems: ())
    (tmp_path / "state").mkdir()


def doctor(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, Found]:
    """Return the exit status and the checks by name; whatever it finds, it prints no secret."""
    status = main(["doctor", "--json", "--name", "box", "--min-free-gib", "0", *flags])
    out, err = capsys.readouterr()
    assert not [secret for secret in SECRETS if secret in out + err]
    assert "Traceback" not in out + err
    return status, {check["name"]: check for check in json.loads(out)["checks"]}


class Secured:
    """A receiver over https, and a host that enrolled there."""

    def __init__(self, folder: Path, root: Path, site: Site, text: str, **when: Any) -> None:
        self.folder, self.site, self.lab = folder, site, root / "data/lab"
        certificate, key = site.server(**when)
        flags = {"tls_certificate": str(certificate), "tls_key": str(key), "tls_ca": str(site.ca)}
        flags |= {"tls_ca_key": str(site.ca_key), "tls_clients": "optional"}
        credentials = Credentials.of(TOKENS, enrolled_only=True)
        (folder / "receiver").mkdir()
        self.live = LiveReceiver(folder / "receiver", text, credentials=credentials, **flags)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.live.port}"

    def operator(self, path: str, body: Any = None) -> Any:
        client = Client(self.url, operator_token=TOKEN, ca_file=self.site.ca)
        try:
            return client.post(path, body or {})[1]
        finally:
            client.close()

    def enrol(self, host: str = "box") -> None:
        code = self.operator("/v1/invite", {"worker": host})["code"]
        words = ["--receiver", self.url, "--host", host, "--ca-sha256", self.site.fingerprint]
        assert enrol_host(words, os.environ, io.StringIO(code)) == 0

    def call(self, datasets: dict[str, Path]) -> None:
        """Ask for a job as the enrolled worker, so that the receiver knows what it can do."""
        found = detect(self.folder, name="box", datasets=Datasets(datasets))
        state = self.folder / "state"
        pem = state / "worker.pem"
        with (state / "lock").open("a") as lock:
            here = session(lock)
        client = Client(
            self.url,
            (state / "worker.secret").read_text().strip(),
            ca_file=self.site.ca,
            certificate=(pem, pem),
            session=here,
        )
        client.claim(Claim("claim-of-the-doctor", "box", found, []))
        client.close()


LAB = '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {}\n'


@pytest.fixture
def secured(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Secured]:
    text = HEAD.replace("hosts.default", "hosts.box") + LAB.format(1) + LAB.format(2)
    made = Secured(tmp_path, root, Site(tmp_path / "tls"), text)
    with made.live:
        made.enrol()
        capsys.readouterr()
        yield made


def test_a_healthy_host_of_a_healthy_fleet_has_nothing_that_fails(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    secured.call({"lab": secured.lab, "default": secured.lab})
    status, found = doctor(capsys, "--dataset", f"lab={secured.lab}")
    assert {name: check["state"] for name, check in found.items() if check["state"] not in ("ok", "skip")} == {}
    assert status == 0
    assert [name for name, check in found.items() if check["state"] == "skip"] == ["service"]
    assert found["policy"]["found"] == "[hosts.box] allows * and denies none, 64 at once"
    assert found["identity"]["found"] == "the receiver takes it as box (enrolled)"
    assert found["jobs"]["found"] == "1 of 1 jobs that wait could run here"
    assert "certificate of localhost by CIS490 training fleet" in found["tls"]["found"]
    assert "90 more days" in found["certificate"]["found"]
    assert "agrees with the receiver's" in found["clock"]["found"]
    assert f"receiver = '{secured.url}' (file " in found["settings"]["found"]


def test_people_get_the_same_as_text(secured: Secured, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--name", "box", "--min-free-gib", "0"]) == 0
    out = capsys.readouterr().out
    assert "warn  datasets        no dataset is given" in out
    assert "warn  jobs            2 jobs wait, and this worker has not called yet\n" in out
    assert "                      remedy: start the worker\n" in out
    assert out.endswith("nothing stands in the way\n")


def test_a_running_worker_that_does_not_see_the_card_of_this_session_fails(
    secured: Secured, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secured.call({})
    card = Gpu("RTX 3060", "GPU-1", 12 * 2**30, 11 * 2**30, "550.1")
    monkeypatch.setattr(cards, "find", lambda problems: (card,))
    monkeypatch.setattr(libraries, "try_torch", lambda *_: libraries.TorchView("2.4", ("",)))
    status, found = doctor(capsys)
    assert (status, found["running worker"]["state"]) == (1, "fail")
    assert found["running worker"]["found"] == "it reports no card, this session sees a usable card"
    assert "video and render" in found["running worker"]["remedy"]
    assert found["gpu"]["found"] == "card RTX 3060 has 12 of 12 GiB free, driver 550.1"


def test_a_revoked_host_is_told_and_nothing_after_it_is_guessed(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    secured.operator("/v1/worker/box/revoke")
    status, found = doctor(capsys)
    assert (status, found["identity"]["state"]) == (1, "fail")
    assert "was revoked" in found["identity"]["found"]
    assert "cis490-jobs invite box" in found["identity"]["remedy"]
    assert found["policy"]["found"] == "not looked at, because identity failed"


def test_a_host_under_another_name_than_its_secret_is_told(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(capsys, "--name", "other")
    assert (status, found["identity"]["state"]) == (1, "fail")
    assert found["identity"]["found"] == "this worker calls itself other and its secret is that of box"
    assert "--name box" in found["identity"]["remedy"]


def test_a_secret_and_a_key_that_everybody_can_read_fail_with_the_command_that_mends_them(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, pem = secured.folder / "state/worker.secret", secured.folder / "state/worker.pem"
    secret.chmod(0o644)
    pem.chmod(0o604)
    status, found = doctor(capsys)
    assert (status, found["secret"]["state"], found["certificate"]["state"]) == (1, "fail", "fail")
    assert f"chmod o= {secret}" in found["secret"]["remedy"]
    assert f"chmod o= {pem}" in found["certificate"]["remedy"]
    assert found["identity"]["state"] == "skip"


def test_a_certificate_of_this_host_that_is_no_pair_or_has_ended_fails(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    old, key = secured.site.worker("box", "urn:cis490:worker:box:x", begins_s=-90 * DAY_S, ends_s=-DAY_S)
    _, other = secured.site.worker("nas", "urn:cis490:worker:nas:x")
    status, found = doctor(capsys, "--client-certificate", str(old), "--client-key", str(key))
    assert (status, "has expired" in found["certificate"]["found"]) == (1, True)
    status, found = doctor(capsys, "--client-certificate", str(old), "--client-key", str(other))
    assert (status, "are no pair" in found["certificate"]["found"]) == (1, True)
    status, found = doctor(capsys, "--client-certificate", str(secured.folder / "none.pem"))
    assert (status, "cannot be read" in found["certificate"]["found"]) == (1, True)


def test_another_authority_than_the_receivers_fails_at_tls(
    secured: Secured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(capsys, "--ca-file", str(Site(tmp_path / "other").ca))
    assert (status, found["tls"]["state"], found["receiver"]["state"]) == (1, "fail", "skip")
    assert found["tls"]["found"].startswith("its certificate is not accepted: ")
    assert "ca_file" in found["tls"]["remedy"]
    (tmp_path / "rubbish.pem").write_text("no certificate")
    status, found = doctor(capsys, "--ca-file", str(tmp_path / "rubbish.pem"))
    assert (status, "cannot be used" in found["tls"]["found"]) == (1, True)


@pytest.mark.parametrize(
    ("when", "says", "remedy"),
    [
        ({"begins_s": -90 * DAY_S, "ends_s": -DAY_S}, "has expired", "init --renew"),
        ({"begins_s": DAY_S}, "is not yet valid", "set the clock"),
        ({"ends_s": 3 * DAY_S}, "is good for 3 more days", "init --renew"),
        ({"names": ("receiver.example",)}, "is for another name", "--host-names"),
    ],
)
def test_a_receivers_certificate_that_is_wrong_is_told_with_what_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], when: dict[str, Any], says: str, remedy: str
) -> None:
    site = Site(tmp_path / "tls")
    certificate, key = site.server(**when)
    with LiveReceiver(tmp_path, manifest(1), tls_certificate=str(certificate), tls_key=str(key)) as live:
        url = f"https://localhost:{live.port}"
        _, found = doctor(capsys, "--receiver", url, "--ca-file", str(site.ca))
    assert found["tls"]["state"] == ("warn" if says == "is good for 3 more days" else "fail")
    assert says in found["tls"]["found"]
    assert remedy in found["tls"]["remedy"]


# ---- plain http on this machine -------------------------------------------------------------------------------------


def test_the_manifest_is_told_as_it_concerns_this_host(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = HEAD.replace("hosts.default", "hosts.nas")
    text = head + '[hosts.box]\nallow_jobs = ["mlp"]\nram_gib = 1\n' + LAB.format(1)
    with LiveReceiver(tmp_path, text) as live:
        url = f"http://127.0.0.1:{live.port}"
        status, found = doctor(capsys, "--receiver", url, "--name", "stranger")
        assert (status, found["policy"]["found"]) == (1, "the manifest admits no host stranger")
        assert "[hosts.stranger]" in found["policy"]["remedy"]
        live.call("POST", "/v1/job/claim", live.claim_body("box", contract="sha256:" + "0" * 64))
        status, found = doctor(capsys, "--receiver", url)
    assert (status, found["policy"]["state"], found["jobs"]["state"]) == (0, "warn", "warn")
    assert found["jobs"]["found"].startswith("none of 1 jobs that wait can run here: ")
    assert "policy" in found["jobs"]["found"]
    assert "cis490-jobs why" in found["jobs"]["remedy"]


def test_a_trainer_that_declares_something_else_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "own_trainer", lambda problems: ("sha256:" + "1" * 64, ("gbt",)))
    with LiveReceiver(tmp_path, manifest(1)) as live:
        status, found = doctor(capsys, "--receiver", f"http://127.0.0.1:{live.port}")
    assert (status, found["contract"]["state"]) == (1, "fail")
    assert found["contract"]["found"].startswith("the trainer here declares sha256:111111111111, the manifest was ")


def test_a_dataset_that_is_not_there_and_too_little_disk_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(capsys, "--dataset", f"lab={tmp_path}/none", "--min-free-gib", "1000000")
    assert status == 1
    assert found["dataset lab"]["remedy"] == "correct --dataset lab=FOLDER, or bring its files back"
    assert found["disk"]["state"] == "fail"
    assert found["disk"]["remedy"] == "make room on the disk of the work folder, or lower min_free_gib"


def test_a_receiver_that_is_not_there_is_status_69_and_what_needs_it_is_not_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        status, found = doctor(capsys, "--receiver", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (status, found["connection"]["state"], found["receiver"]["state"]) == (69, "fail", "skip")
    assert "127.0.0.1 connection refused" in found["connection"]["found"]


def test_a_name_that_leads_nowhere_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    status, found = doctor(capsys, "--receiver", "https://no-such-receiver.invalid")
    assert (status, found["address"]["found"]) == (69, "the name no-such-receiver.invalid is not known here")
    assert "getent hosts no-such-receiver.invalid" in found["address"]["remedy"]
    assert found["connection"]["found"] == "not looked at, because address failed"


def test_another_program_at_the_address_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    stub = StubReceiver(script={"/healthz": [(200, {}, {"hello": "world"})] * 2})
    try:
        status, found = doctor(capsys, "--receiver", stub.url)
    finally:
        stub.stop()
    assert (status, found["receiver"]["found"]) == (1, f"{stub.url} is no receiver")


def test_an_older_receiver_is_shown_the_token_another_way(capsys: pytest.CaptureFixture[str]) -> None:
    missing = problem(404, "not_found", "nothing is there")
    stub = StubReceiver(script={"/v1/worker/self": [missing], "heartbeat": [missing]})
    try:
        status, found = doctor(capsys, "--receiver", stub.url)
    finally:
        stub.stop()
    assert (status, found["identity"]["state"], found["policy"]["state"]) == (0, "warn", "skip")
    assert len(stub.calls("heartbeat")) == 1


def test_a_wrong_token_is_told_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIS490_WORKER_TOKEN", "a-worker-token-for-tests")
    with LiveReceiver(tmp_path, manifest(1), {"operator": TOKEN, "worker": "quite-another-token"}) as live:
        status, found = doctor(capsys, "--receiver", f"http://127.0.0.1:{live.port}")
    assert (status, found["identity"]["found"]) == (1, "the bearer token is not this receiver's")


# ---- the clock ------------------------------------------------------------------------------------------------------


class Dated:
    """A server that answers with a date of its own."""

    def __init__(self, off_s: float) -> None:
        self._off_s = off_s
        self._link = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._link.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._link.accept()
            except OSError:
                return
            with link:
                link.recv(65536)
                date = formatdate(time.time() + self._off_s, usegmt=True)
                body = b'{"status": "ok"}'
                head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                link.sendall(head.encode() + body)

    def __enter__(self) -> Dated:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()


@pytest.mark.parametrize(
    ("off_s", "state", "says"),
    [
        (0, "ok", "agrees with the receiver's"),
        (600, "warn", "s behind the receiver's: it says "),
        (-600, "warn", "s ahead of the receiver's: it says "),
        (3 * DAY_S, "fail", "s behind the receiver's: it says "),
    ],
)
def test_a_clock_that_differs_from_the_receivers_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, off_s: float, state: str, says: str
) -> None:
    monkeypatch.setattr("training.fleet.worker.reach.clock_keeper", lambda run: (True, "set it"))
    with Dated(off_s) as server:
        _, found = doctor(capsys, "--receiver", server.url)
    assert (found["clock"]["state"], says in found["clock"]["found"]) == (state, True)
    assert found["clock"]["remedy"] == ("" if state == "ok" else "set it")


def test_the_clock_is_judged_even_where_it_keeps_tls_from_working(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "tls")
    certificate, key = site.server()
    early = time.time() - 200 * DAY_S
    with LiveReceiver(tmp_path, manifest(1), tls_certificate=str(certificate), tls_key=str(key)) as live:
        chosen = options({"receiver": f"https://localhost:{live.port}", "ca_file": str(site.ca)}, {})
        way = reach.Way(chosen, "box", reach.address(chosen.receiver), clock=lambda: early, run=lambda _: (None, ""))
        state, said, _ = reach.clock(way)
        assert (state, said.partition(" the receiver's, ")[2]) == (
            "fail",
            "outside the life of the receiver's certificate",
        )
        unset = reach.Way(chosen, "box", way.where, clock=lambda: 5.0, run=lambda _: (None, ""))
        assert reach.clock(unset)[:2] == ("fail", "says 1970-01-01 00:00:05 UTC, so it was never set")
        loose = reach.Way(chosen, "box", way.where, run=lambda command: (0, "no"))
        assert reach.clock(loose) == (
            "warn",
            "agrees with the receiver's, but nothing keeps it in step",
            "sudo timedatectl set-ntp true",
        )


# ---- settings -------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_read_are_status_78_and_the_rest_is_still_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "worker.toml").write_text("recever = 1\nslots = 0\n")
    status, found = doctor(capsys, "--config", str(tmp_path / "worker.toml"))
    assert (status, found["settings"]["state"], found["python"]["state"]) == (78, "fail", "ok")
    assert "2 fault(s)" in found["settings"]["found"]
    status, found = doctor(capsys, "--name", "no name")
    assert (status, found["settings"]["state"]) == (78, "fail")


def test_where_settings_come_from_is_told_without_a_proxys_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIS490_PROXY", "http://me:hush@127.0.0.1:1")
    _, found = doctor(capsys, "--receiver", "https://127.0.0.1:1", "--slots", "2")
    said = json.dumps(found)
    assert "slots = 2 (flag --slots)" in said
    assert "(variable CIS490_PROXY)" in said
    assert "hush" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
def test_doctor_leaves_no_folder_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "nowhere/work"
    _, found = doctor(capsys, "--work-dir", str(work))
    assert found["work folder"]["found"] == f"{work} is made when the worker starts"
    assert not work.parent.exists()


def test_the_receiver_knows_an_enrolled_worker_by_its_secret_whatever_it_asks_for(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1), credentials=Credentials.of(TOKENS, enrolled_only=True)) as live:
        shown = live.enrolled("box")
        live.enrolled("nas")
        reply = live.call("GET", "/v1/worker/self?worker=nas", headers=shown)
        assert (reply.status, reply.json["worker"]) == (200, "box")
        assert live.call("GET", "/v1/worker/self").status == 401
