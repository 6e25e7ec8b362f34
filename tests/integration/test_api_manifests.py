"""A manifest that is handed in: applied, kept over restarts, listed, brought back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD, LiveReceiver, Reply, manifest

from training.fleet.api import loading

FOREIGN = f'{HEAD}[trainer]\ncommand = ["/bin/sh", "-c", "touch MARK"]\n'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        yield live


def handed_in(live: LiveReceiver, text: str, query: str = "", **headers: str) -> Reply:
    return live.call("PUT", f"/v1/manifest{query}", text.encode(), headers, operator=True)


def planned(live: LiveReceiver, text: str | None = None) -> Any:
    return live.call("POST", "/v1/manifest/plan", None if text is None else text.encode(), operator=True).json


def reloaded(live: LiveReceiver, **message: Any) -> Reply:
    return live.call("POST", "/v1/manifest/reload", message, operator=True)


def in_force(live: LiveReceiver) -> str:
    digest: str = live.call("GET", "/v1/health").json["manifest"]["digest"]
    return digest


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_manifest_that_is_handed_in_is_applied_exactly_as_planned(receiver: LiveReceiver) -> None:
    seen = planned(receiver, manifest(4))
    done = handed_in(receiver, manifest(4), f"?if_plan={seen['digest']}")
    assert (done.status, done.json["counts"]["added"]) == (200, 2)
    assert done.json == seen
    assert done.headers["etag"] == f'"{sha256(manifest(4))}"'
    assert in_force(receiver) == sha256(manifest(4))
    again = handed_in(receiver, manifest(4))
    assert (again.json["counts"]["added"], again.json["counts"]["unchanged"]) == (0, 4)


def test_a_text_with_faults_or_without_anything_is_refused_and_says_nothing_of_the_receivers_own_file(
    receiver: LiveReceiver,
) -> None:
    assert handed_in(receiver, HEAD + "[[jobs]]\nmodel = 3\n").json["code"] == "manifest_invalid"
    assert handed_in(receiver, "  \n").json["code"] == "bad_request"
    assert receiver.call("GET", "/v1/health").json["problems"] == []
    assert in_force(receiver) == sha256(manifest(2))


def test_only_who_may_operate_hands_a_manifest_in(receiver: LiveReceiver) -> None:
    assert receiver.call("PUT", "/v1/manifest", manifest(3).encode()).status == 401
    assert in_force(receiver) == sha256(manifest(2))


def test_fewer_jobs_need_leave_or_a_plan(receiver: LiveReceiver) -> None:
    refused = handed_in(receiver, manifest(1))
    assert (refused.status, refused.json["code"]) == (409, "would_shrink")
    seen = planned(receiver, manifest(1))
    assert handed_in(receiver, manifest(1), f"?if_plan={seen['digest']}").json["counts"]["dropped"] == 1
    listed = receiver.call("GET", "/v1/jobs").json["jobs"]
    assert len(listed) == 1
    everything = receiver.call("GET", "/v1/jobs?withdrawn=yes").json["jobs"]
    assert sorted(job["withdrawn"] for job in everything) == [False, True]
    health = receiver.call("GET", "/v1/health").json
    assert (health["withdrawn"], health["counts"]["pending"]) == (1, 2)


def test_dropped_jobs_can_be_kept(receiver: LiveReceiver) -> None:
    assert handed_in(receiver, manifest(1), "?allow_shrink=yes&keep_dropped=yes").status == 200
    assert [job["named"] for job in receiver.call("GET", "/v1/jobs").json["jobs"]] == [True, False]


def test_a_manifest_in_force_that_moved_is_told_with_who_moved_it(receiver: LiveReceiver) -> None:
    first = in_force(receiver)
    assert handed_in(receiver, manifest(3), "", **{"If-Match": f'"{first}"'}).status == 200
    stale = handed_in(receiver, manifest(4), "", **{"If-Match": f'"{first}"'})
    assert (stale.status, stale.json["code"]) == (412, "plan_moved")
    assert "operator:operator brought it in force at 20" in stale.json["detail"]
    assert "(apply)" in stale.json["detail"]
    assert handed_in(receiver, manifest(4), "", **{"If-Match": "*"}).status == 200
    assert handed_in(receiver, manifest(5), "", **{"If-Match": "soon"}).status == 422


def test_what_was_handed_in_counts_until_the_receivers_own_file_changes(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        handed_in(live, manifest(4))
        kept = reloaded(live)
        assert (kept.status, kept.json["counts"]["unchanged"]) == (200, 4)
        assert "the manifest that operator:operator handed in at 20" in kept.json["warnings"][0]
        assert planned(live) == kept.json
    with LiveReceiver(tmp_path, manifest(2)) as live:
        assert in_force(live) == sha256(manifest(4))
        live.manifest.write_text(manifest(3))
        assert reloaded(live, allow_shrink=True).json["counts"]["dropped"] == 1
        assert in_force(live) == sha256(manifest(3))


def test_a_restart_after_the_file_changed_reads_the_file(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        handed_in(live, manifest(4))
    with LiveReceiver(tmp_path, manifest(5)) as live:
        assert in_force(live) == sha256(manifest(5))


def test_handing_in_the_receivers_own_file_lets_it_count_again(receiver: LiveReceiver) -> None:
    handed_in(receiver, manifest(4))
    assert handed_in(receiver, manifest(2), "?allow_shrink=yes").status == 200
    assert reloaded(receiver).json["warnings"] == []


def test_after_the_trainer_changed_a_handed_in_manifest_is_checked_again_from_its_kept_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        handed_in(live, manifest(4))
        read: list[bytes] = []
        real = loading.child_load

        def noting(path: Path, **more: Any) -> Any:
            read.append(path.read_bytes())
            return real(path, **more)

        monkeypatch.setattr(loading, "child_load", noting)
        monkeypatch.setattr("training.trainer.hyper.contract_digest", lambda _: "sha256:other")
        assert reloaded(live).status == 200
        assert read == [manifest(4).encode()]


def test_a_manifest_that_is_handed_in_cannot_bring_another_trainer(receiver: LiveReceiver, tmp_path: Path) -> None:
    """A trainer is code that the hosts run, and the receiver too; whoever writes its file decides on it."""
    mark = tmp_path / "started"
    text = manifest(3, head=FOREIGN.replace("MARK", str(mark)))
    refused = handed_in(receiver, text)
    assert (refused.status, refused.json["errors"][0]["place"]) == (422, "trainer")
    assert "a trainer is code" in refused.json["detail"]
    assert "only the receiver's own file can bring it" in planned(receiver, text)["warnings"][0]
    assert not mark.exists()
    assert in_force(receiver) == sha256(manifest(2))


def test_a_trainer_of_the_receivers_own_file_is_asked_for_what_is_handed_in_too(tmp_path: Path) -> None:
    schema = '{"$defs": {"forest": {"properties": {"trees": {"type": "integer"}}, "additionalProperties": false}}}'
    (tmp_path / "forest.sh").write_text(f"echo '{schema}'\n")
    head = f'{HEAD}[trainer]\ncommand = ["/bin/sh", "{tmp_path}/forest.sh"]\n'
    with LiveReceiver(tmp_path, manifest(1, "forest", head=head)) as live:
        assert handed_in(live, manifest(2, "forest", head=head)).json["counts"]["added"] == 1
        wrong = handed_in(live, manifest(2, "forest", "hyper = { tree = 3 }\n", head))
        assert "did you mean trees?" in wrong.json["detail"]


def test_a_reload_that_names_the_plan_of_a_handed_in_file_is_told_what_to_do(receiver: LiveReceiver) -> None:
    seen = planned(receiver, manifest(4))
    refused = reloaded(receiver, if_plan=seen["digest"])
    assert (refused.status, refused.json["code"]) == (412, "plan_moved")
    assert "was made for a file of yours" in refused.json["detail"]
    assert "cis490-jobs apply FILE" in refused.json["detail"]
    receiver.manifest.write_text(manifest(3))
    assert "was made for a file of yours" in reloaded(receiver, if_plan=seen["digest"]).json["detail"]


def test_manifests_are_listed_shown_and_brought_back(receiver: LiveReceiver) -> None:
    handed_in(receiver, manifest(3))
    receiver.manifest.write_text(manifest(4))
    reloaded(receiver)
    listed = receiver.call("GET", "/v1/manifests").json["manifests"]
    assert [(one["number"], one["actor"], one["how"], one["jobs"], one["in_force"]) for one in listed] == [
        (3, "operator:operator", "reload", 4, True),
        (2, "operator:operator", "apply", 3, False),
        (1, "receiver", "start", 2, False),
    ]
    first = receiver.call("GET", f"/v1/manifest/{listed[2]['digest']}")
    assert (first.status, first.body) == (200, manifest(2).encode())
    assert first.headers["content-type"] == "application/toml"
    back = handed_in(receiver, first.body.decode(), "?how=rollback&allow_shrink=yes")
    assert back.json["counts"]["dropped"] == 2
    assert receiver.call("GET", "/v1/manifests").json["manifests"][0]["how"] == "rollback"
    assert receiver.call("GET", f"/v1/manifest/{'0' * 64}").status == 404


def test_the_manifest_of_an_older_version_is_taken_into_the_list_at_the_start(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        live.fleet.loader._database.submit(_forget).result()
    with LiveReceiver(tmp_path, manifest(2)) as live:
        (one,) = live.call("GET", "/v1/manifests").json["manifests"]
        assert (one["how"], one["actor"], one["in_force"]) == ("start", "receiver", True)


def _forget(tx: Any) -> None:
    tx.run("forget_manifests", keep=0)
    tx.run("forget_manifest_texts")


def test_a_plan_says_what_changes_besides_the_jobs_and_which_tables_stand_for_several(receiver: LiveReceiver) -> None:
    text = HEAD.replace("slots = 64", "slots = 8") + '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseeds = [0, 1, 2]\n'
    plan = planned(receiver, text)
    assert plan["tables"] == [{"table": "host", "name": "default", "what": "changed", "change": {"slots": [64, 8]}}]
    assert plan["notes"] == ["3 jobs from jobs[1] (line 7)"]
    assert (plan["counts"]["added"], plan["counts"]["unchanged"]) == (1, 2)


def test_jobs_are_found_by_the_name_and_the_tag_that_the_manifest_gives_them(receiver: LiveReceiver) -> None:
    handed_in(receiver, manifest(3, extra='tags = ["night"]\n') + 'name = "last-one"\n')
    (job,) = receiver.call("GET", "/v1/jobs?name=last-one").json["jobs"]
    assert (job["seed"], job["name"], job["tags"]) == (2, "last-one", ["night"])
    assert len(receiver.call("GET", "/v1/jobs?tag=night").json["jobs"]) == 3
    assert receiver.call("GET", "/v1/jobs?tag=day").json["jobs"] == []
    assert receiver.call("GET", "/v1/jobs?name=a%20b").status == 422
