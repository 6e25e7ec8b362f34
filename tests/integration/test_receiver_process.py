"""The receiver as a process: start, signals, end, and what it refuses."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD, manifest, read_answer

from training.fleet import receiver
from training.fleet.model.errors import ConfigurationError, FleetError, UnavailableError
from training.fleet.receiver.reloading import ReloadFile, run_reload, state_file
from training.fleet.service import Service

MOST_SAID = 200
"""Messages to the service manager in a test, which come several times a second as long as the program lives."""
SECRET = "an-operator-secret-nobody-may-see"


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CIS490_")}
    return {**kept, "STATE_DIRECTORY": str(folder), "CIS490_OPERATOR_TOKEN": SECRET, **more}


def command(folder: Path, *flags: str) -> list[str]:
    module = [sys.executable, "-m", "training.fleet.receiver"]
    return [*module, "--listen-addr", "127.0.0.1:0", "--manifest", str(folder / "manifest.toml"), *flags]


class Running:
    """A receiver process that has said where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    @property
    def port(self) -> int:
        return int(self.wait_for("listening")["address"].rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log.append(json.loads(line))

    def wait_for(self, event: str) -> dict[str, Any]:
        until = time.monotonic() + 20
        while True:
            for line in self.log:
                if line["event"] == event:
                    return line
            assert time.monotonic() < until, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def claim(self, worker: str, wait_s: int) -> Any:
        capability = {"hostname": worker, "ram_bytes": 2**34, "version": "0.1.0"}
        body = {"claim_id": f"claim-of-{worker}", "worker": worker, "capability": capability, "held_leases": []}
        return self.post("/v1/job/claim", body, Prefer=f"wait={wait_s}")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.reader.join()
        return status


@contextmanager
def started(folder: Path, *flags: str, text: str | None = None, **more: str) -> Iterator[Running]:
    if text is not None:
        (folder / "manifest.toml").write_text(text)
    process = subprocess.Popen(
        command(folder, *flags), env=environment(folder, **more), stderr=subprocess.PIPE, text=True
    )
    running = Running(process)
    try:
        running.wait_for("listening")
        yield running
    finally:
        process.kill()
        process.wait(10)
        running.reader.join()


def refused(folder: Path, *flags: str, text: str | None = None, **more: str) -> str:
    """Start a receiver that must refuse, and return what it said."""
    if text is not None:
        (folder / "manifest.toml").write_text(text)
    done = subprocess.run(
        command(folder, *flags),
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    first: str = done.stderr.splitlines()[-1] if done.stderr.startswith("{") else done.stderr.splitlines()[0]
    assert first.startswith("cis490-trainer-receiver: ")
    return done.stderr


def test_term_drains_and_ends_with_0(tmp_path: Path) -> None:
    with started(tmp_path, text=manifest(1)) as running:
        half = socket.create_connection(("127.0.0.1", running.port))
        with half:
            half.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert read_answer(half).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            assert running.end() == 0
            assert time.monotonic() - began < 10
    events = [line["event"] for line in running.log]
    assert events.index("listening") < events.index("draining") < events.index("ended")


def test_a_request_under_way_is_finished_before_the_end(tmp_path: Path) -> None:
    with started(tmp_path, text=manifest(1)) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as link:
            body = b'{"lease_id":"never-given-01"}'
            head = (
                f"POST /v1/job/{'0' * 64}/heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            link.sendall(head.encode() + body[:10])
            time.sleep(0.2)
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("draining")
            link.sendall(body[10:])
            assert read_answer(link).startswith(b"HTTP/1.1 404")
        assert running.process.wait(10) == 0


def test_a_request_that_never_ends_does_not_hold_the_end_up(tmp_path: Path) -> None:
    with started(tmp_path, "--drain-s", "1", text=manifest(1)) as running:
        link = socket.create_connection(("127.0.0.1", running.port))
        with link:
            link.sendall(b"POST /v1/job/claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.2)
            began = time.monotonic()
            assert running.end() == 0
            assert time.monotonic() - began < 8


def test_what_lapses_or_is_delayed_is_claimable_as_soon_as_it_is_due(tmp_path: Path) -> None:
    """The sweeper had lain down to sleep for 5 s before the lease and the back-off began."""
    terms = {"CIS490_ACK_S": "1", "CIS490_LEASE_S": "1", "CIS490_BACKOFF_S": "0.5"}
    with started(tmp_path, text=manifest(1), **terms) as running:
        first = running.claim("host-1", wait_s=0)
        asked = time.monotonic()
        second = running.claim("host-2", wait_s=20)
        assert 0.5 < time.monotonic() - asked < 3
        assert (second["job_id"], second["fence"]) == (first["job_id"], first["fence"] + 1)
        report = {"lease_id": second["lease_id"], "kind": "trainer_error", "error": "broken"}
        assert running.post(f"/v1/job/{second['job_id']}/fail", report)["status"] == "pending"
        asked = time.monotonic()
        assert running.claim("host-3", wait_s=20)["fence"] == second["fence"] + 1
        assert 0.2 < time.monotonic() - asked < 2.5


def test_hup_reads_the_manifest_again(tmp_path: Path) -> None:
    with started(tmp_path, text=manifest(2)) as running:
        (tmp_path / "manifest.toml").write_text(manifest(5))
        running.process.send_signal(signal.SIGHUP)
        applied = running.wait_for("manifest applied")
        assert (applied["added"], applied["unchanged"]) == (3, 2)
        (tmp_path / "manifest.toml").write_text("[manifest")
        running.process.send_signal(signal.SIGHUP)
        assert running.wait_for("manifest refused")["faults"]
        health = running.get("/v1/health")
        assert (health["status"], health["counts"]["pending"]) == ("degraded", 5)
        assert running.end(signal.SIGINT) == 0


def test_the_reload_command_ends_as_the_reload_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`systemctl reload` runs it: a signal alone has no answer, so a refused manifest went unnoticed."""
    with started(tmp_path, text=manifest(2)) as running:
        running.wait_for("listening")
        words = ["--pid", str(running.process.pid), "--db", str(tmp_path / "queue.db")]
        (tmp_path / "manifest.toml").write_text(manifest(5))
        assert run_reload(words) == 0
        assert running.get("/v1/health")["counts"]["pending"] == 5
        (tmp_path / "manifest.toml").write_text(manifest(1))
        assert run_reload(words) == 1
        assert "the manifest declares 1 job, the one in force 5" in capsys.readouterr().err
        (tmp_path / "manifest.toml").write_text("[manifest")
        assert run_reload(words) == 1
        assert "line 1" in capsys.readouterr().err
        (tmp_path / "manifest.toml").write_text(manifest(5))
        assert run_reload(words) == 0
        assert (tmp_path / "reload.json").stat().st_mode & 0o077 == 0
    with pytest.raises(FleetError, match="is the receiver running"):
        run_reload(words)


def test_the_reload_command_gives_up_when_the_receiver_does_not_answer_or_was_never_started(tmp_path: Path) -> None:
    words = ["--pid", str(os.getpid()), "--db", str(tmp_path / "queue.db")]
    with pytest.raises(UnavailableError, match="check --db"):
        run_reload(words)
    ReloadFile(state_file(tmp_path / "queue.db")).start()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ticks = iter(range(0, 10_000, 100))
        with pytest.raises(UnavailableError, match="not done after 170 s"):
            run_reload(words, wait=lambda _: None, clock=lambda: next(ticks))
    finally:
        signal.signal(signal.SIGHUP, before)
    with pytest.raises(ConfigurationError, match="give --pid"):
        run_reload(words[2:])


def test_a_reload_reads_the_operators_again_and_keeps_those_before_when_they_are_faulty(tmp_path: Path) -> None:
    path, token = tmp_path / "operators.toml", "the-token-of-alice"
    lines = f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nroles = ["operate"]\n'
    path.write_text(f"[operators.bob]\n{lines}")
    path.chmod(0o600)
    with started(tmp_path, "--operators", str(path), text=manifest(1)) as running:

        def refusal() -> str | None:
            answer = running.post("/v1/manifest/reload", {}, **{"X-Operator-Token": token})
            return answer.get("code")  # type: ignore[no-any-return]

        assert refusal() is None
        path.write_text("[operators.alice]\nroles = []\n")
        running.process.send_signal(signal.SIGHUP)
        assert "operators.alice.token_sha256" in running.wait_for("operators refused")["reason"]
        assert refusal() is None
        health = running.get("/v1/health")
        assert health["status"] == "degraded"
        assert any("the operators before stay in force" in problem for problem in health["problems"])
        path.write_text(f"[operators.alice]\n{lines.replace('operate', 'read')}")
        running.process.send_signal(signal.SIGHUP)
        assert running.wait_for("operators read")["operators"] == ["operator", "alice"]
        assert refusal() == "forbidden"
        assert running.get("/v1/health")["status"] == "ok"
        assert running.end() == 0


def test_a_bad_manifest_at_a_later_start_keeps_the_one_in_force(tmp_path: Path) -> None:
    with started(tmp_path, text=manifest(2)) as running:
        running.end()
    with started(tmp_path, text="[manifest]\nschema = 1\njobs = 9\n") as running:
        health = running.get("/v1/health")
        assert (health["status"], health["counts"]["pending"]) == ("degraded", 2)
        assert health["manifest"]["faults"]
        running.end()


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    with started(tmp_path, text=manifest(1)) as running:
        body = json.dumps({"claim_id": "claim-0001", "worker": "pc", "capability": {"hostname": "pc"}})
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        connection.request("POST", "/v1/job/claim", body)
        lease = json.loads(connection.getresponse().read())
        connection.close()
        running.process.kill()
    with started(tmp_path) as running:
        (job,) = running.get("/v1/jobs")["jobs"]
        assert (job["id"], job["status"], job["host"]) == (lease["job_id"], "claimed", "pc")
        running.end()


def test_two_receivers_do_not_share_a_database(tmp_path: Path) -> None:
    with started(tmp_path, text=manifest(1)) as running:
        assert "is in use" in refused(tmp_path)
        running.end()


def test_a_taken_port_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(tmp_path, "--listen-addr", f"127.0.0.1:{port}", text=manifest(1))
    assert f"cannot listen on 127.0.0.1 port {port}" in said


REFUSALS: dict[str, tuple[tuple[str, ...], str, dict[str, str], str]] = {
    "no manifest": ((), "", {}, "manifest.toml"),
    "half a manifest": ((), manifest(3)[:-20], {}, "manifest"),
    "an address without port": (("--listen-addr", "localhost"), manifest(1), {}, "expected HOST:PORT"),
    "a port that is none": (("--listen-addr", "127.0.0.1:99999"), manifest(1), {}, "expected HOST:PORT"),
    "a name that does not resolve": (("--listen-addr", "no.such.invalid:1"), manifest(1), {
        "CIS490_READ_TOKEN": "r" * 16}, "cannot listen"),
    "beyond loopback without tokens": (("--listen-addr", "0.0.0.0:0"), manifest(1), {}, "CIS490_READ_TOKEN"),
    "beyond loopback with a token that workers share": (("--listen-addr", "0.0.0.0:0"), manifest(1), {
        "CIS490_WORKER_TOKEN": "w" * 16, "CIS490_READ_TOKEN": "r" * 16}, "enrol each worker: cis490-jobs invite HOST"),
    "all addresses of version 6 without tokens": (("--listen-addr", "[::]:0"), manifest(1), {}, "CIS490_READ_TOKEN"),
    "two roles with one token": ((), manifest(1), {"CIS490_WORKER_TOKEN": SECRET}, "same token"),
    "an unknown database": (("--db", "postgresql://host/fleet"), manifest(1), {}, "path of a file"),
    "a certificate without key": (("--tls-certificate", "/x.pem"), manifest(1), {}, "only one of"),
    "a certificate that is not there": (
        ("--tls-certificate", "/none.pem", "--tls-key", "/none.pem"), manifest(1), {}, "cannot use tls_certificate"),
    "a number that is none": (("--lease-s", "soon"), manifest(1), {}, "flag --lease-s"),
    "a settings file that is not there": (("--config", "/none.toml"), manifest(1), {}, "/none.toml"),
    "a folder that cannot be made": (("--db", "/proc/none/queue.db"), manifest(1), {}, "--db"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "text", "more", "said"), REFUSALS.values(), ids=REFUSALS)
def test_what_a_restart_cannot_mend_ends_with_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...], text: str, more: dict[str, str], said: str,
) -> None:  # fmt: skip
    if text:
        (tmp_path / "manifest.toml").write_text(text)
    for name in [name for name in os.environ if name.startswith("CIS490_")]:
        monkeypatch.delenv(name)
    for name, value in environment(tmp_path, **more).items():
        monkeypatch.setenv(name, value)
    assert receiver.main(command(tmp_path, *flags)[3:]) == 78
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith("{")]
    assert lines[0].startswith("cis490-trainer-receiver: ")
    assert said in error
    assert SECRET not in error


def test_a_world_readable_secret_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("t" * 20)
    secret.chmod(0o644)
    assert "chmod o=" in refused(tmp_path, text=manifest(1), CIS490_WORKER_TOKEN_FILE=str(secret))


def test_check_prints_every_setting_with_its_source_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "receiver.toml"
    config.write_text("lease_s = 120\n")
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", SECRET)
    monkeypatch.setenv("CIS490_ACK_S", "5")
    assert receiver.main(["--check", "--config", str(config), "--heartbeat-s", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"lease_s = 120.0  (file {config})" in lines
    assert "ack_s = 5.0  (variable CIS490_ACK_S)" in lines
    assert "heartbeat_s = 7.0  (flag --heartbeat-s)" in lines
    assert "CIS490_OPERATOR_TOKEN = set" in lines
    assert SECRET not in "\n".join(lines)


def test_logs_are_one_json_object_a_line_without_secrets(tmp_path: Path) -> None:
    with started(tmp_path, text=manifest(1)) as running:
        running.get("/v1/job/%1b%5b31m%0a")
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        connection.request("POST", "/v1/manifest/reload", headers={"X-Operator-Token": SECRET})
        assert connection.getresponse().status == 200
        connection.close()
        running.end()
    assert all({"at", "level", "event", "source"} <= line.keys() for line in running.log)
    assert SECRET not in json.dumps(running.log)


def test_the_service_manager_hears_ready_reloading_watchdog_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        more = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with started(tmp_path, text=manifest(1), **more) as running:
            said = [manager.recv(4096).decode() for _ in range(3)]
            running.process.send_signal(signal.SIGHUP)
            while not said[-1].startswith("RELOADING=1\nMONOTONIC_USEC="):
                said.append(manager.recv(4096).decode())
                assert len(said) < MOST_SAID, said
            running.wait_for("manifest applied")
            running.process.send_signal(signal.SIGTERM)
            while not said[-1].startswith("STOPPING=1"):
                said.append(manager.recv(4096).decode())
                assert len(said) < MOST_SAID, said
            assert running.process.wait(10) == 0
    assert said[0].startswith("READY=1\nSTATUS=listening on http://127.0.0.1:")
    assert "WATCHDOG=1" in said


def test_without_a_service_manager_nothing_is_said() -> None:
    assert Service({}).watchdog_s == 0
    assert Service({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s == 0
    Service({"NOTIFY_SOCKET": "@cis490-nobody-listens"}).alive()


def test_a_receiver_listens_beyond_loopback_with_all_tokens(tmp_path: Path) -> None:
    tokens = {"CIS490_READ_TOKEN": "r" * 16}
    with started(tmp_path, "--listen-addr", "0.0.0.0:0", text=manifest(1), **tokens) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        connection.request("GET", "/v1/jobs", headers={"Host": "any.name.example"})
        assert connection.getresponse().status == 401
        connection.close()
        assert running.end() == 0


def test_it_listens_on_version_6(tmp_path: Path) -> None:
    with started(tmp_path, "--listen-addr", "[::1]:0", text=manifest(1)) as running:
        assert running.wait_for("listening")["address"].startswith("http://[::1]:")
        assert running.end() == 0


def test_a_leftover_of_a_check_that_cannot_be_removed_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "queue.db.fsck").mkdir()  # no file, so that removing it as one fails
    with started(tmp_path, text=manifest(1)) as running:
        assert running.end() == 0
    assert (tmp_path / "queue.db").exists()


FAILING_SYNC = """
import errno, os, sys
from training.fleet import receiver
from training.fleet.blobs.disk import System

def sync(self, descriptor):
    if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    os.fsync(descriptor)

System.sync = sync
sys.exit(receiver.main(sys.argv[1:]))
"""


def test_a_receiver_whose_store_cannot_sync_refuses_the_upload_and_ends_with_a_failure(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(manifest(1))
    arguments = [sys.executable, "-c", FAILING_SYNC, *command(tmp_path)[3:]]
    process = subprocess.Popen(arguments, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    running = Running(process)
    try:
        lease = running.claim("tower", 0)
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        digest = hashlib.sha256(b"bundle").hexdigest()
        connection.request("PUT", f"/v1/model/{digest}", b"bundle", {"X-Lease-Id": lease["lease_id"]})
        answer = connection.getresponse()
        assert answer.status == 500
        assert "Input/output error" in json.loads(answer.read())["detail"]
        assert process.wait(20) == 1
        running.reader.join()
        assert [line["reason"] for line in running.log if line["event"] == "a disk failed"] != []
    finally:
        process.kill()
        process.wait(10)
        running.reader.join()


def test_a_receiver_that_requires_a_schema_never_starts_a_trainer(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'started')!r}, 'w').close()\n")
    head = f'{HEAD}[trainer]\ncommand = ["{{python}}", "mine.py"]\n'
    said = refused(tmp_path, "--schema-required", text=manifest(1, head=head))
    assert "schema_required" in said
    (tmp_path / "mine.json").write_text(json.dumps({"$defs": {"gbt": {"properties": {}}}}))
    with started(tmp_path, "--schema-required", text=manifest(1, head=f'{head}schema = "mine.json"\n')) as running:
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("manifest applied")
        assert running.get("/v1/jobs")["jobs"]
        assert running.end() == 0
    assert not (tmp_path / "started").exists()
