"""Thresholds against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfake.thresholds import choose_threshold, choose_threshold_for_rate
from tests import oracles

_SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
_ROWS = st.lists(st.tuples(st.integers(0, 1), _SCORES), min_size=2, max_size=30).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=150, deadline=None)
@given(_ROWS)
def test_no_threshold_has_a_better_balanced_accuracy(rows: list[tuple[int, float]]) -> None:
    y_true, y_score = [y for y, _ in rows], [s for _, s in rows]
    threshold = choose_threshold(np.array(y_true), np.array(y_score, dtype=np.float64))
    assert oracles.balanced_accuracy(y_true, y_score, threshold) == pytest.approx(
        oracles.best_balanced_accuracy(y_true, y_score)
    )


@pytest.mark.parametrize("label", [0, 1], ids=["real", "fake"])
def test_one_class_has_no_threshold(label: int) -> None:
    with pytest.raises(ValueError, match="one class only"):
        choose_threshold(np.full(3, label), np.array([0.1, 0.5, 0.9]))


def test_threshold_lies_in_the_middle_of_the_gap() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(labels, scores) == pytest.approx(0.4)


def test_threshold_for_a_rate_is_the_lowest_that_keeps_it() -> None:
    labels = np.array([0] * 10 + [1] * 3)
    scores = np.array([*np.linspace(0, 0.9, 10), 0.85, 0.5, 0.99])
    threshold = choose_threshold_for_rate(labels, scores, 0.2)
    assert threshold == pytest.approx((0.7 + 0.8) / 2)
    assert np.mean(scores[labels == 0] >= threshold) == 0.2
    assert choose_threshold_for_rate(labels, scores, 0.1) == pytest.approx((0.8 + 0.85) / 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(_SCORES, min_size=4, max_size=30), st.sampled_from([0.25, 0.3, 0.5, 0.9]))
def test_no_more_false_positives_than_wanted(reals: list[float], rate: float) -> None:
    scores = np.array([*reals, 0.5])
    labels = np.array([0] * len(reals) + [1])
    threshold = choose_threshold_for_rate(labels, scores, rate)
    assert np.mean(scores[labels == 0] >= threshold) <= rate
    lower = scores[scores < threshold]
    assert np.mean(scores[labels == 0] >= lower.max()) > rate or lower.max() == 0.5


def test_threshold_for_a_rate_refuses() -> None:
    labels, scores = np.array([0] * 9 + [1]), np.linspace(0, 1, 10)
    with pytest.raises(ValueError, match=r"rate of 0.1 cannot be measured on 9 reals; it takes 10"):
        choose_threshold_for_rate(labels, scores, 0.1)
    with pytest.raises(ValueError, match="rate of 1; expected one between 0 and 1"):
        choose_threshold_for_rate(labels, scores, 1.0)
    # Every other score equal: nothing lies above the highest.
    same = choose_threshold_for_rate(np.zeros(4, dtype=int), np.full(4, 0.5), 0.5)
    assert same == np.nextafter(0.5, 1)
