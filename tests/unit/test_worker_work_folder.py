"""A worker works in no folder that another user has a hand in."""

from __future__ import annotations

import io
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from training.fleet import system
from training.fleet.checks import Look, made
from training.fleet.model.errors import ConfigurationError
from training.fleet.worker import doctor, program
from training.fleet.worker.enrol import enrol_host
from training.fleet.worker.options import options
from training.fleet.worker.work_folder import PARTS, demand_own, demand_own_way, make_private, make_work_folder

STRANGER = 54321
"""A user whom no machine knows."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """Path to the user whom it is to belong to: giving a file away takes root, which tests may not be."""
    given: dict[Path, int] = {}
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        found = tuple(real(self))
        return os.stat_result((*found[:4], given.get(self, found[4]), *found[5:]))

    monkeypatch.setattr(Path, "lstat", lstat)
    return given


def refused(work: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make_work_folder(work)
    assert caught.value.exit_status == 78
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_work_folder_and_all_above_it_that_is_missing_is_made_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        make_work_folder(tmp_path / "state" / "cis490" / "worker")
        make_private(tmp_path / "state" / "cis490" / "worker" / "resume" / "job")
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {mode(path) for path in made} == {0o700}
    assert len(made) == 5


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_a_worker_has_made_is_taken_again_under_any_umask(work: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):
            make_work_folder(work)
            for part in PARTS:
                make_private(work / part)
    finally:
        os.umask(before)
    demand_own(work)


@pytest.mark.parametrize("place", [".", *PARTS])
@pytest.mark.parametrize("rights", [0o770, 0o720, 0o702, 0o777, 0o1777, 0o2775])
def test_a_folder_that_others_may_write_is_refused_with_the_command_that_closes_it(
    work: Path, place: str, rights: int
) -> None:
    for part in PARTS:
        make_private(work / part)
    (work / place).chmod(rights)
    said = refused(work)
    assert f"other users may write to {work / place};" in said
    subprocess.run(shlex.split(said.rpartition("run: ")[2]), check=True)
    make_work_folder(work)


def test_all_that_others_may_write_is_named_at_once_and_the_command_closes_it_all(tmp_path: Path) -> None:
    work = tmp_path / "my work"
    for part in PARTS:
        make_private(work / part)
        (work / part).chmod(0o775)
    work.chmod(0o775)
    said = refused(work)
    assert said.endswith(f"run: chmod go-w '{work}' '{work}/runs' '{work}/resume'")
    subprocess.run(shlex.split(said.rpartition("run: ")[2]), check=True)
    make_work_folder(work)


@pytest.mark.parametrize("rights", [0o700, 0o750, 0o755, 0o711, 0o2750])
def test_a_folder_that_others_may_at_most_read_is_fine(work: Path, rights: int) -> None:
    work.mkdir()
    work.chmod(rights)
    make_work_folder(work)


@pytest.mark.parametrize("place", [".", *PARTS])
@pytest.mark.parametrize("kind", ["folder", "missing"])
def test_a_link_is_refused(tmp_path: Path, work: Path, place: str, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    if place != ".":
        make_private(work)
    (work / place).symlink_to(target)
    assert f"found a link at {work / place}; expected a folder; delete the link" in refused(work)
    assert not list(target.iterdir()) if kind == "folder" else not target.exists()


@pytest.mark.parametrize("place", [".", *PARTS])
def test_a_folder_that_another_user_made_first_is_refused(work: Path, owners: dict[Path, int], place: str) -> None:
    for part in PARTS:
        make_private(work / part)
    owners[work / place] = STRANGER
    assert refused(work).startswith(
        f"{work / place} belongs to the user {STRANGER}; expected a folder of {system.user()}"
    )


def test_a_folder_of_root_is_no_work_folder_for_another_user(
    work: Path, owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    work.mkdir()
    owners.update(dict.fromkeys((work, *work.parents), 0))
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    said = refused(work)
    assert said.startswith(f"{work} belongs to the user root; expected a folder of {STRANGER}")
    assert f"run: sudo chown -R {STRANGER} {work}; else give another" in said


def test_a_folder_of_another_user_is_no_work_folder_for_root(
    work: Path, owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    work.mkdir()
    owners.update(dict.fromkeys(work.parents, 0) | {work: STRANGER})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert refused(work).startswith(f"{work} belongs to the user {STRANGER}; expected a folder of root")


# ---- the way to it


def test_a_folder_above_that_everybody_may_write_is_refused_and_a_sticky_one_is_fine(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o1777)
    make_work_folder(above / "sticky")
    above.chmod(0o777)
    said = refused(above / "state" / "work")
    assert f"everybody may write to {above} and could put something else" in said
    assert f"run: chmod o-w {above}," in said
    assert not (above / "state").exists()
    above.chmod(0o775)  # a group of its user alone, as many systems make it
    make_work_folder(above / "state" / "work")


@pytest.mark.parametrize("rights", [0o777, 0o755])
def test_a_folder_above_that_another_user_made_first_where_everybody_may_is_refused(
    tmp_path: Path, owners: dict[Path, int], rights: int
) -> None:
    tmp_path.chmod(0o1777)
    above = tmp_path / "cis490"
    above.mkdir()
    above.chmod(rights | 0o1000)
    owners[above] = STRANGER
    said = refused(above / "state" / "work")
    assert said.startswith(f"{above} belongs to the user {STRANGER}, who could put something else in the place of")
    assert not (above / "state").exists()
    owners[above] = 0
    make_work_folder(above / "state" / "work")


@pytest.mark.parametrize("rights", [0o755, 0o2775, 0o1777])
def test_a_folder_above_whose_owner_an_administrator_chose_is_fine(
    tmp_path: Path, owners: dict[Path, int], rights: int
) -> None:
    """As of a group's disk that belongs to its head, or of a checkout that a container shows to its root."""
    above = tmp_path / "group"
    above.mkdir()
    above.chmod(rights)
    owners[above] = STRANGER
    make_work_folder(above / "state" / "work")


