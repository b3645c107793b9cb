"""Calibration folds and the sigmoid, against scikit-learn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.svm import LinearSVC

from deepfake.errors import JobError
from deepfake.heads import LinearSVM
from deepfake.heads.calibration import make_folds
from tests.made_embeddings import draw


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


def test_calibrate_equals_scikit_learn_on_a_frozen_machine() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 300)
    rows = rng.normal(size=(300, 6)) + labels[:, None] * 0.7
    svm = LinearSVM(6).fit(rows[:150], labels[:150])
    machine = LinearSVC(C=2.0, dual=False, tol=1e-12, max_iter=100_000)
    machine.fit(rows[:150], labels[:150])
    expected = CalibratedClassifierCV(FrozenEstimator(machine)).fit(rows[150:], labels[150:])
    weight = svm.weight_.clone()
    assert svm.calibrate(rows[150:], labels[150:]) is svm
    assert torch.equal(svm.weight_, weight)
    np.testing.assert_allclose(
        svm(torch.from_numpy(rows)).numpy(), expected.predict_proba(rows)[:, 1], atol=1e-5
    )


def test_calibrate_refuses_to_turn_the_detector_around() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 100)
    rows = rng.normal(size=(100, 3)) + labels[:, None]
    svm = LinearSVM(3).fit(rows, labels)
    with pytest.raises(JobError, match=r"\d+ real and \d+ fake rows the decisions do not rise"):
        svm.calibrate(rows, 1 - labels)
    with pytest.raises(JobError, match="cannot fit a classifier on 0 real"):
        svm.calibrate(rows, np.ones(100, dtype=int))


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
