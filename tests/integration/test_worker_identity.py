"""Real workers with secrets of their own, against a real receiver."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD, HERE, TOKEN, LiveReceiver

from training.fleet.auth import Credentials
from training.fleet.client import Client
from training.fleet.wire.identities import Invite, InviteOrder
from training.fleet.worker.identity import OwnSecret
from training.fleet.worker.journal import Journal

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
READ = "a-read-token-for-tests"
CREDENTIALS = {"operator": TOKEN, "read": READ}
TERMS = {"heartbeat_s": "0.2", "lease_s": "20", "ack_s": "10"}


def text(jobs: int) -> str:
    head = f'{HEAD}[trainer]\ncommand = ["{{python}}", "{HELPERS / "fake_trainer.py"}"]\n'
    job = '[[jobs]]\nmodel = "fake"\nmode = "oracle"\nseed = {seed}\nhyper = {{ act = "patient" }}\n'
    return head + "".join(job.format(seed=seed) for seed in range(jobs))


@contextlib.contextmanager
def site(folder: Path, jobs: int) -> Iterator[LiveReceiver]:
    folder.mkdir(exist_ok=True)
    credentials = Credentials.of(CREDENTIALS, enrolled_only=True)
    with LiveReceiver(folder, text(jobs), credentials=credentials, **TERMS) as live:
        yield live


def until(met: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := met()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


class Machine:
    """One host: its state folder, its enrolment and its workers."""

    def __init__(self, live: LiveReceiver, folder: Path, root: Path) -> None:
        self.live, self.folder, self.root = live, folder, root
        self.folder.mkdir(exist_ok=True)
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "STATE_DIRECTORY": str(folder)}
        self.secret = folder / "worker.secret"
        self.url = f"http://127.0.0.1:{live.port}"
        self.workers: list[subprocess.Popen[bytes]] = []

    def enrol(self, code: str = "", host: str = "box", *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "training.fleet.worker", "enrol", "--host", host, "--receiver", self.url]
        command += flags
        traced = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        return subprocess.run(
            command, cwd=self.root, env=self.environ | traced | environ, input=code, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "training.fleet.worker", *words]
        return subprocess.run(
            command, cwd=self.root, env=self.environ, capture_output=True, text=True, timeout=120, check=False
        )

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "training.fleet.worker", "--min-free-gib", "0", "--grace-s", "0.5"]
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(command, cwd=self.root, env=self.environ, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def copy(self, folder: Path) -> Machine:
        """Return a machine made of a copy of this one's disk."""
        other = Machine(self.live, folder, self.root)
        other.secret.write_bytes(self.secret.read_bytes())
        other.secret.chmod(0o600)
        settings = (self.folder / "worker.toml").read_text().replace(str(self.folder), str(folder))
        (folder / "worker.toml").write_text(settings)
        return other

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()


@contextlib.contextmanager
def machine(live: LiveReceiver, folder: Path, root: Path) -> Iterator[Machine]:
    it = Machine(live, folder, root)
    try:
        yield it
    finally:
        it.end()


def actions(live: LiveReceiver, worker: str = "box") -> list[str]:
    headers = {"Authorization": f"Bearer {READ}"}
    events = live.call("GET", f"/v1/events?worker={worker}", headers=headers).json["events"]
    return [event["action"] for event in reversed(events) if event["worker"]]


def running(live: LiveReceiver) -> list[str]:
    headers = {"Authorization": f"Bearer {READ}"}
    jobs = live.call("GET", "/v1/jobs?status=running", headers=headers).json["jobs"]
    return [job["host"] for job in jobs]


