"""The Windows installer walked by its syntax tree on a PC of the tests: what it runs in which order, what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import windows_pc
from powershell import Exit, Thrown, UnknownError, Walk, legacy_line, split_line
from windows_pc import Pc

PYTHON = "C:\\Program Files\\Python312\\python.exe"
VENV = "C:\\Program Files\\cis490\\venv\\Scripts\\python.exe"
WORKER = [VENV, "-m", "training.fleet.worker"]
INVITE = {"Receiver": "https://receiver.example:8445", "HostName": "gpu-tower", "Code": "C0DE", "CaSha256": "ab"}
STATE = "C:\\ProgramData\\cis490"
STOPPED = "stop the worker; its job goes back to the queue"
TASK = (
    f'-m training.fleet.worker --config "{STATE}\\worker.toml" --work-dir "{STATE}\\worker" '
    f'--log-file "{STATE}\\worker.log"'
)


class Standing:
    """A worker that runs until it is asked to stop by its file, as the real one."""

    def __init__(self, pc: Pc, words: list[str]) -> None:
        self.pc, self.words, self.ended, self.heeds, self.has_lock = pc, words, False, True, True
        work = pc.host(f"{STATE}\\worker")
        self.stop_file, lock = work / "stop", work / "lock"
        self.stop_file.unlink(missing_ok=True)
        lock.touch()

    def alive(self) -> bool:
        if self.heeds and self.stop_file.exists():
            self.stop_file.unlink()
            self.ended = True
        return not self.ended

    def kill(self) -> None:
        self.ended = True


class Recorded:
    """Programs that end well and do nothing, but for those that a test has fail."""

    def __init__(self, pc: Pc) -> None:
        self.pc, self.fail, self.starts_well = pc, "", True
        self.environs: list[Mapping[str, str]] = []
        self.prefix = "C:\\Program Files\\Python312"

    def run(self, words: list[str], folder: Path, environ: Mapping[str, str]) -> tuple[int, list[str]]:
        assert folder.is_dir()
        self.environs.append(environ)
        if words[1] == "-c":
            return 0, ["True", words[0], self.prefix]
        if self.fail and self.fail in words:
            return 1, ["it failed"]
        if "venv" in words:
            (self.pc.host(words[-1]) / "Scripts").mkdir(parents=True)
            (self.pc.host(words[-1]) / "Scripts" / "python.exe").touch()
        if "enrol" in words:
            for name in ("worker.toml", "worker.secret", "ca.pem", "worker.pem"):
                self.pc.host(f"{STATE}\\{name}").touch()
        return 0, []

    def start(self, words: list[str], folder: Path) -> Standing:
        assert folder == self.pc.host("C:\\Program Files\\cis490\\code")
        if self.starts_well:
            self.log(" worker started host=gpu-tower")
        return Standing(self.pc, words)

    def log(self, line: str) -> None:
        with self.pc.host(f"{STATE}\\worker.log").open("a") as log:
            log.write(f"{len(self.environs)} {line}\n")

    def shut(self, path: str) -> bool:
        assert path == f"{STATE}\\worker\\lock"
        running = None if self.pc.task is None else self.pc.task.running
        return isinstance(running, Standing) and running.has_lock and running.alive()


class Site:
    """A PC, a checkout on it, and the installer."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.source = (root / "scripts" / "install-training-worker-windows.ps1").read_bytes()
        self.pc = Pc(folder / "c", None, PYTHON, patience_s=0)  # type: ignore[arg-type]
        self.programs = self.pc.programs = Recorded(self.pc)  # type: ignore[assignment]
        self.checkout = folder / "c" / "checkout"
        for name in ("training/fleet/worker", "requirements", "scripts"):
            (self.checkout / name).mkdir(parents=True)
        (self.checkout / "training" / "fleet" / "worker" / "one.py").write_text("1\n")
        (self.checkout / "requirements" / "trainer.txt").write_text("numpy\n")

    def run(self, **given: Any) -> tuple[int, list[str], list[list[str]]]:
        """Return exit status, lines shown, and programs run without icacls."""
        said, ran = len(self.pc.said), len(self.pc.ran)
        status = Walk(self.source, self.pc, "C:\\checkout\\scripts").run(given)
        return status, self.pc.said[said:], [words for words in self.pc.ran[ran:] if words[0] != "icacls.exe"]

    def install(self, **given: Any) -> tuple[list[str], list[list[str]]]:
        status, said, ran = self.run(**given)
        assert status == 0, said
        return said, ran

    def newer(self) -> None:
        (self.checkout / "training" / "fleet" / "worker" / "one.py").write_text("2\n")

    def files(self) -> list[str]:
        found = (path for path in self.pc.drive.rglob("*") if "checkout" not in path.parts)
        return sorted(str(path.relative_to(self.pc.drive)) for path in found)

    def worker(self) -> Standing:
        assert self.pc.task is not None
        assert isinstance(self.pc.task.running, Standing)
        return self.pc.task.running


