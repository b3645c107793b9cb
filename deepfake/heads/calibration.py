"""What every classifier of embeddings shares: a decision value, and the sigmoid on it.

A machine gives each embedding a decision value that rises with fake; a sigmoid makes a probability
of it. The sigmoid is fitted on decision values of rows that did not train, whole groups held out
together. Everything fitted is a tensor, so that scoring needs neither the library that fitted it
nor a pickle, and what is read from a file is checked before it is used. Folds by row and the
sigmoid are scikit-learn's. Knows no machine, no image and no network.

References:
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007.
    Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities", 2002.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from deepfake.errors import JobError

logger = logging.getLogger(__name__)
_FOLDS = 5
_MIN_PER_CLASS = 2
_CHUNK_ROWS = 1024  # widened to float64, they stay in a core's cache
_NUMBERS_AT_ONCE = 2**21  # of a chunk's widest table, 16 MB

Rows = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]
Truth = NDArray[np.int64]


class Head(nn.Module, ABC):
    """A machine and its calibration, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    ``p_fake = 1 / (1 + exp(A * decision + B))``.

    Args:
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation.

    Attributes:
        slope_: ``A`` of the sigmoid, scalar; negative.
        offset_: ``B`` of the sigmoid, scalar.
        fitted_: Whether ``fit`` was called.
    """

    piecewise = False
    """Whether decisions jump, so that an embedding's last digit can move them."""
    slope_: Tensor
    offset_: Tensor
    fitted_: Tensor

    def __init__(self, embedding_dim: int = 512, C: float = 2.0) -> None:  # noqa: N803
        super().__init__()
        self.embedding_dim, self.C = embedding_dim, C
        for name in ("slope_", "offset_"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.register_buffer("fitted_", torch.tensor(False))

    def fit(
        self,
        embeddings: Tensor | NDArray[np.floating[Any]],
        labels: Sequence[int] | Tensor | NDArray[np.integer[Any]],
        groups: Sequence[str] | None = None,
    ) -> Self:
        """Fit the machine and its calibration.

        Args:
            embeddings: ``(N, D)``.
            labels: ``(N,)``, 1 = fake, 0 = real.
            groups: Group of each row; rows of a group never sit on both sides of a calibration
                fold. Without groups (or with too few of them) folds are by row.

        Returns:
            Itself.

        Raises:
            ValueError: If the width is another one, or a number is not finite.
            JobError: If a class is missing or has too few rows, or the rows cannot serve.
            UsageError: If this machine cannot be fitted here, or not on so many rows.
        """
        rows, truth = self._check(embeddings, labels)
        self.check_fit(len(rows))
        return self._calibrated(*self._learn(rows, truth, groups))

    def warn_if_useless(self) -> None:
        """Say so if a fit has found nothing that holds for rows that it did not see."""
        if float(self.slope_) >= 0:
            logger.warning(
                "on held-out rows the decisions of this head do not rise with fake: it has learnt "
                "nothing that holds for others, and its probabilities are of no use"
            )

    def check_fit(self, n_rows: int) -> None:
        """Say before a long training what would fail after it.

        Args:
            n_rows: Embeddings that ``fit`` will get.

        Raises:
            UsageError: If this machine cannot be fitted here, or not on so many rows.
        """

    def calibrate(
        self,
        embeddings: Tensor | NDArray[np.floating[Any]],
        labels: Sequence[int] | Tensor | NDArray[np.integer[Any]],
    ) -> Self:
        """Fit the sigmoid anew, on rows that the machine was not fitted on; decisions stay.

        Args:
            embeddings: ``(N, D)``.
            labels: ``(N,)``, 1 = fake, 0 = real.

        Returns:
            Itself.

        Raises:
            ValueError: If the width is another one, or a number is not finite.
            JobError: If a class is missing, or decisions do not rise with fake on these rows.
        """
        rows, truth = self._check(embeddings, labels)
        step = self._rows_at_once() or _CHUNK_ROWS
        decisions = [self.decide(part) for part in torch.split(torch.from_numpy(rows), step)]
        slope, offset = fit_sigmoid(torch.cat(decisions).numpy(), truth)
        if slope >= 0:
            n_real, n_fake = np.bincount(truth, minlength=2)
            raise JobError(
                f"on these {n_real} real and {n_fake} fake rows the decisions do not rise with "
                "fake; a calibration would turn the detector around. Fit a new head instead"
            )
        return self._calibrated(slope, offset)

    def shift_prevalence(self, before: float, after: float) -> Self:
        """Turn probabilities at one share of fakes into those at another: odds times odds ratio.

        Args:
            before: Share of fakes in the rows that the sigmoid was fitted on.
            after: Share of fakes where it will be used.

        Raises:
            ValueError: If a share is not between 0 and 1.
        """
        if not (0 < before < 1 and 0 < after < 1):
            raise ValueError(f"prevalence {before:g} to {after:g}; expected shares between 0 and 1")
        with torch.no_grad():
            self.offset_ -= float(np.log(after / (1 - after)) - np.log(before / (1 - before)))
        return self

    def forward(self, embeddings: Tensor) -> Tensor:
        """Probability of fake, ``(N, D) -> (N,)`` float64 in [0, 1].

        Raises:
            JobError: If the classifier was never fitted.
            ValueError: If the width is another one.
        """
        if not bool(self.fitted_):
            raise JobError("the classifier is not fitted; this checkpoint is from mid-training")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(
                f"embeddings have shape {tuple(embeddings.shape)}; expected (N, "
                f"{self.embedding_dim})"
            )
        step = self._rows_at_once()
        if step is None:
            return self.to_probability(embeddings)
        return torch.cat([self.to_probability(part) for part in torch.split(embeddings, step)])

    def to_probability(self, embeddings: Tensor) -> Tensor:
        """The formula alone, without a look at any value: what a graph can be traced from."""
        return torch.sigmoid(-(self.slope_ * self.decide(embeddings) + self.offset_))

    @abstractmethod
    def decide(self, embeddings: Tensor) -> Tensor:
        """Decision values, ``(N, D) -> (N,)`` float64; they rise with fake."""

    @abstractmethod
    def _learn(self, rows: Rows, truth: Truth, groups: Sequence[str] | None) -> tuple[float, float]:
        """Fit the machine; returns slope and offset of its sigmoid."""

    def _numbers_a_row(self) -> int:
        """Width of the widest table that scoring makes; 0 if it is no wider than the rows."""
        return 0

    def _take(self, state: dict[str, Any]) -> None:
        """Make room for what a file holds under our names, before it is copied.

        Raises:
            ValueError: If it is nonsense.
        """

    def _rows_at_once(self) -> int | None:
        width = self._numbers_a_row()
        return max(1, _NUMBERS_AT_ONCE // width) if width else None

    def _calibrated(self, slope: float, offset: float) -> Self:
        with torch.no_grad():
            self.slope_.fill_(slope)
            self.offset_.fill_(offset)
            self.fitted_.fill_(True)
        return self

    def _check(
        self,
        embeddings: Tensor | NDArray[np.floating[Any]],
        labels: Sequence[int] | Tensor | NDArray[np.integer[Any]],
    ) -> tuple[Rows, Truth]:
        rows: NDArray[Any] = torch.as_tensor(embeddings).detach().cpu().numpy()
        if rows.dtype != np.float32:
            rows = rows.astype(np.float64, copy=False)
        truth = np.asarray(torch.as_tensor(labels).cpu(), dtype=np.int64)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_dim or len(rows) != len(truth):
            raise ValueError(
                f"embeddings have shape {rows.shape} with {len(truth)} labels; expected "
                f"(N, {self.embedding_dim}) with N labels"
            )
        if not all(np.isfinite(rows[part]).all() for part in chunks(len(rows))):
            raise ValueError("embeddings hold NaN or infinite values; the training diverged")
        counts = np.bincount(truth, minlength=2)
        if len(counts) > 2 or counts.min() < _MIN_PER_CLASS:
            raise JobError(
                f"cannot fit a classifier on {counts[0]} real and {counts[1]} fake rows; "
                f"it needs {_MIN_PER_CLASS} of each"
            )
        return rows, truth

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        state = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
        errors: list[str] = arguments[-1]
        try:
            for name, value in state.items():
                if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{name} holds numbers that are not finite")
            self._take(state)
        except ValueError as error:
            errors.append(str(error))
            return
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def chunks(n_rows: int) -> Iterator[slice]:
    """Slices of a few rows that cover all of them."""
    return (slice(i, i + _CHUNK_ROWS) for i in range(0, n_rows, _CHUNK_ROWS))


def is_fitted(state: dict[str, Any]) -> bool:
    """Whether a state, of whatever content, says that it is one of a fitted classifier."""
    fitted = state.get("fitted_")
    return isinstance(fitted, Tensor) and bool(fitted.any())


def hold_out(
    truth: Truth,
    groups: Sequence[str] | None,
    decide: Callable[[NDArray[np.int64], NDArray[np.int64]], Vector],
) -> Vector:
    """Decision values of all rows, ``(N,)``, each by a machine that did not see its fold.

    Args:
        truth: ``(N,)`` labels.
        groups: Of the rows.
        decide: Trains on the rows of the first indices, decides about those of the second.
    """
    decisions = np.empty(len(truth))
    for train, test in deal_folds(truth, groups):
        decisions[test] = decide(train, test)
    return decisions


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


def fit_sigmoid(decisions: Vector, truth: NDArray[np.int64]) -> tuple[float, float]:
    """Platt's slope and offset for decision values of rows that did not train."""
    machine = CalibratedClassifierCV(_Decided(), ensemble=False, cv=2)
    (fitted,) = machine.fit(decisions[:, None], truth).calibrated_classifiers_
    (sigmoid,) = fitted.calibrators
    return float(sigmoid.a_), float(sigmoid.b_)


def deal_folds(
    labels: NDArray[np.int64], groups: Sequence[str] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Calibration folds whose training and held-out parts both hold both classes."""
    n_folds = min(_FOLDS, int(np.bincount(labels).min()))
    # Groups of one ask for nothing.
    if groups is not None and len(set(groups)) < len(labels):
        fold_of = _deal_groups(labels, groups, n_folds)
        held = [fold_of == k for k in range(n_folds)]
        folds = [(np.flatnonzero(~part), np.flatnonzero(part)) for part in held]
        if all(len(set(labels[part])) == 2 for fold in folds for part in fold):
            yield from folds
            return
        logger.warning(
            "the %d groups cannot be divided into %d parts that hold both classes; the calibration "
            "sees rows of one group on both sides, and its probabilities may be too sure",
            len(set(groups)),
            n_folds,
        )
    yield from StratifiedKFold(n_folds, shuffle=True, random_state=0).split(labels, labels)


def _deal_groups(
    labels: NDArray[np.int64], groups: Sequence[str], n_folds: int
) -> NDArray[np.int64]:
    """Fold of each row, whole groups to a fold and every fold its share of both classes.

    The largest group first, each to the fold that has least of what the group brings. As
    scikit-learn's ``StratifiedGroupKFold`` does it, in a fiftieth of its time a group.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.stack([np.bincount(group_of[labels == k], minlength=len(names)) for k in (0, 1)])
    shares = sizes / sizes.sum(axis=1, keepdims=True)
    order = np.random.default_rng(0).permutation(len(names))  # equal groups fall to any fold
    order = order[np.argsort(-shares.sum(axis=0)[order], kind="stable")]
    real, fake = [0.0] * n_folds, [0.0] * n_folds
    fold_of = np.empty(len(names), dtype=np.int64)
    for group, r, f in zip(order.tolist(), *shares[:, order].tolist(), strict=True):
        # What the squares of all shares grow by; their sum is least where folds are alike.
        growth = [(2 * real[k] + r) * r + (2 * fake[k] + f) * f for k in range(n_folds)]
        fold = growth.index(min(growth))
        real[fold] += r
        fake[fold] += f
        fold_of[group] = fold
    dealt: NDArray[np.int64] = fold_of[group_of]
    return dealt
