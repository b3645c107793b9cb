"""Intervals against a slow loop that repeats rows and asks scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.evaluation.bootstrap import (
    draw_groups,
    measure_share,
    measure_with_intervals,
    weighted_figures,
)
from deepfake.metrics import FIGURES, compute_auc, measure

Rows = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def make_rows(seed: int, n: int = 240, n_groups: int = 40, ties: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1)
    groups = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)])
    return labels, np.round(scores, 1) if ties else scores, groups


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_a_round_is_the_figures_of_its_repeated_rows(seed: int, ties: bool) -> None:
    labels, scores, groups = make_rows(seed, ties=ties)
    counts = draw_groups(40, rounds=12, seed=seed)
    drawn = weighted_figures(labels, scores, groups, counts, 0.47)
    assert set(drawn) == set(FIGURES)
    for number, count in enumerate(counts):
        repeated = np.repeat(np.arange(len(labels)), count[groups])
        slow = measure(labels[repeated], scores[repeated], 0.47)
        for name in FIGURES:
            expected = slow[name].value
            if name == "tpr_at_fpr_1" and math.isnan(expected):
                continue  # a round may hold fewer than 100 reals; the whole did
            assert drawn[name][number] == pytest.approx(expected, abs=1e-9), name


def test_many_parts_are_one_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, groups = make_rows(3)
    counts = draw_groups(40, rounds=30)
    whole = weighted_figures(labels, scores, groups, counts, 0.5)
    monkeypatch.setattr("deepfake.evaluation.bootstrap._CELLS", 500)
    parts = weighted_figures(labels, scores, groups, counts, 0.5)
    for name in FIGURES:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def test_interval_is_the_percentile_of_a_slow_loop() -> None:
    labels, scores, groups = make_rows(5)
    words = [f"person {number}" for number in groups]
    figures = measure_with_intervals(labels, scores, words, 0.5, rounds=50, seed=9)
    _, columns = np.unique(words, return_inverse=True)
    slow = []
    for count in draw_groups(40, 50, seed=9):
        repeated = np.repeat(np.arange(len(labels)), count[columns])
        slow.append(compute_auc(labels[repeated], scores[repeated]))
    assert (figures["auc"].low, figures["auc"].high) == pytest.approx(
        tuple(np.percentile(slow, [2.5, 97.5]))
    )
    for name, figure in figures.items():
        assert figure.low <= figure.high, name
        assert name == "ece" or figure.low <= figure.value <= figure.high, name
        assert figure.note == ""


def test_groups_widen_the_interval() -> None:
    """Ten equal frames of a video are one piece of evidence, not ten."""
    labels, scores, _ = make_rows(1, n=60)
    many_labels, many_scores = np.repeat(labels, 10), np.repeat(scores, 10)
    videos, rows = np.repeat(np.arange(60), 10).astype(str), np.arange(600).astype(str)
    by_group = measure_with_intervals(many_labels, many_scores, videos, 0.5)
    by_row = measure_with_intervals(many_labels, many_scores, rows, 0.5)
    width = {
        name: figures["auc"].high - figures["auc"].low
        for name, figures in (("group", by_group), ("row", by_row))
    }
    assert width["group"] > 2 * width["row"]
    alone = measure_with_intervals(labels, scores, np.arange(60).astype(str), 0.5)
    assert by_group["auc"].high - by_group["auc"].low == pytest.approx(
        alone["auc"].high - alone["auc"].low, abs=1e-12
    )


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    names = np.arange(200).astype(str)
    for _ in range(60):
        labels = rng.integers(0, 2, 200)
        right = rng.random(200) < 0.8
        scores = np.where(right == (labels == 1), 0.9, 0.1)
        figure = measure_with_intervals(labels, scores, names, 0.5, rounds=100)["accuracy"]
        covered += figure.low <= 0.8 <= figure.high
    assert 51 <= covered <= 60


def test_rounds_of_one_class_are_counted_and_said() -> None:
    labels, scores = np.array([1, 0, 0, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.95])
    figures = measure_with_intervals(labels, scores, list("abcdef"), 0.5, rounds=300)
    lost = int(figures["auc"].note.split(" of ")[0])
    assert figures["auc"].note == f"{lost} of 300 rounds drew one class only"
    assert 60 < lost < 140  # (5/6)^6 of all: a third
    assert figures["accuracy"].note == ""
    assert 0 <= figures["auc"].low <= figures["auc"].high <= 1


def test_all_rounds_of_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = np.array([1, 0, 0, 0, 0, 0]), np.linspace(1, 0, 6)
    only_reals = np.tile(np.array([[0, 2, 1, 1, 1, 1]], dtype=np.int32), (20, 1))
    monkeypatch.setattr("deepfake.evaluation.bootstrap.draw_groups", lambda *_: only_reals)
    figure = measure_with_intervals(labels, scores, list("abcdef"), 0.5, rounds=20)["auc"]
    assert figure.note == "no interval: all 20 rounds drew one class only"
    assert math.isnan(figure.low)
    assert figure.value == 1


def test_few_groups_have_no_interval() -> None:
    labels, scores = np.array([0, 1] * 10), np.linspace(0, 1, 20)
    figures = measure_with_intervals(labels, scores, ["a", "b"] * 10, 0.5)
    assert figures["auc"].note == "no interval: 2 groups, 5 are needed"
    assert math.isnan(figures["auc"].low)
    assert figures["auc"].value == measure(labels, scores, 0.5)["auc"].value
    assert figures["tpr_at_fpr_1"].note == ""


def test_what_does_not_exist_has_no_interval() -> None:
    nothing = measure_with_intervals(np.zeros(0, dtype=int), np.zeros(0), [], 0.5)
    assert {figure.reason for figure in nothing.values()} == {"no rows"}
    none = measure_with_intervals(np.array([0, 1]), np.array([0.1, 0.2]), ["a", "b"], 0.5, rounds=0)
    assert none["auc"].note == ""
    assert math.isnan(none["auc"].high)
    with pytest.raises(ValueError, match="2 labels but 1 groups"):
        measure_with_intervals(np.array([0, 1]), np.array([0.1, 0.2]), ["a"], 0.5)


def test_a_share_has_the_interval_of_an_accuracy() -> None:
    labels, scores, groups = make_rows(3)
    words = groups.astype(str)
    hits = (scores >= 0.5) == (labels == 1)
    share = measure_share(hits, words, rounds=200)
    figure = measure_with_intervals(labels, scores, words, 0.5, rounds=200)["accuracy"]
    assert (share.value, share.low, share.high) == pytest.approx(
        (figure.value, figure.low, figure.high), abs=1e-12
    )
    assert math.isnan(measure_share(hits, words, rounds=0).low)


def test_same_seed_same_interval() -> None:
    labels, scores, groups = make_rows(2)
    words = groups.astype(str)
    first, again, other = (
        measure_with_intervals(labels, scores, words, 0.5, 100, seed)["auc"] for seed in (1, 1, 2)
    )
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