@pytest.fixture
def site(root: Path, tmp_path: Path) -> Site:
    return Site(root, tmp_path)


def test_from_nothing_it_makes_installs_enrols_tests_registers_and_starts(site: Site) -> None:
    said, ran = site.install(**INVITE)
    pip = [VENV, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps"]
    assert [words[:3] for words in ran[:1]] == [[PYTHON, "-c", ran[0][2]]]
    assert ran[1:] == [
        [PYTHON, "-m", "venv", "C:\\Program Files\\cis490\\venv"],
        [*pip, "--only-binary", ":all:", "-r", "C:\\checkout\\requirements\\trainer.txt"],
        [
            *WORKER, "enrol", "--receiver", "https://receiver.example:8445", "--host", "gpu-tower",
            "--settings-file", f"{STATE}\\worker.toml", "--secret-file", f"{STATE}\\worker.secret",
            "--ca-file", f"{STATE}\\ca.pem", "--ca-sha256", "ab",
        ],
        [
            *WORKER, "--self-test", "--config", f"{STATE}\\worker.toml",
            "--work-dir", "C:\\Program Files\\cis490\\self-test", "--trainer-dir", "C:\\Program Files\\cis490\\code",
        ],
    ]  # fmt: skip
    assert said[-1].startswith("The worker runs.")
    assert site.pc.task is not None
    assert site.pc.task.action.Arguments == TASK
    assert (site.checkout.parent / "Program Files/cis490/code/training/fleet/worker/one.py").read_text() == "1\n"


def test_the_code_of_the_invite_reaches_the_enrolment_alone(site: Site) -> None:
    site.install(**INVITE)
    assert [dict(one) for one in site.programs.environs] == [{}, {}, {}, {"CIS490_INVITE": "C0DE"}, {}]
    assert "CIS490_INVITE" not in site.pc.environ
    assert not any("C0DE" in word for words in site.pc.ran for word in words)


def test_rights_are_set_before_the_secret_is_written_and_on_it_after(site: Site) -> None:
    site.install(**INVITE)
    told = [words[1] if words[0] == "icacls.exe" else words[3] for words in site.pc.ran if "-c" not in words]
    files = [f"{STATE}\\{name}" for name in ("worker.secret", "worker.toml", "ca.pem", "worker.pem")]
    assert told[:2] == [STATE, STATE]
    assert told[told.index("enrol") + 1 :][:4] == files


@pytest.mark.parametrize("owner", ["S-1-5-21-1-2-3-1001", "BU", "WD"])
def test_a_state_folder_that_another_account_made_first_is_refused_before_anything_is_put_there(
    site: Site, owner: str
) -> None:
    """Every user may make folders in ProgramData."""
    site.pc.host(f"{STATE}\\worker").mkdir(parents=True)
    site.pc.owners[STATE] = owner
    status, said, ran = site.run(**INVITE)
    assert (status, len(ran), site.pc.rights) == (78, 1, [])
    assert f"found {STATE}, which is a link or was made by another account" in said[-1]
    assert [name for name in site.files() if "cis490" in name] == ["ProgramData/cis490", "ProgramData/cis490/worker"]


def test_a_link_in_place_of_the_state_folder_is_refused_and_the_rights_of_its_target_stay(site: Site) -> None:
    (site.pc.drive / "Windows").mkdir()
    site.pc.host(STATE).parent.mkdir()
    site.pc.host(STATE).symlink_to(site.pc.drive / "Windows")
    status, said, _ = site.run(**INVITE)
    assert (status, site.pc.rights) == (78, [])
    assert "which is a link or was made by another account" in said[-1]


@pytest.mark.parametrize("owner", ["BA", "SY", "LS"])
def test_a_state_folder_of_an_earlier_installation_is_taken_again(site: Site, owner: str) -> None:
    site.pc.host(STATE).mkdir(parents=True)
    site.pc.owners[STATE] = owner
    said, _ = site.install(**INVITE)
    assert said[-1].startswith("The worker runs.")


def test_run_again_it_changes_nothing(site: Site) -> None:
    site.install(**INVITE)
    before, worker = site.files(), site.worker()
    said, ran = site.install()
    assert (said[-1], len(ran)) == ("The worker runs already.", 1)
    assert (site.files(), site.worker()) == (before, worker)


def test_newer_code_comes_after_the_worker_gave_its_job_back(site: Site) -> None:
    site.install(**INVITE)
    old = site.worker()
    site.newer()
    said, _ = site.install()
    assert said.index(STOPPED) < said.index("install interpreter, packages and code below C:\\Program Files\\cis490")
    assert said[-1].startswith("The worker runs.")
    assert old.ended
    assert site.worker() is not old
    assert not site.worker().ended
    assert (site.pc.drive / "Program Files/cis490/code/training/fleet/worker/one.py").read_text() == "2\n"


def test_a_worker_that_heeds_no_stop_file_is_ended_after_its_patience(site: Site) -> None:
    site.install(**INVITE)
    old = site.worker()
    old.heeds = False
    site.newer()
    site.install()
    assert old.ended


def test_a_worker_that_has_only_begun_and_holds_no_lock_is_ended_too(site: Site) -> None:
    """It deletes the stop file, which it takes for one meant for an earlier worker."""
    site.install(**INVITE)
    old = site.worker()
    old.heeds, old.has_lock = False, False
    site.newer()
    site.install()
    assert old.ended


def test_a_folder_that_is_held_for_a_moment_longer_than_the_worker_lives_is_replaced(site: Site) -> None:
    """Windows keeps the folder that a program works in until the program is gone, a moment after its lock is free."""
    site.install(**INVITE)
    site.newer()
    site.pc.held = 3
    said, _ = site.install()
    assert said[-1].startswith("The worker runs.")
    site.pc.held = 1000
    status, said, _ = site.run(Uninstall=True)
    assert status == 1
    assert "being used by another process" in said[-1]


def test_a_failed_self_test_is_tried_again_by_the_next_run(site: Site) -> None:
    site.install(**INVITE)
    site.newer()
    site.programs.fail = "--self-test"
    assert site.run()[0] == 1
    status, said, _ = site.run()
    assert (status, "--self-test ended with status 1" in said[-1]) == (1, True)
    site.programs.fail = ""
    said, ran = site.install()
    assert ["--self-test" in words for words in ran].count(True) == 1
    assert said[-1].startswith("The worker runs.")


def test_going_back_after_an_upgrade_that_was_cut_off_installs_the_older_code_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_pc: Pc, _given: Mapping[str, Any], _plain: Any) -> None:
        raise Thrown("There is not enough space on the disk.", "IO.IOException")

    site.install(**INVITE)
    site.newer()
    with monkeypatch.context() as patched:
        patched.setitem(windows_pc.CMDLETS, "Copy-Item", full)
        status, said, _ = site.run()
    assert (status, "not enough space" in said[-1]) == (1, True)
    (site.checkout / "training" / "fleet" / "worker" / "one.py").write_text("1\n")
    site.install()
    assert (site.pc.drive / "Program Files/cis490/code/training/fleet/worker/one.py").read_text() == "1\n"


