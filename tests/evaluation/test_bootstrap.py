"""Intervals against a slow loop that repeats rows and asks scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.evaluation.bootstrap import (
    bootstrap_metrics,
    bootstrap_share,
    resample_groups,
    resample_metrics,
)
from deepfake.metrics import METRICS, compute_auc, compute_metrics

Rows = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def make_rows(seed: int, n: int = 240, n_groups: int = 40, ties: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.4 + 0.2 * y_true, 0.25), 0, 1)
    groups = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)])
    return y_true, np.round(scores, 1) if ties else scores, groups


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_the_figures_of_its_repeated_rows(seed: int, ties: bool) -> None:
    y_true, scores, groups = make_rows(seed, ties=ties)
    counts = [*resample_groups(40, n_resamples=12, seed=seed)]
    resampled = resample_metrics(y_true, scores, groups, counts, 0.47)
    assert set(resampled) == set(METRICS)
    for number, count in enumerate(counts):
        repeated = np.repeat(np.arange(len(y_true)), count[groups])
        slow = compute_metrics(y_true[repeated], scores[repeated], 0.47)
        for name in METRICS:
            expected = slow[name].value
            if name == "tpr_at_fpr_1" and math.isnan(expected):
                continue  # a resample may hold fewer than 100 reals; the whole did
            assert resampled[name][number] == pytest.approx(expected, abs=1e-9), name


def test_many_parts_are_one_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    y_true, scores, groups = make_rows(3)
    counts = [*resample_groups(40, n_resamples=30)]
    whole = resample_metrics(y_true, scores, groups, counts, 0.5)
    monkeypatch.setattr("deepfake.evaluation.bootstrap._CELLS", 500)
    parts = resample_metrics(y_true, scores, groups, counts, 0.5)
    for name in METRICS:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def test_interval_is_the_percentile_of_a_slow_loop() -> None:
    y_true, scores, groups = make_rows(5)
    words = [f"person {number}" for number in groups]
    metrics = bootstrap_metrics(y_true, scores, words, 0.5, n_resamples=50, seed=9)
    _, columns = np.unique(words, return_inverse=True)
    slow = []
    for count in resample_groups(40, 50, seed=9):
        repeated = np.repeat(np.arange(len(y_true)), count[columns])
        slow.append(compute_auc(y_true[repeated], scores[repeated]))
    assert (metrics["auc"].low, metrics["auc"].high) == pytest.approx(
        tuple(np.percentile(slow, [2.5, 97.5]))
    )
    for name, estimate in metrics.items():
        assert estimate.low <= estimate.high, name
        assert name == "ece" or estimate.low <= estimate.value <= estimate.high, name
        assert estimate.note == ""


def test_groups_widen_the_interval() -> None:
    """Ten equal frames of a video are one piece of evidence, not ten."""
    y_true, scores, _ = make_rows(1, n=60)
    many_true, many_scores = np.repeat(y_true, 10), np.repeat(scores, 10)
    videos, rows = np.repeat(np.arange(60), 10).astype(str), np.arange(600).astype(str)
    by_group = bootstrap_metrics(many_true, many_scores, videos, 0.5)
    by_row = bootstrap_metrics(many_true, many_scores, rows, 0.5)
    width = {
        name: metrics["auc"].high - metrics["auc"].low
        for name, metrics in (("group", by_group), ("row", by_row))
    }
    assert width["group"] > 2 * width["row"]
    alone = bootstrap_metrics(y_true, scores, np.arange(60).astype(str), 0.5)
    assert by_group["auc"].high - by_group["auc"].low == pytest.approx(
        alone["auc"].high - alone["auc"].low, abs=1e-12
    )


def test_an_interval_covers_the_true_value_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    names = np.arange(200).astype(str)
    for _ in range(60):
        y_true = rng.integers(0, 2, 200)
        correct = rng.random(200) < 0.8
        scores = np.where(correct == (y_true == 1), 0.9, 0.1)
        estimate = bootstrap_metrics(y_true, scores, names, 0.5, n_resamples=100)["accuracy"]
        covered += estimate.low <= 0.8 <= estimate.high
    assert 51 <= covered <= 60


def test_resamples_of_one_class_are_counted_and_said() -> None:
    y_true, scores = np.array([1, 0, 0, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.95])
    metrics = bootstrap_metrics(y_true, scores, list("abcdef"), 0.5, n_resamples=300)
    lost = int(metrics["auc"].note.split(" of ")[0])
    assert metrics["auc"].note == f"{lost} of 300 resamples hold one class only"
    assert 60 < lost < 140  # (5/6)^6 of all: a third
    assert metrics["accuracy"].note == ""
    assert 0 <= metrics["auc"].low <= metrics["auc"].high <= 1


def test_all_resamples_of_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    y_true, scores = np.array([1, 0, 0, 0, 0, 0]), np.linspace(1, 0, 6)
    only_reals = np.tile(np.array([[0, 2, 1, 1, 1, 1]], dtype=np.int32), (20, 1))
    monkeypatch.setattr("deepfake.evaluation.bootstrap.resample_groups", lambda *_: only_reals)
    estimate = bootstrap_metrics(y_true, scores, list("abcdef"), 0.5, n_resamples=20)["auc"]
    assert estimate.note == "no interval: all 20 resamples hold one class only"
    assert math.isnan(estimate.low)
    assert estimate.value == 1


def test_few_groups_have_no_interval() -> None:
    y_true, scores = np.array([0, 1] * 10), np.linspace(0, 1, 20)
    metrics = bootstrap_metrics(y_true, scores, ["a", "b"] * 10, 0.5)
    assert metrics["auc"].note == "no interval: 2 groups, 5 are needed"
    assert math.isnan(metrics["auc"].low)
    assert metrics["auc"].value == compute_metrics(y_true, scores, 0.5)["auc"].value
    assert metrics["tpr_at_fpr_1"].note == ""


def test_what_does_not_exist_has_no_interval() -> None:
    nothing = bootstrap_metrics(np.zeros(0, dtype=int), np.zeros(0), [], 0.5)
    assert {estimate.reason for estimate in nothing.values()} == {"no rows"}
    none = bootstrap_metrics(np.array([0, 1]), np.array([0.1, 0.2]), ["a", "b"], 0.5, n_resamples=0)
    assert none["auc"].note == ""
    assert math.isnan(none["auc"].high)
    with pytest.raises(ValueError, match="2 labels but 1 groups"):
        bootstrap_metrics(np.array([0, 1]), np.array([0.1, 0.2]), ["a"], 0.5)


def test_a_share_has_the_interval_of_an_accuracy() -> None:
    y_true, scores, groups = make_rows(3)
    words = groups.astype(str)
    hits = (scores >= 0.5) == (y_true == 1)
    share = bootstrap_share(hits, words, n_resamples=200)
    estimate = bootstrap_metrics(y_true, scores, words, 0.5, n_resamples=200)["accuracy"]
    assert (share.value, share.low, share.high) == pytest.approx(
        (estimate.value, estimate.low, estimate.high), abs=1e-12
    )
    assert math.isnan(bootstrap_share(hits, words, n_resamples=0).low)


@pytest.mark.parametrize("hit", [False, True])
def test_a_share_of_none_or_all_has_the_exact_interval_of_its_groups(hit: bool) -> None:
    groups = [f"person {n // 2}" for n in range(60)]
    share = bootstrap_share(np.full(60, hit), groups)
    certain, unseen = (share.high, share.low) if hit else (1 - share.low, 1 - share.high)
    # As often as that, thirty groups in a row are alike in 2.5 of a hundred cases.
    assert (certain, unseen**30) == pytest.approx((1, 0.025), abs=1e-12)
    assert share.note == "exact interval of 30 groups: all 60 rows are alike"
    assert math.isnan(bootstrap_share(np.full(60, hit), groups, n_resamples=0).low)
    assert math.isnan(bootstrap_share(np.full(8, hit), groups[:8]).low), "four groups are too few"


def test_same_seed_same_interval() -> None:
    y_true, scores, groups = make_rows(2)
    words = groups.astype(str)
    first, again, other = (
        bootstrap_metrics(y_true, scores, words, 0.5, 100, seed)["auc"] for seed in (1, 1, 2)
    )
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
