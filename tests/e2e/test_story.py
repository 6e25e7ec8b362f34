"""What one person does with the fleet, from nothing to an upgrade, typed; and how many commands each step takes.

Receiver, TLS, command, worker and trainer are real; each machine is a home folder of its own. There is no systemd here,
so the installer meets a host that the test plays, and what it would start is started by the test.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from linux_host import LinuxHost, make_checkout
from tls_installation import TlsInstallation

from training.fleet.install import linux, worker, worker_linux

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {
    "log in": ("jobd: pip install, setup, first job", 3),
    "add a host": ("jobd: job fleet add user@newbox", 1),
    "bring data": ("ClearML: Dataset.get_local_copy()", 1),
    "bring a trainer": ("dstack: files of a task, with apply", 1),
    "train": ("dstack: apply with its plan", 1),
    "find the best": ("W&B, MLflow, ClearML: a table that sorts", 1),
    "get it elsewhere": ("W&B: wandb artifact get, after its login", 2),
    "correct a mistake": ("dstack: apply with its plan", 1),
    "prune": ("ClearML: the cleanup service", 1),
    "upgrade": ("jobd: workers pull by themselves", 0),
}
"""The best peer of each step, and the commands it takes there; one more is allowed."""
PAGE = (ROOT / "docs/guides/write-your-own-trainer.md").read_text(encoding="utf-8")
MANIFEST = """
[manifest]
schema = 1
[trainer]
command = ["{{python}}", "{trainer}"]
[datasets.flows]
[defaults]
dataset = "flows"
mode = "oracle"
[hosts.gpu-tower]
[[jobs]]
model = "distance"
hyper = {{ power = {power} }}
[[jobs]]
model = "distance"
mode = "realistic"
"""


class OneHost(LinuxHost):
    """A host without systemd and pip whose enrolment is real."""

    site: TlsInstallation

    def _enrolled(self, words: list[str]) -> tuple[int, str]:
        state, own = (self.environs[-1] or {})["STATE_DIRECTORY"], words[words.index("enrol") :]
        more = {"STATE_DIRECTORY": state, "CIS490_INVITE": self.given[-1].strip()}
        done = self.site.run("training.fleet.worker", *own, **more)
        return done.returncode, done.stdout + done.stderr

    def settings(self) -> dict[str, str]:
        """Return the environment of the service."""
        text = (self.root / "etc/cis490/training-worker.env").read_text()
        lines = dict(line.split("=", 1) for line in text.splitlines() if re.match("[A-Z]", line))
        return {"STATE_DIRECTORY": str(self.root / "var/lib/cis490-worker"), **lines}


class Story:
    """A person, her machines, and what she typed in each step."""

    def __init__(self, site: TlsInstallation, host: OneHost) -> None:
        self.site, self.host, self.step = site, host, ""
        self.typed: dict[str, list[str]] = {}
        self.home = site.folder / "laptop"
        self.home.mkdir()

    def type(self, line: str, home: Path | None = None) -> str:
        """Type a line on her laptop, or on another machine, and return what it printed."""
        self.typed.setdefault(self.step, []).append(line)
        home = self.home if home is None else home
        environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(home), "TZ": "UTC"}
        if line.startswith("python -m training."):  # in an environment that holds the project
            environ["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            ["sh", "-ec", line], env=environ, cwd=home, capture_output=True, text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def install(self, line: str) -> list[list[str]]:
        """Type a line with the installer on the host, and return the commands of pip that it ran."""
        self.typed.setdefault(self.step, []).append(line)
        ran = len(self.host.ran)
        words = shlex.split(line.rpartition("install-training-worker.sh")[2])
        assert worker.run_installer(["install", *words], {"HOME": str(self.host.home)}, self.host) == 0
        return [words[4:] for words in self.host.changes(ran) if "pip" in words]

    def train_once(self) -> None:
        """Have the service of the host train one job."""
        done = self.site.run("training.fleet.worker", "--once", "--wait", "30", **self.host.settings())
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def story(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    (tmp_path / "host").mkdir()
    host = OneHost(tmp_path / "host", monkeypatch)
    host.finds_torch = True
    monkeypatch.setattr(worker, "CHECKOUT", make_checkout(tmp_path / "checkout", root))
    monkeypatch.setattr(linux.system, "is_administrator", lambda: True)
    monkeypatch.setattr(worker_linux, "_UNSEEN", ())  # all of the test lies below a temporary folder
    with TlsInstallation(tmp_path / "lab") as site:
        host.site = site
        yield Story(site, host)


JOBS = "python3 cis490-jobs.pyz"


def log_in(story: Story, name: str, home: Path | None = None) -> None:
    """Type the line with which somebody gets the command and logs in, and nothing else."""
    told = story.site.operator(name, "--roles", "read,operate,enrol")
    (line,) = re.findall(r"(?m)^curl .*$", told.stderr)
    story.type(line, home)


def write_flows(folder: Path) -> None:
    rows = [
        f"{second},{box},{900 * (second % 50 > 39) + second % 7},{0.5 + 0.3 * (second % 50 > 39)},{second % 50 // 40}"
        for box in ("web", "db", "mail")
        for second in range(200)
    ]
    (folder / "flows.csv").write_text("time,box,bytes,cpu,bad\n" + "\n".join(rows) + "\n")


def test_one_person_goes_from_nothing_to_an_upgrade_with_few_commands(story: Story) -> None:
    srv = story.site.folder / "srv"
    srv.mkdir()

    story.step = "log in"
    log_in(story, "alice")
    assert "hosts" in story.type(f"{JOBS} status")

    story.step = "bring data"
    write_flows(story.home)
    columns = "--label bad --host box --time time --oracle cpu --window 10"
    story.type(f"python -m training.trainer.datasets import csv flows.csv flows {columns}")
    story.type(f"cp -r flows {srv}/flows")

    story.step = "bring a trainer"
    (program,) = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
    (story.home / "distance.py").write_text(program)
    story.type(f"cp distance.py {srv}/distance.py")

    story.step = "add a host"
    told = story.type(f"{JOBS} invite gpu-tower --dataset flows={srv}/flows")
    (line,) = re.findall(r"(?m)^scripts/install-training-worker.sh .*$", told)
    first = story.install(f"sudo {line}")

    story.step = "train"
    text = MANIFEST.format(trainer=srv / "distance.py", power=4)
    story.site.manifest.write_text(text.replace("power = 4", "powr = 4"))
    story.typed["train"] = []
    with pytest.raises(AssertionError, match="did you mean power"):
        story.type(f"{JOBS} plan")
    story.typed["train"] = []
    story.site.manifest.write_text(text)
    (line,) = re.findall(r"exactly this with: (.*)", story.type(f"{JOBS} plan"))
    story.type(line)

    story.step = "correct a mistake"
    (story.home / "lab.toml").write_text(MANIFEST.format(trainer=srv / "distance.py", power=2))
    told = story.type(f"{JOBS} plan lab.toml")
    assert "power 4 -> 2 replaces" in told
    (line,) = re.findall(r"exactly this with: (.*)", told)
    assert line.startswith(f"{JOBS} apply lab.toml")
    assert "withdrawn" in story.type(line)
    story.train_once()
    story.train_once()

    story.step = "look"
    listed = json.loads(story.type(f"{JOBS} list --all --json"))["jobs"]
    assert {(job["status"], job["hyper"].get("power")) for job in listed if job["model"] == "distance"} == {
        ("completed", 2), ("completed", None), ("pending", 4),
    }  # fmt: skip
    assert {job["host"] for job in listed if job["status"] == "completed"} == {"gpu-tower"}

    story.step = "find the best"
    job, metric, value, artifact = story.type(f"{JOBS} best").split("\t")
    assert (metric, float(value)) == ("auroc", max(job["metrics"]["auroc"] for job in listed if job["metrics"]))
    assert artifact.strip() == next(one["artifact"] for one in listed if one["id"] == job)

    story.step = "get it elsewhere"
    desk = story.site.folder / "desk"
    desk.mkdir()
    log_in(story, "bob", desk)
    assert "model_card.md" in story.type(f"{JOBS} get best -o mine", desk)
    bundle = (desk / "mine" / "bundle.tar.zst").read_bytes()
    assert hashlib.sha256(bundle).hexdigest() == artifact.strip()
    assert "AUROC" in story.type(f"{JOBS} card best", desk)

    story.step = "clean up"
    (story.home / "lab.toml").write_text(
        MANIFEST.format(trainer=srv / "distance.py", power=2).rpartition("[[jobs]]")[0]
    )
    story.type(f"{JOBS} apply lab.toml --allow-shrink")
    story.step = "prune"
    (line,) = re.findall(r"(?m)^ *(\S.* --if [0-9a-f]+)$", story.type(f"{JOBS} prune --unnamed"))
    story.type(line)
    story.step = "look"
    gone = next(one["id"] for one in listed if one["status"] == "completed" and one["mode"] == "realistic")
    assert "pruned" in story.type(f"{JOBS} show {gone}")

    story.step = "upgrade"
    with (worker.CHECKOUT / "training" / "fleet" / "one.py").open("a") as more:
        more.write("2\n")
    again = story.install("git pull && sudo scripts/install-training-worker.sh")
    torch = ["torch.txt", "torch==2.13.0+cpu"]
    assert [[Path(words[-1]).name for words in pip][1:] for pip in (first, again)] == [torch, torch]

    counts = {step: len(story.typed[step]) for step in LIMITS}
    over = {step: story.typed[step] for step, (_, most) in LIMITS.items() if counts[step] > most + 1}
    assert over == {}, counts