def test_a_log_that_began_anew_does_not_hide_that_the_worker_started(site: Site) -> None:
    site.install(**INVITE)
    log = site.pc.host(f"{STATE}\\worker.log")
    log.write_text("".join(f"{number} worker started host=gpu-tower\n" for number in range(3)))
    site.newer()
    before = site.programs.start

    def start(words: list[str], folder: Path) -> Standing:
        log.unlink()
        return before(words, folder)

    site.programs.start = start  # type: ignore[method-assign]
    assert site.install()[0][-1].startswith("The worker runs.")


def test_a_worker_that_does_not_start_is_an_error_that_names_its_log(site: Site) -> None:
    site.programs.starts_well = False
    status, said, _ = site.run(**INVITE)
    assert status == 1
    assert f"did not say so in {STATE}\\worker.log" in said[-1]


@pytest.mark.parametrize("given", ["lab=D:\\lab,big=D:\\My data", ["lab=D:\\lab", "big=D:\\My data"]])
def test_datasets_reach_self_test_and_task_and_are_kept(site: Site, given: Any) -> None:
    _, ran = site.install(**INVITE, Dataset=given)
    assert ran[-1][-4:] == ["--dataset", "lab=D:\\lab", "--dataset", "big=D:\\My data"]
    assert site.worker().words[-4:] == ran[-1][-4:]
    site.newer()
    site.install()
    assert site.worker().words[-4:] == ran[-1][-4:]


