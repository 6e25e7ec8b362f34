"""The guides for Linux, typed into a booted Debian: each fenced block in its order and as it stands.

What a guide asks for in prose is done by the test beside the block it belongs to. A block that a test does not expect
fails it, so no guide grows a command that nobody tried. It takes five minutes, and a few more the first time.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import Container, container, copy_project, packages, wheels

pytestmark = pytest.mark.slow

WORKER, RECEIVER = "cis490-training-worker", "cis490-trainer-receiver"
PACKAGES = ("sudo", "git", "caddy")
MANIFEST = """
[manifest]
schema = 1
[datasets.lab]
[hosts.default]
"""
JOB = """
[[jobs]]
model = "gbt"
mode = "realistic"
dataset = "lab"
split_recipe = "hosts"
seed = {seed}
hyper = {{ max_iter = 50 }}
"""
# What is set in one block holds in the next one, as in the shell of who types them; the first command that fails ends
# the block.
TYPED = """
[ ! -e ~/.kept ] || . ~/.kept 2>/dev/null
cd ~/cis490
trap 'declare -p > ~/.kept' EXIT
set -e
{commands}
"""


class Machine:
    """A machine with a clone of the project for each of its people, and an index of packages."""

    def __init__(self, made: Container, root: Path) -> None:
        self.container = made
        self.run = made.run
        self.files = made.root
        self.guides = root / "docs/guides"
        copy_project(root, self.files / "srv/origin", "data")
        for name in ("core", "trainer"):
            shutil.copytree(wheels(root / f"requirements/{name}.txt"), self.files / "srv/wheels", dirs_exist_ok=True)
        shutil.copytree(packages("libgomp1"), self.files / "srv/packages")
        self._write("etc/apt/sources.list", "deb [trusted=yes] file:/srv/packages ./\n")
        self._write("etc/pip.conf", "[global]\nno-index = true\nfind-links = /srv/wheels\n")
        self._write("etc/gitconfig", "[safe]\ndirectory = *\n[user]\nname = A\nemail = a@example.com\n")
        self._write("etc/sudoers.d/anna", "anna ALL=(ALL) NOPASSWD: ALL\n")

    def boot(self) -> None:
        self.container.boot()
        names = f"127.0.0.1 localhost pi.lab receiver.lab.example {self.run('hostname')}"
        self._write("etc/hosts", f"{names}\n")
        self.run("cd /srv/origin; git init -q -b main; git add -A; git commit -qm first; useradd -m -s /bin/bash anna")
        for name in ("root", "anna"):
            self.run(f"runuser -l {name} -c 'git clone -q /srv/origin cis490'")

    def publish(self, version: str) -> None:
        """Have a new version to pull."""
        line = f'__version__ = "{version}"'
        self.run(
            f"cd /srv/origin; sed -i 's/^__version__ = .*/{line}/' training/fleet/__init__.py; git commit -qam new"
        )

    def until(self, command: str, sign: str, timeout_s: float = 90) -> str:
        """Wait until what a command prints holds a sign."""
        found: list[str] = []

        def met() -> bool:
            found[:] = [self.run(command, check=False)]
            return re.search(sign, found[0]) is not None

        self.container.until(f"{command} shows {sign}", met, timeout_s)
        return found[0]

    def _write(self, name: str, text: str) -> None:
        (self.files / name).parent.mkdir(parents=True, exist_ok=True)
        (self.files / name).write_text(text)


class Reader:
    """A person who follows guides on a machine, in their clone."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self._blocks = 0

    def type(self, commands: str, given: str = "", *, check: bool = True) -> str:
        """Return what commands print; they read what is given."""
        self._blocks += 1
        files = [f"srv/{self.name}-{self._blocks}.{part}" for part in ("typed", "given", "said")]
        for name, text in zip(files, (TYPED.format(commands=commands), given, ""), strict=True):
            (self.machine.files / name).write_text(text)
        typed, read, said = (f"/{name}" for name in files)
        # Into a file, because a program that goes on in the background would hold a pipe open.
        whole = f"runuser -l {self.name} -c 'bash {typed}' < {read} > {said} 2>&1; done=$?; cat {said}; exit $done"
        return self.machine.run(whole, check=check)

    def until(self, command: str, sign: str, timeout_s: float = 90) -> str:
        """Wait until what a command prints holds a sign."""
        whole = shlex.quote(f". ~/.kept 2>/dev/null; {command}")
        return self.machine.until(f"runuser -l {self.name} -c {whole}", sign, timeout_s)


