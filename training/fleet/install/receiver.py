"""The receiver as a service of this machine: `scripts/install-trainer-receiver.sh` finds a Python and calls this.

Guarantees that what is set stays unless a flag says otherwise, and that the queue and a manifest that is there are
never overwritten. Keys, tokens and certificates are left to `cis490-trainer-receiver init`.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.fleet.install.linux import InstallPart, Linux, with_setting
from training.fleet.install.programs import Programs
from training.fleet.install.release import Release, wanted_release
from training.fleet.install.steps import ProgramError, Steps, StopError, run_steps, say
from training.fleet.install.unit import Unit
from training.fleet.model.errors import EX_FAILURE

PROGRAM: Final = "install-trainer-receiver"
PART: Final = InstallPart(
    "receiver", "cis490-trainer-receiver", "cis490", "requests under way are answered, and jobs train on"
)
CHECKOUT: Final = Path(__file__).resolve().parents[3]
LISTENING_S: Final = 60.0
"""How long the receiver is given to listen."""
_FIRST_MANIFEST: Final = """# What the fleet trains; training_manifest.toml.example shows the whole form.

[manifest]
schema = 1

[hosts.default]               # any enrolled host may take any job
"""
"""No job yet: what the example trains is not what this fleet shall train."""
_HERE_ALONE: Final = re.compile(r"$|127\.|localhost:|\[::1\]")
"""Begin of an address that other machines do not reach."""
_KEPT: Final = ("manifest.applied.toml", "store", "incoming", "index.jsonl", "backups", "tls")


@dataclass(frozen=True, slots=True)
class ReceiverChoices:
    """What the person chose.

    Attributes:
        checkout: Where the code lies.
        listen: Address to listen on; empty to keep what is set.
        host_names: Names that other hosts reach it by, separated by commas; empty to keep what is set.
        python: The Python to use, empty for the first one found.
        wheels: Folder to take packages from, None for a package index.
    """

    checkout: Path
    listen: str
    host_names: str
    python: str
    wheels: Path | None


def main(words: Sequence[str], environ: Mapping[str, str] = os.environ, programs: Programs | None = None) -> int:
    """Install or remove the receiver.

    Args:
        words: Flags.
        environ: Environment variables.
        programs: What starts programs.

    Returns:
        0 when it is done, 2 for a wrong flag, 69 without what it needs, 77 without rights, 78 for what a person has to
        change, else the status of the program that failed.
    """
    parser = _parser(environ)
    given = parser.parse_args(words)
    if given.purge and not given.uninstall:
        parser.error("--purge belongs to --uninstall")
    steps = Steps(dry_run=given.dry_run)
    receiver = LinuxReceiver(Linux(PART, steps, programs or Programs(), environ, user=given.user))
    if given.uninstall:
        return run_steps(PROGRAM, steps, lambda: receiver.uninstall(purge=given.purge))
    names = ",".join(given.host_names)
    choices = ReceiverChoices(CHECKOUT, given.listen or "", names, given.python or "", given.wheels)
    return run_steps(PROGRAM, steps, lambda: receiver.install(choices))


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Install the receiver of a training fleet on this machine: keys and tokens, settings, service. "
        "Without --listen it serves this machine alone. It may be run again at any moment.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--listen", metavar="ADDR:PORT", help="address; beyond this machine https and client certificates are used")
    add("--host-names", action="append", default=[], metavar="NAMES",
        help="names that other hosts reach it by, separated by commas [this machine's name]")  # fmt: skip
    add("--python", default=environ.get("PYTHON") or None, metavar="PROGRAM",
        help="the Python to use, 3.11 or newer [the first one found]")  # fmt: skip
    add("--wheels", type=Path, metavar="DIR", help="take packages from this folder, for a machine without an index")
    add("--user", action="store_true", help="for the account that runs this, without root")
    add("--dry-run", action="store_true", help="print every change and make none")
    add("--uninstall", action="store_true", help="remove service and code; queue, artifacts, keys and settings stay")
    add("--purge", action="store_true", help="with --uninstall: remove these as well")
    return parser


class LinuxReceiver:
    """The receiver as it is installed on a machine.

    Args:
        host: The machine.
    """

    def __init__(self, host: Linux) -> None:
        self._host = host
        self._unit = Unit(host)
        self._tls = host.at.state / "tls"

    # ---- install

    def install(self, choices: ReceiverChoices) -> None:
        """Install, upgrade or repair it, and wait until it listens.

        Raises:
            StopError: It cannot go on.
        """
        host, group = self._host, f"root:{PART.account}"
        host.demand_rights()
        host.demand_systemd("python3 -m training.fleet.receiver --help")
        wanted = wanted_release(
            host, choices.checkout, python=choices.python, requirements="core", wheels=choices.wheels, otherwise="core"
        )
        release = Release(host, wanted)
        host.want_account()
        mode = 0o700 if host.user else 0o750
        host.want_folder(host.at.state, mode, f"{PART.account}:{PART.account}")
        host.want_folder(host.at.config, mode, group)
        before = host.steps.count
        release.want()
        keys = self._keys(release, choices.host_names)
        self._want_settings(choices, keys)
        manifest = self._want_manifest(choices.checkout)
        release.want_current(self._unit.stop)
        host.want_command(PART.unit, PART.module)
        host.want_command("cis490-jobs", "training.fleet.cli")
        self._unit.want(choices.checkout)
        self._unit.want_running(before)
        release.drop_others()
        self._report(manifest)

    def _keys(self, release: Release, host_names: str) -> str:
        """Have keys, certificates and tokens; return the settings that go with them."""
        host = self._host
        flags = ["--folder", str(self._tls), *(["--host-names", host_names] if host_names else [])]
        made = f"make keys and tokens in {self._tls}"
        if host.steps.dry_run:
            if not (self._tls / "operator.token").exists():
                host.steps.change(made)
            return ""
        host.steps.now = f"the keys in {self._tls}"
        said = self._init(release, *flags)
        if "# made " in said:
            host.steps.change(made)
        elif "# the certificate does not name " in said:
            host.steps.change(f"issue the certificate again for {host_names}")
            said = self._init(release, "--renew", *flags)
        return said

    def _init(self, release: Release, *flags: str) -> str:
        words = (str(release.python), "-P", "-m", PART.module, "init", *flags)
        command, environ = self._host.as_account(*words)
        status, said = self._host.programs.ask(command, environ=environ, folder=self._host.folder, quiet=False)
        if status != 0:
            raise ProgramError(status, f"{PART.unit} init")
        return said

    def _want_settings(self, choices: ReceiverChoices, keys: str) -> None:
        host = self._host
        is_new = not host.settings.exists()
        text = host.settings_text("# Settings of the receiver; docs/reference/settings.md lists them.\n")
        if is_new and host.user:
            text += f"CIS490_MANIFEST={host.at.config / 'training_manifest.toml'}\n"
        if is_new or choices.listen or choices.host_names:
            listen = choices.listen or host.setting("CIS490_LISTEN_ADDR")
            for line in filter(lambda line: _belongs(line, listen), keys.splitlines()):
                text = with_setting(text, *line.split("=", 1))
            if listen:
                text = with_setting(text, "CIS490_LISTEN_ADDR", listen)
        host.want_file(host.settings, 0o640, f"root:{PART.account}", text)

    def _want_manifest(self, checkout: Path) -> Path:
        host, group = self._host, f"root:{PART.account}"
        path = Path(host.setting("CIS490_MANIFEST") or host.at.config / "training_manifest.toml")
        example = (checkout / "etc/training_manifest.toml.example").read_text(encoding="utf-8")
        host.want_file(path.with_name(f"{path.name}.example"), 0o640, group, example)
        if not path.exists():
            host.want_file(path, 0o640, group, _FIRST_MANIFEST)
        return path

    # ---- what it says at the end

    def _report(self, manifest: Path) -> None:
        host, unit = self._host, self._unit
        host.steps.sum_up()
        if host.steps.dry_run:
            return
        if not unit.await_status("listening on *", LISTENING_S):
            unit.show()
            raise StopError(
                EX_FAILURE, f"the receiver is installed and does not answer yet; see what it says: {unit.logs}"
            )
        command, environ = host.as_service(str(host.at.python), "-P", "-m", PART.module, "doctor")
        host.programs.show(command, environ=environ, folder=host.folder)
        sudo, flag = ("", " --user") if host.user else ("sudo ", "")
        script = f"{sudo}scripts/install-trainer-receiver.sh"
        say("")
        say(f"The receiver is {unit.fact('StatusText')}.")
        say(f"  manifest:   {manifest}, then {unit.control} reload {PART.unit}")
        say(f"  settings:   {host.settings}, then {unit.control} restart {PART.unit}")
        say(f"  logs:       {unit.logs} -f")
        say(f"  a host:     {self._operator()} cis490-jobs invite HOST")
        say(f"  the fleet:  {self._operator()} cis490-jobs status")
        say(f"  upgrade:    {script}{flag}, from newer code")
        say(f"  uninstall:  {script} --uninstall{flag}")

    def _operator(self) -> str:
        """Return how an operator on this machine names receiver and token to `cis490-jobs`: by files alone."""
        host = self._host
        words = [] if host.user else ["sudo", "-u", PART.account]
        words += ["env", f"CIS490_OPERATOR_TOKEN_FILE={self._tls / 'operator.token'}"]
        listen = host.setting("CIS490_LISTEN_ADDR") or "127.0.0.1:8445"
        if host.setting("CIS490_TLS_CERTIFICATE"):
            name = (host.setting("CIS490_HOST_NAMES") or "localhost").partition(",")[0]
            words += [f"CIS490_READ_TOKEN_FILE={self._tls / 'read.token'}", f"CIS490_CA_FILE={self._tls / 'ca.pem'}"]
            words += [f"CIS490_RECEIVER=https://{name}:{listen.rpartition(':')[2]}"]
        else:
            words += [f"CIS490_RECEIVER=http://{listen}"]
        return " ".join(words)

    # ---- uninstall

    def uninstall(self, *, purge: bool) -> None:
        """Remove service and code.

        Args:
            purge: Remove queue, artifacts, keys and settings as well.

        Raises:
            StopError: It cannot go on.
        """
        host, state = self._host, self._host.at.state
        host.demand_rights()
        host.demand_systemd("nothing is installed here")
        self._unit.drop()
        host.drop(host.at.bin / PART.unit, host.at.bin / "cis490-jobs", host.at.prefix)
        if purge:
            host.drop(*sorted(state.glob("queue.db*")), *(state / name for name in _KEPT))
            manifest = host.at.config / "training_manifest.toml"
            host.drop(host.settings, manifest, manifest.with_name(f"{manifest.name}.example"))
            if not host.user:
                host.drop(state)
            host.drop_account()
        host.steps.sum_up()
        for left in (state, host.at.config):
            if left.exists():
                say(f"left: {left}")


def _belongs(line: str, listen: str) -> bool:
    """Return True if a line of the keys' settings belongs to an address: on this machine alone only the tokens do."""
    if line.startswith("CIS490_OPERATOR_TOKEN_FILE="):
        return True
    return line.startswith("CIS490_") and _HERE_ALONE.match(listen) is None