@pytest.mark.parametrize("folder", ["D:\\lab\\", "D:\\My data\\", "D:\\"])
def test_a_dataset_whose_path_ends_in_a_backslash_reaches_self_test_and_task(site: Site, folder: str) -> None:
    """Before a quote a backslash makes it part of the text, so the end of the path would be lost."""
    _, ran = site.install(**INVITE, Dataset=f"lab={folder},other=D:\\other")
    wanted = ["--dataset", f"lab={folder}.", "--dataset", "other=D:\\other"]
    assert ran[-1][-4:] == wanted
    assert site.worker().words[-4:] == wanted


def test_another_dataset_stops_the_worker_and_registers_the_task_anew(site: Site) -> None:
    site.install(**INVITE)
    old = site.worker()
    said, _ = site.install(Dataset="lab=D:\\lab")
    assert STOPPED in said
    assert old.ended
    assert site.worker().words[-1] == "lab=D:\\lab"


def test_a_pause_lasts_until_it_is_lifted(site: Site) -> None:
    site.install(**INVITE)
    old = site.worker()
    site.install(Pause=True)
    assert old.ended
    assert site.pc.task is not None
    assert site.pc.task.state == "Disabled"
    said, _ = site.install(Resume=True)
    assert said[-1].startswith("The worker runs.")
    assert site.pc.task.state == "Running"


def test_a_pause_that_was_cut_off_is_finished_by_the_next(site: Site) -> None:
    site.install(**INVITE)
    site.pc.enable(enabled=False)  # as a pause leaves it that ends before the worker does
    site.install(Pause=True)
    assert site.worker().ended


def test_uninstall_leaves_settings_and_purge_leaves_nothing(site: Site) -> None:
    site.install(**INVITE)
    site.install(Uninstall=True)
    assert site.pc.task is None
    left = [name for name in site.files() if name.startswith("ProgramData/cis490/")]
    assert [name.split("/")[-1] for name in left] == ["ca.pem", "worker", "worker.log", "worker.toml", "lock"]
    site.install(Uninstall=True, Purge=True)
    assert [name for name in site.files() if "cis490" in name] == []