class Guide:
    """A guide that a reader follows from the first block to the last.

    Args:
        reader: Who types.
        name: The page.
    """

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader = reader
        self.text = (reader.machine.guides / f"{name}.md").read_text()
        self.typed = ""
        self._left = re.findall(r"(?ms)^```sh\n(.*?)^```$", self.text)
        assert len(self._left) == len(re.findall(r"```\w", self.text)), "a block of another kind"

    def __enter__(self) -> Guide:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            assert self._left == [], "blocks that nobody typed"

    def type(self, begin: str, given: str = "", **placeholders: str) -> str:
        """Type the next block, which begins so, with the placeholders replaced that it has."""
        block = self._left.pop(0)
        assert block.startswith(begin), f"the next block is\n{block}"
        for placeholder, value in placeholders.items():
            assert placeholder in block
            block = block.replace(placeholder, value)
        self.typed = block
        return self._reader.type(block, given)


@pytest.fixture
def machine(root: Path, tmp_path: Path) -> Iterator[Machine]:
    with container(tmp_path, *PACKAGES) as made:
        machine = Machine(made, root)
        machine.boot()
        yield machine


def printed_command(said: str) -> str:
    """Return the command for Linux that an invite printed."""
    (line,) = [line for line in said.splitlines() if line.startswith("scripts/install-training-worker.sh ")]
    return line


def codes(said: str) -> dict[str, str]:
    """Return what an invite printed, by the placeholders of the guides."""
    words = printed_command(said).split()
    return {"CODE": words[words.index("--code") + 1], "HEX": words[words.index("--ca-sha256") + 1]}


def test_a_fleet_is_installed_and_its_secrets_change_hands_as_the_guides_say(machine: Machine) -> None:
    anna = Reader(machine, "anna")
    operator = _install_the_receiver(machine, anna)
    _add_a_host(machine, anna, operator)
    _rotate_and_revoke(machine, anna)


def _install_the_receiver(machine: Machine, anna: Reader) -> str:
    """Return the command with which an operator speaks to it."""
    with Guide(anna, "install-the-receiver") as guide:
        said = guide.type("sudo scripts/install-trainer-receiver.sh\n")
        assert "The receiver is listening on http://127.0.0.1:8445." in said
        said = guide.type("sudo scripts/install-trainer-receiver.sh --listen 0.0.0.0:8445 --host-names pi.lab")
        assert "The receiver is listening on https://0.0.0.0:8445." in said
        assert ", 0 failed, 0 not looked at" in said
        assert "0 jobs" in guide.type("sudo -u cis490 env CIS490_OPERATOR_TOKEN_FILE")
        operator = re.findall(r"(?m)^(sudo -u cis490 env .* cis490-jobs) status$", guide.text)[0]
        assert f"  the fleet:  {operator} status" in said
        _want(anna, 1)
        anna.until(f"{operator} status", "pending 1 ")
        machine.publish("9.0.1")
        guide.type("git pull")
        assert machine.run(f"{RECEIVER} --version") == f"{RECEIVER} 9.0.1"
        assert "nothing to change" in guide.type("python3 -m venv fetch")
        assert "left: /var/lib/cis490" in guide.type("sudo scripts/install-trainer-receiver.sh --uninstall")
        assert machine.run("pgrep -u cis490 || true; ls /usr/local/bin") == ""
    machine.run("mv /etc/pip.conf /etc/pip.conf.away")
    anna.type("sudo scripts/install-trainer-receiver.sh --wheels wheels")
    machine.run("mv /etc/pip.conf.away /etc/pip.conf")
    assert "pending 1 " in anna.type(f"{operator} status")
    return operator


