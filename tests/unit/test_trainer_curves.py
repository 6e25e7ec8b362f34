"""Claims about the thinned curves that are drawn."""

from __future__ import annotations

import numpy as np

from training.trainer.evaluation.curves import precision_recall, receiver_operating, thinned

LABEL = np.array([1, 0, 1, 0], np.int8)
SCORE = np.array([0.9, 0.8, 0.7, 0.1], np.float32)


def test_a_short_curve_is_drawn_whole() -> None:
    recall, precision = precision_recall(LABEL, SCORE, 500)
    assert recall.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
    np.testing.assert_allclose(precision, [1.0, 1.0, 0.5, 2 / 3, 0.5])
    false_alarms, hits = receiver_operating(LABEL, SCORE, 500)
    assert false_alarms.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert hits.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]


def test_a_long_curve_keeps_both_ends_and_points_that_are_really_on_it() -> None:
    assert thinned(np.arange(101.0), 5).tolist() == [0, 25, 50, 75, 100]
    assert thinned(np.array([0, 0, 0, 1.0, 1, 1]), 3).tolist() == [0, 3, 5]
    random = np.random.default_rng(3)
    label = (random.random(20_000) < 0.1).astype(np.int8)
    score = random.random(20_000).astype(np.float32)
    for points in (precision_recall, receiver_operating):
        whole, part = points(label, score, 10**6), points(label, score, 100)
        assert len(part[0]) <= 100
        assert set(zip(*part, strict=True)) <= set(zip(*whole, strict=True))
        assert (part[0][0], part[0][-1]) == (whole[0][0], whole[0][-1])