@pytest.mark.parametrize("given", [INVITE, {**INVITE, "Dataset": "lab=D:\\lab"}])
def test_a_dry_run_says_what_it_would_do_and_does_nothing(site: Site, given: Any) -> None:
    site.pc.elevated = False
    before = site.files()
    said, ran = site.install(**given, DryRun=True)
    assert site.files() == before
    assert [words[1] for words in ran] == ["-c"]
    assert (site.pc.task, site.pc.rights) == (None, [])
    assert said == [
        f"would make {STATE}, for the system, administrators and the task's account alone",
        "would install interpreter, packages and code below C:\\Program Files\\cis490",
        "would enrol as gpu-tower at https://receiver.example:8445",
        "would have the worker test itself",
        "would register the task cis490-training-worker, which starts the worker at boot",
        "would start the worker",
    ]


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({}, 2, "this PC is not enrolled"),
        ({"Pause": True, "Resume": True}, 2, "more than one of"),
        ({"Purge": True}, 2, "found -Purge alone"),
        ({**INVITE, "Dataset": "D:\\lab"}, 2, "expected NAME=FOLDER"),
        ({"Resume": True}, 78, "found no installed worker"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(site: Site, given: Any, status: int, words: str) -> None:
    found, said, _ = site.run(**given)
    assert found == status
    assert words in said[-1]
    assert site.files() == []


def test_without_rights_it_says_how_to_get_them(site: Site) -> None:
    site.pc.elevated = False
    status, said, ran = site.run(**INVITE)
    assert (status, ran) == (77, [])
    assert "Terminal (Admin)" in said[-1]


def test_a_python_in_somebodys_profile_and_none_at_all_are_refused(site: Site) -> None:
    site.programs.prefix = "C:\\Users\\me\\AppData\\Local\\Programs\\Python312"
    status, said, _ = site.run(**INVITE)
    assert (status, "only its user can read it" in said[-1]) == (78, True)
    site.pc.python = ""
    status, said, _ = site.run(**INVITE)
    assert (status, "found no Python 3.11 or newer under py, python" in said[-1]) == (78, True)


def test_an_enrolment_that_fails_ends_it_with_its_status_and_takes_the_code_back(site: Site) -> None:
    site.programs.fail = "enrol"
    status, said, _ = site.run(**INVITE)
    assert status == 1
    assert f"{VENV} -m training.fleet.worker enrol ended with status 1" in said[-1]
    assert "CIS490_INVITE" not in site.pc.environ
    assert site.pc.task is None


# ---- the walker itself


def walked(text: str, pc: Pc) -> int:
    return Walk(f"param([string]$Name = '')\n{text}\n".encode(), pc, "C:\\").run({})


@pytest.mark.parametrize("text", ["Restart-Computer", "& 'format.exe' 'C:'", "[Console]::Beep()", "$a = 1 -band 2"])
def test_what_the_tests_do_not_know_is_never_passed_over(site: Site, text: str) -> None:
    with pytest.raises(UnknownError):
        walked(text, site.pc)


def test_a_variable_that_was_not_set_ends_the_script(site: Site) -> None:
    with pytest.raises(Thrown, match="has not been set"):
        walked("Write-Host $Nothing", site.pc)


def test_what_a_function_leaves_unclaimed_is_part_of_what_it_returns(site: Site) -> None:
    walked("function Get-Two {\n'one'\nreturn 'two'\n}\n$found = Get-Two\nWrite-Host $found.Count $found[1]", site.pc)
    assert site.pc.said == ["2 two"]


def test_exit_within_a_function_ends_the_script(site: Site) -> None:
    assert walked("function Stop-It {\nexit 7\n}\nStop-It\nWrite-Host 'on'", site.pc) == 7
    assert site.pc.said == []
    assert issubclass(Exit, Exception)


def test_command_lines_are_quoted_and_split_as_windows_does() -> None:
    assert legacy_line(["-c", "a b", "", "x"]) == '-c "a b" x'
    assert split_line('a "b c" d\\e "f\\\\" "g\\"h" ""') == ["a", "b c", "d\\e", "f\\", 'g"h', ""]
    assert split_line('--dataset "lab=D:\\" --dataset "x=D:\\x"') == ["--dataset", 'lab=D:" --dataset x=D:\\x']
