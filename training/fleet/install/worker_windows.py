"""The worker on a Windows host: a scheduled task that starts at boot, and folders that nobody else can write.

Accounts go by number, because their names are translated: S-1-5-18 is the system, S-1-5-32-544 are the administrators,
and S-1-5-19 is Local Service, which the task runs as.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from training.fleet import system
from training.fleet.install.code import copy_code, demand_checkout, digest, pip_install, requirements_file
from training.fleet.install.enrolment import InviteWords, is_enrolled
from training.fleet.install.loss import capability_said, lost
from training.fleet.install.programs import Programs
from training.fleet.install.steps import ProgramError, Steps, StopError, say
from training.fleet.install.task import Task, described
from training.fleet.install.torch_build import TorchBuild, TorchChoice
from training.fleet.install.torch_windows import WindowsTorch
from training.fleet.model.errors import EX_CONFIG, EX_FAILURE, EX_NOPERM, EX_USAGE

TASK: Final = "cis490-training-worker"
SECOND_S: Final = 1.0
"""Time between two looks at something that is waited for."""
PATIENCE: Final = 120
"""Looks for a worker that starts or gives its job back."""
_HELD_LOOKS: Final = 20
_DATASET: Final = re.compile(r'[^="]+=[^="]+')
_OWNERS: Final = ("S-1-5-32-544", "S-1-5-18", "S-1-5-19")
_STARTED: Final = " worker started "


class WindowsWorker:
    """The worker as it is installed on a PC.

    Args:
        steps: What makes the changes.
        programs: What starts programs.
        environ: The environment of who installs.
    """

    def __init__(self, steps: Steps, programs: Programs, environ: Mapping[str, str]) -> None:
        self._steps = steps
        self._programs = programs
        self._profiles = Path(environ["PUBLIC"]).parent
        self._root = Path(environ["ProgramFiles"], "cis490")
        self._state = Path(environ["ProgramData"], "cis490")
        self._code = self._root / "code"
        self._older = self._root / "code.old"
        self._before: dict[str, Any] = {}
        self._python = self._root / "venv" / "Scripts" / "python.exe"
        self._torch = WindowsTorch(self._root, self._python, programs)
        self._work = self._state / "worker"
        self._log = self._state / "worker.log"
        self._settings = self._state / "worker.toml"
        self._secret = self._state / "worker.secret"
        # By their whole path: Windows looks for a program in the folder that it is started from before its own.
        system_programs = Path(environ["SystemRoot"], "System32")
        self._icacls = str(system_programs / "icacls.exe")
        self._task = Task(TASK, programs, system_programs / "schtasks.exe", self._root / "task.xml")

    def demand_rights(self) -> None:
        """Refuse a session without the rights of an administrator.

        Raises:
            StopError: That is so.
        """
        if not (self._steps.dry_run or system.is_administrator()):
            raise StopError(
                EX_NOPERM,
                "found a session without administrator rights; right-click Start, choose Terminal (Admin) or Windows "
                "PowerShell (Admin), and run the same command there",
            )

    # ---- install

    def install(
        self,
        checkout: Path,
        invite: InviteWords,
        datasets: Sequence[str],
        *,
        with_trainer: bool,
        torch: TorchChoice | None = None,
    ) -> None:
        """Install, upgrade or repair it, and wait until it says that it runs.

        Args:
            checkout: Where the code lies.
            invite: Whom to enrol with.
            datasets: NAME=FOLDER of each dataset; empty to keep what an earlier run was given.
            with_trainer: Install the packages of the project's own trainer.
            torch: The build of torch; None to keep what is there, or else what suits the card.

        Raises:
            StopError: It cannot go on.
            ProgramError: A program that it needs failed.
        """
        for item in datasets:
            if not _DATASET.fullmatch(item):
                raise StopError(EX_USAGE, f"found --dataset {item}; expected NAME=FOLDER")
        self.demand_rights()
        self._demand_python_for_all()
        demand_checkout(checkout)
        is_new = not self._task.exists()
        if is_new and not self._settings.exists() and not (invite.receiver and invite.host):
            raise StopError(
                EX_USAGE,
                "this PC is not enrolled and no receiver and host name are given; have an operator run "
                '"cis490-jobs invite HOST" and run the command it prints',
            )
        self._want_state_folder()
        build = self._torch.wanted("trainer" if with_trainer else "", torch)
        mark = self._updated(checkout, "trainer" if with_trainer else "", build)
        self._want_enrolled(invite)
        wanted = self._datasets(datasets)
        if is_new or mark:
            self._steps.change(
                "have the worker test itself",
                lambda: self._try(wanted, build, with_trainer=with_trainer, asked=torch is not None),
            )
        if mark and not self._steps.dry_run:
            (self._root / "installed.txt").write_text(f"{mark}\n", encoding="ascii")
        self._want_task(wanted)
        self._start()

    def _demand_python_for_all(self) -> None:
        """Refuse a Python in somebody's profile: the task's account cannot read it."""
        if Path(sys.base_prefix).is_relative_to(self._profiles):
            raise StopError(
                EX_CONFIG,
                f"found Python in {sys.base_prefix}, where only its user can read it; expected one for all users; run "
                "its installer again with 'Install Python for all users', or name another python.exe with -Python",
            )

    def _want_state_folder(self) -> None:
        if not self._steps.dry_run:
            self._demand_own(self._state)
        self._steps.change(
            f"make {self._state}, for the system, administrators and the task's account alone", self._make_state
        )

    def _make_state(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        self._programs.demand([self._icacls, str(self._state), "/setowner", "*S-1-5-32-544", "/Q"])
        grants = ["*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F", "*S-1-5-19:(OI)(CI)M"]
        self._programs.demand([self._icacls, str(self._state), "/inheritance:r", "/grant:r", *grants, "/Q"])
        self._work.mkdir(exist_ok=True)

    @staticmethod
    def _demand_own(path: Path) -> None:
        """Refuse a folder that somebody else made, and a link.

        Every user may make a folder in ProgramData. In one that somebody made before, or behind a link, they would keep
        what rights they gave themselves, and the rights of what the link leads to would be changed.
        """
        if path.exists() and (system.is_link(path) or system.owner(path) not in _OWNERS):
            raise StopError(
                EX_CONFIG,
                f"found {path}, which is a link or was made by another account; expected none, or a folder of the "
                "administrators; look at what it holds, move it away, and run the same command again",
            )

    def _updated(self, checkout: Path, requirements: str, build: TorchBuild) -> str:
        """Bring interpreter, packages and code up to date; return what marks them, empty when they are that already.

        The caller keeps the mark once the worker has tested itself, so that a run that ended before does all of it
        again.
        """
        wanted = digest(checkout, requirements, *([build.mark()] if build.mark() else []))
        stamp = self._root / "installed.txt"
        if stamp.is_file() and stamp.read_text(encoding="ascii", errors="replace").strip() == wanted:
            return ""
        if not self._steps.dry_run:
            self._before = self._capability()
        self._stop()

        def update() -> None:
            self._root.mkdir(parents=True, exist_ok=True)
            stamp.unlink(missing_ok=True)
            if not self._python.exists():
                self._programs.demand([sys.executable, "-m", "venv", str(self._root / "venv")])
            if requirements:
                self._programs.demand(pip_install(self._python, requirements_file(checkout, requirements)))
            self._torch.want(checkout, build)
            self._keep_code()
            copy_code(checkout, self._code)

        self._steps.change(f"install interpreter, packages and code below {self._root}", update)
        return wanted

    def _keep_code(self) -> None:
        """Set the code in use aside, so that it can run again when the newer turns out to be worse."""
        if self._code.exists() and not system.is_link(self._code):
            _remove_tree(self._older)
            _rename_tree(self._code, self._older)
        else:
            _remove_tree(self._code)

    def _try(self, datasets: Sequence[str], build: TorchBuild, *, with_trainer: bool, asked: bool) -> None:
        """Have the worker test itself, and let the older code run again if the newer cannot train what that could."""
        try:
            self._examine(datasets, with_trainer=with_trainer)
            if with_trainer:
                self._demand_nothing_lost(build, asked=asked)
        except (StopError, ProgramError):
            if self._older.exists():
                _remove_tree(self._code)
                _rename_tree(self._older, self._code)
                self._want_task(datasets)
                self._start()
            raise
        _remove_tree(self._older)

    def _demand_nothing_lost(self, build: TorchBuild, *, asked: bool) -> None:
        missing = lost(self._before, self._capability(), build.kind, asked=asked) if self._before else []
        if missing:
            raise StopError(
                EX_FAILURE,
                f"with the newer version this PC would lose {', '.join(missing)}; the older version runs again. "
                "See what torch says above, then run this again with --torch cpu, --torch cuda, or --torch none "
                "to do without",
            )

    def _capability(self) -> dict[str, Any]:
        """Return what the worker in use says that this PC can do, empty if it says nothing that can be read."""
        if not (self._python.exists() and self._code.exists()):
            return {}
        words = self._worker("--self-test", "--json", "--config", str(self._settings))
        words += ["--work-dir", str(self._root / "self-test"), "--trainer-dir", str(self._code)]
        return capability_said(self._programs.ask(words, folder=self._code)[1])

    def _want_enrolled(self, invite: InviteWords) -> None:
        if invite.receiver:
            self._steps.change(f"enrol as {invite.host} at {invite.receiver}", lambda: self._enrol(invite))

    def _enrol(self, invite: InviteWords) -> None:
        places = {
            "--settings-file": self._settings, "--secret-file": self._secret, "--ca-file": self._state / "ca.pem",
        }  # fmt: skip
        words = self._worker("enrol", *invite.flags(), *_words(places))
        line = invite.line(ask=not is_enrolled(self._settings, self._secret))
        status, said = self._programs.ask(words, folder=self._code, given=line, quiet=False)
        if said:
            say(said)
        if status != 0:
            raise ProgramError(status, " ".join(words[:4]))
        # What enrol wrote belongs to who ran it; the worker must read it and put new ones in its place.
        grants = ["*S-1-5-18:F", "*S-1-5-32-544:F", "*S-1-5-19:M"]
        for path in (self._secret, self._settings, self._state / "ca.pem", self._state / "worker.pem"):
            if path.exists():
                self._programs.demand([self._icacls, str(path), "/inheritance:r", "/grant:r", *grants, "/Q"])

    def _datasets(self, given: Sequence[str]) -> list[str]:
        """Return the datasets that were given now, else those of an earlier run, kept where administrators write."""
        kept = self._root / "datasets.txt"
        if given and not self._steps.dry_run:
            kept.write_text("".join(f"{item}\n" for item in given), encoding="utf-8")
        if given or not kept.exists():
            return list(given)
        return kept.read_text(encoding="utf-8-sig").splitlines()

    def _examine(self, datasets: Sequence[str], *, with_trainer: bool) -> None:
        """Have the worker test itself in a folder that only administrators write to.

        What lies in the worker's own folder must not run with their rights.
        """
        words = self._worker(
            "--self-test", "--config", str(self._settings), "--work-dir", str(self._root / "self-test")
        )
        words += ["--trainer-dir", str(self._code), *_flags(datasets)]
        if with_trainer:
            self._programs.demand(words, folder=self._code)
            return
        say(
            "Without the packages of the own trainer the next lines say FAIL for trainer and libraries; other "
            "trainers run."
        )
        self._programs.show(words, folder=self._code)

    def _worker(self, *words: str) -> list[str]:
        return [str(self._python), "-m", "training.fleet.worker", *words]

    # ---- the task

    def _want_task(self, datasets: Sequence[str]) -> None:
        places = {"--config": self._settings, "--work-dir": self._work, "--log-file": self._log}
        words = self._worker(*_words(places), *_flags(datasets))
        wanted = described(self._python, words[1:], self._code)
        if self._task.is_as_told(wanted):
            return
        if self._task.is_enabled():
            self._stop()
        self._steps.change(
            f"register the task {TASK}, which starts the worker at boot", lambda: self._task.register(wanted)
        )

    def _start(self) -> None:
        if self._task.is_running():
            say("The worker runs already.")
            return
        before = self._last_start()
        self._steps.change("start the worker", self._task.start)
        if not self._steps.dry_run:
            self._await_start(before)

    def _await_start(self, before: str) -> None:
        for _ in range(PATIENCE):
            if self._last_start() != before:
                say(f"The worker runs. Its log is {self._log}; 'cis490-jobs hosts' lists it.")
                return
            time.sleep(SECOND_S)
        raise StopError(
            EX_FAILURE,
            f"the task was started, and within {PATIENCE} s the worker did not say so in {self._log}; look there, and "
            f"at 'Last Run Result' of {TASK} in the Task Scheduler",
        )

    def _last_start(self) -> str:
        """Return the last line of the log that says that a worker started, with its number.

        It is compared, not counted, because a long log begins again when a worker starts.
        """
        if not self._log.exists():
            return ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((f"{n} {lines[n]}" for n in range(len(lines) - 1, -1, -1) if _STARTED in lines[n]), "")

    def _stop(self) -> None:
        """Ask the worker by its stop file to give its job back, and end it when it does not within its limits."""
        if self._task.exists():
            self._steps.change("stop the worker; its job goes back to the queue", self._stop_now)

    def _stop_now(self) -> None:
        is_running = self._task.is_running()
        self._task.disable()
        if not is_running and not self._is_locked():
            return
        self._work.mkdir(parents=True, exist_ok=True)
        (self._work / "stop").touch()
        for _ in range(PATIENCE):
            if not self._is_locked():
                break
            time.sleep(SECOND_S)
        # For one that does not listen, and for one that has only begun: it has no lock yet, and takes the file for an
        # old one.
        self._task.end()

    def _is_locked(self) -> bool:
        """Return True if a worker works in the folder: a disabled task says nothing of that."""
        try:
            with (self._work / "lock").open("r+", encoding="ascii") as stream:
                system.lock(stream)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    # ---- the other commands

    def pause(self) -> None:
        """Stop the worker and keep it stopped, over reboots as well."""
        self.demand_rights()
        self._stop()

    def resume(self) -> None:
        """Let a paused worker work again.

        Raises:
            StopError: None is installed.
        """
        self.demand_rights()
        if not self._task.exists():
            raise StopError(EX_CONFIG, "found no installed worker to resume; install it with the command of an invite")
        self._steps.change("let the worker work again", self._task.enable)
        if not self._steps.dry_run:
            self._start()

    def status(self) -> None:
        """Say what the task does and where its log is.

        Raises:
            StopError: It does not run.
        """
        if not self._task.exists():
            raise StopError(EX_FAILURE, f"the task {TASK} is not registered; install it with the command of an invite")
        if not self._task.is_enabled():
            raise StopError(EX_FAILURE, f"the task {TASK} is paused; let it work again with -Resume")
        if not self._task.is_running():
            raise StopError(EX_FAILURE, f"the task {TASK} does not run; see {self._log} and its 'Last Run Result'")
        say(f"The worker runs. Its log is {self._log}; 'cis490-jobs hosts' lists it.")

    def uninstall(self, *, purge: bool) -> None:
        """Remove task, code and secret.

        Args:
            purge: Remove settings and runs as well.
        """
        self.demand_rights()
        self._stop()
        if self._task.exists():
            self._steps.change(f"remove the task {TASK}", self._task.remove)
        self._drop(self._root)
        for path in (self._secret, self._secret.with_name("worker.secret.new"), self._state / "worker.pem"):
            self._drop(path)
        if purge:
            self._drop(self._state)
        say("The worker is removed. Have an operator run 'cis490-jobs identity revoke' with this host's name.")

    def _drop(self, path: Path) -> None:
        if path.exists():
            self._steps.change(f"remove {path}", lambda: _remove_tree(path) if path.is_dir() else path.unlink())


def _words(places: Mapping[str, Path]) -> list[str]:
    return [str(word) for pair in places.items() for word in pair]


def _flags(datasets: Sequence[str]) -> list[str]:
    return [word for item in datasets for word in ("--dataset", item)]


def _rename_tree(path: Path, target: Path) -> None:
    """Rename a folder; see `_remove_tree` about one that is held.

    Raises:
        StopError: It is held for longer.
    """
    _step_out_of(path)
    for look in range(_HELD_LOOKS + 1):
        try:
            path.rename(target)
        except OSError as error:
            if look == _HELD_LOOKS:
                raise _held(path, error) from error
            time.sleep(SECOND_S)
        else:
            return


def _remove_tree(path: Path) -> None:
    """Delete a folder; a link is deleted and what it leads to is not.

    What a worker worked in or ran is held until the process is gone, which is a moment after its lock is free.

    Raises:
        StopError: It is held for longer.
    """
    _step_out_of(path)
    for look in range(_HELD_LOOKS + 1):
        try:
            if path.exists() and system.is_link(path):
                system.unlink(path)
            else:
                shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if look == _HELD_LOOKS:
                raise _held(path, error) from error
            time.sleep(SECOND_S)
        else:
            return


def _step_out_of(path: Path) -> None:
    """Work in another folder than one that is to be removed: Windows keeps the folder that a program works in.

    The guide has people go into the folder of the code, and what they start there begins in it.
    """
    if Path.cwd().resolve().is_relative_to(path.resolve()):
        os.chdir(path.anchor)


def _held(path: Path, error: OSError) -> StopError:
    return StopError(
        EX_FAILURE,
        f"found {error.filename}, which cannot be removed ({error.strerror}); expected that no program works below "
        f"{path} or has a file there open; close terminals, editors and folder windows that do, and run the same "
        "command again, it goes on where it stopped",
    )
