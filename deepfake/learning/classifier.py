"""A linear SVM with sigmoid calibration that lives in a checkpoint as plain tensors.

What is kept is a weight vector, an intercept and the two numbers of the sigmoid, so that scoring
needs neither scikit-learn nor a pickle. The machine is scikit-learn's ``LinearSVC``; it is solved
here, because all folds of the calibration can start from one solution, and because liblinear would
copy a million float32 embeddings to six times their size. Folds and sigmoid are scikit-learn's.
Knows no image and no network.

References:
    Keerthi and DeCoste, "A Modified Finite Newton Method for Fast Solution of Large Scale Linear
    SVMs", JMLR 2005.
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor, nn

from deepfake.errors import JobError

Head = Literal["svm", "logistic"]
logger = logging.getLogger(__name__)
_FOLDS = 5
_MIN_PER_CLASS = 2
_MAX_STEPS = 100
_DECREMENT = 1e-16  # of Newton's method; decision values of unit rows are then right to 2e-8
_SMALLEST_STEP = 1e-6
_CHUNK_ROWS = 1024  # widened to float64, they stay in a core's cache

Rows = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]


class SVMClassifier(nn.Module):
    """Linear support vector machine, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    ``p_fake = 1 / (1 + exp(A * (x . w + b) + B))``: ``w`` and ``b`` are fitted on all rows, ``A``
    and ``B`` on decision values of folds that did not train on them. Equal to scikit-learn's
    ``CalibratedClassifierCV(LinearSVC(C, dual=False), ensemble=False)`` where liblinear is given a
    tolerance at which it converges. Time grows linearly with the rows; float32 rows are widened
    chunk by chunk, never as a whole.

    Args:
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation; the entry's doubled data equal 2.

    Attributes:
        weight_: ``(D,)`` float64.
        intercept_: Scalar.
        slope_: ``A`` of the sigmoid, scalar; negative.
        offset_: ``B`` of the sigmoid, scalar.
        fitted_: Whether ``fit`` was called.
    """

    weight_: Tensor
    intercept_: Tensor
    slope_: Tensor
    offset_: Tensor
    fitted_: Tensor

    def __init__(self, embedding_dim: int = 512, C: float = 2.0) -> None:  # noqa: N803
        super().__init__()
        self.C = C
        self.register_buffer("weight_", torch.zeros(embedding_dim, dtype=torch.float64))
        for name in ("intercept_", "slope_", "offset_"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.register_buffer("fitted_", torch.tensor(False))

    def fit(
        self,
        embeddings: Tensor | NDArray[np.floating[Any]],
        labels: Sequence[int] | Tensor | NDArray[np.integer[Any]],
        groups: Sequence[str] | None = None,
        head: Head = "svm",
    ) -> SVMClassifier:
        """Fit the machine and its calibration.

        Args:
            embeddings: ``(N, D)``.
            labels: ``(N,)``, 1 = fake, 0 = real.
            groups: Group of each row; rows of a group never sit on both sides of a calibration
                fold. Without groups (or with too few of them) folds are by row.
            head: ``svm``, or ``logistic`` for a logistic regression of the same ``C``. That one
                needs no calibration: its sigmoid is the plain one.

        Returns:
            Itself.

        Raises:
            ValueError: If the width is another one, or a number is not finite.
            JobError: If a class is missing or has too few rows.
        """
        rows: NDArray[Any] = torch.as_tensor(embeddings).detach().cpu().numpy()
        if rows.dtype != np.float32:
            rows = rows.astype(np.float64, copy=False)
        truth = np.asarray(torch.as_tensor(labels).cpu(), dtype=np.int64)
        if rows.ndim != 2 or rows.shape[1] != len(self.weight_) or len(rows) != len(truth):
            raise ValueError(
                f"embeddings have shape {rows.shape} with {len(truth)} labels; expected "
                f"(N, {len(self.weight_)}) with N labels"
            )
        if not all(np.isfinite(rows[part]).all() for part in _chunks(len(rows))):
            raise ValueError("embeddings hold NaN or infinite values; the training diverged")
        counts = np.bincount(truth, minlength=2)
        if len(counts) > 2 or counts.min() < _MIN_PER_CLASS:
            raise JobError(
                f"cannot fit a classifier on {counts[0]} real and {counts[1]} fake rows; "
                f"it needs {_MIN_PER_CLASS} of each"
            )
        if head == "logistic":
            regression = LogisticRegression(C=self.C, max_iter=1000).fit(rows, truth)
            return self._keep(regression.coef_[0], regression.intercept_[0], -1.0, 0.0)
        signs = np.where(truth == 1, 1.0, -1.0)
        everywhere = np.ones(len(rows), dtype=bool)
        whole = _solve(rows, signs, everywhere, self.C, _nothing(rows))
        held_out = np.empty(len(rows))
        for train, test in _folds(truth, groups):
            used = np.zeros(len(rows), dtype=bool)
            used[train] = True
            part = _solve(rows, signs, used, self.C, whole)
            held_out[test] = part.decisions[test]
        slope, offset = _fit_sigmoid(held_out, truth)
        return self._keep(whole.weights[:-1], whole.weights[-1], slope, offset)

    def _keep(self, weight: Vector, intercept: float, slope: float, offset: float) -> SVMClassifier:
        with torch.no_grad():
            self.weight_.copy_(torch.from_numpy(weight))
            self.intercept_.fill_(float(intercept))
            self.slope_.fill_(slope)
            self.offset_.fill_(offset)
            self.fitted_.fill_(True)
        return self

    def forward(self, embeddings: Tensor) -> Tensor:
        """Probability of fake, ``(N, D) -> (N,)`` float64 in [0, 1].

        Raises:
            JobError: If the classifier was never fitted.
            ValueError: If the width is another one.
        """
        if not bool(self.fitted_):
            raise JobError("the classifier is not fitted; this checkpoint is from mid-training")
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.weight_):
            raise ValueError(
                f"embeddings have shape {tuple(embeddings.shape)}; expected (N, "
                f"{len(self.weight_)})"
            )
        return self.calibrate(embeddings)

    def calibrate(self, embeddings: Tensor) -> Tensor:
        """The formula alone, without a look at any value: what a graph can be traced from."""
        decision = embeddings.double() @ self.weight_ + self.intercept_
        return torch.sigmoid(-(self.slope_ * decision + self.offset_))


class _Solution(NamedTuple):
    """A machine, and what the next one can start from.

    Args:
        weights: ``(D + 1,)``, the intercept last.
        decisions: ``(N,)`` decision values of all rows, in use or not.
        active: ``(N,)`` rows inside the margin or on the wrong side; the only ones that pull.
        gram: ``(D + 1, D + 1)``, sum of the outer products of the active rows.
    """

    weights: Vector
    decisions: Vector
    active: Mask
    gram: Vector


def _nothing(rows: Rows) -> _Solution:
    n_rows, width = len(rows), rows.shape[1] + 1
    nobody = np.zeros(n_rows, dtype=bool)
    return _Solution(np.zeros(width), np.zeros(n_rows), nobody, np.zeros((width, width)))


def _solve(rows: Rows, signs: Vector, used: Mask, c: float, start: _Solution) -> _Solution:
    """Minimise ``|w|^2 / 2 + c * sum(max(0, 1 - sign * (x . w))^2)`` over the rows in use.

    ``x`` is a row with a 1 behind it: the intercept is penalised, as liblinear does it. Where the
    set of active rows stands still the objective is quadratic, so Newton's method ends after a few
    steps, and from one step to the next only the rows that change sides must be multiplied out.
    """
    weights, decisions = start.weights, start.decisions
    active = start.active & used
    gram = start.gram - _multiply_out(rows, start.active & ~used)
    decrement = np.inf
    for _ in range(_MAX_STEPS):
        slack = 1 - signs * decisions
        now = (slack > 0) & used
        entered, left = now & ~active, active & ~now
        if entered.sum() + left.sum() < now.sum():
            gram = gram + _multiply_out(rows, entered) - _multiply_out(rows, left)
        else:
            gram = _multiply_out(rows, now)
        active = now
        gradient = weights - 2 * c * _pull(rows, np.where(active, signs * slack, 0.0))
        direction = _descend(np.eye(len(weights)) + 2 * c * gram, gradient)
        decrement = -float(gradient @ direction)
        if decrement <= _DECREMENT:
            break
        along = _decide(rows, direction)

        def cost(step: float) -> float:
            moved = weights + step * direction  # noqa: B023
            missing = np.maximum(0, slack - step * signs * along)[used]  # noqa: B023
            return float(moved @ moved) / 2 + c * float(missing @ missing)

        step, before = 1.0, cost(0.0)
        while step > _SMALLEST_STEP and cost(step) > before - 0.01 * step * decrement:
            step /= 2
        weights = weights + step * direction
        decisions = decisions + step * along
        if step == 1.0 and np.array_equal(active, (signs * decisions < 1) & used):
            break  # the quadratic that was just minimised is the objective
    else:
        logger.warning(
            "the support vector machine did not settle in %d steps; its decision values may be "
            "off by %.1e",
            _MAX_STEPS,
            np.sqrt(2 * decrement),
        )
    return _Solution(weights, decisions, active, gram)


def _descend(hessian: Vector, gradient: Vector) -> Vector:
    """Newton's direction; the factorisation of a symmetric matrix costs half of a general one."""
    factor = torch.linalg.cholesky(torch.from_numpy(hessian))
    direction: Vector = torch.cholesky_solve(-torch.from_numpy(gradient)[:, None], factor).numpy()
    return direction[:, 0]


