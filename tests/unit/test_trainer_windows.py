"""Claims about windows and their features."""

from __future__ import annotations

import tracemalloc

import numpy as np

from training.trainer.data.telemetry import Telemetry
from training.trainer.data.windows import feature_matrix, feature_names, standardised, window_set, window_statistics


def telemetry(sizes: list[int], columns: int = 2, seed: int = 0) -> Telemetry:
    random = np.random.default_rng(seed)
    rows = sum(sizes)
    host = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    time = np.concatenate([np.arange(size) for size in sizes])
    return Telemetry(
        tuple(f"c{i}" for i in range(columns)),
        random.standard_normal((rows, columns)).astype(np.float32),
        tuple(f"h{i}" for i in range(len(sizes))),
        host,
        time,
        (np.arange(rows) % 3 == 0).astype(np.int8),
        {},
    )


def test_windows_end_at_every_row_with_enough_rows_before_it_on_the_same_host() -> None:
    windows = window_set(telemetry([5, 2, 4]), 3)
    assert windows.ends.tolist() == [2, 3, 4, 9, 10]
    assert windows.host.tolist() == [0, 0, 0, 2, 2]
    assert windows.label.tolist() == [0, 1, 0, 1, 0]


def test_statistics_match_a_plain_loop() -> None:
    values = telemetry([40]).values.astype(np.float64)
    found = np.concatenate(window_statistics(values, 7), axis=1)
    for index in range(34):
        part = values[index : index + 7]
        wanted = np.concatenate([part[-1], part.mean(axis=0), part.std(axis=0), part[-1] - part[0]])
        np.testing.assert_allclose(found[index], wanted, rtol=1e-12, atol=1e-12)


def test_a_quiet_stretch_beside_a_burst_keeps_its_small_deviation() -> None:
    values = np.array([[1e9], [1e9], [1.0], [2.0], [1.0], [2.0]])
    assert window_statistics(values, 4)[2].tolist()[-1] == [0.5]


def test_features_of_one_host_do_not_depend_on_another() -> None:
    both = telemetry([12, 15])
    matrix = feature_matrix(window_set(both, 4), history=True)
    alone = Telemetry(
        both.columns, both.values[12:], ("h1",), np.zeros(15, np.int32), both.time[12:], both.label[12:], {}
    )
    np.testing.assert_array_equal(matrix[9:], feature_matrix(window_set(alone, 4), history=True))


def test_features_never_see_a_later_row() -> None:
    one = telemetry([30])
    matrix = feature_matrix(window_set(one, 5), history=True)
    one.values[20:] = 1000.0
    np.testing.assert_array_equal(matrix[:16], feature_matrix(window_set(one, 5), history=True)[:16])


def test_feature_names_follow_the_columns_of_the_matrix() -> None:
    one = telemetry([9])
    matrix = feature_matrix(window_set(one, 3), history=True)
    names = feature_names(one.columns, history=True)
    assert matrix.shape == (7, 16)
    assert len(names) == 16
    np.testing.assert_array_equal(matrix[:, names.index("c1.last")], one.values[2:, 1])
    np.testing.assert_array_equal(matrix[:, names.index("c0.difference")], one.values[2:, 0] - one.values[:-2, 0])
    past = standardised(one.values.astype(np.float64))
    np.testing.assert_array_equal(matrix[:, names.index("c1.history.last")], past[2:, 1].astype(np.float32))
    assert feature_names(("c0",), history=False) == ["c0.last", "c0.mean", "c0.std", "c0.difference"]


def test_standardising_uses_the_past_up_to_the_row() -> None:
    values = np.array([[1.0], [3.0], [5.0]])
    found = standardised(values)[:, 0]
    past = [values[: i + 1, 0] for i in range(3)]
    wanted = [(p[-1] - p.mean()) / (p.std() + 1e-3 * np.abs(p).max()) for p in past]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_a_constant_metric_standardises_to_zero_and_a_jump_is_cut() -> None:
    assert standardised(np.full((5, 1), 7.0)).tolist() == [[0.0]] * 5
    assert standardised(np.zeros((5, 1))).tolist() == [[0.0]] * 5
    jump = np.zeros((1000, 1))
    jump[-1] = 5.0
    assert standardised(jump)[-1, 0] == 10.0


def test_many_columns_stand_where_their_names_stand() -> None:
    """Columns are worked on in blocks; the matrix must look as if they were not."""
    one = telemetry([25], columns=19)
    values = one.values.astype(np.float64)
    parts = [*window_statistics(values, 4), *window_statistics(standardised(values), 4)]
    wanted = np.concatenate(parts, axis=1)
    np.testing.assert_array_equal(feature_matrix(window_set(one, 4), history=True), wanted.astype(np.float32))


def test_many_windows_stand_in_their_order() -> None:
    """Windows are worked on in blocks; the matrix must look as if they were not."""
    one = telemetry([5000], columns=1)
    wanted = np.concatenate(window_statistics(one.values.astype(np.float64), 4), axis=1)
    np.testing.assert_array_equal(feature_matrix(window_set(one, 4), history=False), wanted.astype(np.float32))


def test_windows_of_one_row_carry_the_row_and_nothing_else() -> None:
    one = telemetry([6], columns=2)
    matrix = feature_matrix(window_set(one, 1), history=False)
    np.testing.assert_array_equal(matrix[:, :4], np.concatenate([one.values, one.values], axis=1))
    assert not matrix[:, 4:].any()


def peak_bytes(rows: int, columns: int, length: int) -> tuple[int, int]:
    one = telemetry([rows], columns)
    tracemalloc.start()
    windows = window_set(one, length)
    marked = tracemalloc.get_traced_memory()[1]
    matrix = feature_matrix(windows, history=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.nbytes == (rows - length + 1) * columns * 8 * 4
    return marked, peak - matrix.nbytes


def test_windows_are_numbers_of_rows_and_never_copies() -> None:
    """A window set costs the same whatever its length, about two numbers a window while it is made."""
    short, long = (peak_bytes(20_000, 4, length)[0] for length in (2, 200))
    assert long <= short < 20_000 * 8 * 2.5


def test_features_need_the_work_space_of_a_few_columns_of_one_host() -> None:
    few, many = (peak_bytes(20_000, columns, 5)[1] for columns in (8, 64))
    assert many < 1.2 * few
