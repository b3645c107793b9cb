"""The classifier against scikit-learn's own ``predict_proba``, through a saved file."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.svm import LinearSVC

from deepfake.errors import JobError
from deepfake.heads import calibration as calibration_module
from deepfake.heads import linear as classifier_module
from deepfake.heads.calibration import deal_folds
from deepfake.heads.linear import LinearSVM, LogisticHead
from tests.made_embeddings import draw, reload


@pytest.mark.parametrize("grouped", [False, True], ids=["by-row", "by-group"])
@pytest.mark.parametrize("c", [0.1, 2.0], ids="C{}".format)
@pytest.mark.parametrize(
    ("n_real", "n_fake", "dim"),
    [
        pytest.param(60, 60, 8, id="even"),
        pytest.param(150, 20, 8, id="unequal"),
        pytest.param(40, 40, 128, id="wide"),
        pytest.param(3, 30, 4, id="three-reals"),
    ],
)
def test_equals_scikit_learn(n_real: int, n_fake: int, dim: int, c: float, grouped: bool) -> None:
    rows, truth = draw(n_real, n_fake, dim)
    groups = [f"g{i // 2}" for i in range(len(truth))] if grouped else None
    folds = list(deal_folds(truth, groups))
    # At its default tolerance liblinear stops while decision values are off by a hundredth.
    machine = LinearSVC(C=c, dual=False, tol=1e-10, max_iter=10_000)
    oracle = CalibratedClassifierCV(machine, ensemble=False, cv=folds)
    oracle.fit(rows, truth)
    fitted = LinearSVM(dim, c).fit(rows, truth, groups)
    fresh = np.random.default_rng(1).normal(size=(200, dim))
    for queries in (rows, fresh, 5 * fresh):
        expected = oracle.predict_proba(queries)[:, 1]
        for classifier in (fitted, reload(fitted)):
            p_fake = classifier(torch.from_numpy(queries))
            assert (p_fake.dtype, tuple(p_fake.shape)) == (torch.float64, (len(queries),))
            np.testing.assert_allclose(p_fake.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("c", [0.5, 2.0, 1000.0], ids="C{}".format)
@pytest.mark.parametrize("shift", [0.0, 0.4, 50.0], ids="shift{}".format)
def test_decision_values_are_liblinears(shift: float, c: float) -> None:
    # Classes that cannot be told apart, that overlap, that a plane parts; the last is C to 1e3.
    rows, truth = draw(120, 90, 12, shift)
    exact = LinearSVC(C=c, dual=False, tol=1e-12, max_iter=100_000).fit(rows, truth)
    fitted = LinearSVM(12, c).fit(rows, truth)
    decisions = rows @ fitted.weight_.numpy() + float(fitted.intercept_)
    np.testing.assert_allclose(decisions, exact.decision_function(rows), rtol=0, atol=1e-6)


def test_the_solution_is_the_minimum() -> None:
    rows, truth = draw(200, 150, 16)
    signs = 2.0 * truth - 1
    fitted = LinearSVM(16, C=2.0).fit(rows, truth)
    weights = torch.cat([fitted.weight_, fitted.intercept_[None]]).requires_grad_()
    ones = torch.ones(len(rows), 1, dtype=torch.float64)
    inputs = torch.cat([torch.from_numpy(rows), ones], dim=1)
    missing = torch.relu(1 - torch.from_numpy(signs) * (inputs @ weights))
    (slope,) = torch.autograd.grad(weights.pow(2).sum() / 2 + 2.0 * missing.pow(2).sum(), weights)
    assert float(slope.abs().max()) < 1e-8


def test_embeddings_that_are_all_alike_settle() -> None:
    # A collapsed network: the sum of outer products has one direction only.
    rows = np.ones((300, 32), dtype=np.float32) / np.float32(32) ** 0.5
    fitted = LinearSVM(32).fit(rows, np.arange(300) % 3 == 0)
    p_fake = fitted(torch.from_numpy(rows))
    assert float(p_fake.std()) < 1e-12
    assert float(p_fake[0]) == pytest.approx(1 / 3, abs=0.01)


def test_an_unsettled_machine_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(classifier_module, "_MAX_STEPS", 1)
    LinearSVM(8).fit(*draw(60, 60))
    assert "did not settle in 1 steps; its decision values may be off by" in caplog.text


def test_a_head_that_is_wrong_about_held_out_rows_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    LinearSVM(8).fit(*draw(60, 60, shift=1.0)).warn_if_useless()
    assert "do not rise with fake" not in caplog.text
    monkeypatch.setattr(classifier_module, "fit_sigmoid", lambda decisions, truth: (0.5, 0.0))
    LinearSVM(8).fit(*draw(60, 60)).warn_if_useless()
    assert "on held-out rows the decisions of this head do not rise with fake" in caplog.text


def test_a_step_that_goes_too_far_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, truth = draw(80, 80)
    plain = LinearSVM(8).fit(rows, truth)
    descend = classifier_module._descend
    monkeypatch.setattr(
        classifier_module, "_descend", lambda hessian, slope: 5 * descend(hessian, slope)
    )
    monkeypatch.setattr(classifier_module, "_MAX_STEPS", 1000)
    again = LinearSVM(8).fit(rows, truth)
    torch.testing.assert_close(again.weight_, plain.weight_, rtol=0, atol=1e-6)


def test_more_rows_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, truth = draw(100, 100)
    whole = LinearSVM(8).fit(rows, truth)
    monkeypatch.setattr(calibration_module, "_CHUNK_ROWS", 7)
    torch.testing.assert_close(LinearSVM(8).fit(rows, truth).weight_, whole.weight_)


def test_float32_rows_are_never_widened_as_a_whole() -> None:
    rows = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    truth = np.arange(40_000) % 2
    tracemalloc.start()
    try:
        LinearSVM(64).fit(rows, truth)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * rows.nbytes


def test_float32_embeddings_score_as_float64_ones() -> None:
    rows, truth = draw(50, 50)
    rows = rows.astype(np.float32).astype(np.float64)
    first = LinearSVM(8).fit(rows, truth)
    second = LinearSVM(8).fit(torch.from_numpy(rows).float(), torch.from_numpy(truth))
    assert torch.equal(
        first(torch.from_numpy(rows)), second(torch.from_numpy(rows.astype(np.float32)))
    )


def test_rises_with_fake() -> None:
    rows, truth = draw(100, 100, shift=1.0)
    classifier = LinearSVM(8).fit(rows, truth)
    assert float(classifier.slope_) < 0
    p_fake = classifier(torch.from_numpy(rows)).numpy()
    assert p_fake[truth == 1].mean() > p_fake[truth == 0].mean() + 0.1
    direction = classifier.weight_ / classifier.weight_.norm()
    walk = classifier(torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None] * direction)
    assert bool((walk.diff() > 0).all())


def test_swapping_the_labels_mirrors_the_answer() -> None:
    rows, truth = draw(80, 80)
    ahead, back = LinearSVM(8).fit(rows, truth), LinearSVM(8).fit(rows, 1 - truth)
    queries = torch.from_numpy(rows)
    torch.testing.assert_close(ahead(queries), 1 - back(queries), rtol=0, atol=1e-5)


def test_same_rows_same_numbers() -> None:
    rows, truth = draw(40, 40)
    states = [LinearSVM(8).fit(rows, truth).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_fitting_again_forgets_the_first_fit() -> None:
    rows, truth = draw(40, 40)
    twice = LinearSVM(8).fit(rows, 1 - truth).fit(rows, truth)
    assert torch.equal(twice.weight_, LinearSVM(8).fit(rows, truth).weight_)


def test_separable_rows_give_no_nan() -> None:
    rows, truth = draw(30, 30, shift=50.0)
    p_fake = LinearSVM(8).fit(rows, truth)(torch.from_numpy(rows * 1e6)).numpy()
    assert np.isfinite(p_fake).all()
    assert ((p_fake > 0.5) == (truth == 1)).all()


@pytest.mark.parametrize("size", [1, 3, 7], ids="groups-of-{}".format)
def test_no_group_on_both_sides_of_a_fold(size: int) -> None:
    _, truth = draw(60, 45)
    groups = np.array([f"g{i // size}" for i in range(len(truth))])
    folds = list(deal_folds(truth, groups.tolist()))
    assert len(folds) == 5
    held = Counter(int(row) for _, test in folds for row in test)
    assert held == Counter(range(len(truth)))
    for train, test in folds:
        assert set(groups[train]).isdisjoint(groups[test])
        assert set(truth[train]) == set(truth[test]) == {0, 1}


def test_groups_of_all_sizes_are_dealt_as_evenly_as_scikit_learn_does() -> None:
    """One person has most of the frames, as in real data; the rest must make up for it."""
    rng = np.random.default_rng(0)
    sizes = [300, *rng.integers(1, 40, 60).tolist()]
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    truth = rng.integers(0, 2, len(groups))

    def unevenness(folds: list[tuple[Any, Any]]) -> float:
        shares = [
            [(truth[test] == k).sum() / (truth == k).sum() for _, test in folds] for k in (0, 1)
        ]
        return float(np.square(shares).sum())

    oracle = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(groups, truth, groups)
    assert unevenness(list(deal_folds(truth, groups))) <= 1.001 * unevenness(list(oracle))


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
    folds = list(deal_folds(truth, groups))
    assert ("cannot be divided" in caplog.text) == (groups is not None)
    assert len(folds) == n_folds
    assert sorted(int(row) for _, test in folds for row in test) == list(range(40))
    for train, test in folds:
        assert set(truth[train]) == set(truth[test]) == {0, 1}


@pytest.mark.parametrize(
    ("n_real", "n_fake"),
    [
        pytest.param(0, 10, id="fakes-only"),
        pytest.param(10, 0, id="reals-only"),
        pytest.param(1, 10, id="one-real"),
        pytest.param(0, 0, id="nothing"),
    ],
)
def test_refuses_too_few_rows(n_real: int, n_fake: int) -> None:
    rows, truth = draw(n_real, n_fake)
    with pytest.raises(JobError, match=f"on {n_real} real and {n_fake} fake rows; it needs 2"):
        LinearSVM(8).fit(rows.reshape(-1, 8), truth)


def test_two_rows_of_each_class_are_enough() -> None:
    rows, truth = draw(2, 2)
    assert bool(torch.isfinite(LinearSVM(8).fit(rows, truth)(torch.from_numpy(rows))).all())


def test_refuses_a_third_class() -> None:
    rows, truth = draw(5, 5)
    truth[0] = 2
    with pytest.raises(JobError, match="cannot fit a classifier"):
        LinearSVM(8).fit(rows, truth)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_refuses_rows_that_are_no_numbers(value: float) -> None:
    rows, truth = draw(5, 5)
    rows[3, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite values"):
        LinearSVM(8).fit(rows, truth)


@pytest.mark.parametrize(
    ("shape", "n_labels", "seen"),
    [
        pytest.param((10, 7), 10, r"shape \(10, 7\) with 10 labels; expected \(N, 8\)", id="width"),
        pytest.param((10, 8), 9, r"shape \(10, 8\) with 9 labels", id="length"),
        pytest.param((8,), 8, r"shape \(8,\) with 8 labels", id="one-dimension"),
    ],
)
def test_refuses_rows_of_another_shape(shape: tuple[int, ...], n_labels: int, seen: str) -> None:
    with pytest.raises(ValueError, match=seen):
        LinearSVM(8).fit(np.ones(shape), np.arange(n_labels) % 2)


def test_scoring_refuses_another_width() -> None:
    rows, truth = draw(5, 5)
    classifier = LinearSVM(8).fit(rows, truth)
    for shape in ((3, 9), (8,)):
        with pytest.raises(ValueError, match=r"expected \(N, 8\)"):
            classifier(torch.zeros(shape))


def test_scoring_refuses_before_the_fit() -> None:
    with pytest.raises(JobError, match="not fitted"):
        LinearSVM(8)(torch.zeros(1, 8))
    with pytest.raises(JobError, match="not fitted"):
        reload(LinearSVM(8))(torch.zeros(1, 8))


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


def test_a_logistic_head_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 100)
    rows = rng.normal(size=(100, 3)) + labels[:, None]
    head = LogisticHead(3, C=0.5).fit(rows, labels)
    expected = LogisticRegression(C=0.5, max_iter=1000).fit(rows, labels)
    np.testing.assert_allclose(
        head(torch.from_numpy(rows)).numpy(), expected.predict_proba(rows)[:, 1], atol=1e-12
    )
