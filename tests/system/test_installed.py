"""What the installers of Linux install, in a booted Debian: from nothing to a trained job, through trouble, to the end.

It takes a minute or two, and a few more the first time, when the Debian is made.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from container import Container, container, copy_project, wheels

pytestmark = pytest.mark.slow

HOME = "/root"
WORKER, RECEIVER = "cis490-training-worker", "cis490-trainer-receiver"
OPERATOR = (
    "runuser -u cis490 -- env CIS490_OPERATOR_TOKEN_FILE=/var/lib/cis490/tls/operator.token "
    "CIS490_READ_TOKEN_FILE=/var/lib/cis490/tls/read.token CIS490_CA_FILE=/var/lib/cis490/tls/ca.pem "
    "CIS490_RECEIVER=https://pi.lab:8445 cis490-jobs "
)
TOKENS = (
    "/var/lib/cis490-worker/worker.secret",
    "/var/lib/cis490/tls/operator.token",
    "/var/lib/cis490/tls/read.token",
)
KEYS = ("/var/lib/cis490/tls/ca.key", "/var/lib/cis490/tls/receiver.key", "/var/lib/cis490-worker/worker.pem")
PRIVATE = r"(?s)-BEGIN [A-Z ]*PRIVATE KEY-+\n(.*?)-+END"
OF_TRAINER = {
    *("HOME", "LANG", "LOGNAME", "PATH", "USER", "TMPDIR", "TEMP", "TMP"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("PYTHONFAULTHANDLER", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONPATH", "PYTHONUNBUFFERED"),
    *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"),
}
TRAINER = """
import argparse, json, pathlib, sys, time
asked = argparse.ArgumentParser()
for flag in ("--job", "--out"):
    asked.add_argument(flag, type=pathlib.Path)
asked.add_argument("--describe", action="store_true")
args = asked.parse_args()
if args.describe:
    names = {"model": ["forest"], "mode": ["realistic", "oracle"], "split_recipe": ["hosts"]}
    print(json.dumps({"properties": {key: {"enum": value} for key, value in names.items()},
                      "$defs": {"forest": {"type": "object", "additionalProperties": False,
                                           "properties": {"tree": {"type": "string"}}}}}))
    sys.exit()
tree = json.loads(args.job.read_text())["spec"]["hyper"]["tree"]
while pathlib.Path("/opt/trainer", "hold-" + tree).exists():
    time.sleep(0.05)
