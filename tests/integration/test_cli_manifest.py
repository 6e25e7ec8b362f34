"""The daily edit of the manifest, as it is typed: plan, apply, look, go back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_receiver import HEAD, TOKEN, LiveReceiver, manifest

from training.fleet.cli import program

Typed = Callable[..., tuple[int, str, str]]
GBT = '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nname = "baseline"\nhyper = {{ max_iter = {} }}\n'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, HEAD + GBT.format(60)) as live:
        yield live


@pytest.fixture
def typed(receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.setenv("CIS490_RECEIVER", f"http://127.0.0.1:{receiver.port}")
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", TOKEN)

    def run(*words: str) -> tuple[int, str, str]:
        status = program.main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_one_hyper_parameter_is_edited_with_the_command_that_plan_prints(
    receiver: LiveReceiver, typed: Typed, tmp_path: Path
) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text(HEAD + GBT.format(80))
    (old,) = receiver.call("GET", "/v1/jobs").json["jobs"]
    status, shown, told = typed("plan", str(lab))
    assert status == 0
    assert f"max_iter 60 -> 80 replaces {old['id']}" in shown
    assert f"- {old['id']}  gbt oracle  no longer named, pending: withdrawn, no host is offered it" in shown
    command = re.fullmatch(r"apply exactly this with: cis490-jobs (.*)\n", told)
    assert command is not None
    status, shown, told = typed(*command[1].split())
    assert (status, told) == (0, "")
    assert shown.endswith("1 added, 0 changed, 0 unchanged, 1 dropped\n")
    assert old["id"] not in typed("list")[1]
    assert f"{old['id']}\tgbt\toracle" in typed("list", "--all")[1]
    assert "withdrawn: not in the manifest" in typed("show", old["id"])[1]
    assert "(1 of the pending withdrawn)" in typed("status")[1]
    assert '"max_iter": 80' in typed("show", "baseline")[1].replace("'", '"')


def test_a_running_job_that_is_no_longer_named_comes_with_the_command_that_cancels_it(
    receiver: LiveReceiver, typed: Typed, tmp_path: Path
) -> None:
    lease = receiver.claim("pi")
    receiver.call("POST", f"/v1/job/{lease['job_id']}/heartbeat", {"lease_id": lease["lease_id"]})
    receiver.manifest.write_text(HEAD + GBT.format(80))
    _, shown, told = typed("plan")
    assert f"running: goes on; stop it with: cis490-jobs cancel {lease['job_id'][:12]}" in shown
    assert re.search(r"cis490-jobs reload --if-plan [0-9a-f]{64}\n", told)


def test_hosts_that_change_are_shown_and_are_enough_to_print_the_command(receiver: LiveReceiver, typed: Typed) -> None:
    receiver.manifest.write_text(HEAD.replace("slots = 64", "allow_jobs = []") + GBT.format(60))
    status, shown, told = typed("plan", "--exit-code")
    assert status == 3
    assert 'host default: allow_jobs ["*"] -> [], slots 64 -> 1\n' in shown
    assert "warning: host default may train nothing from now on (allow_jobs is empty)" in shown
    assert told.startswith("apply exactly this with: cis490-jobs reload --if-plan ")


def test_old_manifests_are_listed_shown_compared_and_brought_back(
    receiver: LiveReceiver, typed: Typed, tmp_path: Path
) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text(HEAD + GBT.format(80))
    assert typed("apply", str(lab))[0] == 0
    rows = [line.split("\t") for line in typed("manifest", "history")[1].splitlines()]
    assert all(re.fullmatch(r"[-0-9]{10} [:0-9]{8}[+-][:0-9]{5}", row[2]) for row in rows)
    assert [(row[0], row[3], row[4], row[5], row[6]) for row in rows] == [
        ("2", "operator:operator", "apply", "1", "in force"),
        ("1", "receiver", "start", "1", "-"),
    ]
    assert typed("manifest", "show", "1")[1] == HEAD + GBT.format(60)
    assert typed("manifest", "show")[1] == lab.read_text()
    different = typed("manifest", "diff", "1")[1].splitlines()
    assert different[-2:] == ["-hyper = { max_iter = 60 }", "+hyper = { max_iter = 80 }"]
    _, _, told = typed("manifest", "rollback", "1", "--plan")
    command = re.fullmatch(r"apply exactly this with: cis490-jobs (manifest rollback 1 --if-plan .*)\n", told)
    assert command is not None
    assert typed(*command[1].split())[0] == 0
    assert typed("manifest", "history")[1].splitlines()[0].split("\t")[4] == "rollback"
    assert typed("manifest", "show", rows[0][1][:8])[1] == lab.read_text()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["manifest", "show", "9"], 1, "found no manifest 9 among the 1 that are kept"),
        (["manifest", "rollback"], 78, "`manifest rollback` got 0 numbers; expected 1"),
        (["manifest", "history", "1"], 78, "`manifest history` got 1 numbers; expected 0"),
        (["apply", "nowhere.toml"], 78, "cannot read nowhere.toml"),
        (["show", "base-line"], 1, "found no job of the name base-line"),
    ],
)
def test_what_is_not_there_is_told_with_the_next_command(
    typed: Typed, words: list[str], status: int, told: str
) -> None:
    found, _, error = typed(*words)
    assert (found, told in error) == (status, True), error


def test_somebody_elses_change_is_told_before_it_is_written_over(
    receiver: LiveReceiver, typed: Typed, tmp_path: Path
) -> None:
    begun_with = receiver.call("GET", "/v1/health").json["manifest"]["digest"]
    receiver.manifest.write_text(manifest(3))
    assert typed("reload")[0] == 0
    lab = tmp_path / "lab.toml"
    lab.write_text(HEAD + GBT.format(80))
    status, _, told = typed("apply", str(lab), "--if-manifest", begun_with)
    assert status == 1
    assert "operator:operator brought it in force at" in told


def test_a_name_that_fits_several_jobs_is_refused_with_the_candidates(
    receiver: LiveReceiver, typed: Typed, tmp_path: Path
) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text(HEAD + GBT.format(80) + "seeds = [1, 2]\n")
    lab.write_text(HEAD + '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nname = "twin"\ntags = ["x"]\nseeds = [1, 2]\n')
    typed("apply", str(lab))
    status, _, told = typed("cancel", "twin")
    assert (status, "twin fits several jobs: " in told) == (1, True)
    assert len(typed("list", "--tag", "x")[1].splitlines()) == 2