def _want(reader: Reader, jobs: int) -> None:
    """Have so many jobs in the manifest."""
    text = MANIFEST + "".join(JOB.format(seed=seed) for seed in range(jobs))
    reader.type("sudo tee /etc/cis490/training_manifest.toml", text)
    reader.type(f"sudo systemctl reload {RECEIVER}")


def _add_a_host(machine: Machine, anna: Reader, operator: str) -> None:
    with Guide(anna, "add-a-linux-host") as guide:
        invite = codes(anna.type(f"{operator} invite gpu-tower"))
        guide.type("sudo cp -r data/lab /srv/lab")
        said = guide.type("sudo scripts/install-training-worker.sh --receiver https://pi.lab:8445", **invite)
        assert "install the system package libgomp1" in said
        assert ", 0 failed, 0 not looked at" in said
        assert "This host works for the fleet: listed at https://pi.lab:8445 as gpu-tower." in said
        assert re.search(r"(?m)^gpu-tower\s+", anna.type(f"{operator} workers"))
        anna.until(f"{operator} list", r"completed.*auroc 0\.\d+", 180)
        machine.publish("9.0.2")
        assert f"stop {WORKER} in order" in guide.type("git pull")
        assert machine.run(f"{WORKER} --version") == "9.0.2"
        said = guide.type("sudo scripts/install-training-worker.sh --uninstall")
        assert "left: /var/lib/cis490-worker" in said
        assert machine.run("pgrep -u cis490-worker || true; ls /usr/local/bin").split() == ["cis490-jobs", RECEIVER]
        anna.type(f"{operator} worker revoke gpu-tower")
        assert "revoked" in anna.type(f"{operator} worker list")


def _rotate_and_revoke(machine: Machine, anna: Reader) -> None:
    with Guide(anna, "rotate-and-revoke") as guide:
        said = guide.type("sudo cis490-trainer-receiver operator alice")
        (line,) = [line.split() for line in said.splitlines() if line.startswith("cis490-jobs login ")]
        said = guide.type("cis490-jobs login https://pi.lab:8445", CODE=line[4], HEX=line[6])
        assert "logged in to https://pi.lab:8445 as alice, who may read, operate, enrol" in said
        assert "completed 1 " in said
        command = printed_command(guide.type("cis490-jobs invite gpu-tower"))
        assert "as gpu-tower" in anna.type(f"sudo {command}")

        _want(anna, 2)
        trainer = machine.until("pgrep -nP $(pgrep -u cis490-worker -of shim.py)", r"^\d+$")
        machine.run(f"kill -STOP {trainer}")
        anna.until("cis490-jobs list", "running")
        before = machine.run("cat /var/lib/cis490-worker/worker.secret")
        guide.type("cis490-jobs identity rotate gpu-tower")
        events = anna.until("cis490-jobs events --worker gpu-tower", r"\brenew\b")
        assert re.search(r"operator:alice\s+rotate\b", events)
        anna.until("cis490-jobs identity list", r"(?m)^gpu-tower\s+enrolled")
        assert machine.run("cat /var/lib/cis490-worker/worker.secret") != before

        guide.type("cis490-jobs identity revoke gpu-tower")
        assert re.search(r"pending.*\b0/3\b", anna.type("cis490-jobs list"))
        assert re.search(r"(?m)^gpu-tower\s+revoked", anna.type("cis490-jobs identity list"))
        machine.until(f"journalctl -u {WORKER}", "revoked", 180)
        machine.until("pgrep -u cis490-worker -f training.trainer; echo none", "^none")
        command = printed_command(anna.type("cis490-jobs invite gpu-tower"))
        assert "enrolled as gpu-tower" in anna.type(f"sudo {command}")
        anna.until("cis490-jobs status", "completed 2 ", 180)
    troubles = (machine.guides / "troubleshooting.md").read_text()
    (block,) = re.findall(r"(?ms)^```sh\n(sudo systemd-run.*?)^```$", troubles)
    assert anna.type(block).count(", 0 failed, 0 not looked at") == 2