def _chunks(n_rows: int) -> Iterator[slice]:
    return (slice(i, i + _CHUNK_ROWS) for i in range(0, n_rows, _CHUNK_ROWS))


def _decide(rows: Rows, weights: Vector) -> Vector:
    """Decision values ``x . w`` of all rows, ``(N,)``."""
    decisions = np.full(len(rows), weights[-1])
    for part in _chunks(len(rows)):
        decisions[part] += rows[part].astype(np.float64, copy=False) @ weights[:-1]
    return decisions


def _pull(rows: Rows, factors: Vector) -> Vector:
    """Sum of the rows times their factors, ``(D + 1,)``."""
    total = np.zeros(rows.shape[1] + 1)
    for part in _chunks(len(rows)):
        total[:-1] += factors[part] @ rows[part].astype(np.float64, copy=False)
    total[-1] = factors.sum()
    return total


def _multiply_out(rows: Rows, chosen: Mask) -> Vector:
    """Sum of the outer products of the chosen rows, ``(D + 1, D + 1)``."""
    width = rows.shape[1] + 1
    total = np.zeros((width, width))
    indices = np.flatnonzero(chosen)
    for part in _chunks(len(indices)):
        some = rows[indices[part]].astype(np.float64, copy=False)
        total[:-1, :-1] += some.T @ some
        total[-1, :-1] += some.sum(axis=0)
    total[:-1, -1] = total[-1, :-1]
    total[-1, -1] = len(indices)
    return total


