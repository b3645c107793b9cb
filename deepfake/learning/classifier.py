"""A linear SVM with sigmoid calibration that lives in a checkpoint as plain tensors.

scikit-learn fits it; what is kept is a weight vector, an intercept and the two numbers of the
sigmoid, so that scoring needs neither scikit-learn nor a pickle. Knows no image and no network.

References:
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007.
    Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities", 2002.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from deepfake.errors import JobError

Head = Literal["svm", "logistic"]
_FOLDS = 5
_MIN_PER_CLASS = 2


class SVMClassifier(nn.Module):
    """Linear support vector machine, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    ``p_fake = 1 / (1 + exp(A * (x . w + b) + B))``: ``w`` and ``b`` are fitted on all rows, ``A``
    and ``B`` on decision values of folds that did not train on them. Equal to scikit-learn's
    ``CalibratedClassifierCV(LinearSVC(C), ensemble=False)``.

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
        rows, truth = self._check(embeddings, labels)
        if head == "logistic":
            regression = LogisticRegression(C=self.C, max_iter=1000).fit(rows, truth)
            return self._keep(regression.coef_[0], regression.intercept_[0], -1.0, 0.0)
        machine = CalibratedClassifierCV(
            make_linear_svc(self.C), ensemble=False, cv=list(_folds(truth, groups))
        ).fit(rows, truth)
        (fitted,) = machine.calibrated_classifiers_
        (sigmoid,) = fitted.calibrators
        return self._keep(
            fitted.estimator.coef_[0], fitted.estimator.intercept_[0], sigmoid.a_, sigmoid.b_
        )

    def calibrate(
        self,
        embeddings: Tensor | NDArray[np.floating[Any]],
        labels: Sequence[int] | Tensor | NDArray[np.integer[Any]],
    ) -> SVMClassifier:
        """Fit the sigmoid anew, on rows that the machine was not fitted on; ``w`` and ``b`` stay.

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
        decision = self._decide(torch.from_numpy(rows)).numpy()[:, None]
        n_real, n_fake = np.bincount(truth, minlength=2)
        # Platt's smoothed targets: each row stands for both classes, with these weights.
        target = np.where(truth == 1, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
        # Of its own scale, so that the fit does not depend on the length of w.
        scale = float(np.abs(decision).max()) or 1.0
        regression = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
            np.concatenate([decision, decision]) / scale,
            np.repeat([1, 0], len(truth)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        slope = -float(regression.coef_[0, 0]) / scale
        if slope >= 0:
            raise JobError(
                f"on these {n_real} real and {n_fake} fake rows the decisions do not rise with "
                "fake; a calibration would turn the detector around. Fit a new head instead"
            )
        return self._keep(
            self.weight_.numpy(), float(self.intercept_), slope, -float(regression.intercept_[0])
        )

    def shift_prevalence(self, before: float, after: float) -> SVMClassifier:
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

    def _check(
        self,
        embeddings: Tensor | NDArray[np.floating[Any]],
        labels: Sequence[int] | Tensor | NDArray[np.integer[Any]],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        rows = np.asarray(torch.as_tensor(embeddings).cpu(), dtype=np.float64)
        truth = np.asarray(torch.as_tensor(labels).cpu(), dtype=np.int64)
        if rows.ndim != 2 or rows.shape[1] != len(self.weight_) or len(rows) != len(truth):
            raise ValueError(
                f"embeddings have shape {rows.shape} with {len(truth)} labels; expected "
                f"(N, {len(self.weight_)}) with N labels"
            )
        if not np.isfinite(rows).all():
            raise ValueError("embeddings hold NaN or infinite values; the training diverged")
        counts = np.bincount(truth, minlength=2)
        if len(counts) > 2 or counts.min() < _MIN_PER_CLASS:
            raise JobError(
                f"cannot fit a classifier on {counts[0]} real and {counts[1]} fake rows; "
                f"it needs {_MIN_PER_CLASS} of each"
            )
        return rows, truth

    def _keep(
        self, weight: NDArray[np.float64], intercept: float, slope: float, offset: float
    ) -> SVMClassifier:
        with torch.no_grad():
            self.weight_.copy_(torch.from_numpy(weight))
            self.intercept_.fill_(float(intercept))
            self.slope_.fill_(float(slope))
            self.offset_.fill_(float(offset))
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
        return torch.sigmoid(-(self.slope_ * self._decide(embeddings) + self.offset_))

    def _decide(self, embeddings: Tensor) -> Tensor:
        """Signed distance from the plane, ``(N, D) -> (N,)`` float64, times the length of ``w``."""
        return embeddings.double() @ self.weight_ + self.intercept_


def make_linear_svc(C: float) -> LinearSVC:  # noqa: N803
    """The linear machine: hinge loss squared, primal, so that time grows linearly with rows."""
    return LinearSVC(C=C, dual=False)


def _folds(
    labels: NDArray[np.int64], groups: Sequence[str] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Calibration folds whose training and held-out parts both hold both classes."""
    n_folds = min(_FOLDS, int(np.bincount(labels).min()))
    if groups is not None and len(set(groups)) >= n_folds:
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
