"""`cis490-trainer-receiver doctor` on real files and beside a real receiver, with real causes."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from integrity_site import Site as Files
from live_receiver import HEAD, TOKEN, LiveReceiver, manifest
from tls_site import Site

from training.fleet.receiver import belongings, doctor, main
from training.fleet.tls.certificates import DAY_S

Found = dict[str, dict[str, str]]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CIS490_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", TOKEN)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "receiver"))
    (tmp_path / "manifest.toml").write_text(manifest(2))
    monkeypatch.setenv("CIS490_MANIFEST", str(tmp_path / "manifest.toml"))
    monkeypatch.setenv("CIS490_FLOOR_BYTES", "1")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files") / "receiver")


def examined(capsys: pytest.CaptureFixture[str], *flags: str, port: int = 0) -> tuple[int, Found]:
    """Return the exit status and the checks by name; whatever it finds, it prints no secret."""
    status = main(["doctor", "--json", "--listen-addr", f"127.0.0.1:{port}", *flags])
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    assert "Traceback" not in out + err
    return status, {check["name"]: check for check in json.loads(out)["checks"]}


def test_a_healthy_receiver_that_does_not_run_has_nothing_that_fails(
    template: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = template.copied(tmp_path / "receiver")
    before = {path.name: path.read_bytes() for path in files.folder.iterdir() if path.is_file()}
    status, found = examined(capsys)
    assert status == 0
    assert {name for name, check in found.items() if check["state"] == "warn"} <= {"sqlite", "backups", "clock"}
    assert [name for name, check in found.items() if check["state"] == "skip"] == ["service"]
    assert "pages as their sums say" in found["database"]["found"]
    assert found["manifest"]["found"].endswith("is valid: 2 jobs, 1 hosts, and its trainer answers")
    assert "CIS490_OPERATOR_TOKEN set" in found["tokens"]["found"]
    assert {path.name: path.read_bytes() for path in files.folder.iterdir() if path.is_file()} == before


def test_a_receiver_that_runs_is_asked_and_its_database_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        status, found = examined(capsys, "--db", str(live.settings["db"]), port=live.port)
        assert (status, found["address"]["found"]) == (
            0,
            f"a receiver listens on 127.0.0.1:{live.port} (this machine alone) and is ready",
        )
        assert found["database"]["found"].endswith("is open in the receiver that runs; cis490-jobs fsck has it checked")
        live.fleet.access.problems.append("the operators before stay in force")
        status, found = examined(capsys, port=live.port)
        assert (status, found["address"]["state"]) == (1, "fail")
        assert found["address"]["found"].endswith("is not ready: the operators before stay in force")


def test_a_receiver_that_tells_its_reasons_to_readers_alone_is_asked_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = {"operator": "an-operator-token-for-tests", "read": "a-read-token-for-tests"}
    with LiveReceiver(tmp_path, manifest(2), tokens) as live:
        _, found = examined(capsys, port=live.port)
        assert found["address"]["found"].endswith(" and is ready")
        live.fleet.access.problems.append("the operators before stay in force")
        _, found = examined(capsys, port=live.port)
        assert (found["address"]["state"], found["address"]["remedy"]) == ("fail", "cis490-jobs status has all of it")
        assert found["address"]["found"].endswith(" and is not ready")


def test_another_program_at_the_address_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        doctor_found = doctor.address(_chosen(port), None)
    assert doctor_found[:2] == (
        "fail",
        f"127.0.0.1:{port} (this machine alone) cannot be taken (address already in use)",
    )
    assert f"sport = :{port}" in doctor_found[2]


def _chosen(port: int) -> Any:
    return {"listen_addr": f"127.0.0.1:{port}"}


@pytest.mark.parametrize(
    ("text", "state", "says"),
    [
        (HEAD + '[[jobs]]\nmodel = "gbt"\nmode = "orakel"\nseed = "x"\n', "fail", "orakel"),
        ("rubbish", "fail", "expected valid TOML"),
        (HEAD, "warn", "names no job"),
        (manifest(1, head=HEAD.partition("[hosts")[0]), "warn", "names no host"),
        (
            HEAD + '[trainer]\ncommand = ["no-such-trainer"]\n' + '[[jobs]]\nmodel = "x"\nmode = "oracle"\n',
            "fail",
            "trainer",
        ),
    ],
)
def test_a_manifest_is_judged_with_all_its_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, state: str, says: str
) -> None:
    (tmp_path / "manifest.toml").write_text(text)
    status, found = examined(capsys)
    assert (status, found["manifest"]["state"]) == (1 if state == "fail" else 0, state)
    assert says in found["manifest"]["found"]
    if says == "orakel":
        assert "seed" in found["manifest"]["found"]


FOREIGN = HEAD + '[trainer]\ncommand = ["{python}", "mine.py"]\n[[jobs]]\nmodel = "x"\nmode = "oracle"\n'


@pytest.mark.parametrize(("root", "owner", "asked"), [(True, 1234, False), (True, 0, True), (False, 1234, True)])
def test_as_root_doctor_starts_no_program_for_the_manifest_of_another_user(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    root: bool,
    owner: int,
    asked: bool,
) -> None:
    """Who may write the manifest of a service must not become root when an administrator looks for a fault."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'started')!r}, 'w').close()\n")
    (tmp_path / "manifest.toml").write_text(FOREIGN)
    real = Path.stat

    def stat(path: Path, **more: Any) -> Any:
        facts = list(real(path, **more))
        if path == tmp_path:  # the nearest folder of the database that is there
            facts[4] = owner
        return os.stat_result(facts)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1234)
    _, found = examined(capsys)
    assert (tmp_path / "started").exists() is asked
    assert ("was not started, because this is root" in found["manifest"]["found"]) is not asked
    assert (f"sudo -u '#{owner}'" in found["manifest"]["remedy"]) is not asked