def test_a_receiver_speaks_mutual_tls_as_the_guide_says(machine: Machine) -> None:
    reader = Reader(machine, "root")
    reader.type("scripts/install-trainer-receiver.sh")
    with Guide(reader, "mutual-tls") as guide:
        guide.type("ETC=/etc/cis490")
        guide.type("cis490-trainer-receiver init")
        guide.type("systemctl restart")
        assert machine.run(f"systemctl show {RECEIVER} -p StatusText --value") == "listening on https://0.0.0.0:8445"
        guide.type("systemctl stop")
        by_hand = machine.until("pgrep -u cis490 -f training.fleet.receiver", r"^\d+$")
        machine.until("cat /srv/root-*.said", '"event": "listening"')
        assert "receiver.lab.example:8445  ok" in guide.type("export CIS490_RECEIVER")
        machine.run(f"kill {by_hand}; tail --pid={by_hand} -f /dev/null; systemctl start {RECEIVER}")
        said = guide.type("cis490-jobs invite gpu-tower")
        reader.type(f"{printed_command(said)} --without-trainer")
        look = guide.type("sudo systemd-run")
        assert re.search(r"ok +identity +the receiver takes it as gpu-tower \(enrolled\)", look)
        assert re.search(r"ok +certificate +/var/lib/cis490-worker/worker.pem is good for 90 more days", look)

        machine.run("sed -i /client_certificate/d /var/lib/cis490-worker/worker.toml")
        look = reader.type(guide.typed, check=False)
        assert "workers must show a client certificate here and none came" in look
        invite = codes(reader.type("cis490-jobs invite gpu-tower"))
        said = guide.type("python3 -m training.fleet.worker enrol", given=invite["CODE"], HEX=invite["HEX"])
        assert said.startswith("enrolled as gpu-tower at https://receiver.lab.example:8445")


def test_caddy_stands_in_front_as_the_guide_says(machine: Machine) -> None:
    reader = Reader(machine, "root")
    reader.type("scripts/install-trainer-receiver.sh")
    with Guide(reader, "behind-caddy") as guide:
        guide.type("ETC=/etc/cis490")
        guide.type("cis490-trainer-receiver init")
        guide.type("cat >> $ETC/trainer-receiver.env")
        guide.type("install -o caddy")
        guide.type("install -d /etc/systemd")
        assert machine.run("systemctl is-active caddy") == "active"
        guide.type("systemctl stop caddy")
        by_hand = machine.until("pgrep -x caddy", r"^\d+$")
        machine.until("cat /srv/root-*.said", "serving initial configuration")
        said = guide.type("export CIS490_RECEIVER")
        assert "receiver.lab.example:8443  ok" in said
        machine.run(f"kill {by_hand}; tail --pid={by_hand} -f /dev/null; systemctl start caddy")
    command = printed_command(said)
    assert "listed at https://receiver.lab.example:8443" in reader.type(f"{command} --without-trainer")
    token = machine.run("cat /var/lib/cis490/tls/proxy.token")
    assert len(token) == 43
    assert token not in machine.run("journalctl --no-pager --all --output=export")

    monthly = re.findall(r"(?m)^0 5 1 \* \*  (.*)$", guide.text)[0]
    before = machine.run("cat /etc/caddy/receiver.pem")
    machine.run(f"env -i HOME=/root PATH=/usr/bin:/bin sh -c '{monthly}'")
    assert machine.run("cat /etc/caddy/receiver.pem") != before
    machine.run("systemctl stop caddy")
    shutil.copy(Path(sys.executable).with_name("caddy"), machine.files / "usr/bin/caddy")
    machine.run("systemctl start caddy")
    assert "v2.11" in machine.run("caddy version")
    assert "receiver.lab.example:8443  ok" in reader.type("cis490-jobs status")
    assert "gpu-tower" in reader.type("cis490-jobs hosts")
