"""The installer for Windows on a PC of the tests: what it runs in which order, what it leaves, what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from windows_pc import SPACE, PcPrograms, Scheduler, split_line

from training.fleet import system
from training.fleet.install import code, torch_windows, worker, worker_windows
from training.fleet.model.errors import EX_CONFIG
from training.fleet.worker import enrol, program

PYTHON = sys.executable
ENROL = ("--receiver", "https://receiver.example:8445", "--host", "gpu-tower", "--ca-sha256", "ab")
INVITE = (*ENROL, "--code", "C0DE")
STOPPED = "stop the worker; its job goes back to the queue"
PIP = (
    "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps",
    "--only-binary", ":all:", "-r",
)  # fmt: skip


class Workers:
    """What the task starts: a worker that runs until it is asked to stop by its file, as the real one."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.words: list[list[str]] = []
        self.ended: set[int] = set()
        self.listens, self.has_lock, self.starts_well = True, True, True
        self._locks: dict[int, Any] = {}

    def start(self, command: str, line: str, folder: str) -> int:
        assert Path(folder).is_dir()
        (self.state / "worker" / "stop").unlink(missing_ok=True)
        number = len(self.words)
        self.words.append([command, *split_line(line)])
        if self.has_lock:
            self._locks[number] = (self.state / "worker" / "lock").open("a")
            system.lock(self._locks[number])
        if self.starts_well:
            self.log(f"{number} worker started host=gpu-tower")
        return number

    def is_alive(self, number: int) -> bool:
        return number not in self.ended

    def kill(self, number: int) -> None:
        self.ended.add(number)
        if number in self._locks:
            self._locks.pop(number).close()

    def look(self) -> None:
        """Do what a worker does meanwhile: listen its stop file."""
        for number in list(self._locks):
            if self.listens and (self.state / "worker" / "stop").exists():
                (self.state / "worker" / "stop").unlink()
                self.kill(number)

    def log(self, line: str) -> None:
        with (self.state / "worker.log").open("a") as log:
            log.write(f"{line}\n")


