"""The worker's own secret: how it changes, where it lies, and what `enrol` does with what it finds."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_receiver import StubReceiver, problem

from training.fleet.auth.identities import digest_of, key_of
from training.fleet.client import Client
from training.fleet.client.pinning import fingerprint
from training.fleet.files import write_whole
from training.fleet.model.errors import ConfigurationError
from training.fleet.worker import identity, options
from training.fleet.worker.enrol import enrol_host
from training.fleet.worker.identity import OwnSecret, session, visit
from training.fleet.worker.journal import Journal

OLD = f"cis490w.0123456789.{'k' * 43}"
ASKED = {"x-rotate-secret": "1"}


@pytest.fixture
def stub() -> Iterator[StubReceiver]:
    receiver = StubReceiver()
    yield receiver
    receiver.stop()


class Own:
    """A secret in a file, whose changes are made at once and not in a thread."""

    def __init__(self, folder: Path, stub: StubReceiver, *, in_file: bool = True) -> None:
        self.path = folder / "worker.secret"
        self.path.write_text(f"{OLD}\n")
        self.words = io.StringIO()
        self.secret = OwnSecret(OLD, self.path if in_file else None, Journal(self.words))
        self.connect = lambda: Client(stub.url, self.secret.token, deadline_s=0)
        self.secret.connect_with(self.connect)

    def change(self) -> None:
        self.secret._change(self.connect)


# ---- a change


def test_the_new_key_is_told_by_its_digest_before_it_is_used_and_is_used_at_once(
    tmp_path: Path, stub: StubReceiver
) -> None:
    own = Own(tmp_path, stub)
    own.change()
    new = own.secret.token()
    assert new is not None
    assert own.path.read_text() == f"{new}\n"
    assert own.path.stat().st_mode & 0o777 == 0o600
    told, used = stub.calls("/v1/secret")
    assert told.json == used.json == {"secret_sha256": digest_of(key_of(new))}
    assert [seen.headers["authorization"] for seen in (told, used)] == [f"Bearer {OLD}", f"Bearer {new}"]
    assert new not in own.words.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["worker.secret"]


def test_a_receiver_that_refuses_leaves_the_old_secret_and_the_next_try_takes_the_same_key(
    tmp_path: Path, stub: StubReceiver
) -> None:
    own = Own(tmp_path, stub)
    stub.script["/v1/secret"] = [problem(503, "unavailable", "later")]
    own.change()
    assert own.secret.token() == OLD
    assert "the secret was not changed" in own.words.getvalue()
    own.change()
    first, second, _ = stub.calls("/v1/secret")
    assert first.json == second.json
    assert own.secret.token() != OLD


@pytest.mark.parametrize("text", ["", "cis490w.0123456789.short", f"cis490w.another.{'k' * 43}", "\xff"])
def test_a_next_secret_that_is_not_whole_is_made_anew(tmp_path: Path, stub: StubReceiver, text: str) -> None:
    own = Own(tmp_path, stub)
    (tmp_path / "worker.secret.next").write_text(text, encoding="latin-1")
    own.change()
    new = own.secret.token()
    assert new is not None
    assert new.startswith("cis490w.0123456789.")
    assert len(key_of(new)) == 43


def test_a_secret_that_the_service_manager_holds_is_not_changed_and_says_so(tmp_path: Path, stub: StubReceiver) -> None:
    own = Own(tmp_path, stub, in_file=False)
    own.change()
    assert own.secret.token() == OLD
    assert "not in a file of the worker" in own.words.getvalue()
    assert stub.calls("/v1/secret") == []


def test_a_change_is_begun_once_however_many_answers_ask_for_it(tmp_path: Path, stub: StubReceiver) -> None:
    own = Own(tmp_path, stub)
    own.secret.listen({})
    for _ in range(5):
        own.secret.listen(ASKED)
    stub.wait_for("/v1/secret", 2)
    end = time.monotonic() + 10
    while own.secret._busy:
        assert time.monotonic() < end
    own.secret.listen(ASKED)
    assert not own.secret._busy, "an answer that was under way asks no second time"
    assert len(stub.calls("/v1/secret")) == 2


def test_who_has_no_receiver_yet_changes_nothing() -> None:
    secret = OwnSecret(OLD, None, Journal(io.StringIO()))
    secret.listen(ASKED)
    assert secret.token() == OLD


# ---- where a worker runs


def test_the_place_is_the_same_for_every_start_in_a_folder_and_another_in_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(name: str) -> str:
        with (tmp_path / name).open("a") as lock:
            found, _, start = session(lock).partition(".")
            assert (len(found), len(start)) == (32, 32)
            starts.add(start)
            return found

    starts: set[str] = set()
    assert place("lock") == place("lock")
    host, _, kind = visit().partition(".")
    assert (len(host), kind) == (16, "visit")
    assert [place(name).startswith(host) for name in ("lock", "copy")] == [True, True], "the host's own"
    assert place("lock") != place("copy")
    assert len(starts) == 6
    here = place("lock")
    monkeypatch.setattr(identity, "_BOOT", tmp_path / "none")
    monkeypatch.setattr("uuid.getnode", lambda: 1)
    first = place("lock")
    monkeypatch.setattr("uuid.getnode", lambda: 2)
    assert len({here, first, place("lock")}) == 3


def test_a_service_that_is_told_the_boot_is_on_the_host_of_programs_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_container, of_machine_around = tmp_path / "container", tmp_path / "machine"
    of_container.write_text("57194d2b-6b71-4d5f-bd4e-f76cac87ac36\n")
    of_machine_around.write_text("f39df69c-3ba7-4d28-951d-bf858945b818\n")
    monkeypatch.setattr(identity, "_BOOT", of_container)
    of_doctor = visit()
    monkeypatch.setattr(identity, "_BOOT", of_machine_around)
    assert visit() != of_doctor
    monkeypatch.setenv("CIS490_BOOT_ID", "57194d2b6b714d5fbd4ef76cac87ac36")  # systemd writes it without dashes
    assert visit() == of_doctor
    with (tmp_path / "lock").open("a") as lock:
        assert session(lock).startswith(of_doctor.partition(".")[0])
    monkeypatch.setenv("CIS490_BOOT_ID", "%b")
    assert visit() != of_doctor, "what is no id says nothing"


# ---- the settings


def test_a_worker_takes_the_settings_that_enrol_wrote_and_its_own_secret_before_the_shared_token(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "worker.secret"
    write_whole(secret, f"{OLD}\n".encode(), private=True)
    lines = f'receiver = "http://127.0.0.1:9"\nname = "box"\nworker_secret_file = "{secret}"\n'
    (tmp_path / "worker.toml").write_text(lines)
    environ = {"STATE_DIRECTORY": str(tmp_path), "CIS490_WORKER_TOKEN": "shared-token"}
    chosen = options.options({}, environ)
    assert (chosen.receiver, chosen.name, chosen.token, chosen.secret_file) == (
        "http://127.0.0.1:9",
        "box",
        OLD,
        secret,
    )
    other = tmp_path / "other.toml"
    other.write_text("")
    chosen = options.options({}, {**environ, "CIS490_CONFIG": str(other)})
    assert (chosen.name, chosen.token, chosen.secret_file) == (None, "shared-token", None)


@pytest.mark.parametrize(
    ("flags", "environ", "taken"),
    [
        ({}, {}, True),
        ({"receiver": "http://127.0.0.1:9/"}, {}, True),
        ({}, {"CIS490_RECEIVER": "http://127.0.0.1:9"}, True),
        ({"receiver": "http://127.0.0.1:8"}, {}, False),
        ({}, {"CIS490_RECEIVER": "http://127.0.0.1:8"}, False),
        ({"receiver": "http://127.0.0.1:8"}, {"CIS490_RECEIVER": "http://127.0.0.1:9"}, False),
        ({"receiver": "no address"}, {}, False),
    ],
)
def test_no_other_receiver_is_shown_the_secret_that_enrol_wrote(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], taken: bool
) -> None:
    secret = tmp_path / "worker.secret"
    write_whole(secret, f"{OLD}\n".encode(), private=True)
    (tmp_path / "worker.toml").write_text(f'receiver = "http://127.0.0.1:9"\nworker_secret_file = "{secret}"\n')
    chosen = options.options(flags, {"STATE_DIRECTORY": str(tmp_path), **environ})
    assert chosen.token == (OLD if taken else None)


def test_settings_of_enrol_that_cannot_be_read_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_text("[[[")
    for flags in ({}, {"receiver": "http://127.0.0.1:9"}):
        with pytest.raises(ConfigurationError, match=r"worker\.toml"):
            options.options(flags, {"STATE_DIRECTORY": str(tmp_path)})


def test_the_service_manager_may_hold_the_secret(tmp_path: Path) -> None:
    write_whole(tmp_path / "cis490_worker_secret", OLD.encode(), private=True)
    chosen = options.options({}, {"CREDENTIALS_DIRECTORY": str(tmp_path), "STATE_DIRECTORY": str(tmp_path / "state")})
    assert (chosen.token, chosen.secret_file) == (OLD, None)


# ---- enrol


def enrol(folder: Path, stub: StubReceiver, *flags: str, stdin: io.StringIO | None = None) -> int:
    words = ["--receiver", stub.url, "--host", "box", *flags]
    return enrol_host(words, {"STATE_DIRECTORY": str(folder)}, stdin or io.StringIO(f"{'c' * 32}\n"))


def answer(**more: Any) -> tuple[int, dict[str, str], Any]:
    return 200, {}, {"worker": "box", "id": "0123456789", "version": "0", "heartbeat_s": 30.0, **more}


def test_lines_of_ones_own_stay_in_the_settings(tmp_path: Path, stub: StubReceiver) -> None:
    (tmp_path / "worker.toml").write_text('slots = 2\ndataset = ["lab=/data/l\xe4b"]\nname = "old"\n', encoding="utf-8")
    stub.script["/v1/enrol"] = [answer()]
    assert enrol(tmp_path, stub) == 0
    chosen = options.options({}, {"STATE_DIRECTORY": str(tmp_path)})
    assert (chosen.slots, chosen.name, list(chosen.datasets.folders)) == (2, "box", ["default", "lab"])


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(answer(worker="other"), id="another worker"),
        pytest.param(answer(id="no id!"), id="an id that is none"),
        pytest.param((200, {}, {}), id="nothing"),
        pytest.param((200, {}, b""), id="no body"),
    ],
)
def test_an_answer_that_is_none_of_a_receiver_enrols_nobody(
    tmp_path: Path, stub: StubReceiver, said: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.script["/v1/enrol"] = [said]
    assert enrol(tmp_path, stub) == 75
    assert "gave no answer to an enrolment" in capsys.readouterr().err
    assert not (tmp_path / "worker.secret").exists()
    assert (tmp_path / "worker.secret.new").stat().st_mode & 0o777 == 0o600


def test_the_key_of_a_run_that_was_cut_off_is_taken_again(tmp_path: Path, stub: StubReceiver) -> None:
    stub.script["/v1/enrol"] = [(200, {}, {}), answer()]
    assert enrol(tmp_path, stub) == 75
    assert enrol(tmp_path, stub) == 0
    first, second = stub.calls("/v1/enrol")
    assert first.json == second.json
    key = key_of((tmp_path / "worker.secret").read_text().strip())
    assert first.json["secret_sha256"] == digest_of(key)
    assert key not in json.dumps(first.json)
    assert not (tmp_path / "worker.secret.new").exists()


def test_a_terminal_is_asked_for_the_code(
    tmp_path: Path, stub: StubReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    stub.script["/v1/enrol"] = [answer()]
    assert enrol(tmp_path, stub, stdin=Screen(f"  {'d' * 32} \n")) == 0
    assert capsys.readouterr().err == "One-time code: "
    assert stub.calls("/v1/enrol")[0].json["code"] == "d" * 32


def test_a_secret_for_another_name_or_one_that_is_no_secret_is_not_taken_for_an_enrolment(
    tmp_path: Path, stub: StubReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.script["/v1/enrol"] = [answer(), answer(worker="box2"), answer()]
    assert enrol(tmp_path, stub) == 0
    assert enrol(tmp_path, stub, "--host", "box2") == 0
    assert len(stub.calls("/v1/enrol")) == 2
    (tmp_path / "worker.secret").write_text("no-secret\n")
    (tmp_path / "worker.toml").write_text(f'name = "box"\nreceiver = "{stub.url}"\n')
    assert enrol(tmp_path, stub) == 0
    assert len(stub.calls("/v1/enrol")) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ca-sha256", "12"), "--ca-sha256 is no fingerprint"),
        (("--receiver", "http://pi.lab"), "would send the token in the clear"),
        (("--settings-file", "SETTINGS"), "correct or remove the file"),
        (("--secret-file", "SETTINGS/secret"), "check the folder and its owner"),
    ],
)
def test_what_stands_in_the_way_is_said_on_one_line(
    tmp_path: Path, stub: StubReceiver, flags: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings").write_text("[[[")
    given = tuple(flag.replace("SETTINGS", str(tmp_path / "settings")) for flag in flags)
    assert enrol(tmp_path, stub, *given) == 78
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("pem", ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"])
def test_a_text_without_a_certificate_has_no_fingerprint(pem: str) -> None:
    assert fingerprint(pem) == ""


def test_a_receiver_that_does_not_answer_is_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--receiver", "https://127.0.0.1:1", "--host", "box", "--ca-sha256", "a" * 64]
    assert enrol_host(words, {"STATE_DIRECTORY": str(tmp_path), "PATH": os.environ["PATH"]}, io.StringIO("")) == 69
    assert "start the receiver, or correct its address" in capsys.readouterr().err
