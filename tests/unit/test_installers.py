"""The installers for Linux and the units they install, as far as no service manager is needed."""

from __future__ import annotations

import os
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
        (["--recever", "x"], "found --recever, which is no flag of this; --help names the flags"),
        (["--python"], "found --python without a value; --help names the flags"),
        (["--purge"], "--purge belongs to --uninstall; --help names the flags"),
    ],
)
def test_a_wrong_flag_is_told_and_nothing_is_done(root: Path, name: str, flags: list[str], said: str) -> None:
    done = run(root / "scripts" / name, *flags)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{name}: {said}\n")


@pytest.mark.parametrize("name", INSTALLERS)
def test_help_names_every_flag_that_is_taken(root: Path, name: str) -> None:
    text = (root / "scripts" / name).read_text()
    taken = {line.strip().rstrip(")") for line in text.splitlines() if line.startswith(" " * 12 + "--")}
    done = run(root / "scripts" / name, "--help")
    assert done.returncode == 0
    assert len(taken) >= 8
    assert {flag for flag in {word.partition(")")[0] for word in taken} if flag not in done.stdout} == set()


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


def sourced(root: Path, commands: str, **environ: str) -> str:
    done = run(
        "bash",
        "-c",
        f"set -Eeu; . {root}/scripts/environment.sh; . {root}/scripts/installing.sh; {commands}",
        **environ,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_doctor_gets_the_settings_of_the_service_and_none_of_the_caller(root: Path, tmp_path: Path) -> None:
    settings = tmp_path / "worker.env"
    settings.write_text(
        "# a comment\nCIS490_DATASET=lab=/srv/lab\nCIS490_LOG_FILE=\"/srv/my log\"\nPATH=x\nCIS490_SLOTS='2'"
    )
    commands = f"MODE=user STATE={tmp_path} ENVIRONMENT={settings}; as_service env | grep -E '^(CIS490|STATE)_' | sort"
    assert sourced(root, commands, CIS490_RECEIVER="https://elsewhere", CIS490_SLOTS="9").splitlines() == [
        "CIS490_DATASET=lab=/srv/lab",
        "CIS490_LOG_FILE=/srv/my log",
        "CIS490_SLOTS=2",
        f"STATE_DIRECTORY={tmp_path}",
    ]
    assert (
        sourced(root, f"MODE=user STATE=/s ENVIRONMENT={tmp_path}/none; as_service env | grep -c CIS490 || true")
        == "0\n"
    )


def test_a_host_without_the_openmp_runtime_gets_it_with_the_trainer_alone(root: Path, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    asked = f"CHANGES=0 DRY_RUN=yes PYTHON={python}; REQUIREMENTS=trainer; want_openmp; REQUIREMENTS=; want_openmp"
    assert sourced(root, asked) == "would install the system package libgomp1\n"
    nothing = "CHANGES=0 DRY_RUN=no REQUIREMENTS=trainer PYTHON=true; want_openmp"
    assert sourced(root, nothing) == ""