(args.out / "artifact").mkdir(parents=True)
(args.out / "artifact" / "forest.txt").write_text(tree)
(args.out / "result.json").write_text(json.dumps({"v": 1, "status": "done", "metrics": {"auroc": 0.75}}))
"""
MANIFEST = """
[manifest]
schema = 1
[trainer]
command = ["{python}", "/opt/trainer/forest.py"]
[defaults]
max_attempts = 2
[hosts.default]
"""
JOB = '[[jobs]]\nmodel = "forest"\nmode = "oracle"\nseed = {seed}\nhyper = {{ tree = "{tree}" }}\n'
SNAPSHOT = (
    (
        "find / -xdev ( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log ) -prune "
        "-o -printf %p\\ %s\\ %m\\ %u\\ %T@\\n"
    )
    .replace("(", "\\(")
    .replace(")", "\\)")
)


class Fleet:
    """A receiver and a worker that the installers put into one container."""

    def __init__(self, container: Container, root: Path) -> None:
        self.container = container
        self.run = container.run
        self.codes: list[str] = []
        self.said: list[str] = []
        self._trees: list[str] = []
        files = container.root
        self.checkout = files / HOME[1:] / "checkout"
        copy_project(root, self.checkout)
        shutil.copytree(wheels(root / "requirements/core.txt"), files / HOME[1:] / "wheels")
        (files / "opt/trainer").mkdir()
        (files / "opt/trainer/forest.py").write_text(TRAINER)
        with (files / "etc/hosts").open("a") as hosts:
            hosts.write("127.0.0.1 localhost pi.lab\n")

    def install_receiver(self, *flags: str) -> str:
        script = f"{HOME}/checkout/scripts/install-trainer-receiver.sh --wheels {HOME}/wheels"
        return self.install(script, *flags)

    def install_worker(self, *flags: str) -> str:
        return self.install(f"{HOME}/checkout/scripts/install-training-worker.sh --without-trainer", *flags)

    def uninstall_worker(self, *flags: str) -> str:
        return self.install(f"{HOME}/checkout/scripts/install-training-worker.sh --uninstall", *flags)

    def install(self, *words: str) -> str:
        """Run an installer, and keep what it says."""
        self.said.append(self.run(" ".join(words)))
        return self.said[-1]

    def invited(self, host: str) -> str:
        """Return the flags of an invite's command."""
        printed = self.run(f"{OPERATOR} invite {host}").splitlines()
        (line,) = [line for line in printed if line.startswith("scripts/install-training-worker.sh ")]
        self.codes += re.findall(r"--code (\S+)", line)
        return line.partition(" ")[2]

    def secrets(self) -> list[str]:
        """Return all that was made and is nobody else's: tokens, codes, the lines of each private key."""
        tokens = [self.run(f"cat {path}").rpartition(".")[2] for path in TOKENS]
        keys = [re.findall(PRIVATE, self.run(f"cat {path}")) for path in KEYS]
        lines = [line for (body,) in keys for line in body.split() if len(line) > 20]
        assert [len(tokens), len(self.codes), len(lines)] == [3, 1, 3 * len(KEYS)]
        return [*tokens, *self.codes, *lines]

    def hold(self, tree: str) -> None:
        (self.container.root / "opt/trainer" / f"hold-{tree}").touch()

    def let_go(self, tree: str) -> None:
        (self.container.root / "opt/trainer" / f"hold-{tree}").unlink()

    def want(self, *trees: str) -> None:
        """Have more jobs in the manifest."""
        self._trees += trees
        text = MANIFEST + "".join(JOB.format(tree=name, seed=seed) for seed, name in enumerate(self._trees))
        (self.container.root / "etc/cis490/training_manifest.toml").write_text(text)
        self.run(f"systemctl reload {RECEIVER}")

    def job(self, tree: str) -> dict[str, Any]:
        jobs = json.loads(self.run(f"{OPERATOR} list --json"))["jobs"]
        return next((job for job in jobs if job["seed"] == self._trees.index(tree)), {"status": "not there yet"})

    def await_job(self, tree: str, status: str) -> dict[str, Any]:
        self.container.until(f"the job {tree} is {status}", lambda: self.job(tree)["status"] == status, 120)
        return self.job(tree)

    def fact(self, unit: str, name: str) -> str:
        return self.run(f"systemctl show {unit} -p {name} --value")

    def trainer(self) -> str:
        """Return the process of the trainer."""
        return str(
            self.container.until(
                "a trainer runs", lambda: self.run("pgrep -u cis490-worker -nf 'forest.py --job'", check=False)
            )
        )

    def of_worker(self) -> str:
        """Return the processes of the worker's account."""
        return self.run("ps -o pid= -u cis490-worker || true", check=False)


@pytest.fixture
def fleet(root: Path, tmp_path: Path) -> Iterator[Fleet]:
    with container(tmp_path) as made:
        fleet = Fleet(made, root)
        made.boot()
        yield fleet


def test_a_fleet_is_installed_survives_and_is_removed(fleet: Fleet) -> None:
    _install(fleet)
    _look_beside_the_worker(fleet)
    secrets = _train_with_secrets_kept(fleet)
    _worker_is_killed(fleet)
    _service_is_stopped(fleet)
    _machine_is_booted_anew(fleet)
    _new_version(fleet)
    _no_secret_was_said(fleet, secrets)
    _uninstall(fleet)
    assert _among(secrets, "\n".join(fleet.said)) == []


def _install(fleet: Fleet) -> None:
    before = fleet.run(SNAPSHOT)
    assert "changes named, none made" in fleet.install_receiver("--dry-run", "--listen 0.0.0.0:8445")
    assert fleet.run(SNAPSHOT) == before

    said = fleet.install_receiver("--listen 0.0.0.0:8445", "--host-names pi.lab")
    assert ", 0 failed, 0 not looked at" in said
    assert "tls_clients = 'required' (variable CIS490_TLS_CLIENTS)" in said
    assert "The receiver is listening on https://0.0.0.0:8445." in said
    assert "cis490-jobs invite HOST" in said
    assert "nothing to change" in fleet.install_receiver("--listen 0.0.0.0:8445", "--host-names pi.lab")

    flags = fleet.invited("gpu-tower")
    before = fleet.run(SNAPSHOT)
    assert "changes named, none made" in fleet.install_worker(flags, "--dry-run")
    assert fleet.run(SNAPSHOT) == before
    said = fleet.install_worker(flags)
    assert "enrolled as gpu-tower at https://pi.lab:8445" in said
    assert "This host works for the fleet: listed at https://pi.lab:8445 as gpu-tower." in said
    assert fleet.run(f"{OPERATOR} workers").split()[:2] == ["gpu-tower", "idle"]
    again = fleet.install_worker(flags)
    assert "already enrolled as gpu-tower" in again
    assert "nothing to change" in again
    assert fleet.run("stat -c '%a %U' /var/lib/cis490-worker/worker.secret") == "600 cis490-worker"
    for unit, most in ((RECEIVER, 20), (WORKER, 30)):
        fleet.run(f"systemd-analyze security --threshold={most} {unit}")
        assert fleet.run(f"systemd-analyze verify /etc/systemd/system/{unit}.service") == ""


