"""The demo as a newcomer runs it, except that the environment is the one the tests run in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("demo")

LIMIT_S = 600


def environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("CIS490_")}


def command(root: Path, state: Path, *options: str) -> list[str]:
    return [sys.executable, str(root / "tools" / "demo.py"), "--state", str(state), *options]


def processes(state: Path) -> list[tuple[int, str]]:
    """Return number and command line of the live processes that name a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(state) in line:
                found.append((int(entry.name), line))
    return found


def processes_of(state: Path) -> list[str]:
    """Return their command lines alone."""
    return [line for _, line in processes(state)]


@pytest.fixture(scope="module")
def options(root: Path, tmp_path_factory: pytest.TempPathFactory, daily: bool) -> list[str]:
    """The manifest of the demo: as shipped in the long version, with the same jobs cut short in the ordinary run."""
    if not daily:
        return []
    text = (root / "etc" / "demo_manifest.toml").read_text()
    for model, hyper in (("gbt", "max_iter = 5"), ("mlp", "max_epochs = 2")):
        text = text.replace(f'model = "{model}"', f'model = "{model}"\nhyper = {{ {hyper} }}')
    manifest = tmp_path_factory.mktemp("short") / "demo_manifest.toml"
    manifest.write_text(text)
    return ["--manifest", str(manifest)]


@pytest.fixture(scope="module")
def trained(
    root: Path, tmp_path_factory: pytest.TempPathFactory, options: list[str]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A state folder in which the demo ran once, and what it said."""
    state = tmp_path_factory.mktemp("demo") / "state"
    done = subprocess.run(
        command(root, state, *options), env=environ(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return state, done


def test_the_demo_trains_every_job_and_shows_figures_and_artifacts(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    state, done = trained
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("JOB\tMODEL\t"))
    rows = [line.split("\t") for line in lines[head + 1 : head + 5]]
    assert {(row[1], row[2], row[3]) for row in rows} == {
        ("gbt", "realistic", "hosts"),
        ("gbt", "oracle", "hosts"),
        ("mlp", "realistic", "hosts"),
        ("mlp", "oracle", "hosts"),
    }
    for row in rows:
        assert 0.5 < float(row[6]) <= 1
        assert 0 < float(row[7]) <= 1
        assert re.fullmatch(r"[0-9a-f]{64}", row[8])
        assert Path(row[9]).is_file()
    stored = [json.loads(line) for line in (state / "index.jsonl").read_text().splitlines()]
    assert {item["sha256"] for item in stored} == {row[8] for row in rows}
    assert sum(line.startswith("done ") for line in lines) == 4
    assert "data/lab/README.md" in done.stdout


def test_the_demo_leaves_nothing_running(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert processes_of(trained[0]) == []


def test_a_second_run_trains_nothing_and_says_so(
    root: Path, trained: tuple[Path, subprocess.CompletedProcess[str]], options: list[str]
) -> None:
    state, first = trained
    words = command(root, state, *options)
    again = subprocess.run(words, env=environ(), capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.startswith("nothing to train: all 4 jobs were completed by an earlier run")
    table = first.stdout[first.stdout.index("JOB\t") :].splitlines()[:5]
    assert again.stdout[again.stdout.index("JOB\t") :].splitlines()[:5] == table
    assert processes_of(state) == []


def test_keep_invites_to_look_and_ends_clean_on_ctrl_c(
    root: Path, trained: tuple[Path, subprocess.CompletedProcess[str]], options: list[str]
) -> None:
    state, _ = trained
    words = command(root, state, "--keep", *options)
    process = subprocess.Popen(words, env=environ(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = ""
    while "plan etc/demo_manifest.toml" not in text:
        line = process.stdout.readline()
        assert line, text
        text += line
    found = dict(re.findall(r"export (\w+)=(\S+)", text))
    asked = subprocess.run(
        [sys.executable, "-I", "-S", "tools/cis490_jobs.py", "plan", "--exit-code",
         *(options[1:] or ["etc/demo_manifest.toml"])],
        cwd=root, env={**environ(), **found}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.endswith("stopped, nothing is left running; run it again and it goes on where it was\n")
    assert processes_of(state) == []


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda name: name.name)
def test_a_demo_that_is_stopped_while_it_trains_leaves_nothing_running(
    root: Path, tmp_path: Path, name: signal.Signals
) -> None:
    state = tmp_path / "state"
    process = subprocess.Popen(command(root, state), env=environ(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("starts "):
        assert process.poll() is None
    process.send_signal(name)
    process.communicate(timeout=60)
    assert process.returncode == 130
    end = time.monotonic() + 5
    while processes_of(state) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(state) == []


def test_a_receiver_that_cannot_start_is_told_in_one_line(root: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "bad.toml"
    manifest.write_text("[manifest]\nschema = 1\nnonsense = 2\n")
    done = subprocess.run(
        command(root, tmp_path / "state", "--manifest", str(manifest)),
        env=environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the receiver ended with exit status 78" in done.stderr
    assert "nonsense" in done.stderr
    assert done.stderr.count("\n") == 1
    assert processes_of(tmp_path) == []


TOY = """
import json, sys
if "--describe" in sys.argv:
    print(open({schema!r}).read())
else:
    sys.stderr.write("reading\\nValueError: found no rows\\n")
    sys.exit(1)
"""


def test_a_job_that_fails_shows_its_actual_error_and_is_tried_again_by_the_next_run(root: Path, tmp_path: Path) -> None:
    schema = tmp_path / "toy.schema.json"
    schema.write_text(json.dumps({
        "properties": {"mode": {"enum": ["oracle"]}, "split_recipe": {"enum": ["hosts"]}},
        "$defs": {"toy": {"type": "object", "properties": {}}},
    }))  # fmt: skip
    (tmp_path / "toy.py").write_text(TOY.format(schema=str(schema)))
    manifest = tmp_path / "manifest.toml"
    manifest.write_text(
        f'[trainer]\ncommand = ["{{python}}", "{tmp_path / "toy.py"}"]\nschema = "toy.schema.json"\n'
        "[manifest]\nschema = 1\n[hosts.default]\n"
        '[[jobs]]\nmodel = "toy"\nmode = "oracle"\nmax_attempts = 1\n'
    )
    for _ in range(2):
        done = subprocess.run(
            command(root, tmp_path / "state", "--manifest", str(manifest)),
            env=environ(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        assert "training 1 of 1 jobs on this machine" in done.stdout
        assert ", trainer_error\n" in done.stdout
        assert "    ValueError: found no rows\n" in done.stdout.replace("reading\n    ", "")
    assert processes_of(tmp_path) == []


def test_a_worker_that_is_killed_ends_the_demo_and_leaves_nothing_running(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = subprocess.Popen(
        command(root, state), env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("starts "):
        assert process.poll() is None
    worker = next(pid for pid, line in processes(state) if "training.fleet.worker" in line)
    os.kill(worker, signal.SIGKILL)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (1, "demo: the worker was killed by SIGKILL; run the demo again\n")
    end = time.monotonic() + 30
    while processes_of(state) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(state) == []
