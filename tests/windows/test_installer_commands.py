"""The installer, and the commands of the guide as its text has them, run under Wine.

Both end at a real receiver with TLS on loopback; see `pc_under_wine`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pc_under_wine import MANIFEST, ROOT, Lab
from tls_doors import direct
from windows_guide import INSTALLER, NEEDS_A_PC, commands
from wine import Program, processes_with, until, windows_path

from training.fleet import __version__

STOPPED = "stop the worker; its job goes back to the queue"
CODE = "C:\\Program Files\\cis490\\code"
WORKS_THERE = "import os, sys, time; os.chdir(sys.argv[1]); print('there', flush=True); time.sleep(600)"
REPLACED = "install interpreter, packages and code below C:\\Program Files\\cis490"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    it = Lab(tmp_path)
    with direct(tmp_path, MANIFEST % it.mark) as door:
        it.door = door
        yield it
        it.end()


def has(said: list[str], pattern: str) -> bool:
    return any(re.match(pattern, line) for line in said)


def test_the_installer_brings_a_host_from_an_invite_to_a_trained_job_through_an_upgrade_and_away(
    lab: Lab,
) -> None:
    data = f"lab={windows_path(ROOT / 'data' / 'lab')}\\"
    said = lab.install(**lab.invited("pc"), Dataset=data, WithoutTrainer=True)
    assert said[-1].startswith("The worker runs.")
    assert has(said, r"FAIL +libraries +those of no model are installed")
    assert has(said, r"ok +dataset lab +lab is valid")
    assert has(said, r"ok +receiver +answers at https://localhost:\d+")
    [host] = lab.workers()
    assert (host["name"], host["capability"]["os"]) == ("pc", "windows")
    assert "lab" in host["capability"]["datasets"]
    until("a job is trained", lambda: lab.job(1)["status"] == "completed")
    assert lab.job(1)["metrics"]["auroc"] == 0.75

    # an upgrade gives the job back before it touches the code, also for a person who looks at the code
    lab.working_folder = lab.on_drive(CODE)
    until("the trainer works", lambda: processes_with(lab.mark))
    with (lab.checkout / "training" / "__init__.py").open("a") as code:
        code.write("\n")
    said = lab.install(WithoutTrainer=True)
    assert said.index(STOPPED) < said.index(REPLACED)
    until("the job goes on from its checkpoint", lambda: lab.job(2)["status"] == "completed")
    assert lab.job(2)["metrics"]["resumed"] is True

    assert lab.install(WithoutTrainer=True)[-1] == "The worker runs already."
    lab.install(Uninstall=True, Purge=True)
    assert lab.running() == []
    assert not lab.task.exists()
    assert lab.left() == []


def test_an_uninstall_says_what_to_do_when_another_program_works_in_the_code_and_goes_on_afterwards(
    lab: Lab,
) -> None:
    lab.on_drive(CODE).mkdir(parents=True)
    other = Program("-c", WORKS_THERE, CODE)
    until("it works there", lambda: "there" in other.output)
    try:
        said = lab.install(statuses=(1,), Uninstall=True)
        assert re.search(rf"found {re.escape(CODE)}, which cannot be removed \(.*\); expected .*; close term", said[-1])
        assert lab.left() == ["Program Files/cis490"]
    finally:
        other.kill()
    lab.working_folder = lab.on_drive(CODE)
    assert lab.install(Uninstall=True)[-1].startswith("The worker is removed.")
    assert lab.left() == []


def test_the_guide_typed_as_it_stands_brings_a_host_into_the_fleet_and_out_of_it(lab: Lab) -> None:
    shown = {command: lab.type_in(command) for command in commands() if command not in NEEDS_A_PC}
    installed = next(said for command, said in shown.items() if "-CaSha256" in command)
    assert has(installed, r"Successfully installed .*\blightgbm-")
    assert has(installed, r"ok +trainer +answers --describe")
    assert "This host can train." in installed
    [log] = [said for command, said in shown.items() if "worker.log" in command]
    assert has(log, r"\S+ worker started host=gpu-tower ")
    [found] = [said for command, said in shown.items() if " doctor " in command]
    for check in (
        "python",
        "settings",
        "work folder",
        "trainer",
        "libraries",
        "secret",
        "connection",
        "tls",
        "identity",
    ):
        assert has(found, rf"ok +{check} +\S"), found
    assert has(shown["cis490-jobs hosts"], rf"gpu-tower\s.*\s{re.escape(__version__)}\s")
    paused, resumed = shown[f"{INSTALLER} -Pause"], shown[f"{INSTALLER} -Resume"]
    assert paused[0] == STOPPED
    assert resumed[-1].startswith("The worker runs.")
    assert (lab.running(), lab.task.exists()) == ([], False)
    assert lab.left() == ["ProgramData/cis490"]  # settings and runs stay without -Purge
    assert has(shown["cis490-jobs identity revoke gpu-tower"], r"gpu-tower\s+revoked\s")
