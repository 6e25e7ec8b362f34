"""The worker on a Linux host: a service of systemd, of the machine or of a person."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from training.fleet.install.enrolment import InviteWords, is_enrolled
from training.fleet.install.linux import HOMES, InstallPart, Linux, with_setting
from training.fleet.install.loss import capability_said, lost
from training.fleet.install.release import Release, want_openmp, wanted_release, wanted_torch
from training.fleet.install.steps import StopError, say
from training.fleet.install.torch_build import TorchChoice
from training.fleet.install.unit import Unit
from training.fleet.model.errors import EX_CONFIG, EX_FAILURE, EX_NOPERM, EX_USAGE

PART: Final = InstallPart(
    "worker", "cis490-training-worker", "cis490-worker", "a running job is finished or given back"
)
LISTED_S: Final = 90.0
"""How long the receiver is given to list the host."""
_DATASET: Final = "CIS490_DATASET"
_UNSEEN: Final = (*HOMES, "/run/user", "/tmp")  # noqa: S108 - what the unit hides
_NAME: Final = re.compile(r'^name = "(.*)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LinuxChoices:
    """What the person chose.

    Attributes:
        checkout: Where the code lies.
        invite: Whom to enrol with.
        datasets: NAME=DIR of each dataset; empty to keep what is set.
        requirements: "trainer" for the packages of the project's own trainer, "" for none, None to keep what is there.
        python: The Python to use, empty for the first one found.
        wheels: Folder to take packages from, None for a package index.
        torch: The build of torch, None to keep what is there.
    """

    checkout: Path
    invite: InviteWords
    datasets: tuple[str, ...]
    requirements: str | None
    python: str
    wheels: Path | None
    torch: TorchChoice | None = None


class LinuxWorker:
    """The worker as it is installed on a host.

    Args:
        host: The host.
    """

    def __init__(self, host: Linux) -> None:
        self._host = host
        self._unit = Unit(host)
        state = host.at.state
        self._enrolled = state / "worker.toml"
        self._secret = state / "worker.secret"

    # ---- install

    def install(self, choices: LinuxChoices) -> None:
        """Install, upgrade or repair it, and wait until the receiver lists the host.

        Raises:
            StopError: It cannot go on.
        """
        host = self._host
        host.demand_rights()
        host.demand_systemd("python3 -m training.fleet.worker enrol --help, then python3 -m training.fleet.worker")
        wanted = wanted_release(
            host, choices.checkout, python=choices.python, requirements=choices.requirements, wheels=choices.wheels,
            otherwise="trainer",
        )  # fmt: skip
        self._judge(choices)
        wanted = replace(wanted, torch=wanted_torch(host, wanted.requirements, choices.torch))
        release = Release(host, wanted)
        want_openmp(host, wanted)
        host.want_account()
        host.want_folder(host.at.state, 0o700, f"{PART.account}:{PART.account}")
        if not host.at.config.is_dir():
            host.want_folder(host.at.config, 0o700 if host.user else 0o750, "root:root")
        before = host.steps.count
        self._want_settings(choices)
        release.want()
        if host.steps.count != before:
            self._examine(release, choices)
        self._want_enrolled(release, choices.invite)
        release.want_current(self._unit.stop)
        host.want_command(PART.unit, PART.module)
        self._unit.want(choices.checkout)
        self._unit.want_running(before)
        release.drop_others()
        self._report()

    def _judge(self, choices: LinuxChoices) -> None:
        """Refuse what cannot be done before anything is."""
        if not choices.invite.receiver and not self._is_enrolled():
            raise StopError(
                EX_USAGE,
                "this host is not enrolled and no --receiver is given; have an operator run `cis490-jobs invite HOST` "
                "and run the command it prints",
            )
        for item in choices.datasets:
            name, _, folder = item.partition("=")
            if not name or not folder or not _is_readable(Path(folder, "dataset.toml")):
                raise StopError(
                    EX_CONFIG, f"found --dataset {item}; expected NAME=DIR, and the file dataset.toml in DIR"
                )
            if not self._host.user and any(Path(folder).resolve().is_relative_to(place) for place in _UNSEEN):
                raise StopError(
                    EX_CONFIG,
                    f"the service cannot see {folder}, because it runs without home and temporary folders; move the "
                    "dataset to /srv, say, or give --user",
                )

    def _is_enrolled(self) -> bool:
        return is_enrolled(self._enrolled, self._secret)

    def _want_settings(self, choices: LinuxChoices) -> None:
        text = self._host.settings_text(
            "# Settings of the training worker; docs/guides/worker.md lists them. "
            f"Who it is stands in {self._enrolled}.\n"
        )
        if choices.datasets:
            text = with_setting(text, _DATASET, ",".join(choices.datasets))
        self._host.want_file(self._host.settings, 0o640, "root:root", text)

    def _examine(self, release: Release, choices: LinuxChoices) -> None:
        """See that the host can train before the release takes the place of an older one, or a job."""
        host = self._host
        words = [str(release.python), "-P", "-m", PART.module, "--self-test"]
        if datasets := ",".join(choices.datasets) or host.setting(_DATASET):
            words += ["--dataset", datasets]
        if choices.invite.receiver:
            # Who it is will be said by the enrolment that follows: what an earlier one left may be gone or revoked.
            words += ["--config", "/dev/null"]
        host.steps.change("have the host examine itself")
        if host.steps.dry_run:
            return
        command, environ = host.as_account(*words)
        if host.programs.show(command, environ=environ, folder=host.folder) == 0:
            self._demand_nothing_lost(release, words, choices)
            return
        if release.wanted.requirements:
            raise StopError(
                EX_FAILURE,
                "the host cannot train yet: correct what FAIL says and run the same command again; nothing runs so far",
            )
        say("it was installed without the project's own trainer, so only trainers of another kind can run here")

    def _demand_nothing_lost(self, release: Release, words: Sequence[str], choices: LinuxChoices) -> None:
        """Refuse a release with which the host can train less than with the one in use, unless that was asked for."""
        build, older = release.wanted.torch, self._host.at.python
        if build is None or not older.exists() or older.resolve() == release.python.resolve():
            return
        before, now = (self._capability(python, words) for python in (older, release.python))
        if missing := lost(before, now, build.kind, asked=choices.torch is not None):
            raise StopError(
                EX_FAILURE,
                f"with the newer version this host would lose {', '.join(missing)}; the older version stays and runs. "
                "See what torch says above, then run this again with --torch cpu, --torch cuda, or --torch none to do "
                "without",
            )

    def _capability(self, python: Path, words: Sequence[str]) -> dict[str, Any]:
        """Return what the worker of a release says that this host can do, empty if it says nothing that can be read."""
        command, environ = self._host.as_account(str(python), *words[1:], "--json")
        _, said = self._host.programs.ask(command, environ=environ, folder=self._host.folder)
        return capability_said(said)

    def _want_enrolled(self, release: Release, invite: InviteWords) -> None:
        host, enrolled = self._host, self._is_enrolled()
        if not invite.receiver:
            return
        if host.steps.dry_run:
            if not enrolled:
                host.steps.change(f"enrol this host at {invite.receiver}")
            return
        host.steps.now = f"the enrolment at {invite.receiver}"
        command, environ = host.as_account(str(release.python), "-P", "-m", PART.module, "enrol", *invite.flags())
        status, said = host.programs.ask(
            command, environ=environ, folder=host.folder, given=invite.line(ask=not enrolled), quiet=False
        )
        if status != 0:
            raise StopError(
                EX_NOPERM, "this host is not enrolled, see above; run the same command again with a code that is good"
            )
        say(said.partition("\n")[0])
        host.steps.count += said.startswith("enrolled")

    # ---- what it says at the end

    def _report(self) -> None:
        host = self._host
        host.steps.sum_up()
        if host.steps.dry_run:
            return
        if not self._unit.await_status("listed at *", LISTED_S):
            self._unit.show()
            raise StopError(
                EX_FAILURE,
                "the worker is installed and the receiver does not list it yet; see what it says: " + self._unit.logs,
            )
        command, environ = host.as_service(str(host.at.python), "-P", "-m", PART.module, "doctor")
        host.programs.show(command, environ=environ, folder=host.folder)
        say("")
        say(f"This host works for the fleet: {self._unit.fact('StatusText')} as {self._name()}.")
        self._say_ways()

    def status(self) -> None:
        """Say what the service does and how to see more.

        Raises:
            StopError: It does not run.
        """
        if not self._unit.path.exists():
            raise StopError(
                EX_FAILURE, f"the service {PART.unit} is not installed; install it with the command of an invite"
            )
        state, text = self._unit.fact("ActiveState"), self._unit.fact("StatusText")
        say(f"{PART.unit} is {state}{text and f': {text}'}")
        say(f"  code:       {self._host.at.current.resolve()}")
        self._say_ways()
        if state != "active":
            raise StopError(EX_FAILURE, f"the service does not run; start it: {self._unit.control} start {PART.unit}")

    def _say_ways(self) -> None:
        host, sudo, flag = self._host, *(("", " --user") if self._host.user else ("sudo ", ""))
        say(f"  logs:       {self._unit.logs} -f")
        say(f"  state:      {self._unit.control} status {PART.unit}")
        say(f"  settings:   {host.settings}, then {self._unit.control} restart {PART.unit}")
        say(f"  upgrade:    {sudo}scripts/install-training-worker.sh{flag}, from newer code")
        say(f"  uninstall:  {sudo}{host.at.bin / PART.unit} uninstall{flag}")

    def _name(self) -> str:
        """Return the name that the host is enrolled under."""
        found = _NAME.search(self._enrolled.read_text(encoding="utf-8"))
        return found[1] if found else ""

    # ---- uninstall

    def uninstall(self, *, purge: bool) -> None:
        """Remove service, code and secret.

        Args:
            purge: Remove runs and settings as well.

        Raises:
            StopError: It cannot go on.
        """
        host, state = self._host, self._host.at.state
        host.demand_rights()
        host.demand_systemd("nothing is installed here")
        self._unit.drop()
        host.drop(host.at.bin / PART.unit, host.at.prefix)
        host.drop(*(self._secret.with_name(f"{self._secret.name}{end}") for end in ("", ".new", ".next")))
        host.drop(state / "worker.pem")
        if purge:
            host.drop(state / "worker", self._enrolled, state / "ca.pem", host.settings)
            if not host.user:
                host.drop(state)
            host.drop_account()
        host.steps.sum_up()
        for left in (state, host.settings):
            if left.exists():
                say(f"left: {left}")
        say("datasets were not touched; an operator ends the identity: cis490-jobs identity revoke HOST")


def _is_readable(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True
