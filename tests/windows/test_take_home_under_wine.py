"""A result is taken home to Windows: the same command, files that appear whole, a transfer that goes on."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_receiver import LiveReceiver, manifest
from wine import Program

BUNDLE = random.Random(7).randbytes(1_200_000)
SHA = hashlib.sha256(BUNDLE).hexdigest()
CARD = b"# A card\n\nIt **says** something.\n"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveReceiver, str]]:
    """A receiver, and the id of its one job, which has a result."""
    with LiveReceiver(tmp_path_factory.mktemp("receiver"), manifest(1)) as live:
        lease = live.claim()
        assert live.upload(lease, BUNDLE).status == 201
        digest = base64.b64encode(hashlib.sha256(CARD).digest()).decode()
        where = f"/v1/model/{SHA}/file/model_card.md"
        sent = {"X-Lease-Id": lease["lease_id"], "Repr-Digest": f"sha-256=:{digest}:"}
        assert live.call("PUT", where, CARD, sent).status == 201
        message = {"lease_id": lease["lease_id"], "artifact": SHA, "metrics": {"auprc_host_mean": 0.5}}
        assert live.call("POST", f"/v1/job/{lease['job_id']}/complete", message).status == 200
        yield live, lease["job_id"]


def jobs(receiver: tuple[LiveReceiver, str], root: Path, *words: str | Path) -> tuple[str, int]:
    """Run the command with the Python of Windows; return what it printed and its status."""
    environ = {"CIS490_RECEIVER": f"http://127.0.0.1:{receiver[0].port}"}
    program = Program(root / "tools/cis490_jobs.py", *words, environ=environ)
    status = program.wait(120)
    assert "Traceback" not in program.output
    return program.output, status


def test_a_result_arrives_on_windows_and_a_cut_transfer_goes_on(
    receiver: tuple[LiveReceiver, str], root: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    part = home / f".bundle.tar.zst.{SHA[:12]}.part"
    part.write_bytes(BUNDLE[:500_000])
    said, status = jobs(receiver, root, "get", "best", "-o", home)
    assert status == 0, said
    assert {path.name: path.read_bytes() for path in home.iterdir()} == {
        "bundle.tar.zst": BUNDLE,
        "model_card.md": CARD,
    }
    said, status = jobs(receiver, root, "get", receiver[1], "-o", home)
    assert [line.split("\t")[-1] for line in said.splitlines()] == ["there", "there"]
    (home / "model_card.md").write_bytes(b"mine")
    assert jobs(receiver, root, "get", receiver[1], "-o", home)[1] == 78
    assert jobs(receiver, root, "get", receiver[1], "-o", home, "--force")[1] == 0
    assert (home / "model_card.md").read_bytes() == CARD


def test_a_card_is_shown_and_a_device_is_no_folder(receiver: tuple[LiveReceiver, str], root: Path) -> None:
    assert jobs(receiver, root, "card", "best") == (CARD.decode(), 0)
    said, status = jobs(receiver, root, "get", "best", "-o", "nul:x")
    assert (status, said.startswith("cis490-jobs: cannot "), "-o" in said) == (78, True, True), said
