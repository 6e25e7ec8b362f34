"""What a receiver makes of its manifest file: unchanged, changed meanwhile, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD, LiveReceiver, manifest

from training.fleet.api import loading
from training.fleet.model.errors import ManifestError
from training.fleet.model.jobs import Trainer


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        yield live


def reloaded(live: LiveReceiver, **message: Any) -> Any:
    return live.call("POST", "/v1/manifest/reload", message, operator=True)


def test_a_file_that_did_not_change_is_not_read_by_a_child_again(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(loading, "child_load", lambda path, **_: read.append(path))
    plan = reloaded(receiver)
    assert (plan.status, plan.json["counts"]["unchanged"], read) == (200, 2, [])


def test_another_trainer_than_the_projects_own_is_asked_again_though_the_file_did_not_change(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ManifestError("a child was asked")

    monkeypatch.setattr(loading, "child_load", refuse)
    monkeypatch.setattr(loading, "Trainer", lambda: replace(Trainer(), command=("another", "one")))
    assert reloaded(receiver).json["detail"] == "a child was asked"


def test_the_projects_trainer_with_another_declaration_is_asked_again_though_the_file_did_not_change(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ManifestError("a child was asked")

    monkeypatch.setattr(loading, "child_load", refuse)
    monkeypatch.setattr(loading.hyper, "contract_digest", lambda _declaration: "sha256:" + "0" * 64)
    assert reloaded(receiver).json["detail"] == "a child was asked"


def test_an_expectation_that_is_wrong_says_nothing_about_the_file(receiver: LiveReceiver) -> None:
    receiver.manifest.write_text(manifest(3))
    refused = reloaded(receiver, if_plan="0" * 64)
    assert (refused.status, refused.json["code"]) == (412, "plan_moved")
    assert receiver.call("GET", "/v1/health").json["problems"] == []


def test_of_a_file_that_did_not_change_another_plan_is_refused_and_the_one_that_does_nothing_is_taken(
    receiver: LiveReceiver,
) -> None:
    nothing = reloaded(receiver).json["digest"]
    assert reloaded(receiver, if_plan=nothing).status == 200
    refused = reloaded(receiver, if_plan="0" * 64)
    assert (refused.status, refused.json["code"]) == (412, "plan_moved")


def test_a_file_with_faults_stands_in_the_health_until_it_is_right(receiver: LiveReceiver) -> None:
    receiver.manifest.write_text(HEAD + "[[jobs]]\nmodel = 3\n")
    assert reloaded(receiver).status == 422
    (problem,) = receiver.call("GET", "/v1/health").json["problems"]
    assert str(receiver.manifest) in problem
    receiver.manifest.write_text(manifest(3))
    assert reloaded(receiver).status == 200
    assert receiver.call("GET", "/v1/health").json["problems"] == []


def test_bytes_that_were_not_applied_are_not_kept_as_applied(
    receiver: LiveReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = (tmp_path / "manifest.applied.toml").read_text()
    receiver.manifest.write_text(manifest(3))
    with monkeypatch.context() as patch:
        patch.setattr(loading, "_read", lambda _path: b"what an editor wrote a moment later")
        assert reloaded(receiver).json["counts"]["added"] == 1
    assert (tmp_path / "manifest.applied.toml").read_text() == applied == manifest(2)


def test_a_receiver_goes_on_with_what_was_in_force_when_the_file_was_bent_while_it_was_off(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)):
        pass
    with LiveReceiver(tmp_path, "this is no manifest") as live:
        (problem,) = live.call("GET", "/v1/health").json["problems"]
        assert str(live.manifest) in problem
        assert len(live.call("GET", "/v1/jobs").json["jobs"]) == 2