def trainers_below(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str(folder) in str((entry / "cwd").readlink()):
                    found.append(int(entry.name))
    return found


def processes_with(secrets: list[str], pids: list[int]) -> list[tuple[int, str]]:
    """Return where a secret stands in the arguments or the environment of a process."""
    found = []
    for pid in pids:
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                data = Path(f"/proc/{pid}/{name}").read_bytes()
                found += [(pid, name) for secret in secrets if secret.encode() in data]
    return found


def key_in(machine: Machine) -> str:
    return machine.secret.read_text().strip().rpartition(".")[2]


def test_a_worker_enrols_renews_its_key_and_stops_when_revoked_and_no_secret_is_found_anywhere(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with site(tmp_path / "receiver", 1) as live, machine(live, tmp_path / "box", root) as box:
        code = live.invited("box")
        done = box.enrol(code)
        assert (done.returncode, done.stderr) == (0, "")
        assert "enrolled as box" in done.stdout
        assert box.secret.stat().st_mode & 0o777 == 0o600
        first = key_in(box)
        worker = box.start()
        assert until(lambda: running(live)) == ["box"]
        pids = [worker.pid, *until(lambda: trainers_below(box.folder / "worker" / "runs"))]

        assert live.call("POST", "/v1/worker/box/rotate", operator=True).status == 200
        until(lambda: "renew" in actions(live))
        second = key_in(box)
        assert second != first
        assert until(lambda: "secret changed" in box.log)
        assert running(live) == ["box"], "the training goes on"
        secrets = [code, first, second, TOKEN, READ]
        assert processes_with(secrets, pids) == []

        backup = live.call("POST", "/v1/backup", {"label": "now"}, operator=True)
        assert backup.status == 200
        until(lambda: live.call("GET", "/v1/chore", operator=True).json["state"] == "done")
        assert live.call("POST", "/v1/worker/box/revoke", operator=True).status == 200
        until(lambda: not trainers_below(box.folder / "worker" / "runs"))
        until(lambda: "was revoked" in box.log)
        assert running(live) == []
        again = box.enrol()
        assert again.returncode == 77
        assert "cis490-jobs invite box" in again.stderr
        assert actions(live) == ["invite", "enrol", "rotate", "renew", "revoke"]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != box.secret]
    assert any(path.name.startswith("queue.db") and "backups" in str(path) for path in files)
    held = [(path.name, secret) for path in files for secret in secrets if secret.encode() in path.read_bytes()]
    assert held == []
    said = caplog.text + done.stdout + again.stdout + again.stderr
    assert [secret for secret in secrets if secret in said] == []


def test_enrolling_again_says_so_and_a_run_that_lost_its_answer_goes_on(tmp_path: Path, root: Path) -> None:
    with site(tmp_path / "receiver", 0) as live, machine(live, tmp_path / "box", root) as box:
        code = live.invited("box")
        first = box.enrol(CIS490_INVITE=code)
        assert first.returncode == 0, first.stderr
        key = key_in(box)
        again = box.enrol()
        assert (again.returncode, again.stdout.split(":")[0]) == (0, "already enrolled as box")
        assert key_in(box) == key
        # As if the answer had been lost: the key is on disk, the secret is not.
        box.secret.rename(box.secret.with_name("worker.secret.gone"))
        box.secret.with_name("worker.secret.new").write_text(key)
        lost = box.enrol(code)
        assert lost.returncode == 0, lost.stderr
        assert key_in(box) == key
        assert actions(live) == ["invite", "enrol"]


@pytest.mark.parametrize(
    ("host", "code", "status", "said"),
    [
        pytest.param("box", "", 77, "cis490-jobs invite box", id="no code"),
        pytest.param("box", "x" * 12, 77, "the one-time code has 12 characters; expected 32 of", id="half a code"),
        pytest.param("box", "y" * 31 + "!", 77, "32 characters, some of which no code has; expected", id="no code's"),
        pytest.param("box", "x" * 32, 77, "this receiver did not give the code", id="a wrong code"),
        pytest.param("other", None, 77, "not good for the host other", id="a code for another host"),
        pytest.param("No Host", None, 78, "expected the one of the invite", id="no host name"),
    ],
)
def test_a_host_that_cannot_enrol_is_told_what_to_do(
    tmp_path: Path, root: Path, host: str, code: str | None, status: int, said: str
) -> None:
    with site(tmp_path / "receiver", 0) as live, machine(live, tmp_path / "box", root) as box:
        done = box.enrol(live.invited("box") if code is None else code, host)
        assert done.returncode == status
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not box.secret.exists()


def test_a_copied_disk_is_refused_while_the_first_machine_lives_and_a_restart_is_not(
    tmp_path: Path, root: Path
) -> None:
    with site(tmp_path / "receiver", 1) as live, machine(live, tmp_path / "box", root) as box:
        assert box.enrol(live.invited("box")).returncode == 0
        first = box.start()
        assert until(lambda: running(live)) == ["box"]
        with contextlib.closing(contextlib.ExitStack()) as stack:
            copy = box.copy(tmp_path / "copy")
            stack.callback(copy.end)
            copy.start()
            until(lambda: (copy.folder / "log").exists() and "another machine uses the identity" in copy.log)
        assert actions(live)[-1] == "clash"
        assert running(live) == ["box"]
        first.kill()
        first.wait()
        box.start()
        until(lambda: "trainer taken over" in box.log)
        assert "another machine" not in box.log
        assert running(live) == ["box"]


def test_other_programs_of_the_host_leave_the_identity_to_the_worker_that_runs(tmp_path: Path, root: Path) -> None:
    with site(tmp_path / "receiver", 1) as live, machine(live, tmp_path / "box", root) as box:
        assert box.enrol(live.invited("box")).returncode == 0
        box.start()
        assert until(lambda: running(live)) == ["box"]
        elsewhere = str(tmp_path / "another-work-folder")
        doctor = box.run("doctor", "--json", "--work-dir", elsewhere)
        assert '"found": "the receiver takes it as box (enrolled)"' in doctor.stdout
        tested = box.run("--self-test", "--work-dir", elsewhere, "--min-free-gib", "0")
        assert "and lets this worker in" in tested.stdout
        assert box.enrol().stdout.startswith("already enrolled as box")
        shown = {"Authorization": f"Bearer {box.secret.read_text().strip()}"}
        shown["X-Worker-Session"] = box.run("session").stdout.strip()
        assert live.call("GET", "/v1/worker.pyz", headers=shown).status == 200
        beats = live.fleet.sessions._live["box"][0].seen_at
        until(lambda: live.fleet.sessions._live["box"][0].seen_at > beats)
        assert running(live) == ["box"]
        assert actions(live) == ["invite", "enrol"]
        assert "another machine" not in box.log


# ---- a change of the key that is cut off

SESSION = HERE["X-Worker-Session"]
CUT = """
import os, signal, sys
from pathlib import Path
from training.fleet.client import Client
from training.fleet.worker import identity
from training.fleet.worker.journal import Journal

url, path, die_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
steps = []

def step(*_):
    steps.append(1)
    if len(steps) == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

def around(before):
    def called(*arguments, **more):
        step()
        answer = before(*arguments, **more)
        step()
        return answer
    return called

for owner, name in ((identity, "write_whole"), (Client, "post"), (Path, "replace"), (os, "fsync")):
    setattr(owner, name, around(getattr(owner, name)))
own = identity.OwnSecret(path.read_text().strip(), path, Journal())
own._renew(Client(url, own.token, session=sys.argv[4]))
print(len(steps))
"""


def test_a_change_of_the_key_killed_at_any_step_leaves_a_secret_that_the_receiver_takes(
    tmp_path: Path, root: Path
) -> None:
    with site(tmp_path / "receiver", 0) as live:
        outcomes = []
        for die_at in range(1, 40):
            name, path = f"box-{die_at}", tmp_path / f"{die_at}.secret"
            old = live.enrolled(name, "a" * 43)["Authorization"].removeprefix("Bearer ")
            path.write_text(f"{old}\n")
            live.call("POST", f"/v1/worker/{name}/rotate", operator=True)
            command = [sys.executable, "-c", CUT, f"http://127.0.0.1:{live.port}", str(path), str(die_at), SESSION]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == 0:
                break
            assert done.returncode == -9, done.stderr
            outcomes.append(path.read_text().strip() != old)
            own = OwnSecret(path.read_text().strip(), path, Journal())
            contact = live.call("GET", "/v1/worker/self", headers=bearer(own.token() or ""))
            if "x-rotate-secret" in contact.headers:
                own._renew(Client(f"http://127.0.0.1:{live.port}", own.token, session=SESSION))
            shown = (path.read_text().strip(), old)
            replies = [live.call("POST", "/v1/job/claim", live.claim_body(name), bearer(secret)) for secret in shown]
            assert [reply.status for reply in replies] == [204, 401], die_at
        assert len(outcomes) == 16
        assert set(outcomes) == {False, True}
        assert outcomes == sorted(outcomes)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}", **HERE}