class _Decided(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What scikit-learn's calibration sees: a machine whose decision values are its input."""

    def fit(self, decisions: Vector, truth: NDArray[np.int64]) -> _Decided:
        """Nothing is left to fit."""
        self.classes_ = np.unique(truth)
        return self

    def decision_function(self, decisions: Vector) -> Vector:
        """The one column as a vector."""
        column: Vector = decisions[:, 0]
        return column

    def predict(self, decisions: Vector) -> NDArray[np.int64]:
        """Asked for by scikit-learn's check of estimators only."""
        return (decisions[:, 0] > 0).astype(np.int64)


def _fit_sigmoid(decisions: Vector, truth: NDArray[np.int64]) -> tuple[float, float]:
    """Platt's slope and offset for decision values of rows that did not train."""
    machine = CalibratedClassifierCV(_Decided(), ensemble=False, cv=2)
    (fitted,) = machine.fit(decisions[:, None], truth).calibrated_classifiers_
    (sigmoid,) = fitted.calibrators
    return float(sigmoid.a_), float(sigmoid.b_)


def _folds(
    labels: NDArray[np.int64], groups: Sequence[str] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Calibration folds whose training and held-out parts both hold both classes."""
    n_folds = min(_FOLDS, int(np.bincount(labels).min()))
    # Groups of one ask for nothing, and dividing them one by one would take minutes.
    if groups is not None and n_folds <= len(set(groups)) < len(labels):
        folds = list(
            StratifiedGroupKFold(n_folds, shuffle=True, random_state=0).split(
                labels, labels, np.asarray(groups)
            )
        )
        # scikit-learn returns folds without one of the classes silently.
        if all(len(set(labels[part])) == 2 for fold in folds for part in fold):
            yield from folds
            return
    yield from StratifiedKFold(n_folds, shuffle=True, random_state=0).split(labels, labels)