def test_doctor_keeps_to_the_setting_that_no_trainer_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'started')!r}, 'w').close()\n")
    (tmp_path / "manifest.toml").write_text(FOREIGN)
    status, found = examined(capsys, "--schema-required")
    assert (status, "schema_required" in found["manifest"]["found"]) == (1, True)
    assert not (tmp_path / "started").exists()


def test_tokens_that_are_missing_short_or_readable_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = main(["doctor", "--json", "--listen-addr", "0.0.0.0:0"])
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (status, found["tokens"]["state"]) == (1, "fail")
    assert "CIS490_READ_TOKEN: found not set, expected 16 or more characters" in str(found["tokens"])
    monkeypatch.delenv("CIS490_OPERATOR_TOKEN")
    _, found = examined(capsys)
    assert (found["tokens"]["state"], "nobody may change the queue" in found["tokens"]["found"]) == ("warn", True)
    secret = tmp_path / "operator.token"
    secret.write_text(TOKEN)
    secret.chmod(0o644)
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN_FILE", str(secret))
    _, found = examined(capsys)
    assert (found["tokens"]["state"], found["tokens"]["remedy"]) == (
        "fail",
        f"run chmod o= {secret}",
    )


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_page_that_differs_from_its_sum_fails(
    template: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = template.copied(tmp_path / "receiver")
    data = bytearray(files.db.read_bytes())
    data[-1] ^= 1
    files.db.write_bytes(data)
    status, found = examined(capsys)
    assert (status, found["database"]["found"]) == (1, f"1 pages of {files.db} differ from their sums")
    assert found["database"]["remedy"] == "cis490-trainer-receiver fsck"


def test_a_database_that_is_none_fails_and_one_that_is_not_there_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = examined(capsys)
    assert found["database"]["found"].endswith("queue.db is made at the first start")
    (tmp_path / "receiver").mkdir()
    (tmp_path / "receiver/queue.db").write_bytes(b"no database at all" * 500)
    status, found = examined(capsys)
    assert (status, found["database"]["state"]) == (1, "fail")
    assert "is damaged" in found["database"]["found"]


def test_the_log_of_a_receiver_that_was_killed_is_left_to_the_next_start(
    template: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = template.copied(tmp_path / "receiver")
    log = files.db.with_name("queue.db-wal")
    log.write_bytes(b"")
    _, found = examined(capsys)
    assert (found["database"]["state"], log.exists()) == ("ok", True)
    assert "the next start takes it up" in found["database"]["found"]


def test_a_place_that_is_no_folder_or_cannot_be_written_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    status, found = examined(capsys, "--store-root", str(tmp_path / "file/store"))
    assert (status, found["folders"]["found"]) == (1, f"store_root: {tmp_path}/file is no folder")
    assert found["database"]["found"] == "not looked at, because folders failed"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    status, found = examined(capsys)
    assert (status, "cannot write in" in found["folders"]["found"]) == (1, True)
    assert "sudo chown" in found["folders"]["remedy"]


def test_a_place_that_everybody_may_write_is_told_with_the_command_that_closes_it(
    template: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template.copied(tmp_path / "receiver")
    (tmp_path / "receiver").chmod(0o777)
    _, found = examined(capsys)
    assert found["folders"]["state"] == "warn"
    assert found["folders"]["remedy"] == f"chmod o-w {tmp_path}/receiver"
    (tmp_path / "receiver").chmod(0o1777)
    assert examined(capsys)[1]["folders"]["state"] == "ok"


def test_too_little_space_fails(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = examined(capsys, "--floor-bytes", str(2**60))
    assert (status, found["free space"]["state"]) == (1, "fail")


@pytest.mark.parametrize(("kind", "state"), [("ext4", "ok"), ("nfs4", "warn"), ("fuse.sshfs", "warn")])
def test_a_database_on_a_network_file_system_is_told(tmp_path: Path, kind: str, state: str) -> None:
    mounts = tmp_path / "mountinfo"
    lines = ["22 1 8:1 / / rw - xfs /dev/sda1 rw", f"30 22 0:4 / {tmp_path} rw shared:1 - {kind} server:/x rw"]
    mounts.write_text("\n".join([*lines, "31 22 0:5 / /elsewhere rw - nfs server:/y rw", "broken"]))
    assert belongings.file_system(tmp_path / "queue.db", mounts)[0] == state
    assert belongings.file_system(tmp_path / "queue.db", tmp_path / "none")[0] == "skip"


@pytest.mark.parametrize(("kind", "state"), [("xfs", "ok"), ("nfs4", "warn"), ("cifs", "warn")])
def test_a_store_on_a_network_file_system_is_told(tmp_path: Path, kind: str, state: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 22 0:4 / {tmp_path} rw shared:1 - {kind} server:/x rw\n")
    chosen = {"store_root": tmp_path / "store", "incoming_root": tmp_path / "incoming"}
    found = belongings.store(chosen, mounts)  # type: ignore[arg-type]
    assert (found[0], "one host" in found[2]) == (state, state == "warn")


def test_two_file_systems_for_store_and_incoming_fail(tmp_path: Path) -> None:
    here, there = tmp_path, Path("/dev/shm")
    assert belongings.store({"store_root": here, "incoming_root": here})[0] == "ok"  # type: ignore[arg-type]
    if here.stat().st_dev != there.stat().st_dev:
        found = belongings.store({"store_root": here, "incoming_root": there})  # type: ignore[arg-type]
        assert (found[0], "two file systems" in found[1]) == ("fail", True)


@pytest.mark.parametrize(("days", "state"), [(1, "ok"), (9, "warn")])
def test_the_age_of_the_newest_backup_is_told(tmp_path: Path, days: int, state: str) -> None:
    now = time.time()
    for name, age in (("a", days), ("b", 30)):
        (tmp_path / name).mkdir()
        made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - age * DAY_S))
        (tmp_path / name / "backup.json").write_text(json.dumps({"made_at": made_at}))
    (tmp_path / "c").mkdir()
    (tmp_path / "c/backup.json").write_text("cut off")
    found = belongings.backups(tmp_path, now)
    assert (found[0], f"is {days}.0 days old" in found[1]) == (state, True)
    assert belongings.backups(tmp_path / "none", now)[0] == "warn"


# ---- TLS ------------------------------------------------------------------------------------------------------------


def secured(site: Site, pair: tuple[Path, Path]) -> list[str]:
    flags = {"--tls-certificate": pair[0], "--tls-key": pair[1], "--tls-ca": site.ca, "--tls-ca-key": site.ca_key}
    return [word for flag, path in flags.items() for word in (flag, str(path))]


def test_keys_and_certificates_that_are_right_are_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(tmp_path / "tls")
    status, found = examined(capsys, *secured(site, site.server()), "--host-names", "LOCALHOST")
    assert {name: found[name]["state"] for name in ("keys", "certificate", "names", "authority")} == {
        "keys": "ok",
        "certificate": "ok",
        "names": "ok",
        "authority": "ok",
    }
    assert status == 0
    assert found["authority"]["found"].endswith("the receiver renews its certificate by itself")


def test_each_thing_that_is_wrong_with_the_certificate_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(tmp_path / "tls")
    status, found = examined(capsys, *secured(site, site.server("old", begins_s=-90 * DAY_S, ends_s=-DAY_S)))
    assert (status, "has expired" in found["certificate"]["found"]) == (1, True)
    assert found["certificate"]["remedy"] == "cis490-trainer-receiver init --renew"
    good = site.server()
    status, found = examined(capsys, *secured(site, good), "--host-names", "pi.example")
    assert (status, found["names"]["found"]) == (1, "the certificate lacks pi.example")
    assert "--host-names 127.0.0.1,localhost,pi.example" in found["names"]["remedy"]
    status, found = examined(capsys, *secured(site, (good[0], site.ca_key)))
    assert (status, found["certificate"]["state"]) == (1, "fail")
    status, found = examined(capsys, *secured(site, (good[0], tmp_path / "none.key")))
    assert (status, "cannot be read" in found["keys"]["found"]) == (1, True)
    good[1].chmod(0o644)
    status, found = examined(capsys, *secured(site, good))
    assert (status, found["keys"]["remedy"]) == (1, f"run chmod o= {good[1]}")
    good[1].chmod(0o600)
    (tmp_path / "rubbish.pem").write_text("none")
    flags = [*secured(site, good), "--tls-ca", str(tmp_path / "rubbish.pem")]
    status, found = examined(capsys, *flags)
    assert (status, found["authority"]["state"]) == (1, "fail")
    flags = [word for word in secured(site, good) if word not in ("--tls-ca-key", str(site.ca_key))]
    _, found = examined(capsys, *flags)
    assert "its key is elsewhere" in found["authority"]["found"]


# ---- the program ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 51, 2), "warn"),
        ((3, 51, 3), "ok"),
        ((3, 50, 7), "ok"),
        ((3, 44, 6), "ok"),
        ((3, 40, 1), "warn"),
        ((3, 52, 0), "ok"),
    ],
)
def test_sqlite_with_the_fault_of_its_log_is_told(version: tuple[int, ...], state: str) -> None:
    assert doctor.sqlite(version)[0] == state


def test_packages_that_are_not_there_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.packages()[0] == "ok"
    monkeypatch.setattr(doctor, "NEEDED", ("uvicorn", "no-such-package"))
    assert doctor.packages() == (
        "fail",
        "no-such-package not installed",
        f"in the checkout, run: {sys.executable} -m pip install .",
    )


def test_the_doctor_wants_no_package_that_the_installer_leaves_out(root: Path) -> None:
    installed = re.findall(r"(?m)^([a-z0-9-]+)==", (root / "requirements/core.txt").read_text())
    assert [name for name in (*doctor.NEEDED, *doctor.EXTRA) if name not in installed] == []


@pytest.mark.parametrize(("limit", "state"), [(256, "warn"), (16384, "ok")])
def test_few_open_files_warn(limit: int, state: str) -> None:
    assert doctor.open_files(limit)[0] == state


def test_a_clock_that_nothing_keeps_in_step_warns() -> None:
    assert doctor.clock(lambda command: (0, "no"))[0::2] == ("warn", "sudo timedatectl set-ntp true")
    assert doctor.clock(lambda command: (0, "yes"))[0] == "ok"


def test_settings_that_cannot_be_read_are_status_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = examined(capsys, "--lease-s", "soon")
    assert (status, found["settings"]["state"], found["python"]["state"]) == (78, "fail", "ok")
    assert main(["doctor", "--listen-addr", "nowhere"]) == 78
    assert "FAIL  settings  listen_addr is 'nowhere'" in capsys.readouterr().out
    status, found = examined(capsys, "--tls-certificate", str(tmp_path / "x.pem"))
    assert (status, "only one of tls_certificate and tls_key" in found["settings"]["found"]) == (78, True)