class Recorded(PcPrograms):
    """Programs that end well and do nothing, but for those that a test has fail."""

    def __init__(self, scheduler: Scheduler, state: Path) -> None:
        super().__init__(scheduler)
        self.state, self.fail = state, ""
        self.can: list[dict[str, Any]] = []
        self.ran: list[list[str]] = []
        self.given: list[str] = []
        self.everything: list[list[str]] = []

    def run(
        self, words: Sequence[str], environ: Mapping[str, str] | None, folder: Path | None, given: str,
        out: int | None, errors: int | None,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        self.everything.append(list(words))
        if words[0].endswith(("icacls.exe", "schtasks.exe")):
            return super().run(words, environ, folder, given, out, errors)
        assert environ is None
        assert folder is None or folder.is_dir()
        self.ran.append(list(words))
        self.given.append(given)
        if self.fail and self.fail in words:
            return subprocess.CompletedProcess(words, 1, b"it failed", b"")
        if "--json" in words and self.can:
            return subprocess.CompletedProcess(words, 0, json.dumps({"capability": self.can.pop(0)}).encode(), b"")
        if "venv" in words:
            (Path(words[-1]) / "Scripts").mkdir(parents=True)
            (Path(words[-1]) / "Scripts" / "python.exe").touch()
        if "enrol" in words:
            for name in ("worker.toml", "worker.secret", "ca.pem", "worker.pem"):
                (self.state / name).touch()
        return subprocess.CompletedProcess(words, 0, b"", b"")


class Site:
    """A PC, a checkout on it, and the installer."""

    def __init__(self, drive: Path, patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.drive, self._capfd = drive, capfd
        self.environ = {
            "ProgramFiles": str(drive / "Program Files"),
            "ProgramData": str(drive / "ProgramData"),
            "SystemRoot": str(drive / "Windows"),
            "PUBLIC": str(drive / "Users" / "Public"),
        }
        self.root, self.state = drive / "Program Files" / "cis490", drive / "ProgramData" / "cis490"
        self.checkout = drive / "checkout"
        for name in ("training/fleet/worker", "requirements", "etc/systemd"):
            (self.checkout / name).mkdir(parents=True)
        (self.checkout / "training" / "fleet" / "worker" / "one.py").write_text("1\n")
        (self.checkout / "requirements" / "torch-index.in").write_text("torch==2.13.0\n")
        for name in ("trainer", "torch", "torch-index"):
            (self.checkout / "requirements" / f"{name}.txt").write_text("numpy\n")
        self.workers = Workers(self.state)
        self.scheduler = Scheduler(drive / "task.json", self.workers)
        self.programs = Recorded(self.scheduler, self.state)
        self.python = self.root / "venv" / "Scripts" / "python.exe"
        self.cards: tuple[str, ...] = ()
        self.owner, self.is_administrator = "S-1-5-32-544", True
        patch.setattr(worker, "WINDOWS", True)
        patch.setattr(worker, "CHECKOUT", self.checkout)
        patch.setattr(worker_windows.system, "owner", lambda _path: self.owner)
        patch.setattr(worker_windows.system, "is_administrator", lambda: self.is_administrator)
        patch.setattr(worker_windows.sys, "executable", "C:\\Python312\\python.exe")
        patch.setattr(worker_windows.sys, "base_prefix", "C:\\Python312")
        patch.setattr(torch_windows.cards, "find", lambda _problems: self.cards)
        patch.setattr(worker_windows.time, "sleep", lambda _s: self.workers.look())

    def run(self, *words: str) -> tuple[int, list[str], list[list[str]]]:
        """Return exit status, lines shown, and the programs that were run without the stand-ins."""
        ran = len(self.programs.ran)
        self._capfd.readouterr()
        status = worker.run_installer(words, self.environ, self.programs)
        shown = self._capfd.readouterr()
        return status, (shown.out + shown.err).splitlines(), self.programs.ran[ran:]

    def install(self, *words: str) -> tuple[list[str], list[list[str]]]:
        status, said, ran = self.run("install", *words)
        assert status == 0, said
        return said, ran

    def newer(self) -> None:
        (self.checkout / "training" / "fleet" / "worker" / "one.py").write_text("2\n")

    def installed(self) -> str:
        return (self.root / "code" / "training" / "fleet" / "worker" / "one.py").read_text()

    def files(self) -> list[str]:
        found = (path for path in self.drive.rglob("*") if "checkout" not in path.parts)
        return sorted(str(path.relative_to(self.drive)) for path in found)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Site]:
    made = Site(tmp_path, monkeypatch, capfd)
    yield made
    for number in range(len(made.workers.words)):
        made.workers.kill(number)


def module(site: Site, *words: str) -> list[str]:
    return [str(site.python), "-m", "training.fleet.worker", *words]


def test_from_nothing_it_makes_installs_enrols_tests_registers_and_starts(site: Site) -> None:
    said, ran = site.install(*INVITE)
    assert ran == [
        ["C:\\Python312\\python.exe", "-m", "venv", str(site.root / "venv")],
        [str(site.python), *PIP, str(site.checkout / "requirements" / "trainer.txt")],
        [str(site.python), *PIP, str(site.checkout / "requirements" / "torch-index.txt")],
        module(
            site, "enrol", *ENROL, "--settings-file", str(site.state / "worker.toml"),
            "--secret-file", str(site.state / "worker.secret"), "--ca-file", str(site.state / "ca.pem"),
        ),
        module(
            site, "--self-test", "--config", str(site.state / "worker.toml"),
            "--work-dir", str(site.root / "self-test"), "--trainer-dir", str(site.root / "code"),
        ),
    ]  # fmt: skip
    assert said[-1].startswith("The worker runs.")
    assert site.workers.words == [
        module(
            site, "--config", str(site.state / "worker.toml"), "--work-dir", str(site.state / "worker"),
            "--log-file", str(site.state / "worker.log"),
        )
    ]  # fmt: skip
    assert site.scheduler.exec()["WorkingDirectory"] == str(site.root / "code")
    assert site.installed() == "1\n"


def test_the_worker_and_pip_take_the_commands_that_they_get(site: Site) -> None:
    _, ran = site.install(*INVITE, "--dataset", "lab=D:\\lab")
    _, pip, _, enrolment, test = ran
    told = enrol._parser({}).parse_args(enrolment[4:])
    assert enrolment[3] == "enrol"
    assert (told.receiver, told.host, told.secret_file) == (ENROL[1], "gpu-tower", site.state / "worker.secret")
    told = program._parsed(test[3:])
    assert told["self_test"]
    assert {name for name, value in told.items() if value} == {
        "self_test", "config", "work_dir", "trainer_dir", "dataset",
    }  # fmt: skip
    [line] = site.workers.words
    assert {name for name, value in program._parsed(line[3:]).items() if value} == {
        "config", "work_dir", "log_file", "dataset",
    }  # fmt: skip
    asked = "import sys; from pip._internal.commands import create_command as c; c('install').parse_args(sys.argv[1:])"
    done = subprocess.run([PYTHON, "-c", asked, *pip[4:]], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_the_code_of_the_invite_reaches_the_enrolment_alone_and_by_a_pipe(site: Site, by: str) -> None:
    if by == "variable":
        site.environ["CIS490_INVITE"] = "C0DE"
    said, _ = site.install(*(INVITE if by == "flag" else ENROL))
    assert site.programs.given == ["", "", "", "C0DE\n", ""]
    assert "CIS490_INVITE" not in site.environ
    assert not any("C0DE" in word for words in site.programs.everything for word in words)
    assert not any("C0DE" in line for line in said)


def test_rights_are_set_before_the_secret_is_written_and_on_it_after(site: Site) -> None:
    site.install(*INVITE)
    asked = [words for words in site.programs.everything if not words[0].endswith("schtasks.exe")]
    told = [words[1] if words[0].endswith("icacls.exe") else words[3] for words in asked]
    files = [str(site.state / name) for name in ("worker.secret", "worker.toml", "ca.pem", "worker.pem")]
    assert told[:2] == [str(site.state)] * 2
    assert told[told.index("enrol") + 1 :][:4] == files


def test_the_secret_is_for_the_system_administrators_and_the_task_alone(site: Site) -> None:
    site.install(*INVITE)
    folder, secret = str(site.state), str(site.state / "worker.secret")
    rights = [words for words in site.programs.rights if words[0] in (folder, secret)]
    assert rights == [
        [folder, "/setowner", "*S-1-5-32-544", "/Q"],
        [
            folder, "/inheritance:r", "/grant:r",
            "*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F", "*S-1-5-19:(OI)(CI)M", "/Q",
        ],
        [secret, "/inheritance:r", "/grant:r", "*S-1-5-18:F", "*S-1-5-32-544:F", "*S-1-5-19:M", "/Q"],
    ]  # fmt: skip


def test_the_task_starts_at_boot_and_is_never_ended_by_the_system(site: Site) -> None:
    site.install(*INVITE)
    task = site.scheduler.task
    assert task is not None
    root = ElementTree.fromstring(task["xml"])
    said = {f"{parent.tag}/{one.tag}".replace(SPACE, ""): one.text for parent in root.iter() for one in parent}
    wanted = {
        "Triggers/BootTrigger", "Repetition/Interval=PT5M", "Principal/UserId=S-1-5-19",
        "Principal/RunLevel=LeastPrivilege", "Settings/ExecutionTimeLimit=PT0S", "Settings/Priority=6",
        "Settings/DisallowStartIfOnBatteries=false", "Settings/StopIfGoingOnBatteries=false",
        "Settings/StartWhenAvailable=true", "Settings/MultipleInstancesPolicy=IgnoreNew",
        "RestartOnFailure/Interval=PT1M", "RestartOnFailure/Count=999",
    }  # fmt: skip
    assert wanted <= {*said, *(f"{place}={text}" for place, text in said.items())}
    assert "Repetition/Duration" not in said  # without one it goes on for ever


@pytest.mark.parametrize("owner", ["S-1-5-21-1-2-3-1001", "S-1-5-32-545", "S-1-1-0", ""])
def test_a_state_folder_that_another_account_made_first_is_refused_before_anything_is_put_there(
    site: Site, owner: str
) -> None:
    """Every user may make folders in ProgramData."""
    (site.state / "worker").mkdir(parents=True)
    site.owner = owner
    status, said, ran = site.run("install", *INVITE)
    assert (status, ran, site.programs.rights) == (78, [], [])
    assert f"found {site.state}, which is a link or was made by another account" in said[-1]
    assert [name for name in site.files() if "cis490" in name] == ["ProgramData/cis490", "ProgramData/cis490/worker"]


def test_a_link_in_place_of_the_state_folder_is_refused_and_the_rights_of_its_target_stay(site: Site) -> None:
    (site.drive / "Windows").mkdir()
    site.state.parent.mkdir()
    site.state.symlink_to(site.drive / "Windows")
    status, said, _ = site.run("install", *INVITE)
    assert (status, site.programs.rights) == (78, [])
    assert "which is a link or was made by another account" in said[-1]


@pytest.mark.parametrize("owner", ["S-1-5-32-544", "S-1-5-18", "S-1-5-19"])
def test_a_state_folder_of_an_earlier_installation_is_taken_again(site: Site, owner: str) -> None:
    site.state.mkdir(parents=True)
    site.owner = owner
    said, _ = site.install(*INVITE)
    assert said[-1].startswith("The worker runs.")


def test_run_again_it_changes_nothing(site: Site) -> None:
    site.install(*INVITE)
    before = site.files()
    said, ran = site.install()
    assert (said[-1], ran) == ("The worker runs already.", [])
    assert (site.files(), len(site.workers.words), site.workers.ended) == (before, 1, set())


def test_newer_code_comes_after_the_worker_gave_its_job_back(site: Site) -> None:
    site.install(*INVITE)
    site.newer()
    said, _ = site.install()
    assert said.index(STOPPED) < said.index(f"install interpreter, packages and code below {site.root}")
    assert said[-1].startswith("The worker runs.")
    assert (site.workers.ended, len(site.workers.words)) == ({0}, 2)
    assert site.installed() == "2\n"


def test_a_worker_that_does_not_listen_to_its_stop_file_is_ended_after_its_patience(site: Site) -> None:
    site.install(*INVITE)
    site.workers.listens = False
    site.newer()
    site.install()
    assert site.workers.ended == {0}


def test_a_worker_that_has_only_begun_and_holds_no_lock_is_ended_too(site: Site) -> None:
    """It deletes the stop file, which it takes for one meant for an earlier worker."""
    site.workers.has_lock = False
    site.install(*INVITE)
    site.newer()
    site.install()
    assert site.workers.ended == {0}


def test_a_folder_that_is_held_for_a_moment_longer_than_the_worker_lives_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows keeps the folder that a program works in until the program is gone, a moment after its lock is free."""
    held, delete = [3], shutil.rmtree

    def rmtree(path: Path) -> None:
        held[0] -= 1
        if held[0] >= 0:
            raise PermissionError(13, "The process cannot access the file", str(path))
        delete(path)

    site.install(*INVITE)
    site.newer()
    monkeypatch.setattr(worker_windows.shutil, "rmtree", rmtree)
    said, _ = site.install()
    assert said[-1].startswith("The worker runs.")
    held[0] = 1000
    status, said, _ = site.run("uninstall")
    assert status == 1
    assert f"found {site.root}, which cannot be removed (The process cannot access the file)" in said[-1]
    assert "close terminals, editors and folder windows that do, and run the same command again" in said[-1]
    held[0] = 0
    assert site.run("uninstall")[0] == 0
    assert not site.root.exists()


@pytest.mark.parametrize("inside", ["", "code", "code/training/fleet", "venv/Scripts"])
def test_the_installer_steps_out_of_a_folder_before_it_removes_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    """Windows keeps the folder that a program works in, so the command would wait for itself."""
    stood, delete, rename = [], shutil.rmtree, Path.rename

    def rmtree(path: Path) -> None:
        stood.append(Path.cwd().is_relative_to(path))
        delete(path)

    def renamed(path: Path, target: Path) -> Path:
        stood.append(Path.cwd().is_relative_to(path))
        return rename(path, target)

    site.install(*INVITE)
    monkeypatch.setattr(worker_windows.shutil, "rmtree", rmtree)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.chdir(site.root / inside)
    site.newer()
    site.install()
    if not inside.startswith("code"):
        assert Path.cwd() == site.root / inside  # that stays, so the command does as well
    monkeypatch.chdir(site.root / inside)
    assert site.run("uninstall")[0] == 0
    assert stood == [False] * 4  # none of an older version, the code aside, that away, all of it
    assert not site.root.exists()


def test_the_folder_of_who_calls_stays_where_that_is_not_removed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install(*INVITE)
    monkeypatch.chdir(site.checkout)
    assert site.run("uninstall", "--purge")[0] == 0
    assert Path.cwd() == site.checkout


def test_a_link_in_place_of_a_folder_to_remove_is_deleted_and_what_it_leads_to_stays(site: Site) -> None:
    site.install(*INVITE)
    shutil.rmtree(site.root / "code")
    (site.drive / "other").mkdir()
    (site.drive / "other" / "kept").touch()
    (site.root / "code").symlink_to(site.drive / "other")
    site.newer()
    site.install()
    assert (site.drive / "other" / "kept").exists()
    assert site.installed() == "2\n"


def test_a_failed_self_test_is_tried_again_by_the_next_run(site: Site) -> None:
    site.install(*INVITE)
    site.newer()
    site.programs.fail = "--self-test"
    assert site.run("install")[0] == 1
    status, said, _ = site.run("install")
    assert (status, "--self-test ended with status 1" in said[-1]) == (1, True)
    assert "fix what stands above and run the same command again" in said[-1]
    site.programs.fail = ""
    said, ran = site.install()
    assert ["--self-test" in words and "--json" not in words for words in ran].count(True) == 1
    assert said[-1].startswith("The worker runs.")


def test_an_upgrade_that_loses_something_names_it_and_lets_the_older_code_run_again(site: Site) -> None:
    site.install(*INVITE)
    site.newer()
    site.programs.can = [{"models": ["gbt", "cnn"], "cuda_usable": True}, {"models": ["gbt"], "cuda_usable": False}]
    status, said, _ = site.run("install")
    assert (status, "this PC would lose cnn, CUDA; the older version runs again" in said[-1]) == (1, True)
    assert (site.installed(), len(site.workers.words)) == ("1\n", 2)
    site.programs.can = [{"models": ["gbt"], "cuda_usable": False}] * 2
    site.install()
    assert site.installed() == "2\n"
    assert not (site.root / "code.old").exists()


def test_without_the_trainer_a_failed_self_test_is_said_and_no_package_is_installed(site: Site) -> None:
    site.programs.fail = "--self-test"
    said, ran = site.install(*INVITE, "--without-trainer")
    assert not any("pip" in words for words in ran)
    assert any(line.startswith("Without the packages of the own trainer") for line in said)


def test_going_back_after_an_upgrade_that_was_cut_off_installs_the_older_code_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    site.install(*INVITE)
    site.newer()
    with monkeypatch.context() as patched:
        patched.setattr(code.shutil, "copyfile", full)
        status, said, _ = site.run("install")
    assert (status, "No space left on device" in said[-1]) == (1, True)
    (site.checkout / "training" / "fleet" / "worker" / "one.py").write_text("1\n")
    site.install()
    assert site.installed() == "1\n"


def test_a_log_that_began_again_does_not_hide_that_the_worker_started(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install(*INVITE)
    log, start = site.state / "worker.log", site.workers.start
    log.write_text("".join(f"{number} worker started host=gpu-tower\n" for number in range(3)))
    site.newer()

    def begin(command: str, line: str, folder: str) -> int:
        log.unlink()
        return start(command, line, folder)

    monkeypatch.setattr(site.workers, "start", begin)
    assert site.install()[0][-1].startswith("The worker runs.")


def test_a_worker_that_does_not_start_is_an_error_that_names_its_log(site: Site) -> None:
    site.workers.starts_well = False
    status, said, _ = site.run("install", *INVITE)
    assert status == 1
    assert f"did not say so in {site.state / 'worker.log'}" in said[-1]


@pytest.mark.parametrize("given", [["lab=D:\\lab,big=D:\\My data,"], ["lab=D:\\lab", "big=D:\\My data"]])
def test_datasets_reach_self_test_and_task_and_are_kept(site: Site, given: list[str]) -> None:
    _, ran = site.install(*INVITE, *(word for item in given for word in ("--dataset", item)))
    wanted = ["--dataset", "lab=D:\\lab", "--dataset", "big=D:\\My data"]
    assert ran[-1][-4:] == wanted
    assert site.workers.words[-1][-4:] == wanted
    site.newer()
    _, ran = site.install()
    assert ran[-1][-4:] == wanted
    assert site.workers.words[-1][-4:] == wanted


@pytest.mark.parametrize("folder", ["D:\\lab\\", "D:\\My data\\", "D:\\"])
def test_a_dataset_whose_path_ends_in_a_backslash_reaches_self_test_and_task(site: Site, folder: str) -> None:
    """Before a quote a backslash makes it part of the text, so the end of the path would be lost."""
    _, ran = site.install(*INVITE, "--dataset", f"lab={folder},other=D:\\other")
    wanted = ["--dataset", f"lab={folder}", "--dataset", "other=D:\\other"]
    assert ran[-1][-4:] == wanted
    assert site.workers.words[-1][-4:] == wanted


def test_another_dataset_stops_the_worker_and_registers_the_task_again(site: Site) -> None:
    site.install(*INVITE)
    said, _ = site.install("--dataset", "lab=D:\\lab")
    assert STOPPED in said
    assert site.workers.ended == {0}
    assert site.workers.words[-1][-1] == "lab=D:\\lab"


def test_datasets_that_an_older_installer_kept_with_a_mark_are_read(site: Site) -> None:
    site.install(*INVITE)
    (site.root / "datasets.txt").write_text("lab=D:\\lab\n", encoding="utf-8-sig")
    site.install()
    assert site.workers.words[-1][-2:] == ["--dataset", "lab=D:\\lab"]


def test_a_pause_lasts_until_it_is_lifted(site: Site) -> None:
    site.install(*INVITE)
    assert site.run("pause")[0] == 0
    assert site.workers.ended == {0}
    task = site.scheduler.task
    assert task is not None
    assert not task["enabled"]
    assert (site.run("status")[0], "is paused" in site.run("status")[1][-1]) == (1, True)
    status, said, _ = site.run("resume")
    assert (status, said[-1].startswith("The worker runs.")) == (0, True)
    assert site.scheduler.is_running
    assert site.run("status")[0] == 0


def test_a_pause_that_was_cut_off_is_finished_by_the_next(site: Site) -> None:
    site.install(*INVITE)
    site.scheduler.answer(["/change", "/tn", "cis490-training-worker", "/disable"])  # it ended before the worker did
    assert site.run("pause")[0] == 0
    assert site.workers.ended == {0}


def test_uninstall_leaves_settings_and_purge_leaves_nothing(site: Site) -> None:
    site.install(*INVITE)
    assert site.run("uninstall")[0] == 0
    assert site.scheduler.task is None
    left = [path.name for path in sorted(site.state.rglob("*"))]
    assert left == ["ca.pem", "worker", "lock", "worker.log", "worker.toml"]
    assert not site.root.exists()
    assert site.run("uninstall", "--purge")[0] == 0
    assert [name for name in site.files() if "cis490" in name] == []
    assert site.run("status")[0] == 1


@pytest.mark.parametrize("more", [(), ("--dataset", "lab=D:\\lab")])
def test_a_dry_run_says_what_it_would_do_and_does_nothing(site: Site, more: tuple[str, ...]) -> None:
    site.is_administrator = False
    before = site.files()
    said, ran = site.install(*INVITE, *more, "--dry-run")
    assert (site.files(), ran) == (before, [])
    assert (site.scheduler.task, site.programs.rights) == (None, [])
    assert said == [
        f"would make {site.state}, for the system, administrators and the task's account alone",
        f"would install interpreter, packages and code below {site.root}",
        "would enrol as gpu-tower at https://receiver.example:8445",
        "would have the worker test itself",
        "would register the task cis490-training-worker, which starts the worker at boot",
        "would start the worker",
    ]


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (["install"], 2, "this PC is not enrolled"),
        (["install", "--receiver", "https://receiver.example:8445"], 2, "this PC is not enrolled"),
        (["install", *INVITE, "--dataset", "D:\\lab"], 2, "expected NAME=FOLDER"),
        (["install", *INVITE, "--dataset", 'lab="D:\\lab"'], 2, "expected NAME=FOLDER"),
        (["resume"], 78, "found no installed worker"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(site: Site, given: list[str], status: int, words: str) -> None:
    found, said, _ = site.run(*given)
    assert found == status
    assert words in said[-1]
    assert site.files() == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["pause", "resume"], "unrecognized arguments: resume"),
        (["install", "--purge"], "--purge belongs to uninstall"),
        (["install", "--user"], "unrecognized arguments: --user"),
        (["install", "--receiver", ""], "argument --receiver: found no value"),
    ],
)
def test_a_wrong_flag_is_told_and_nothing_is_done(
    site: Site, given: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        site.run(*given)
    assert ended.value.code == 2
    assert words in capfd.readouterr().err
    assert (site.files(), site.programs.everything) == ([], [])


@pytest.mark.parametrize("command", ["install", "uninstall", "pause", "resume"])
def test_without_rights_it_says_how_to_get_them(site: Site, command: str) -> None:
    site.is_administrator = False
    status, said, ran = site.run(command, *(INVITE if command == "install" else ()))
    assert (status, ran) == (77, [])
    assert "Terminal (Admin)" in said[-1]


def test_a_python_in_somebodys_profile_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = str(site.drive / "Users" / "me" / "AppData" / "Local" / "Programs" / "Python312")
    monkeypatch.setattr(worker_windows.sys, "base_prefix", prefix)
    status, said, _ = site.run("install", *INVITE)
    assert (status, "only its user can read it" in said[-1]) == (78, True)
    assert site.files() == []


def test_what_is_no_checkout_is_refused(site: Site) -> None:
    shutil.rmtree(site.checkout / "requirements")
    status, said, _ = site.run("install", *INVITE)
    assert (status, f"found no checkout of the project in {site.checkout}" in said[-1]) == (EX_CONFIG, True)
    assert site.files() == []


def test_an_enrolment_that_fails_ends_it_with_its_status(site: Site) -> None:
    site.programs.fail = "enrol"
    status, said, _ = site.run("install", *INVITE)
    assert status == 1
    assert f"{site.python} -m training.fleet.worker enrol ended with status 1" in said[-1]
    assert "it failed" in said
    assert site.scheduler.task is None


def test_command_lines_are_split_as_windows_does() -> None:
    assert split_line('a "b c" d\\e "f\\\\" "g\\"h" ""') == ["a", "b c", "d\\e", "f\\", 'g"h', ""]
    assert split_line('--dataset "lab=D:\\" --dataset "x=D:\\x"') == ["--dataset", 'lab=D:" --dataset x=D:\\x']