# ---- over https


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("the openssl command is not installed")
    return certificate, key


def test_the_authority_of_the_invite_is_fetched_and_trusted_and_no_other(
    tmp_path: Path, root: Path, authority: tuple[Path, Path]
) -> None:
    certificate, key = authority
    pem = certificate.read_text()
    seen = subprocess.run(
        ["openssl", "x509", "-in", str(certificate), "-noout", "-fingerprint", "-sha256"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    colons = seen.stdout.strip().partition("=")[2]
    folder = tmp_path / "receiver"
    folder.mkdir()
    flags = {**TERMS, "tls_certificate": str(certificate), "tls_key": str(key)}
    with LiveReceiver(folder, text(0), credentials=Credentials.of(CREDENTIALS, enrolled_only=True), **flags) as live:
        live.fleet.authority.pem = pem
        order = InviteOrder("box")
        invited = asyncio.run_coroutine_threadsafe(_later(live, order), live.loop).result(10)
        with machine(live, tmp_path / "box", root) as box:
            box.url = f"https://localhost:{live.port}"
            wrong = box.enrol(invited.code, "box", "--ca-sha256", "0" * 64)
            assert wrong.returncode == 78
            assert f"expected {'0' * 64}; ask the operator for a new invite" in wrong.stderr
            assert not (box.folder / "ca.pem").exists()
            done = box.enrol(invited.code, "box", "--ca-sha256", colons)
            assert done.returncode == 0, done.stderr
            assert (box.folder / "ca.pem").read_text() == pem
            again = box.enrol("", "box", "--ca-sha256", colons)
            assert (again.returncode, again.stdout[:16]) == (0, "already enrolled")


async def _later(live: LiveReceiver, order: InviteOrder) -> Invite:
    return await live.fleet.run(lambda tx: live.fleet.queue.identities.invite(tx, order, "operator:test"))
