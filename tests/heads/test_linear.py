"""The linear heads against scikit-learn's own ``predict_proba``, through a saved file."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC

from deepfake.heads import LinearSVM, LogisticHead, make_head
from deepfake.heads.calibration import make_folds
from deepfake.heads.linear import Loss
from tests.made_embeddings import draw, reload


def make_oracle(loss: Loss, c: float) -> LinearSVC:
    """scikit-learn's estimator, with the settings that docs/heads.md names."""
    dual, tol = (True, 1e-5) if loss == "hinge" else (False, 1e-10)
    return LinearSVC(C=c, loss=loss, dual=dual, tol=tol, max_iter=100_000, random_state=0)


LOSSES: tuple[Loss, ...] = get_args(Loss)


@pytest.mark.parametrize("grouped", [False, True], ids=["by-row", "by-group"])
@pytest.mark.parametrize("loss", LOSSES)
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
def test_equals_scikit_learn(
    n_real: int, n_fake: int, dim: int, c: float, loss: Loss, grouped: bool
) -> None:
    rows, truth = draw(n_real, n_fake, dim)
    groups = [f"g{i // 2}" for i in range(len(truth))] if grouped else None
    folds = make_folds(truth, groups)
    oracle = CalibratedClassifierCV(make_oracle(loss, c), ensemble=False, cv=folds)
    oracle.fit(rows, truth)
    fitted = LinearSVM(dim, c, loss).fit(rows, truth, groups)
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


def test_the_hinge_is_the_contest_entrys_machine() -> None:
    """The entry fitted C=1 on every row twice; only the intercept is regularised here."""
    rows, truth = draw(200, 200, 16)
    entry = SVC(kernel="linear", C=1.0).fit(np.repeat(rows, 2, 0), np.repeat(truth, 2))
    head = make_head("svm-hinge", 16, 2.0).fit(rows, truth)
    found = head.decision_function(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, entry.decision_function(rows), rtol=0, atol=0.01)
    squared = make_head("svm", 16, 2.0).fit(rows, truth)
    other = squared.decision_function(torch.from_numpy(rows)).numpy()
    assert np.abs(other - entry.decision_function(rows)).max() > 0.05


def test_embeddings_that_are_all_alike_settle() -> None:
    # A collapsed network: the sum of outer products has one direction only.
    rows = np.ones((300, 32), dtype=np.float32) / np.float32(32) ** 0.5
    fitted = LinearSVM(32).fit(rows, np.arange(300) % 3 == 0)
    p_fake = fitted(torch.from_numpy(rows))
    assert float(p_fake.std()) < 1e-12
    assert float(p_fake[0]) == pytest.approx(1 / 3, abs=0.01)


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


def test_a_logistic_head_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 100)
    rows = rng.normal(size=(100, 3)) + labels[:, None]
    head = LogisticHead(3, C=0.5).fit(rows, labels)
    expected = LogisticRegression(C=0.5, max_iter=1000).fit(rows, labels)
    np.testing.assert_allclose(
        head(torch.from_numpy(rows)).numpy(), expected.predict_proba(rows)[:, 1], atol=1e-12
    )
