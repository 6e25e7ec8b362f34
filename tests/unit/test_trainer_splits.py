"""Claims about folds: who trains, who validates, who tests, and that nothing leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.contracts.dataset import (
    Dataset,
    Features,
    GroupSplit,
    HostsSplit,
    PublishedSplit,
    RandomSplit,
    Roles,
    Split,
    TimeSplit,
    Windows,
)
from training.trainer.data.splits import Fold, allowed_hosts, check_fold, final_fold, fold_digest, folds_of
from training.trainer.data.telemetry import Telemetry
from training.trainer.data.windows import WindowSet, window_set
from training.trainer.faults import SpecError

LENGTH = 5
SPLITS: dict[str, Split] = {
    "random": RandomSplit(0.3),
    "time": TimeSplit(0.6, 7),
    "hosts": HostsSplit((("h0", "h3"), ("h1", "h4"), ("h2", "h5"))),
    "group": GroupSplit("group"),
    "published": PublishedSplit("part"),
}


def windows(hosts: int = 6, rows: int = 60, period: int = 10, labels: np.ndarray | None = None) -> WindowSet:
    total = hosts * rows
    row = np.tile(np.arange(rows), hosts)
    label = (row % period < 3).astype(np.int8) if labels is None else labels
    return window_set(
        Telemetry(
            ("x",),
            np.zeros((total, 1), np.float32),
            tuple(f"h{i}" for i in range(hosts)),
            np.repeat(np.arange(hosts, dtype=np.int32), rows),
            row,
            label,
            {
                "group": np.repeat(["left", "right"], [total // 2, total - total // 2]),
                "part": np.where(row < 36, "train", np.where(row < 40, "unused", "test")),
            },
        ),
        LENGTH,
    )


def dataset(**splits: Split) -> Dataset:
    return Dataset(Path(), "d", "d.csv", Roles("host", "label"), Features(("x",)), Windows(LENGTH), splits or SPLITS)


def rows_of(one: WindowSet, part: np.ndarray) -> set[int]:
    return {row for end in one.ends[part].tolist() for row in range(end - LENGTH + 1, end + 1)}


@pytest.mark.parametrize("recipe", ["time", "hosts", "group", "published"])
def test_no_row_is_on_two_sides_of_a_fold(recipe: str) -> None:
    one = windows()
    for fold in folds_of(one, dataset(), recipe, ["*"], 0):
        train, validation, test = (rows_of(one, part) for part in (fold.train, fold.validation, fold.test))
        assert not train & validation
        assert not train & test
        assert not validation & test


@pytest.mark.parametrize("recipe", ["hosts", "group"])
def test_hosts_never_cross_folds(recipe: str) -> None:
    one = windows()
    for fold in folds_of(one, dataset(), recipe, ["*"], 0):
        seen = set(one.host[np.concatenate([fold.train, fold.validation])].tolist())
        assert not seen & set(one.host[fold.test].tolist())
        assert not set(one.host[fold.train].tolist()) & set(one.host[fold.validation].tolist())


@pytest.mark.parametrize(("recipe", "names"), [("hosts", ["fold 1/3", "fold 2/3", "fold 3/3"]), ("group", None)])
def test_every_window_is_tested_once_over_all_folds(recipe: str, names: list[str] | None) -> None:
    one = windows()
    folds = folds_of(one, dataset(), recipe, ["*"], 0)
    assert [fold.name for fold in folds] == (names or ["group left", "group right"])
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested.tolist()) == list(range(len(one.ends)))


def test_random_parts_are_disjoint_and_of_the_stated_size() -> None:
    one = windows(rows=500)
    (fold,) = folds_of(one, dataset(), "random", ["*"], 0)
    sizes = [len(part) / len(one.ends) for part in (fold.train, fold.validation, fold.test)]
    np.testing.assert_allclose(sizes, [0.56, 0.14, 0.3], atol=0.03)
    assert sorted(np.concatenate([fold.train, fold.validation, fold.test]).tolist()) == list(range(len(one.ends)))


def test_time_tests_the_last_part_of_every_host_after_the_gap() -> None:
    one = windows()
    (fold,) = folds_of(one, dataset(), "time", ["*"], 0)
    time = one.telemetry.time[one.ends]
    assert time[fold.train].max() < time[fold.validation].min() <= time[fold.validation].max() == 35
    assert time[fold.test].min() == 36 + 7 + LENGTH - 1
    assert set(one.host[fold.test].tolist()) == set(range(6))


def test_published_uses_the_marker_and_drops_windows_over_the_border() -> None:
    one = windows()
    (fold,) = folds_of(one, dataset(), "published", ["*"], 0)
    time = one.telemetry.time[one.ends]
    assert time[fold.validation].max() == 35
    assert time[fold.test].min() == 40 + LENGTH - 1


@pytest.mark.parametrize("recipe", sorted(SPLITS))
def test_train_hosts_limits_training_and_never_testing(recipe: str) -> None:
    one = windows()
    everybody = folds_of(one, dataset(), recipe, ["*"], 0)
    some = folds_of(one, dataset(), recipe, ["H1", "h2", "h4", "h5"], 0)
    for all_fold, fold in zip(everybody, some, strict=True):
        np.testing.assert_array_equal(all_fold.test, fold.test)
        used = set(one.host[np.concatenate([fold.train, fold.validation])].tolist())
        assert used <= {1, 2, 4, 5}


def test_globs_match_whatever_the_case_and_must_match_something() -> None:
    assert allowed_hosts(("Web-1", "web-2", "db"), ["WEB-*"]).tolist() == [True, True, False]
    with pytest.raises(SpecError, match=r"train_hosts \['x\*'\] matches no host; the data has web, db"):
        allowed_hosts(("web", "db"), ["x*"])


def test_the_same_seed_gives_the_same_folds_and_another_gives_others() -> None:
    one = windows()
    digests = [fold_digest(one, folds_of(one, dataset(), "hosts", ["*"], seed)) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0].startswith("sha256:")


def test_the_final_fold_trains_on_all_allowed_hosts_and_tests_nothing() -> None:
    one = windows()
    fold = final_fold(one, ["*"], 0)
    assert len(fold.test) == 0
    assert len(fold.train) + len(fold.validation) == len(one.ends)


def test_one_training_host_validates_on_its_own_tail() -> None:
    one = windows()
    fold = folds_of(one, dataset(), "group", ["h1", "h4"], 0)[0]
    assert set(one.host[fold.validation].tolist()) == {4}
    assert not rows_of(one, fold.train) & rows_of(one, fold.validation)
    assert one.ends[fold.train].max() < one.ends[fold.validation].min()


def test_a_fold_that_tests_every_training_host_is_refused() -> None:
    with pytest.raises(SpecError, match=r"fold 2/3: the training side has no windows \(no host\).*widen train_hosts"):
        folds_of(windows(), dataset(), "hosts", ["h1"], 0)


def test_a_tail_without_anomalies_is_replaced_by_held_out_hosts() -> None:
    row = np.tile(np.arange(60), 6)
    one = windows(labels=((row % 10 < 3) & ((row < 20) | (row > 45))).astype(np.int8))
    (fold,) = folds_of(one, dataset(), "time", ["*"], 0)
    assert one.label[fold.validation].any()
    assert not set(one.host[fold.train].tolist()) & set(one.host[fold.validation].tolist())


def test_anomalies_on_one_host_alone_cannot_be_validated_by_hosts() -> None:
    label = np.zeros(360, np.int8)
    label[5:60:10] = 1
    one = windows(labels=label)
    fold = final_fold(one, ["*"], 0)
    assert one.label[fold.train].any()
    assert one.label[fold.validation].any()
    assert 0 in one.host[fold.validation]
    assert 0 in one.host[fold.train]


def test_a_split_the_dataset_lacks_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="dataset 'd' declares no split 'published'; it has random"):
        folds_of(windows(), dataset(random=RandomSplit(0.3)), "published", ["*"], 0)


def test_folds_that_disagree_with_the_data_are_refused_naming_the_hosts() -> None:
    wrong = dataset(hosts=HostsSplit((("h0", "h1", "h2"), ("h3", "h4", "ghost"))))
    with pytest.raises(SpecError, match="disagree about the hosts ghost, h5"):
        folds_of(windows(), wrong, "hosts", ["*"], 0)


@pytest.mark.parametrize("recipe", sorted(SPLITS))
def test_data_without_anomalies_is_refused(recipe: str) -> None:
    with pytest.raises(SpecError, match="the training side has 0 anomalous of"):
        folds_of(windows(labels=np.zeros(360, np.int8)), dataset(), recipe, ["*"], 0)


def test_a_split_that_leaves_nothing_to_test_is_refused() -> None:
    with pytest.raises(SpecError, match="time: no window to test on"):
        folds_of(windows(), dataset(time=TimeSplit(0.9, 5)), "time", ["*"], 0)


def test_a_part_too_short_for_any_window_is_refused() -> None:
    with pytest.raises(SpecError, match=r"time: the training side has no windows \(no host\)"):
        folds_of(windows(), dataset(time=TimeSplit(0.05, 5)), "time", ["*"], 0)


def test_the_leak_check_refuses_what_crosses() -> None:
    """The folds above never reach these branches; a future recipe might."""
    one = windows()
    fold = folds_of(one, dataset(), "hosts", ["*"], 0)[0]
    with pytest.raises(SpecError, match="a window is on the train and the test side"):
        check_fold(one, Fold("f", fold.train, fold.validation, fold.train[:1]), "hosts")
    with pytest.raises(SpecError, match="windows of the train and the test side share rows"):
        check_fold(one, Fold("f", fold.train[::2], fold.validation, fold.train[1::2]), "time")
    first = np.flatnonzero(one.host == 1)
    with pytest.raises(SpecError, match="host 'h1' both trains and tests"):
        check_fold(one, Fold("f", first[:20], fold.validation[one.host[fold.validation] != 1], first[-10:]), "hosts")


def test_the_leak_check_refuses_a_window_that_crosses_hosts() -> None:
    one = windows()
    fold = folds_of(one, dataset(), "time", ["*"], 0)[0]
    crossed = WindowSet(one.telemetry, LENGTH, np.append(one.ends, 61))
    bad = Fold("f", fold.train, fold.validation, np.append(fold.test, len(one.ends)))
    with pytest.raises(SpecError, match="f: the window of rows 57 to 61 crosses from host 'h0' to host 'h1'"):
        check_fold(crossed, bad, "time")
    early = WindowSet(one.telemetry, LENGTH, np.append(one.ends, 3))
    with pytest.raises(SpecError, match="f: the window that ends at row 3 begins before the first row"):
        check_fold(early, bad, "time")


@pytest.mark.parametrize("recipe", ["random", "published"])
def test_one_nameless_host_and_windows_of_one_row_can_be_split(recipe: str) -> None:
    label = np.tile(np.array([0, 1, 0], np.int8), 40)
    part = np.repeat(["train", "test"], [90, 30])
    rows = Telemetry(
        ("x",), np.zeros((120, 1), np.float32), ("all",), np.zeros(120, np.int32), np.arange(120), label, {"part": part}
    )
    fold = folds_of(window_set(rows, 1), dataset(), recipe, ["*"], 0)[0]
    assert sorted(np.concatenate([fold.train, fold.validation, fold.test]).tolist()) == list(range(120))
    if recipe == "published":
        assert (fold.train.max(), fold.validation.tolist()) == (71, list(range(72, 90)))


def test_a_split_that_needs_a_role_the_data_lack_is_refused_by_name() -> None:
    bare = Dataset(
        Path(), "d", "d.csv", Roles(None, "label"), Features(("x",)), Windows(1), {"random": RandomSplit(0.3)}
    )
    with pytest.raises(SpecError, match=r"no split 'hosts'; it has random; that split needs roles\.host, which this"):
        folds_of(windows(), bare, "hosts", ["*"], 0)


@given(
    hosts=st.integers(2, 7),
    rows=st.integers(40, 90),
    period=st.integers(6, 15),
    fraction=st.floats(0.2, 0.8),
    gap=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_a_time_split_never_shares_rows_whatever_its_numbers(
    hosts: int, rows: int, period: int, fraction: float, gap: int, seed: int
) -> None:
    one = windows(hosts, rows, period)
    try:
        (fold,) = folds_of(one, dataset(time=TimeSplit(fraction, gap)), "time", ["*"], seed)
    except SpecError:
        return
    parts = [rows_of(one, part) for part in (fold.train, fold.validation, fold.test)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(len(part) for part in parts)
