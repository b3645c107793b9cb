"""Figures against their definitions, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from deepfake.metrics import (
    Summary,
    choose_threshold,
    compute_accuracy,
    compute_auc,
    compute_eer,
    summarise,
)
from tests import oracles

Rows = list[tuple[int, float]]
_SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
_ROWS = st.lists(st.tuples(st.integers(0, 1), _SCORES), min_size=2, max_size=30).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def columns(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    return np.array([y for y, _ in rows]), np.array([s for _, s in rows], dtype=np.float64)


@settings(max_examples=150, deadline=None)
@given(_ROWS)
def test_figures_equal_their_definitions(rows: Rows) -> None:
    labels, scores = columns(rows)
    truth, values = labels.tolist(), scores.tolist()
    assert compute_auc(labels, scores) == pytest.approx(oracles.area_under_curve(truth, values))
    assert compute_eer(labels, scores) == pytest.approx(oracles.equal_error_rate(truth, values))
    threshold = choose_threshold(labels, scores)
    assert oracles.balanced_accuracy(truth, values, threshold) == pytest.approx(
        oracles.best_balanced_accuracy(truth, values)
    )
    right = sum((s >= 0.5) == (y == 1) for y, s in rows)
    assert compute_accuracy(labels, scores, 0.5) == pytest.approx(right / len(rows))


@settings(max_examples=50, deadline=None)
@given(_ROWS)
def test_turning_the_scores_around_turns_the_figures_around(rows: Rows) -> None:
    labels, scores = columns(rows)
    assert compute_auc(labels, -scores) == pytest.approx(1 - compute_auc(labels, scores))
    assert compute_auc(1 - labels, -scores) == pytest.approx(compute_auc(labels, scores))
    assert compute_eer(1 - labels, -scores) == pytest.approx(compute_eer(labels, scores))


def test_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 500), rng.normal(size=500).astype(np.float32)
    assert compute_auc(labels, scores) == roc_auc_score(labels, scores)


@pytest.mark.parametrize(
    ("labels", "scores", "auc", "eer"),
    [
        pytest.param([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 1.0, 0.0, id="perfect"),
        pytest.param([0, 0, 1, 1], [0.9, 0.8, 0.2, 0.1], 0.0, 1.0, id="reversed"),
        pytest.param([0, 0, 1, 1], [0.5] * 4, 0.5, 0.5, id="all-alike"),
        pytest.param([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], 0.75, 0.5, id="one-of-two-wrong"),
        pytest.param([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.6, 0.5], 0.75, 0.25, id="unequal-counts"),
    ],
)
def test_known_figures(labels: list[int], scores: list[float], auc: float, eer: float) -> None:
    assert compute_auc(np.array(labels), np.array(scores)) == pytest.approx(auc)
    assert compute_eer(np.array(labels), np.array(scores)) == pytest.approx(eer)


@pytest.mark.parametrize("label", [pytest.param(0, id="real"), pytest.param(1, id="fake")])
def test_one_class_has_no_figures(label: int) -> None:
    labels, scores = np.full(3, label), np.array([0.1, 0.5, 0.9])
    summary = summarise(labels, scores, 0.5)
    assert math.isnan(summary.auc)
    assert math.isnan(summary.eer)
    assert summary.accuracy == pytest.approx(1 / 3 if label == 0 else 2 / 3)
    assert (summary.n_real, summary.n_fake) == ((3, 0) if label == 0 else (0, 3))
    with pytest.raises(ValueError, match="one class only"):
        choose_threshold(labels, scores)


def test_no_rows_have_no_figures() -> None:
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    summary = summarise(*nothing, 0.5)
    assert (summary.n_real, summary.n_fake) == (0, 0)
    assert all(math.isnan(v) for v in (summary.auc, summary.eer, summary.accuracy))


def test_threshold_lies_in_the_middle_of_the_gap() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(labels, scores) == pytest.approx(0.4)


def test_a_score_at_the_threshold_is_fake() -> None:
    assert compute_accuracy(np.array([1, 0]), np.array([0.5, 0.5]), 0.5) == 0.5
    assert compute_accuracy(np.array([1]), np.array([0.5]), 0.5) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("figure", [compute_auc, compute_eer, choose_threshold])
def test_refuses_scores_that_are_no_numbers(figure, value: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        figure(np.array([0, 1]), np.array([0.5, value]))


def test_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="2 labels but 3 scores"):
        summarise(np.array([0, 1]), np.array([0.1, 0.2, 0.3]), 0.5)


def test_summary_holds_the_figures_of_its_parts() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 40), rng.random(40)
    assert summarise(labels, scores, 0.3) == Summary(
        n_real=int((labels == 0).sum()),
        n_fake=int((labels == 1).sum()),
        auc=compute_auc(labels, scores),
        eer=compute_eer(labels, scores),
        accuracy=compute_accuracy(labels, scores, 0.3),
    )
