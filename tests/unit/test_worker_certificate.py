"""When a worker renews its certificate, and what it takes for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_receiver import StubReceiver

from training.fleet.client import Client, certificate_files
from training.fleet.model.errors import ConfigurationError
from training.fleet.worker.certificate import OwnCertificate, renew_at
from training.fleet.worker.journal import Journal

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"
LATER = {"certificate_pem": f"renew-at: 2100-01-01T00:00:00+00:00\n{PEM}", "key_pem": KEY, "fingerprint": "a" * 64}


def own(stub: StubReceiver, path: Path) -> OwnCertificate:
    return OwnCertificate(path, lambda: Client(f"http://127.0.0.1:{stub.port}", deadline_s=0), Journal(), retry_s=0.02)


@pytest.fixture
def stub() -> Iterator[StubReceiver]:
    receiver = StubReceiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "worker.pem"
    found.write_text(f"renew-at: 2020-01-01T00:00:00+00:00\n{PEM}{KEY}")
    return found


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (f"renew-at: 2026-11-26T00:00:00+00:00\n{PEM}", 1795651200.0),
        (PEM, None),
        (f"renew-at: soon\n{PEM}", None),
        (f"note: renew-at: 2026-11-26T00:00:00+00:00\n{PEM}", None),
    ],
    ids=["a time", "no line", "no time", "inside a line"],
)
def test_the_line_in_front_says_when_to_renew(tmp_path: Path, text: str, at: float | None) -> None:
    (tmp_path / "worker.pem").write_text(text)
    assert renew_at(tmp_path / "worker.pem") == at
    assert renew_at(tmp_path / "none.pem") is None


def test_it_is_asked_for_until_it_comes_and_appears_whole(stub: StubReceiver, path: Path) -> None:
    before = path.read_text()
    bad = {"certificate_pem": PEM, "key_pem": ""}
    answers = [(503, {}, {"code": "unavailable", "detail": "no"}), (200, {}, bad), (200, {}, LATER)]
    stub.script["/v1/worker/certificate"] = list(answers)
    held: list[str] = []
    renewing = own(stub, path)
    renewing.follow()
    end = time.monotonic() + 20
    while (found := path.read_text()) == before:
        held.append(found)
        assert time.monotonic() < end
    renewing.stop()
    assert found == LATER["certificate_pem"] + KEY
    assert set(held) == {before}
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_that_is_due_as_soon_as_it_comes_is_not_asked_for_without_a_pause(stub: StubReceiver, path: Path) -> None:
    """So it is where this host's clock is months ahead: it would ask as fast as the receiver answers."""
    due = {**LATER, "certificate_pem": f"renew-at: 2020-01-02T00:00:00+00:00\n{PEM}"}
    stub.script["/v1/worker/certificate"] = [(200, {}, due)] * 1000
    renewing = own(stub, path)
    pauses: list[float] = []

    class Ends(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return len(pauses) > 3

    renewing._end = Ends()
    renewing._serve()
    assert pauses[0] == 0
    assert [0.015 <= pause <= 0.025 for pause in pauses[1:]] == [True, True, True]
    assert len(stub.calls("/v1/worker/certificate")) == 3


def test_one_that_does_not_say_when_is_left_alone(stub: StubReceiver, tmp_path: Path) -> None:
    (tmp_path / "site.pem").write_text(PEM + KEY)
    own(stub, tmp_path / "site.pem").follow()
    for thread in threading.enumerate():
        if thread.name == "certificate":
            thread.join(10)
            assert not thread.is_alive()
    assert stub.seen == []


def test_certificate_and_key_may_be_one_file_and_a_key_alone_is_none() -> None:
    assert certificate_files(None, None) is None
    # Whole paths, because a worker that changes its folder must find them again.
    a, b = Path("a").absolute(), Path("b").absolute()
    assert certificate_files(Path("a"), None) == (a, a)
    assert certificate_files(Path("a"), Path("b")) == (a, b)
    with pytest.raises(ConfigurationError, match="client_key is set and client_certificate is not"):
        certificate_files(None, Path("b"))