def _look_beside_the_worker(fleet: Fleet) -> None:
    """The doctor outside the service is on the worker's host, also where the host is a container."""
    look = fleet.run(
        f"systemd-run --pipe --wait --uid=cis490-worker -E STATE_DIRECTORY=/var/lib/cis490-worker {WORKER} doctor"
    )
    assert re.search(r"ok +identity +the receiver takes it as gpu-tower \(enrolled\)", look)
    assert "https://pi.lab:8445  ok" in fleet.run(f"{OPERATOR} status")


def _train_with_secrets_kept(fleet: Fleet) -> list[str]:
    """Train one job; return the secrets, which no process shows meanwhile."""
    secrets = fleet.secrets()
    fleet.hold("first")
    fleet.want("first")
    trainer = fleet.trainer()
    shown = fleet.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'", check=False)
    assert "forest.py" in shown
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in shown
    assert _among(secrets, shown) == []
    names = fleet.run(f"tr '\\0' '\\n' < /proc/{trainer}/environ | cut -d= -f1").split()
    assert set(names) == OF_TRAINER
    fleet.let_go("first")
    assert fleet.await_job("first", "completed")["metrics"] == {"auroc": 0.75}
    return secrets


def _among(secrets: list[str], text: str) -> list[str]:
    """Return the lines of a text with a secret in them."""
    return [line for line in text.splitlines() if any(secret in line for secret in secrets)]


def _worker_is_killed(fleet: Fleet) -> None:
    """A worker that dies is started again and takes over its trainer: the training is not lost."""
    fleet.hold("killed")
    fleet.want("killed")
    trainer, worker = fleet.trainer(), fleet.fact(WORKER, "MainPID")
    fleet.await_job("killed", "running")
    fleet.run(f"systemctl kill -s KILL --kill-whom=main {WORKER}")
    fleet.container.until("it is started again", lambda: fleet.fact(WORKER, "NRestarts") == "1")
    listed = "listed at https://pi.lab:8445"
    fleet.container.until("it took over", lambda: "run taken up" in fleet.run(f"journalctl -u {WORKER}"))
    assert fleet.fact(WORKER, "MainPID") not in ("0", worker)
    fleet.let_go("killed")
    job = fleet.await_job("killed", "completed")
    assert job["attempts_used"] == fleet.job("first")["attempts_used"]
    fleet.container.until("it is listed", lambda: fleet.fact(WORKER, "StatusText") == listed)
    assert fleet.run(f"ps -p {trainer} -o pid= || true") == ""


def _service_is_stopped(fleet: Fleet) -> None:
    """Nothing outlives the service, not even where the worker cannot stop its trainer any more."""
    fleet.hold("stopped")
    fleet.want("stopped")
    fleet.trainer()
    fleet.run(f"systemctl stop {WORKER}")
    assert fleet.of_worker() == ""
    assert fleet.job("stopped")["status"] == "pending"

    drop_in = f"/run/systemd/system/{WORKER}.service.d"
    fleet.run(f"mkdir {drop_in}; printf '[Service]\\nTimeoutStopSec=1\\n' > {drop_in}/hurry.conf")
    fleet.run(f"systemctl daemon-reload; systemctl start {WORKER}")
    fleet.trainer()
    fleet.run(f"systemctl kill -s STOP --kill-whom=main {WORKER}; systemctl stop {WORKER}")
    assert fleet.of_worker() == ""
    fleet.let_go("stopped")
    fleet.run(f"rm -r {drop_in}; systemctl daemon-reload; systemctl reset-failed; systemctl start {WORKER}")
    fleet.await_job("stopped", "completed")


def _machine_is_booted_anew(fleet: Fleet) -> None:
    fleet.container.power_off()
    fleet.container.boot()
    fleet.container.until("the receiver is back", lambda: fleet.fact(RECEIVER, "ActiveState") == "active")
    fleet.want("booted")
    fleet.await_job("booted", "completed")


def _new_version(fleet: Fleet) -> None:
    """An upgrade drains first: the job under way is given back and trained by the new version."""
    fleet.hold("upgraded")
    fleet.want("upgraded")
    fleet.trainer()
    fleet.await_job("upgraded", "running")
    package = fleet.checkout / "training/fleet/__init__.py"
    package.write_text(package.read_text().replace('__version__ = "', '__version__ = "9.'))
    said = fleet.install_receiver()
    assert f"stop {RECEIVER} in order" in said
    assert fleet.run(f"{RECEIVER} --version").startswith(f"{RECEIVER} 9.")
    assert fleet.job("killed")["status"] == "completed"
    said = fleet.install(f"{HOME}/checkout/scripts/install-training-worker.sh")  # it knows what was left out before
    assert f"stop {WORKER} in order" in said
    assert "\nenrolled as " not in said
    assert fleet.run(f"{WORKER} --version").startswith("9.")
    assert len(list((fleet.container.root / "opt/cis490/worker/releases").iterdir())) == 1
    fleet.let_go("upgraded")
    fleet.await_job("upgraded", "completed")
    assert "nothing to change" in fleet.install_worker()


