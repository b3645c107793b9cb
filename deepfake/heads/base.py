"""What every head shares: fit, calibrate, score, and read a state without trusting it.

A head gives each embedding a decision value that rises with fake; a sigmoid makes a probability of
it. A detector's head is fitted on training rows (``fit_classifier``) and its sigmoid on validation
rows (``calibrate``): a network knows its training rows too well, so that even folds of them, held
out from the head, are surer than new ones. ``fit`` is for who has one set of rows alone. Other
packages fit; what they found is kept as tensors, so that scoring needs neither them nor a pickle.
Knows no image and no network.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfake.errors import JobError, UsageError
from deepfake.heads.calibration import (
    Labels,
    Vector,
    compute_prevalence_shift,
    fit_sigmoid,
    make_folds,
)

logger = logging.getLogger(__name__)
MIN_PER_CLASS = 2
"""Rows of each class that a fit takes, and a calibration, too."""
_NUMBERS_AT_ONCE = 2**21  # of the widest table that scoring makes, 16 MB

Rows = NDArray[np.floating[Any]]
AnyRows = Tensor | Rows
AnyLabels = Sequence[int] | Tensor | NDArray[np.integer[Any]]


class Head(nn.Module, ABC):
    """A classifier and its calibration, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    ``p_fake = 1 / (1 + exp(A * decision + B))``.

    Args:
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation.

    Raises:
        UsageError: If ``C`` is not a number above 0.

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
        if not 0 < C < math.inf:
            raise UsageError(f"C={C:g}; expected an inverse strength of regularisation above 0")
        self.embedding_dim, self.C = embedding_dim, C
        for name in ("slope_", "offset_"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.register_buffer("fitted_", torch.tensor(False))

    def fit(
        self, embeddings: AnyRows, labels: AnyLabels, groups: Sequence[str] | None = None
    ) -> Self:
        """Fit the classifier, and its sigmoid on folds of the same rows.

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
            UsageError: If this head cannot be fitted here, or not on so many rows.
        """
        rows, y_true = self._check(embeddings, labels)
        self.check_fit(len(rows))
        estimator = self._train(rows, y_true)
        slope, offset = self._fit_sigmoid(rows, y_true, groups)
        self._keep(estimator, rows)
        return self._calibrated(slope, offset)

    def fit_classifier(self, embeddings: AnyRows, labels: AnyLabels) -> Self:
        """Fit the classifier alone; its sigmoid is fitted by ``calibrate``, on other rows.

        Args:
            embeddings: ``(N, D)``.
            labels: ``(N,)``, 1 = fake, 0 = real.

        Returns:
            Itself, not fitted before it is calibrated.

        Raises:
            ValueError: If the width is another one, or a number is not finite.
            JobError: If a class is missing or has too few rows, or the rows cannot serve.
            UsageError: If this head cannot be fitted here, or not on so many rows.
        """
        rows, y_true = self._check(embeddings, labels)
        self.check_fit(len(rows))
        self._keep(self._train(rows, y_true), rows)
        with torch.no_grad():
            self.fitted_.fill_(False)
        return self

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
            UsageError: If this head cannot be fitted here, or not on so many rows.
        """

    def calibrate(self, embeddings: AnyRows, labels: AnyLabels) -> Self:
        """Fit the sigmoid, on rows that the classifier was not fitted on; decisions stay.

        Equal to ``CalibratedClassifierCV(FrozenEstimator(classifier))``.

        Args:
            embeddings: ``(N, D)``.
            labels: ``(N,)``, 1 = fake, 0 = real.

        Returns:
            Itself.

        Raises:
            ValueError: If the width is another one, or a number is not finite.
            JobError: If a class is missing or has too few rows.
        """
        rows, y_true = self._check(embeddings, labels)
        return self._calibrated(*fit_sigmoid(self.compute_decisions(rows), y_true))

    def compute_decisions(self, embeddings: AnyRows) -> Vector:
        """Decision values, ``(N, D) -> (N,)`` float64, in bounded memory; no sigmoid is needed."""
        rows = torch.as_tensor(embeddings)
        if not len(rows):
            return np.zeros(0)
        with torch.no_grad():
            parts = [self.decision_function(part) for part in self._split(rows)]
        decisions: Vector = torch.cat(parts).cpu().numpy()
        return decisions

    def shift_prevalence(self, before: float, after: float) -> Self:
        """Turn probabilities at one share of fakes into those at another: odds times odds ratio.

        Args:
            before: Share of fakes in the rows that the sigmoid was fitted on.
            after: Share of fakes where it will be used.

        Raises:
            ValueError: If a share is not between 0 and 1.
        """
        with torch.no_grad():
            self.offset_ -= compute_prevalence_shift(before, after)
        return self

    def forward(self, embeddings: Tensor) -> Tensor:
        """Probability of fake, ``(N, D) -> (N,)`` float64 in [0, 1].

        Raises:
            JobError: If the head was never fitted.
            ValueError: If the width is another one.
        """
        if not bool(self.fitted_):
            raise JobError("the classifier is not fitted; this checkpoint is from mid-training")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(
                f"embeddings have shape {tuple(embeddings.shape)}; expected (N, "
                f"{self.embedding_dim})"
            )
        return torch.cat([self.to_probability(part) for part in self._split(embeddings)])

    def to_probability(self, embeddings: Tensor) -> Tensor:
        """The formula alone, without a look at any value: what a graph can be traced from."""
        return torch.sigmoid(-(self.slope_ * self.decision_function(embeddings) + self.offset_))

    @abstractmethod
    def decision_function(self, embeddings: Tensor) -> Tensor:
        """Decision values, ``(N, D) -> (N,)`` float64; they rise with fake."""

    @abstractmethod
    def _train(self, rows: Rows, y_true: Labels) -> Any:
        """A fitted estimator of another package."""

    @abstractmethod
    def _keep(self, estimator: Any, rows: Rows) -> None:
        """Take over as tensors what an estimator has found in these rows."""

    def _predict(self, estimator: Any, rows: Rows) -> Vector:
        """Decision values of an estimator, by its own package."""
        decisions: Vector = estimator.decision_function(rows)
        return decisions

    def _fit_sigmoid(
        self, rows: Rows, y_true: Labels, groups: Sequence[str] | None
    ) -> tuple[float, float]:
        """Slope and offset, from decision values of rows that an estimator did not train on."""
        held_out = np.empty(len(rows))
        for train, test in make_folds(y_true, groups):
            held_out[test] = self._predict(self._train(rows[train], y_true[train]), rows[test])
        return fit_sigmoid(held_out, y_true)

    def _width(self) -> int:
        """Numbers a row of the widest table that scoring makes."""
        return self.embedding_dim

    def _take(self, state: dict[str, Any]) -> None:
        """Make room for what a file holds under our names, before it is copied.

        Raises:
            ValueError: If it is nonsense.
        """

    def _split(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """Parts whose scoring needs a bounded memory."""
        return torch.split(embeddings, max(1, _NUMBERS_AT_ONCE // max(1, self._width())))

    def _calibrated(self, slope: float, offset: float) -> Self:
        with torch.no_grad():
            self.slope_.fill_(slope)
            self.offset_.fill_(offset)
            self.fitted_.fill_(True)
        return self

    def _check(self, embeddings: AnyRows, labels: AnyLabels) -> tuple[Rows, Labels]:
        rows: NDArray[Any] = torch.as_tensor(embeddings).detach().cpu().numpy()
        if rows.dtype != np.float32:
            rows = rows.astype(np.float64, copy=False)
        y_true = np.asarray(torch.as_tensor(labels).cpu(), dtype=np.int64)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_dim or len(rows) != len(y_true):
            raise ValueError(
                f"embeddings have shape {rows.shape} with {len(y_true)} labels; expected "
                f"(N, {self.embedding_dim}) with N labels"
            )
        if not np.isfinite(rows).all():
            raise ValueError("embeddings hold NaN or infinite values; the training diverged")
        counts = np.bincount(y_true, minlength=2)
        if len(counts) > 2 or counts.min() < MIN_PER_CLASS:
            raise JobError(
                f"cannot fit a classifier on {counts[0]} real and {counts[1]} fake rows; "
                f"it needs {MIN_PER_CLASS} of each"
            )
        return rows, y_true

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


def is_fitted(state: dict[str, Any]) -> bool:
    """Whether a state, of whatever content, says that it is one of a fitted head."""
    fitted = state.get("fitted_")
    return isinstance(fitted, Tensor) and bool(fitted.any())
