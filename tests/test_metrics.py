"""Figures against their definitions, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.metrics import roc_auc_score

from deepfake.metrics import (
    FIGURES,
    Summary,
    choose_threshold,
    choose_threshold_for_rate,
    compute_accuracy,
    compute_auc,
    compute_brier,
    compute_calibration_error,
    compute_eer,
    compute_log_loss,
    compute_tpr_at_fpr,
    measure,
    summarise,
    trace_calibration,
    trace_precision,
    trace_roc,
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


def random_rows(seed: int, n: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1)
    return labels, np.round(scores, 2) if ties else scores


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_measure_equals_scikit_learn(seed: int, ties: bool) -> None:
    labels, scores = random_rows(seed, 400, ties)
    threshold = 0.45
    called = scores >= threshold
    fpr, tpr, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    expected = {
        "auc": metrics.roc_auc_score(labels, scores),
        "ap": metrics.average_precision_score(labels, scores),
        "eer": oracles.equal_error_rate(labels.tolist(), scores.tolist()),
        "accuracy": metrics.accuracy_score(labels, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
        "log_loss": metrics.log_loss(labels, scores),
        "brier": metrics.brier_score_loss(labels, scores),
        "ece": oracles.calibration_error(labels.tolist(), scores.tolist(), 15),
        "tpr_at_fpr_1": max(t for f, t in zip(fpr, tpr, strict=True) if f <= 0.01),
        "tpr_at_fpr_5": max(t for f, t in zip(fpr, tpr, strict=True) if f <= 0.05),
    }
    figures = measure(labels, scores, threshold)
    assert tuple(figures) == FIGURES == tuple(expected)
    for name, figure in figures.items():
        assert figure.value == pytest.approx(expected[name], abs=1e-12), name
        assert figure.reason == ""


def test_found_share_belongs_to_a_threshold_that_can_be_set() -> None:
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


def test_measure_says_why_there_is_no_number() -> None:
    one = measure(np.ones(30, dtype=int), np.linspace(0, 1, 30), 0.5)
    for name in ("auc", "ap", "eer", "balanced_accuracy", "tpr_at_fpr_1"):
        assert math.isnan(one[name].value)
        assert one[name].reason == "one class only: 0 real and 30 fake rows"
    assert one["accuracy"].value == 0.5
    assert one["brier"].value > 0

    few = measure(np.array([0, 1] * 6), np.linspace(0, 1, 12), 0.5)
    assert few["ece"].reason == "12 rows are too few for 15 bins"
    assert few["tpr_at_fpr_5"].reason == "6 real rows are too few for a rate of 5 %"
    assert math.isnan(few["tpr_at_fpr_5"].value)
    assert not math.isnan(few["auc"].value)

    nothing = measure(np.zeros(0, dtype=int), np.zeros(0), 0.5)
    assert all(math.isnan(f.value) and f.reason == "no rows" for f in nothing.values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5], ids=str)
def test_measure_gives_no_figure_where_a_score_is_no_probability(value: float) -> None:
    figures = measure(np.array([0, 1, 1]), np.array([0.1, 0.9, value]), 0.5)
    assert all(math.isnan(figure.value) for figure in figures.values())
    assert {f.reason for f in figures.values()} == {"1 of 3 scores are no probabilities"}


def test_probabilities_are_checked() -> None:
    for figure in (compute_brier, compute_log_loss, compute_calibration_error):
        with pytest.raises(ValueError, match=r"scores from 0.5 to 2 are no probabilities"):
            figure(np.array([0, 1]), np.array([0.5, 2.0]))
        assert math.isnan(figure(np.zeros(0, dtype=int), np.zeros(0)))
    with pytest.raises(ValueError, match="1 labels but 2 scores"):
        measure(np.array([1]), np.array([0.5, 0.5]), 0.5)


def test_threshold_for_a_rate_is_the_lowest_that_keeps_it() -> None:
    labels = np.array([0] * 10 + [1] * 3)
    scores = np.array([*np.linspace(0, 0.9, 10), 0.85, 0.5, 0.99])
    threshold = choose_threshold_for_rate(labels, scores, 0.2)
    assert threshold == pytest.approx((0.7 + 0.8) / 2)
    assert np.mean(scores[labels == 0] >= threshold) == 0.2
    assert choose_threshold_for_rate(labels, scores, 0.1) == pytest.approx((0.8 + 0.85) / 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(_SCORES, min_size=4, max_size=30), st.sampled_from([0.25, 0.3, 0.5, 0.9]))
def test_no_more_reals_are_accused_than_wanted(reals: list[float], rate: float) -> None:
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
    with pytest.raises(ValueError, match="a false-alarm rate of 1; expected one between 0 and 1"):
        choose_threshold_for_rate(labels, scores, 1.0)
    # Every other score equal: nothing lies above the highest.
    same = choose_threshold_for_rate(np.zeros(4, dtype=int), np.full(4, 0.5), 0.5)
    assert same == np.nextafter(0.5, 1)


def test_traces_hold_what_the_figures_are_made_of() -> None:
    labels, scores = random_rows(4, 300, ties=True)
    fpr, tpr = trace_roc(labels, scores)
    assert metrics.auc(fpr, tpr) == pytest.approx(compute_auc(labels, scores))
    recall, precision = trace_precision(labels, scores)
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(labels.mean())
    assert (np.diff(recall) >= 0).all()
    said, seen, rows = trace_calibration(labels, scores)
    assert rows.sum() == 300
    assert (np.abs(said - seen) * rows).sum() / 300 == pytest.approx(
        compute_calibration_error(labels, scores)
    )
    one = np.ones(3, dtype=int)
    assert [len(part) for part in trace_roc(one, scores[:3])] == [0, 0]
    assert [len(part) for part in trace_precision(one, scores[:3])] == [0, 0]