def test_the_way_behind_a_link_is_looked_at_as_well(tmp_path: Path) -> None:
    """Systems link /home and /var elsewhere, so a link above is fine; what it leads through must be as well."""
    (tmp_path / "real" / "home").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "real" / "home")
    make_work_folder(tmp_path / "home" / "work")
    (tmp_path / "real").chmod(0o777)
    assert f"everybody may write to {tmp_path / 'real'} and" in refused(tmp_path / "home" / "work")


def test_a_link_above_that_another_user_made_where_everybody_may_is_refused(
    tmp_path: Path, owners: dict[Path, int]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "tmp" / "link").symlink_to(tmp_path / "real")
    owners[tmp_path / "tmp" / "link"] = STRANGER
    assert f"{tmp_path}/tmp/link belongs to the user {STRANGER}" in refused(tmp_path / "tmp" / "link" / "work")
    assert list((tmp_path / "real").iterdir()) == []


def test_links_in_a_ring_end_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for work in (tmp_path / "one", tmp_path / "one" / "state" / "work"):
        assert program.main(["--once", "--work-dir", str(work)]) == 78
        said = capsys.readouterr().err
        assert (said.count("\n"), str(tmp_path / "one") in said) == (1, True)


# ---- the commands


def test_a_worker_ends_with_78_and_touches_nothing_in_a_folder_of_somebody_else(tmp_path: Path, root: Path) -> None:
    """With the real rights of this machine: root is given a folder of another user, everybody else one of root."""
    work = Path("/usr") if os.geteuid() else tmp_path / "work"
    if os.geteuid() == 0:
        (work / "runs" / "mine.gone").mkdir(parents=True)
        os.chown(work, STRANGER, STRANGER)
    for action in ("--once", "--self-test"):
        done = subprocess.run(
            [sys.executable, "-m", "training.fleet.worker", action, "--work-dir", str(work)],
            cwd=root, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.startswith(f"cis490-training-worker: {work} belongs to the user ")
        assert done.stderr.count("\n") == 1
    if os.geteuid() == 0:
        assert [path.name for path in work.rglob("*")] == ["runs", "mine.gone"]


def test_the_worker_says_it_on_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_private(work / "runs")
    (work / "runs").chmod(0o777)
    assert program.main(["--once", "--work-dir", str(work)]) == 78
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"run: chmod go-w {work}/runs" in said


def test_the_doctor_says_the_same(work: Path) -> None:
    make_private(work / "runs")
    (work / "runs").chmod(0o777)
    look = Look("work folder", lambda: doctor.work_folder(options({"work_dir": str(work)}, {"HOME": str(work)})))
    [check] = made([look])
    assert check.found == f"other users may write to {work}/runs; expected folders that {system.user()} alone may write"
    assert (check.state, check.remedy.endswith(f"run: chmod go-w {work}/runs")) == ("fail", True)
    work.parent.chmod(0o777)
    [check] = made([look])
    assert (check.state, check.found.startswith(f"everybody may write to {work.parent} and")) == ("fail", True)


def test_a_doctor_of_another_user_than_the_workers_is_not_told_to_move_the_folder(
    work: Path, owners: dict[Path, int]
) -> None:
    make_private(work)
    owners[work] = STRANGER
    state, found, remedy = doctor.work_folder(options({"work_dir": str(work)}, {"HOME": str(work)}))
    assert (state, found) == ("fail", f"{work} belongs to the user {STRANGER}, and this is {system.user()}")
    assert remedy.startswith(f"run doctor as {STRANGER} if the worker runs so; else")


@pytest.mark.parametrize("flag", ["--secret-file", "--settings-file", "--ca-file"])
def test_enrol_writes_nothing_where_everybody_could_put_something_else(
    tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    words = ["--receiver", "https://127.0.0.1:1", "--host", "box", "--ca-sha256", "a" * 64, flag, str(loose / "file")]
    assert enrol_host(words, {"STATE_DIRECTORY": str(tmp_path / "state")}, io.StringIO("")) == 78
    assert f"everybody may write to {loose} and could put" in capsys.readouterr().err
    assert list(loose.iterdir()) == []


def test_an_authority_that_is_only_read_may_lie_in_a_folder_of_another_user(
    tmp_path: Path, owners: dict[Path, int]
) -> None:
    tmp_path.chmod(0o1777)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    owners[shelf] = STRANGER
    words = ["--receiver", "https://127.0.0.1:1", "--host", "box", "--ca-file", str(shelf / "ca.pem")]
    code = io.StringIO("the-one-time-code-of-this-test-ab\n")
    assert enrol_host(words, {"STATE_DIRECTORY": str(tmp_path / "state")}, code) == 69
    with pytest.raises(ConfigurationError, match="belongs to"):
        demand_own_way(shelf / "ca.pem")
