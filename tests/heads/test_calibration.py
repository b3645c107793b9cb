"""Calibration folds and the sigmoid, against scikit-learn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from deepfake.errors import JobError
from deepfake.heads import HEADS, Head, HeadName, LinearSVM, make_head
from deepfake.heads.calibration import (
    compute_prevalence_shift,
    cross_fit,
    fit_sigmoid,
    make_folds,
)
from deepfake.metrics import compute_calibration_error
from tests.made_embeddings import Rows, Truth, draw


@pytest.mark.parametrize("size", [1, 3, 7], ids="groups-of-{}".format)
def test_no_group_on_both_sides_of_a_fold(size: int) -> None:
    _, truth = draw(60, 45)
    groups = np.array([f"g{i // size}" for i in range(len(truth))])
    folds = list(make_folds(truth, groups.tolist()))
    assert len(folds) == 5
    held = Counter(int(row) for _, test in folds for row in test)
    assert held == Counter(range(len(truth)))
    for train, test in folds:
        assert set(groups[train]).isdisjoint(groups[test])
        assert set(truth[train]) == set(truth[test]) == {0, 1}


@pytest.mark.parametrize(
    ("groups", "n_folds"),
    [
        pytest.param(None, 5, id="none"),
        pytest.param(["a"] * 40, 5, id="one-group"),
        pytest.param(["real"] * 20 + [f"fake{i}" for i in range(20)], 5, id="one-group-of-reals"),
    ],
)
def test_folds_by_row_where_groups_do_not_serve(
    groups: list[str] | None, n_folds: int, caplog: pytest.LogCaptureFixture
) -> None:
    truth = np.repeat([0, 1], 20)
    folds = list(make_folds(truth, groups))
    assert ("cannot be divided" in caplog.text) == (groups is not None)
    assert len(folds) == n_folds
    assert sorted(int(row) for _, test in folds for row in test) == list(range(40))
    for train, test in folds:
        assert set(truth[train]) == set(truth[test]) == {0, 1}


class _Kept(BaseEstimator, ClassifierMixin):  # type: ignore[misc]
    """A fitted estimator of another package that is asked for decision values alone."""

    def __init__(self, head: Head, estimator: Any) -> None:
        self.head, self.estimator = head, estimator
        self.classes_ = np.array([0, 1])

    def fit(self, rows: Rows, truth: Truth) -> None:
        raise AssertionError("a frozen estimator is not fitted again")

    def predict(self, rows: Rows) -> Rows:
        raise AssertionError("decision values are asked for")

    def decision_function(self, rows: Rows) -> Rows:
        return self.head._predict(self.estimator, rows)


@pytest.mark.parametrize("name", HEADS)
def test_calibrate_equals_scikit_learn_on_a_frozen_estimator(name: HeadName) -> None:
    if name == "gbm":
        pytest.importorskip("lightgbm", reason="head gbm is fitted by LightGBM")
    rows, truth = draw(150, 150, shift=0.7)
    train, held = slice(0, 150), slice(150, None)
    head = make_head(name, 8, 2.0)
    kept = FrozenEstimator(_Kept(head, head._train(rows[train], truth[train])))
    expected = CalibratedClassifierCV(kept).fit(rows[held], truth[held])
    assert head.fit_classifier(rows[train], truth[train]) is head
    with pytest.raises(JobError, match="not fitted"):
        head(torch.from_numpy(rows))  # it has no sigmoid yet
    state = {k: v.clone() for k, v in head.state_dict().items()}
    assert head.calibrate(rows[held], truth[held]) is head
    for key, value in head.state_dict().items():
        assert torch.equal(value, state[key]) or key in ("slope_", "offset_", "fitted_"), key
    for queries in (rows, 3 * rows):
        expected_p = expected.predict_proba(queries)[:, 1]
        found = head(torch.from_numpy(queries)).numpy()
        np.testing.assert_allclose(found, expected_p, rtol=0, atol=1e-6)


def test_two_rows_of_each_class_calibrate() -> None:
    rows, truth = draw(2, 2)
    head = LinearSVM(8).fit_classifier(*draw(40, 40)).calibrate(rows, truth)
    assert bool(torch.isfinite(head(torch.from_numpy(rows))).all())
    with pytest.raises(JobError, match="cannot fit a classifier on 0 real"):
        head.calibrate(rows, np.ones(4, dtype=int))


def test_cross_fitted_scores_have_not_seen_their_group() -> None:
    rng = np.random.default_rng(5)
    truth = np.repeat([0, 1], 40)
    groups = [f"g{number // 4}" for number in range(80)]
    decisions = rng.normal(size=80) + truth
    scores = cross_fit(decisions, truth, groups)
    # Whatever the labels of a fold are, its own scores stay: another sigmoid made them.
    for train, test in make_folds(truth, groups):
        slope, offset = fit_sigmoid(decisions[train], truth[train])
        expected = 1 / (1 + np.exp(slope * decisions[test] + offset))
        np.testing.assert_allclose(scores[test], expected, rtol=1e-12)
        assert not {groups[row] for row in train} & {groups[row] for row in test}
    shift = compute_prevalence_shift(0.5, 0.1)
    shifted = cross_fit(decisions, truth, groups, shift)
    np.testing.assert_allclose(shifted / (1 - shifted), scores / (1 - scores) / 9, rtol=1e-9)


def test_a_sigmoid_of_validation_rows_is_better_calibrated() -> None:
    """A network has learnt its training rows: no fold of theirs shows how sure a head may be."""
    rng = np.random.default_rng(0)

    def embed(n: int, separation: float) -> tuple[Rows, Truth]:
        truth = rng.integers(0, 2, n)
        rows = rng.normal(size=(n, 16))
        rows[:, 0] += separation * (2 * truth - 1)
        return rows, truth

    train, validation, test = embed(600, 2.5), embed(600, 0.6), embed(4000, 0.6)
    for name in ("svm", "logistic", "rbf"):
        at_training = make_head(name, 16, 2.0).fit(*train)
        on_validation = make_head(name, 16, 2.0).fit_classifier(*train).calibrate(*validation)
        before, after = (
            compute_calibration_error(test[1], head(torch.from_numpy(test[0])).numpy())
            for head in (at_training, on_validation)
        )
        assert before > 0.1, name
        assert after < 0.04, name


def test_shifted_prevalence_is_odds_times_the_ratio_of_odds() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 100)
    rows = rng.normal(size=(100, 3)) + labels[:, None]
    svm = LinearSVM(3).fit(rows, labels)
    before = svm(torch.from_numpy(rows)).numpy()
    after = svm.shift_prevalence(0.5, 0.1)(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(after / (1 - after), before / (1 - before) / 9, rtol=1e-9)
    with pytest.raises(ValueError, match=r"prevalence 0.5 to 1; expected shares between"):
        svm.shift_prevalence(0.5, 1.0)
