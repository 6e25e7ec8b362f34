"""The metrics of one receiver: what is counted, that labels stay few, and that Prometheus's own tools read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tls_site import Site

from training.fleet.api.metrics import MAX_HOSTS, Figures, Meters
from training.fleet.model.jobs import FAIL_KINDS, STATUSES
from training.fleet.queue import Ended
from training.fleet.wire.people import Health

HEALTH: dict[str, Any] = {
    "status": "ok",
    "version": "0.1.0",
    "uptime_s": 12.3,
    "counts": dict.fromkeys(STATUSES, 2),
    "workers": {"working": 1, "idle": 0, "away": 3},
    "manifest": {},
    "storage": {"artifacts": 4, "bytes": 4096, "free_bytes": 10**12},
    "failures": [],
    "problems": ["one thing"],
}
Samples = dict[str, float]


def figures(last_seen_s: dict[str, float] | None = None) -> Figures:
    return Figures(Health(**HEALTH), 5, last_seen_s or {})


def samples(meters: Meters, shown: Figures | None = None) -> Samples:
    """Return each sample's value by its name with its labels."""
    families = text_string_to_metric_families(meters.text(shown or figures()).decode())
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_present_state_stands_under_the_names_of_before() -> None:
    found = samples(Meters())
    assert found["cis490_jobs[failed]"] == 2
    assert found["cis490_workers[away]"] == 3
    assert found["cis490_parked_claims"] == 5
    assert found["cis490_artifacts"] == 4
    assert found["cis490_artifacts_bytes"] == 4096
    assert found["cis490_store_free_bytes"] == 10**12
    assert found["cis490_uptime_seconds"] == 12
    assert found["cis490_problems"] == 1


def test_an_ending_counts_under_the_reported_kind_else_under_its_outcome() -> None:
    meters = Meters()
    for ended in (
        Ended("completed", None, 100.0),
        Ended("failed", "oom_gpu", 20.0),
        Ended("released", "preempted", 3.0),
        Ended("expired", None, 60.0),
        Ended("expired", None, -1.0),
    ):
        meters.count_ending(ended)
    found = samples(meters)
    counted = {name: value for name, value in found.items() if name.startswith("cis490_attempts_ended") and value}
    assert counted == {
        "cis490_attempts_ended_total[completed]": 1,
        "cis490_attempts_ended_total[oom_gpu]": 1,
        "cis490_attempts_ended_total[preempted]": 1,
        "cis490_attempts_ended_total[expired]": 2,
    }
    assert found["cis490_training_seconds_total[trained]"] == 100
    assert found["cis490_training_seconds_total[lost]"] == 83


def test_every_kind_has_a_zero_from_the_start() -> None:
    found = samples(Meters())
    for kind in ("completed", "cancelled", "released", "expired", "lost_claim", *FAIL_KINDS):
        assert found[f"cis490_attempts_ended_total[{kind}]"] == 0


def test_a_refused_upload_counts_under_its_code() -> None:
    meters = Meters()
    meters.count_refused_upload("stale_lease")
    meters.count_refused_upload("stale_lease")
    assert samples(meters)["cis490_uploads_refused_total[stale_lease]"] == 2


def test_times_fall_into_buckets_and_add_up() -> None:
    meters = Meters()
    for took_s in (0.0004, 0.003, 7.0):
        meters.commits.observe(took_s)
    found = samples(meters)
    assert found["cis490_commit_seconds_bucket[0.0005]"] == 1
    assert found["cis490_commit_seconds_bucket[0.005]"] == 2
    assert found["cis490_commit_seconds_bucket[5.0]"] == 2
    assert found["cis490_commit_seconds_bucket[+Inf]"] == 3
    assert found["cis490_commit_seconds_sum"] == pytest.approx(7.0034)


def test_before_the_first_answer_the_state_is_left_out_and_what_was_counted_is_there() -> None:
    meters = Meters()
    meters.count_refused_upload("stale_lease")
    names = [family.name for family in meters.collect()]
    assert names == [
        "cis490_attempts_ended", "cis490_training_seconds", "cis490_uploads_refused", "cis490_claim_seconds",
        "cis490_commit_seconds",
    ]  # fmt: skip


def test_two_receivers_in_one_process_count_apart() -> None:
    one, other = Meters(), Meters()
    one.count_refused_upload("stale_lease")
    assert "cis490_uploads_refused_total[stale_lease]" not in samples(other)


def test_a_host_that_is_gone_is_shown_no_more() -> None:
    meters, now = Meters(), time.time()
    found = samples(meters, figures({"tower": 60.0, "shed": 0.0}))
    assert found["cis490_worker_last_seen_timestamp_seconds[tower]"] == pytest.approx(now - 60, abs=5)
    assert "cis490_worker_last_seen_timestamp_seconds[shed]" not in samples(meters, figures({"tower": 61.0}))


def test_the_seconds_left_of_certificates_are_shown_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    certificate, _ = site.server()
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "none.pem").write_text("a key and no certificate\n")
    names = {"authority": "broken.pem", "gone": "gone.pem", "none": "none.pem"}
    files = {"receiver": certificate, **{name: tmp_path / file for name, file in names.items()}}
    found = {name: value for name, value in samples(Meters(files)).items() if "certificate" in name}
    assert list(found) == ["cis490_certificate_left_seconds[receiver]"]
    assert found["cis490_certificate_left_seconds[receiver]"] > 3600


def test_promtool_finds_nothing_to_say(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; scripts/environment.sh installs it")
    site = Site(tmp_path / "site")
    meters = Meters({"receiver": site.server()[0]})
    meters.count_refused_upload("stale_lease")
    meters.claims.observe(0.002)
    text = meters.text(figures({"tower": 60.0}))
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# ---- the page


def test_the_reference_lists_every_metric_with_its_type_labels_and_note(root: Path, tmp_path: Path) -> None:
    page = (root / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| `(cis490_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", page, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels)), note) for name, kind, labels, note in rows}
    meters = Meters({"receiver": Site(tmp_path).server()[0]})
    meters.count_refused_upload("stale_lease")
    text = meters.text(figures({"tower": 60.0})).decode()
    written = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        written[name] = (family.type, labels, family.documentation)
    assert documented == written
    assert f"At most {MAX_HOSTS} are shown" in page
