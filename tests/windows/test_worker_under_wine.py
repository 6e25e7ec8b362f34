"""The worker on Windows, from claim to upload, against a real receiver on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import WORKER, Fleet
from tls_doors import READ, direct
from windows_trainer import DECLARATION
from wine import PYTHON, Program, environment, processes_with, until, windows_path

from training.contracts.dataset_folder import dataset_digest
from training.fleet.bundle import pack
from training.fleet.client.pinning import fingerprint
from training.fleet.single_file import own_single_file

HERE = Path(__file__).parent
VERSION = re.sub(r"cp(\d)(\d+)", r"\1.\2.", Path(PYTHON).parent.name)
"""As `3.11.`, from the folder of the Python that is tried."""
ROOT = HERE.parents[1]
FILES = ("ca-file", "secret-file", "settings-file")
MANIFEST = """
[manifest]
schema = 1
[trainer]
command = ["{python}", "windows_trainer.py"]
schema = "trainer.schema.json"
[defaults]
split_recipe = "hosts"
max_attempts = 3
[hosts.default]
[[jobs]]
model = "tiny"
mode = "oracle"
hyper = { act = "%s", mark = "%s" }
"""
UNIT_TESTS = (
    "test_worker_verdict.py",
    "test_worker_files.py",
    "test_worker_resume.py",
    "test_errors.py",
    "test_client.py",
)
POSIX_ONLY = (
    "test_worker_verdict.py::test_the_error_is_the_trainers_own[memory]",
    "test_worker_files.py::test_what_is_no_regular_file_is_not_read_and_not_waited_for",
    "test_worker_files.py::test_a_tree_is_deleted_whatever_its_depth_its_rights_and_its_links",
    "test_worker_files.py::test_a_folder_swapped_for_a_link_while_its_tree_is_deleted_leads_nowhere",
    "test_worker_resume.py::test_the_next_attempt_finds_what_the_last_one_left",
    "test_worker_resume.py::test_a_folder_that_cannot_be_made_costs_no_training",
    "test_client.py::test_hanging_up_ends_a_parked_claim_at_once",
)
"""Tests that need named pipes, folders held open, rights of files, a system's own words, or a stub that hangs up."""