def _no_secret_was_said(fleet: Fleet, secrets: list[str]) -> None:
    """Neither in the journal with all its fields, nor in a log, nor in the history, nor by an installer."""
    assert fleet.secrets() == secrets
    journal = fleet.run("journalctl --no-pager --all --output=export")
    history = fleet.run(f"{OPERATOR} events --limit 500; {OPERATOR} events --json --limit 500")
    said = "\n".join(fleet.said)
    for text, sign in ((journal, "run taken up"), (history, "invite"), (said, "enrolled as gpu-tower")):
        assert sign in text
        assert _among(secrets, text) == []
    (fleet.container.root / "run-secrets").write_text("\n".join([*secrets, "the sign that grep looks"]))
    fleet.run("echo 'the sign that grep looks' > /var/log/sign")
    assert fleet.run("grep --recursive --text --fixed-strings --files-with-matches --file=/run-secrets /var/log") == (
        "/var/log/sign"
    )
    fleet.run("rm /run-secrets /var/log/sign")


def _uninstall(fleet: Fleet) -> None:
    (command,) = re.findall(r"(?m)^  uninstall:  sudo (/.*)$", fleet.run(f"{WORKER} status"))
    said = fleet.install(command)
    assert "left: /var/lib/cis490-worker" in said
    assert "Traceback" not in said
    assert fleet.run(f"ls {command.split()[0]} /opt/cis490/worker 2>&1 || true").count("No such file") == 2
    said = fleet.install_receiver("--uninstall")
    assert "left: /var/lib/cis490" in said
    left = fleet.run(
        "ls /opt/cis490/* /usr/local/bin /var/lib/cis490 /var/lib/cis490-worker; systemctl list-unit-files"
    )
    assert "queue.db" in left
    assert "worker.toml" in left
    assert "worker.secret" not in left
    assert "releases" not in left
    assert "cis490-t" not in left
    installer = f"{HOME}/checkout/scripts/install-training-worker.sh"
    assert "this host is not enrolled and no --receiver is given" in fleet.run(installer, check=False)
    assert fleet.of_worker() == ""
    assert fleet.run("pgrep -u cis490 || true") == ""
    fleet.uninstall_worker("--purge")
    fleet.install_receiver("--uninstall", "--purge")
    assert fleet.run("ls -d /var/lib/cis490* /etc/cis490/* 2>/dev/null || true") == ""
    assert fleet.run("getent passwd cis490 cis490-worker || true") == ""
    assert "nothing to change" in fleet.uninstall_worker()


def test_a_person_without_root_installs_for_themselves(fleet: Fleet) -> None:
    run = fleet.run
    run(f"useradd -m student; cp -r {HOME}/checkout {HOME}/wheels ~student; chown -R student ~student")
    run("loginctl enable-linger student")
    fleet.container.until(
        "the account has a session", lambda: run("systemctl is-active user@1000", check=False) == "active"
    )

    def student(command: str) -> str:
        return run(
            f"runuser -u student -- env HOME=$(echo ~student) XDG_RUNTIME_DIR=/run/user/1000 bash -c 'cd; {command}'"
        )

    receiver = "checkout/scripts/install-trainer-receiver.sh --user"
    worker = "checkout/scripts/install-training-worker.sh --user"
    assert "The receiver is listening on http://127.0.0.1:8445." in student(f"{receiver} --wheels wheels")
    operator = "env CIS490_OPERATOR_TOKEN_FILE=.local/state/cis490/tls/operator.token .local/bin/cis490-jobs"
    said = student(f"{worker} --without-trainer $({operator} invite tower 2>/dev/null | sed -n s/.*worker.sh//p)")
    assert "This host works for the fleet: listed at http://127.0.0.1:8445 as tower." in said
    assert "nothing to change" in student(worker)
    assert "nothing to change" in student(f"{receiver} --wheels wheels")
    assert "left: " in student(f"{worker} --uninstall")
    student(f"{receiver} --uninstall --purge; {worker} --uninstall --purge")
    assert student("find .local .config -type f") == ""
    assert run("ls -d /opt/cis490 /etc/cis490 /var/lib/cis490 2>/dev/null || true") == ""
