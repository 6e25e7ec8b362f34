"""The scripts that install on Linux, and the units: what they do before a service manager is needed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

INSTALLERS = ("install-training-worker.sh", "install-trainer-receiver.sh")
UNITS = {"cis490-trainer-receiver": 20, "cis490-training-worker": 30}
LEFTOVERS = "exit-code:1", "signal:KILL", "core-dump:ABRT", "watchdog:ABRT", "oom-kill:KILL"


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unit_keys(root: Path, unit: str) -> dict[str, str]:
    lines = (root / f"etc/systemd/{unit}.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.mark.parametrize("name", INSTALLERS)
def test_a_download_that_was_cut_off_runs_nothing(root: Path, tmp_path: Path, name: str) -> None:
    """Where a line ends, and at each byte of the last ones. A command that runs would leave its name in the folder."""
    text = (root / "scripts" / name).read_text()
    ends = [place + 1 for place, letter in enumerate(text) if letter == "\n"][:-1:8]
    cuts = sorted({*ends, *range(len(text) - 40, len(text) - 1)})
    assert text.endswith('{ main "$@"; exit; }\n')
    (tmp_path / "dirname").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "dirname").chmod(0o755)
    script = tmp_path / name
    for cut in cuts:
        script.write_text(text[:cut])
        done = run(shutil.which("bash") or "bash", script, PATH=str(tmp_path))
        assert done.stdout == "", text[:cut][-80:]
        assert not (tmp_path / "ran").exists(), text[:cut][-80:]
    script.write_text(text)
    run(shutil.which("bash") or "bash", script, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", INSTALLERS)
def test_a_script_without_its_project_says_so(root: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(root / "scripts" / name, tmp_path)
    done = run("bash", tmp_path / name)
    assert done.returncode == 78
    assert done.stderr == f"{name}: this is a part of the project; clone it and run the script in the clone\n"


@pytest.mark.parametrize("name", INSTALLERS)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recever", "x"], "unrecognized arguments: --recever x"),
        (["--python"], "argument --python: expected one argument"),
        (["--purge"], "--purge belongs to "),
    ],
)
def test_a_wrong_flag_is_told_and_nothing_is_done(root: Path, name: str, flags: list[str], said: str) -> None:
    done = run(root / "scripts" / name, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {said}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (
            [INSTALLERS[0]],
            "receiver host code ca-sha256 dataset without-trainer with-trainer torch torch-index python wheels user "
            "dry-run",
        ),
        ([INSTALLERS[0], "--uninstall"], "purge user dry-run"),
        ([INSTALLERS[1]], "listen host-names python wheels user dry-run uninstall purge"),
    ],
)
def test_help_names_every_flag(root: Path, words: list[str], flags: str) -> None:
    done = run(root / "scripts" / words[0], *words[1:], "--help")
    assert done.returncode == 0
    assert {word.lstrip("-") for word in re.findall(r"--[a-z-]+\d*", done.stdout)} == {"help", *flags.split()}


@pytest.mark.parametrize("name", INSTALLERS)
def test_a_python_that_is_too_old_or_not_there_is_told(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "old").write_text("#!/bin/sh\necho 3.9.2\nexit 1\n")
    (tmp_path / "old").chmod(0o755)
    for flags, environ in ((["--python", str(tmp_path / "old")], {}), ([], {"PYTHON": str(tmp_path / "old")})):
        done = run(root / "scripts" / name, *flags, **environ)
        assert (done.returncode, done.stdout) == (78, "")
        assert f"found no Python 3.11 or newer ({tmp_path / 'old'} is 3.9.2)" in done.stderr


@pytest.mark.parametrize("name", INSTALLERS)
def test_nothing_is_written_into_the_checkout_and_nothing_of_the_caller_is_loaded(
    root: Path, tmp_path: Path, name: str
) -> None:
    """It may run as root, in a checkout of a person."""
    checkout, caller = tmp_path / "checkout", tmp_path / "caller"
    for part in ("scripts", "training"):
        shutil.copytree(root / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    caller.mkdir()
    (caller / "argparse.py").write_text("raise SystemExit('the one of the caller')\n")
    done = run("sh", "-c", f"cd {caller}; {checkout}/scripts/{name} --help", PYTHONPATH=str(caller))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("__pycache__")) == []


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        (INSTALLERS[0], "python3 -m training.fleet.worker enrol --help, then python3 -m training.fleet.worker"),
        (INSTALLERS[1], "python3 -m training.fleet.receiver --help"),
    ],
)
def test_a_host_without_systemd_gets_the_command_to_start_by_hand(root: Path, name: str, by_hand: str) -> None:
    script = 'mount -t tmpfs none /run && exec "$@"'
    done = run("unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", script, "sh", root / "scripts" / name)
    assert done.returncode == 69
    assert done.stderr.endswith(f"so no service can be installed; in the checkout, start it by hand: {by_hand}\n")
    assert done.stdout == ""


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_as_hardened_as_promised(root: Path, unit: str) -> None:
    path = root / f"etc/systemd/{unit}.service"
    done = run("systemd-analyze", "security", "--offline=true", f"--threshold={UNITS[unit]}", "--no-pager", path)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_watched_and_ends_for_good_at_78(root: Path, unit: str) -> None:
    keys = unit_keys(root, unit)
    assert keys["Type"] == "notify"
    assert int(keys["WatchdogSec"]) >= 60
    assert keys["RestartPreventExitStatus"] == "78"


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_among_the_last_to_go_when_memory_runs_out_and_has_files_enough(root: Path, unit: str) -> None:
    """A trainer, which asks to be the first to go, must not take the worker's whole unit along."""
    keys = unit_keys(root, unit)
    assert int(keys["OOMScoreAdjust"]) <= -500
    assert int(keys["LimitNOFILE"]) >= 16384
    assert keys.get("OOMPolicy") == ("continue" if unit == "cis490-training-worker" else None)


@pytest.mark.parametrize(("ended", "left"), [*((ended, True) for ended in LEFTOVERS), ("success:0", False),
                                              ("timeout:KILL", False), ("exit-code:78", False)])  # fmt: skip
def test_only_a_worker_that_is_started_again_finds_its_trainers(
    root: Path, tmp_path: Path, ended: str, left: bool
) -> None:
    """The unit's last command, with a made-up /proc: one sleeper in the service's control group, one outside."""
    command = unit_keys(root, "cis490-training-worker")["ExecStopPost"]
    script = command.removeprefix("-/bin/sh -c '").removesuffix("'").replace("$$", "$").replace("/proc", "proc")
    inside, outside = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    for name, group in (("self", "service"), (str(inside.pid), "service"), (str(outside.pid), "session")):
        (tmp_path / "proc" / name).mkdir(parents=True)
        (tmp_path / "proc" / name / "cgroup").write_text(f"0::/{group}\n")
    try:
        result, _, status = ended.partition(":")
        run("sh", "-c", f"cd {tmp_path}; {script}", SERVICE_RESULT=result, EXIT_STATUS=status)
        if left:
            assert inside.poll() is None
        else:
            assert inside.wait(10) == -signal.SIGKILL
        assert outside.poll() is None
    finally:
        for sleeper in (inside, outside):
            sleeper.kill()
            sleeper.wait()