class Site:
    """A receiver, and a Windows host with its own work folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.fleet: Fleet = None  # type: ignore[assignment]  # until `serve`
        self.programs: list[Program] = []
        self.mark = f"mark-{os.urandom(8).hex()}"
        self.token = folder / "token"
        self.token.write_text(WORKER)
        self.token.chmod(0o600)
        self.pyz = folder / "worker.pyz"

    def serve(self, act: str) -> None:
        (self.folder / "trainer.schema.json").write_text(json.dumps(DECLARATION))
        self.fleet = Fleet(self.folder, MANIFEST % (act, self.mark))
        self.fleet.start_receiver()
        asked = urllib.request.Request(f"http://{self.fleet.address}/v1/worker.pyz")
        asked.add_header("Authorization", f"Bearer {WORKER}")
        with urllib.request.urlopen(asked, timeout=20) as answer:
            self.pyz.write_bytes(answer.read())

    def worker(self, *flags: str | Path) -> Program:
        own = ["--receiver", f"http://{self.fleet.address}", "--name", "pc", "--work-dir", self.work, "--grace-s", "5"]
        own += ["--trainer-dir", HERE, "--min-free-gib", "0"]
        secret = {"CIS490_WORKER_TOKEN_FILE": windows_path(self.token)}
        self.programs.append(Program(self.pyz, *own, *flags, environ=secret))
        return self.programs[-1]

    def until(self, what: str, met: Callable[[], Any]) -> None:
        """Wait for something, and show what the workers said when it does not come."""
        try:
            until(what, met)
        except AssertionError as late:
            raise AssertionError(f"{late}; {[program.output for program in self.programs]}") from None

    def job(self) -> dict[str, Any]:
        [job] = self.fleet.listed()
        return job

    def attempts(self) -> list[dict[str, Any]]:
        return list(self.fleet.asked("show", self.job()["id"])["attempts"])

    def end(self) -> None:
        for program in self.programs:
            program.kill()
        for pid in processes_with(self.mark):
            os.kill(pid, signal.SIGKILL)
        if self.fleet is not None:
            self.fleet.__exit__()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    it = Site(tmp_path)
    yield it
    it.end()


def test_a_job_goes_from_claim_to_completed_with_the_file_that_the_receiver_offers(site: Site) -> None:
    site.serve("good")
    worker = site.worker("--once")
    assert worker.wait() == 0, worker.output
    job = site.job()
    assert (job["status"], job["metrics"]) == ("completed", {"auroc": 0.75, "resumed": False})
    [host] = site.fleet.asked("workers")["workers"]
    assert (host["name"], host["capability"]["os"], host["drift"]) == ("pc", "windows", [])
    assert list((site.work / "runs").iterdir()) == []
    assert list((site.work / "resume").iterdir()) == []


def test_a_trainer_that_fails_is_reported_with_its_own_words(site: Site) -> None:
    site.serve("fail")
    worker = site.worker("--once")
    assert worker.wait() == 1, worker.output
    [attempt] = site.attempts()
    assert (attempt["outcome"], attempt["kind"]) == ("failed", "trainer_error")
    assert attempt["exit_status"] == 1
    assert attempt["error"] == "ValueError: column cpu holds no numbers"


def test_a_cancelled_trainer_heeds_the_stop_file_and_its_helpers_go_with_it(site: Site) -> None:
    site.serve("listen")
    worker = site.worker("--once")
    site.until("the trainer works", lambda: processes_with(site.mark))
    site.fleet.jobs("cancel", site.job()["id"])
    assert worker.wait() == 1, worker.output
    assert site.job()["status"] == "cancelled"
    assert processes_with(site.mark) == []


def test_a_trainer_that_heeds_nothing_is_killed_with_its_helpers(site: Site) -> None:
    site.serve("ignore")
    worker = site.worker("--once", "--grace-s", "1")
    site.until("the trainer works", lambda: processes_with(site.mark))
    site.fleet.jobs("cancel", site.job()["id"])
    assert worker.wait() == 1, worker.output
    assert site.job()["status"] == "cancelled"
    assert processes_with(site.mark) == []


def test_a_stop_file_in_the_work_folder_gives_the_job_back_with_its_checkpoint(site: Site) -> None:
    site.serve("listen")
    worker = site.worker()
    site.until("the trainer works", lambda: processes_with(site.mark))
    (site.work / "stop").touch()
    assert worker.wait() == 0, worker.output
    assert site.job()["status"] == "pending"
    assert processes_with(site.mark) == []
    again = site.worker("--once", "--wait", "20")
    assert again.wait() == 0, again.output
    assert site.job()["metrics"]["resumed"] is True


def test_an_idle_worker_ends_soon_after_its_stop_file_appears(site: Site) -> None:
    site.serve("good")
    assert site.worker("--once").wait() == 0
    worker = site.worker()
    site.until("the worker is up", lambda: "worker started" in worker.output)
    (site.work / "stop").touch()
    assert worker.wait(20) == 0, worker.output
    assert not (site.work / "stop").exists()


def test_the_tree_dies_with_its_worker_and_the_next_one_says_lost_and_goes_on(site: Site) -> None:
    site.serve("ignore")
    worker = site.worker()
    site.until("the trainer works", lambda: processes_with(site.mark))
    site.until("its checkpoint is there", lambda: list((site.work / "resume").glob("*/saved")))
    worker.kill()
    until("nothing of the tree is left", lambda: not processes_with(site.mark), 10)
    again = site.worker()
    site.until("the job is done", lambda: site.job()["status"] == "completed")
    (site.work / "stop").touch()
    assert again.wait() == 0, again.output
    first, second = site.attempts()
    assert (first["outcome"], first["kind"]) == ("failed", "lost")
    assert second["outcome"] == "completed"
    assert site.job()["metrics"]["resumed"] is True


def test_the_self_test_tells_what_the_host_can_and_finds_the_same_dataset(site: Site) -> None:
    site.serve("good")
    lab = ROOT / "data" / "lab"
    tested = site.worker("--self-test", "--json", "--dataset", f"lab={windows_path(lab)}", "--trainer-dir", ROOT)
    tested.wait()
    found = json.loads(tested.output)
    capability, checks = found["capability"], {check["name"]: check for check in found["checks"]}
    assert (capability["os"], capability["arch"], capability["python"][: len(VERSION)]) == ("windows", "amd64", VERSION)
    assert capability["ram_bytes"] > 2**28
    assert capability["datasets"]["lab"] == dataset_digest(lab)
    assert capability["contract"].startswith("sha256:")  # the trainer of the checkout answered
    assert checks["receiver"]["state"] == "ok", checks
    assert checks["work folder"]["state"] == "ok", checks


def test_one_command_enrols_the_host_and_its_job_goes_through_with_mutual_tls(site: Site) -> None:
    (site.folder / "trainer.schema.json").write_text(json.dumps(DECLARATION))
    site.pyz.write_bytes(own_single_file().data)
    own = site.folder / "own"
    files = [flag for name in FILES for flag in (f"--{name}", own / name)]
    with direct(site.folder, MANIFEST % ("good", "")) as door:
        code = door.operate("/v1/invite", {"worker": "pc"}).json["code"]
        trust = ["--receiver", door.url, "--host", "pc", "--ca-sha256", fingerprint(door.site.ca.read_text())]
        enrolled = Program(site.pyz, "enrol", *trust, *files, environ={"CIS490_INVITE": code})
        assert enrolled.wait() == 0, enrolled.output
        flags = ["--work-dir", site.work, "--trainer-dir", HERE, "--min-free-gib", "0", "--once"]
        worker = Program(site.pyz, "--config", own / "settings-file", *flags)
        assert worker.wait() == 0, worker.output
        [job] = door.ask("GET", "/v1/jobs", headers={"Authorization": f"Bearer {READ}"}).json["jobs"]
        settings = tomllib.loads((own / "settings-file").read_text())
        bare = own / "bare.toml"
        bare.write_text("".join(f"{name} = {json.dumps(settings[name])}\n" for name in ("receiver", "ca_file", "name")))
        secret = {"CIS490_WORKER_SECRET_FILE": settings["worker_secret_file"]}
        shown_nothing = Program(site.pyz, "--config", bare, *flags, environ=secret)
        assert shown_nothing.wait() == 77, shown_nothing.output
    assert (job["status"], job["metrics"]["auroc"]) == ("completed", 0.75)
    assert door.url.startswith("https://")
    assert "client certificate" in shown_nothing.output


def test_a_token_that_everybody_can_read_is_refused_with_the_command_that_mends_it(site: Site) -> None:
    site.serve("good")
    site.token.chmod(0o644)
    worker = site.worker("--once")
    assert worker.wait() == 78
    assert "everybody on this host can use" in worker.output
    assert "icacls" in worker.output


def inside(tmp_path: Path, *arguments: str) -> str:
    """Run pytest under the Python of Windows and return what it printed."""
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "model.txt").write_bytes(b"model")
    paths = [ROOT, Path(sys.prefix, "lib", f"python3.{sys.version_info[1]}", "site-packages"), HERE, HERE.parent]
    environ = {
        "PYTHONPATH": ";".join(windows_path(path.resolve()) for path in paths),
        "EXPECTED_DIGEST": pack(tmp_path / "art", tmp_path / "bundle").content_digest,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    shutil.rmtree(Path(os.environ["CIS490_WINE_PREFIX"], "drive_c", "tests"), ignore_errors=True)
    command = ["wine", PYTHON, "-m", "pytest", "-q", "--noconftest", "-p", "plugin", "-p", "no:cacheprovider"]
    command += ["--tb=short", "--basetemp=C:\\tests", *arguments]
    done = subprocess.run(
        command, env=environment(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said
    return said


def test_what_windows_does_differently_holds(tmp_path: Path) -> None:
    said = inside(tmp_path, "tests/windows/inside_system.py")
    assert "21 passed" in said


def test_the_workers_own_unit_tests_hold_on_windows(tmp_path: Path) -> None:
    left_out = [f"--deselect=tests/unit/{name}" for name in POSIX_ONLY]
    said = inside(tmp_path, *(f"tests/unit/{name}" for name in UNIT_TESTS), *left_out)
    assert " passed" in said
