"""`--since` and `--until`: words for times, and the labels that are asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.helpers.zones import in_zone
from training.fleet.cli.instants import as_range, is_instant
from training.fleet.cli.text import Terminal, dated, moment, zone
from training.fleet.model.errors import ConfigurationError

NOW = datetime(2026, 11, 30, 17, 25, 3, tzinfo=UTC)
PIPE, SCREEN = Terminal(), Terminal(80, 24)


def since(text: str, *, utc: bool = False, now: datetime = NOW) -> str:
    return as_range(text, None, utc=utc, now=lambda: now)["since"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("8h", "2026-11-30T09:25:03.000Z"),
        ("90m", "2026-11-30T15:55:03.000Z"),
        ("2d", "2026-11-28T17:25:03.000Z"),
        ("today", "2026-11-30T05:00:00.000Z"),
        ("yesterday", "2026-11-29T05:00:00.000Z"),
        ("2026-11-01", "2026-11-01T04:00:00.000Z"),  # summer time until that night
        ("2026-11-02", "2026-11-02T05:00:00.000Z"),
        ("12:00", "2026-11-30T17:00:00.000Z"),
        ("14:00", "2026-11-29T19:00:00.000Z"),  # not yet today
        ("2026-11-30T10:00", "2026-11-30T15:00:00.000Z"),
        ("2026-11-30T10:00:00+01:00", "2026-11-30T09:00:00.000Z"),
    ],
)
def test_a_time_is_meant_in_this_machines_zone_and_sent_in_utc(text: str, label: str) -> None:
    with in_zone("America/New_York"):
        assert since(text) == label
    assert is_instant(text)


def test_with_utc_the_same_words_are_meant_in_utc() -> None:
    with in_zone("America/New_York"):
        assert since("yesterday", utc=True) == "2026-11-29T00:00:00.000Z"
        assert since("14:00", utc=True) == "2026-11-30T14:00:00.000Z"


def test_a_day_as_an_end_is_meant_with_all_its_hours() -> None:
    with in_zone("Europe/Berlin"):
        whole = as_range("2026-10-25", "2026-10-25", now=lambda: NOW)
        assert whole == {"since": "2026-10-24T22:00:00.000Z", "until": "2026-10-25T23:00:00.000Z"}
        assert as_range(None, "14:00", now=lambda: NOW) == {"until": "2026-11-30T13:00:00.000Z"}


@pytest.mark.parametrize("text", ["", "soon", "8", "25:00", "14:60", "2026-13-01", "8 h", "-8h", "yesterday "])
def test_other_words_are_no_time(text: str) -> None:
    assert not is_instant(text)
    with pytest.raises(ConfigurationError, match="as a time; expected yesterday, 8h, 14:00"):
        since(text)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31T23:59:59", "99999w"])
def test_a_time_beyond_all_calendars_is_refused_or_sent_and_never_breaks(text: str) -> None:
    for zone_name in ("America/New_York", "Asia/Kolkata"):
        with in_zone(zone_name):
            try:
                assert since(text).endswith("Z")
            except ConfigurationError as fault:
                assert "as a time" in fault.message


def test_an_end_before_the_beginning_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--since today is not before --until 2026-11-01; exchange them"):
        as_range("today", "2026-11-01", now=lambda: NOW)


# ---- shown


def test_times_are_shown_in_this_machines_zone_which_the_header_names() -> None:
    label, summer = "2026-11-30T17:25:03.120Z", "2026-07-01T12:00:00.000Z"
    with in_zone("America/New_York"):
        assert moment(label, SCREEN) == "2026-11-30 12:25:03"
        assert moment(label, PIPE) == "2026-11-30 12:25:03-05:00"
        assert zone([label], SCREEN) == "EST"
        assert zone([label, None, summer], SCREEN) == "EDT/EST"
        assert dated(label, SCREEN) == "2026-11-30 12:25:03 EST"
        assert dated(label, PIPE) == moment(label, PIPE)
    with in_zone("Asia/Kathmandu"):
        assert zone([label], SCREEN) == "UTC+05:45"


def test_with_utc_times_are_shown_in_utc() -> None:
    with in_zone("America/New_York"):
        assert moment("2026-11-30T17:25:03.120Z", Terminal(80, 24, utc=True)) == "2026-11-30 17:25:03"
        assert zone(["2026-11-30T17:25:03.120Z"], Terminal(80, 24, utc=True)) == "UTC"
        assert zone([], SCREEN) in ("EST", "EDT")


@pytest.mark.parametrize("label", ["odd", "2026-99-01T00:00:00Z", "\x1b[2J", "0001-01-01T00:00:00+23:59"])
def test_a_label_that_is_no_time_is_shown_as_it_is_and_steers_nothing(label: str) -> None:
    with in_zone("America/New_York"):
        assert "\x1b" not in moment(label, SCREEN)
        assert moment(None, SCREEN) == "-"
        assert zone([label], SCREEN)
