"""The heads by name, and the linear ones: an SVM and a logistic regression.

A linear head is a weight vector, an intercept and the two numbers of the sigmoid. The linear SVM
is scikit-learn's ``LinearSVC``; it is solved here, because all folds of the calibration can start
from one solution, and because liblinear would copy a million float32 embeddings to six times their
size. Knows no image and no network.

References:
    Keerthi and DeCoste, "A Modified Finite Newton Method for Fast Solution of Large Scale Linear
    SVMs", JMLR 2005.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from deepfake.heads.calibration import (
    Head,
    Rows,
    Truth,
    Vector,
    chunks,
    fit_sigmoid,
    hold_out,
)
from deepfake.heads.rbf import GaussianSVM
from deepfake.heads.trees import BoostedTrees

HeadName = Literal["svm", "logistic", "rbf", "gbm"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)
logger = logging.getLogger(__name__)
_MAX_STEPS = 100
_DECREMENT = 1e-16  # of Newton's method; decision values of unit rows are then right to 2e-8
_SMALLEST_STEP = 1e-6
_RESOLUTION = 1e-15  # of a cost that is summed over many rows

Mask = NDArray[np.bool_]


def make_head(head: HeadName, embedding_dim: int, C: float) -> Head:  # noqa: N803
    """An unfitted classifier.

    Args:
        head: ``svm``, ``logistic``, ``rbf`` or ``gbm``.
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation.
    """
    kinds: dict[HeadName, type[Head]] = {
        "svm": LinearSVM,
        "logistic": LogisticHead,
        "rbf": GaussianSVM,
        "gbm": BoostedTrees,
    }
    return kinds[head](embedding_dim, C)


def make_empty_head(names: Collection[str], embedding_dim: int) -> Head:
    """An unfitted classifier that can load a state: what it is, its tensors tell.

    Args:
        names: Of the tensors.
        embedding_dim: Width D of the embeddings.
    """
    if "support_" in names:
        return GaussianSVM(embedding_dim)
    if "model_" in names:
        return BoostedTrees(embedding_dim)
    return LinearSVM(embedding_dim)  # a logistic regression is kept alike


class LinearSVM(Head):
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
    """

    weight_: Tensor
    intercept_: Tensor

    def __init__(self, embedding_dim: int = 512, C: float = 2.0) -> None:  # noqa: N803
        super().__init__(embedding_dim, C)
        self.register_buffer("weight_", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("intercept_", torch.zeros((), dtype=torch.float64))

    def decide(self, embeddings: Tensor) -> Tensor:
        """Decision values ``x . w + b``."""
        return embeddings.double() @ self.weight_ + self.intercept_

    def _learn(self, rows: Rows, truth: Truth, groups: Sequence[str] | None) -> tuple[float, float]:
        signs = np.where(truth == 1, 1.0, -1.0)
        everywhere = np.ones(len(rows), dtype=bool)
        whole = _solve(rows, signs, everywhere, self.C, _nothing(rows))

        def decide(train: NDArray[np.int64], test: NDArray[np.int64]) -> Vector:
            used = np.zeros(len(rows), dtype=bool)
            used[train] = True
            return _solve(rows, signs, used, self.C, whole).decisions[test]

        held_out = hold_out(truth, groups, decide)
        self._keep(whole.weights[:-1], whole.weights[-1])
        return fit_sigmoid(held_out, truth)

    def _keep(self, weight: Vector, intercept: float) -> None:
        with torch.no_grad():
            self.weight_.copy_(torch.from_numpy(weight))
            self.intercept_.fill_(float(intercept))


class LogisticHead(LinearSVM):
    """Logistic regression of the same ``C``, kept as the same tensors.

    It needs no calibration: its sigmoid is the plain one.
    """

    def _learn(self, rows: Rows, truth: Truth, groups: Sequence[str] | None) -> tuple[float, float]:
        regression = LogisticRegression(C=self.C, max_iter=1000).fit(rows, truth)
        self._keep(regression.coef_[0], regression.intercept_[0])
        return -1.0, 0.0


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
        # A gain that is lost in the rounding of the cost is no reason to shorten the last step.
        while decrement > _RESOLUTION * before and cost(step) > before - 0.01 * step * decrement:
            step /= 2
            if step < _SMALLEST_STEP:
                break
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


def _decide(rows: Rows, weights: Vector) -> Vector:
    """Decision values ``x . w`` of all rows, ``(N,)``."""
    decisions = np.full(len(rows), weights[-1])
    for part in chunks(len(rows)):
        decisions[part] += rows[part].astype(np.float64, copy=False) @ weights[:-1]
    return decisions


def _pull(rows: Rows, factors: Vector) -> Vector:
    """Sum of the rows times their factors, ``(D + 1,)``."""
    total = np.zeros(rows.shape[1] + 1)
    for part in chunks(len(rows)):
        total[:-1] += factors[part] @ rows[part].astype(np.float64, copy=False)
    total[-1] = factors.sum()
    return total


def _multiply_out(rows: Rows, chosen: Mask) -> Vector:
    """Sum of the outer products of the chosen rows, ``(D + 1, D + 1)``."""
    width = rows.shape[1] + 1
    total = np.zeros((width, width))
    indices = np.flatnonzero(chosen)
    for part in chunks(len(indices)):
        some = rows[indices[part]].astype(np.float64, copy=False)
        total[:-1, :-1] += some.T @ some
        total[-1, :-1] += some.sum(axis=0)
    total[:-1, -1] = total[-1, :-1]
    total[-1, -1] = len(indices)
    return total
