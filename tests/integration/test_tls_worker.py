"""Real workers over mutual TLS: a whole job through every door, and a certificate that is renewed under way."""

from __future__ import annotations

import functools
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD
from tls_doors import CADDIES, READ, Door, direct, fronted

from training.fleet.cli.program import main as jobs_command
from training.fleet.tls.certificates import facts
from training.fleet.tls.serving import Issuer
from training.fleet.worker.certificate import renew_at

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
TERMS = {"heartbeat_s": "0.2", "lease_s": "20", "ack_s": "10"}
WAYS: dict[str, Callable[[Path, str], AbstractContextManager[Door]]] = {
    "direct": functools.partial(direct, **TERMS),
    **{name: functools.partial(fronted, caddy=name) for name in CADDIES},
}


def text(jobs: int) -> str:
    head = f'{HEAD}[trainer]\ncommand = ["{{python}}", "{HELPERS / "fake_trainer.py"}"]\n'
    job = '[[jobs]]\nmodel = "fake"\nmode = "oracle"\nseed = {seed}\nhyper = {{ act = "good" }}\n'
    return head + "".join(job.format(seed=seed) for seed in range(jobs))


class Host:
    """A host with the commands of a worker."""

    def __init__(self, door: Door, folder: Path, root: Path) -> None:
        self.door, self.folder, self.root = door, folder, root
        folder.mkdir()
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "STATE_DIRECTORY": str(folder)}
        self.certificate = folder / "worker.pem"
        self.log = folder / "log"

    def enrol(self, code: str, digest: str) -> subprocess.CompletedProcess[str]:
        words = ["enrol", "--receiver", self.door.url, "--host", "box", "--ca-sha256", digest]
        return self._run(*words, code=code)

    def work_once(self) -> subprocess.CompletedProcess[str]:
        return self._run("--once", "--wait", "20", "--min-free-gib", "0", "--grace-s", "0.5")

    def _run(self, *words: str, code: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "training.fleet.worker", *words]
        return subprocess.run(
            command, cwd=self.root, env=self.environ, input=code, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "training.fleet.worker", "--min-free-gib", "0", "--grace-s", "0.5"]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, cwd=self.root, env=self.environ, stdout=log, stderr=log)


def invited(door: Door) -> tuple[str, str]:
    """Return a one-time code and the fingerprint of the authority, as an operator gets both."""
    answer = door.operate("/v1/invite", {"worker": "box"}).json
    return answer["code"], answer["ca_sha256"]


def until(met: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := met()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def completed(door: Door) -> int:
    answer = door.ask("GET", "/v1/jobs?status=completed", headers={"Authorization": f"Bearer {READ}"})
    return len(answer.json["jobs"])


@pytest.mark.parametrize("way", WAYS)
def test_a_host_enrols_and_does_a_whole_job_over_mutual_tls(tmp_path: Path, root: Path, way: str) -> None:
    with WAYS[way](tmp_path, text(1)) as door:
        host = Host(door, tmp_path / "host", root)
        done = host.enrol(*invited(door))
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(host.certificate.stat().st_mode) == 0o600
        worked = host.work_once()
        assert worked.returncode == 0, worked.stderr
        assert completed(door) == 1


def test_an_enrolled_host_says_so_and_one_that_lost_its_certificate_does_not(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with direct(tmp_path, text(1)) as door:
        host = Host(door, tmp_path / "host", root)
        code, digest = invited(door)
        assert host.enrol(code, digest).returncode == 0
        again = host.enrol("", digest)
        assert (again.returncode, "already enrolled" in again.stdout) == (0, True), again.stderr
        host.certificate.unlink()
        lost = host.enrol("", digest)
        assert (lost.returncode, "no code came" in lost.stderr) == (77, True), lost.stderr
        monkeypatch.setenv("CIS490_RECEIVER", door.url)
        monkeypatch.setenv("CIS490_CA_FILE", str(host.folder / "ca.pem"))
        monkeypatch.setenv("CIS490_READ_TOKEN", READ)
        assert jobs_command(["list"]) == 0
        assert "fake" in capsys.readouterr().out
        monkeypatch.setenv("CIS490_CLIENT_CERTIFICATE", str(host.certificate))
        assert jobs_command(["list"]) == 78
        assert "cannot be read; enrol this host again" in capsys.readouterr().err


def test_an_authority_with_another_fingerprint_gets_no_code(tmp_path: Path, root: Path) -> None:
    with direct(tmp_path, text(1)) as door:
        host = Host(door, tmp_path / "host", root)
        code, _ = invited(door)
        done = host.enrol(code, "0" * 64)
        assert done.returncode == 78
        assert f"with the fingerprint {door.site.fingerprint}; expected {'0' * 64}" in done.stderr
        assert not (host.folder / "ca.pem").exists()
        assert "enrol" not in "".join(door.events("box"))


def test_a_worker_renews_its_certificate_in_time_and_works_on(tmp_path: Path, root: Path) -> None:
    with direct(tmp_path, text(1), **TERMS) as door:
        host = Host(door, tmp_path / "host", root)
        door.receiver.fleet.authority.issue = Issuer(door.site.authority, life_s=12)
        assert host.enrol(*invited(door)).returncode == 0
        renew_and_work_on(door, host)


def renew_and_work_on(door: Door, host: Host) -> None:
    first = facts(host.certificate.read_bytes())
    due = renew_at(host.certificate)
    assert due is not None and 3.5 <= first.not_after - due <= 5
    worker = host.start()
    try:
        until(lambda: completed(door) == 1)
        until(lambda: facts(host.certificate.read_bytes()).fingerprint != first.fingerprint)
        until(lambda: time.time() > first.not_after + 0.2)
        door.receiver.manifest.write_text(text(2))
        assert door.operate("/v1/manifest/reload").status == 200
        until(lambda: completed(door) == 2)
        assert worker.poll() is None
    finally:
        worker.terminate()
        assert worker.wait(30) == 0
    assert "another certificate was issued" in "".join(door.events("box"))
    log = host.log.read_text()
    assert "certificate renewed" in log
    assert "refuses" not in log
    assert "has ended" not in log
