"""Metrics against their definitions, counted by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.metrics import roc_auc_score

from deepfake.metrics import (
    METRICS,
    Summary,
    compute_accuracy,
    compute_auc,
    compute_brier,
    compute_calibration_error,
    compute_eer,
    compute_log_loss,
    compute_metrics,
    compute_tpr_at_fpr,
    summarise,
)
from deepfake.thresholds import choose_threshold
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
def test_metrics_equal_their_definitions(rows: Rows) -> None:
    labels, scores = columns(rows)
    y_true, values = labels.tolist(), scores.tolist()
    assert compute_auc(labels, scores) == pytest.approx(oracles.area_under_curve(y_true, values))
    assert compute_eer(labels, scores) == pytest.approx(oracles.equal_error_rate(y_true, values))
    correct = sum((s >= 0.5) == (y == 1) for y, s in rows)
    assert compute_accuracy(labels, scores, 0.5) == pytest.approx(correct / len(rows))


@settings(max_examples=50, deadline=None)
@given(_ROWS)
def test_turning_the_scores_around_turns_the_metrics_around(rows: Rows) -> None:
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
def test_known_metrics(labels: list[int], scores: list[float], auc: float, eer: float) -> None:
    assert compute_auc(np.array(labels), np.array(scores)) == pytest.approx(auc)
    assert compute_eer(np.array(labels), np.array(scores)) == pytest.approx(eer)


@pytest.mark.parametrize("label", [pytest.param(0, id="real"), pytest.param(1, id="fake")])
def test_one_class_has_no_metrics(label: int) -> None:
    labels, scores = np.full(3, label), np.array([0.1, 0.5, 0.9])
    summary = summarise(labels, scores, 0.5)
    assert math.isnan(summary.auc)
    assert math.isnan(summary.eer)
    assert summary.accuracy == pytest.approx(1 / 3 if label == 0 else 2 / 3)
    assert (summary.n_real, summary.n_fake) == ((3, 0) if label == 0 else (0, 3))


def test_no_rows_have_no_metrics() -> None:
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    summary = summarise(*nothing, 0.5)
    assert (summary.n_real, summary.n_fake) == (0, 0)
    assert all(math.isnan(v) for v in (summary.auc, summary.eer, summary.accuracy))


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


def test_summary_holds_the_metrics_of_its_parts() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 40), rng.random(40)
    assert summarise(labels, scores, 0.3) == Summary(
        n_real=int((labels == 0).sum()),
        n_fake=int((labels == 1).sum()),
        auc=compute_auc(labels, scores),
        eer=compute_eer(labels, scores),
        accuracy=compute_accuracy(labels, scores, 0.3),
    )


def random_rows(seed: int, n: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1)
    return labels, np.round(scores, 2) if ties else scores


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_compute_metrics_equals_scikit_learn(seed: int, ties: bool) -> None:
    labels, scores = random_rows(seed, 400, ties)
    threshold = 0.45
    predicted = scores >= threshold
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    expected = {
        "auc": sk.roc_auc_score(labels, scores),
        "ap": sk.average_precision_score(labels, scores),
        "eer": oracles.equal_error_rate(labels.tolist(), scores.tolist()),
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "log_loss": sk.log_loss(labels, scores),
        "brier": sk.brier_score_loss(labels, scores),
        "ece": oracles.calibration_error(labels.tolist(), scores.tolist(), 15),
        "tpr_at_fpr_1": max(t for f, t in zip(fpr, tpr, strict=True) if f <= 0.01),
        "tpr_at_fpr_5": max(t for f, t in zip(fpr, tpr, strict=True) if f <= 0.05),
    }
    metrics = compute_metrics(labels, scores, threshold)
    assert tuple(metrics) == tuple(METRICS) == tuple(expected)
    for name, figure in metrics.items():
        assert figure.value == pytest.approx(expected[name], abs=1e-12), name
        assert figure.reason == ""


def test_tpr_at_fpr_belongs_to_a_threshold_that_can_be_set() -> None:
    labels = np.array([0] * 20 + [1] * 4)
    scores = np.concatenate([np.linspace(0, 0.9, 20), [0.95, 0.88, 0.86, 0.1]])
    # Above 0.9 no real, above 0.853 one of twenty.
    assert compute_tpr_at_fpr(labels, scores, 0.0) == 0.25
    assert compute_tpr_at_fpr(labels, scores, 0.05) == 0.75


def test_calibration_error_by_hand() -> None:
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.5, 0.5, 1.0, 1.0])
    assert compute_calibration_error(labels, scores) == 0
    assert compute_calibration_error(labels, np.array([0.5, 0.5, 0.9, 0.9])) == pytest.approx(0.05)
    assert compute_calibration_error(1 - labels, scores) == pytest.approx(0.5)


def test_compute_metrics_says_why_there_is_no_value() -> None:
    one = compute_metrics(np.ones(30, dtype=int), np.linspace(0, 1, 30), 0.5)
    for name in ("auc", "ap", "eer", "balanced_accuracy", "tpr_at_fpr_1"):
        assert math.isnan(one[name].value)
        assert one[name].reason == "one class only: 0 real and 30 fake rows"
    assert one["accuracy"].value == 0.5
    assert one["brier"].value > 0

    few = compute_metrics(np.array([0, 1] * 6), np.linspace(0, 1, 12), 0.5)
    assert few["ece"].reason == "12 rows are too few, it needs 15"
    assert few["tpr_at_fpr_5"].reason == "6 real rows are too few, it needs 20"
    assert math.isnan(few["tpr_at_fpr_5"].value)
    assert not math.isnan(few["auc"].value)

    nothing = compute_metrics(np.zeros(0, dtype=int), np.zeros(0), 0.5)
    assert all(math.isnan(f.value) and f.reason == "no rows" for f in nothing.values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5], ids=str)
def test_compute_metrics_gives_no_value_where_a_score_is_no_probability(value: float) -> None:
    metrics = compute_metrics(np.array([0, 1, 1]), np.array([0.1, 0.9, value]), 0.5)
    assert all(math.isnan(figure.value) for figure in metrics.values())
    assert {f.reason for f in metrics.values()} == {"1 of 3 scores are no probabilities"}


def test_probabilities_are_checked() -> None:
    for formula in (compute_brier, compute_log_loss, compute_calibration_error):
        with pytest.raises(ValueError, match=r"scores from 0.5 to 2 are no probabilities"):
            formula(np.array([0, 1]), np.array([0.5, 2.0]))
        assert math.isnan(formula(np.zeros(0, dtype=int), np.zeros(0)))
    with pytest.raises(ValueError, match="1 labels but 2 scores"):
        compute_metrics(np.array([1]), np.array([0.5, 0.5]), 0.5)


def test_metrics_load_scikit_learn_only_when_it_is_needed() -> None:
    """A prediction imports the metrics with the training room, and needs none of them."""
    code = "import sys, deepfake.metrics; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
