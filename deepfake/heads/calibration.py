"""The sigmoid that makes a probability of a decision value, and the folds that it is fitted on.

Both are scikit-learn's, which is imported only where something is fitted: whoever loads a head and
scores with it never waits for that import.

References:
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
_FOLDS = 5

Vector = NDArray[np.float64]
Labels = NDArray[np.int64]
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


def fit_sigmoid(decisions: Vector, labels: Labels) -> tuple[float, float]:
    """Slope and offset of Platt's sigmoid.

    Args:
        decisions: ``(N,)`` decision values of rows that the estimator did not train on.
        labels: ``(N,)``, 1 = fake, 0 = real.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.svm import LinearSVC

    # A fitted estimator whose decision value is its one column, unchanged.
    identity = LinearSVC()
    identity.classes_ = np.array([0, 1])
    identity.coef_, identity.intercept_ = np.ones((1, 1)), np.zeros(1)
    everything = np.arange(len(labels))  # one fold: nothing is fitted again but the sigmoid
    calibrated = CalibratedClassifierCV(
        FrozenEstimator(identity), ensemble=False, cv=[(everything, everything)]
    )
    (fitted,) = calibrated.fit(decisions[:, None], labels).calibrated_classifiers_
    (sigmoid,) = fitted.calibrators
    return float(sigmoid.a_), float(sigmoid.b_)


def cross_fit(
    decisions: Vector, labels: Labels, groups: Sequence[str] | None, shift: float = 0.0
) -> Vector:
    """Probability of each row by a sigmoid that was fitted on the other folds alone, ``(N,)``.

    What is chosen by these, as limits are, is chosen by probabilities that have seen no label of
    their own group.

    Args:
        decisions: ``(N,)`` decision values of rows that the estimator did not train on.
        labels: ``(N,)``, 1 = fake, 0 = real; two or more of each.
        groups: ``(N,)``; whole groups stand in one fold.
        shift: Added to the log-odds, as of ``compute_prevalence_shift``.
    """
    p_fake = np.empty(len(labels))
    for train, test in make_folds(labels, groups):
        slope, offset = fit_sigmoid(decisions[train], labels[train])
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
            p_fake[test] = 1 / (1 + np.exp(slope * decisions[test] + offset - shift))
    return p_fake


def compute_prevalence_shift(before: float, after: float) -> float:
    """What another share of fakes adds to all log-odds of fake.

    Args:
        before: Share of fakes in the rows that the sigmoid was fitted on.
        after: Share of fakes where it will be used.

    Raises:
        ValueError: If a share is not between 0 and 1.

    References:
        Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
        Probabilities", 2002.
    """
    if not (0 < before < 1 and 0 < after < 1):
        raise ValueError(f"prevalence {before:g} to {after:g}; expected shares between 0 and 1")
    return float(np.log(after / (1 - after)) - np.log(before / (1 - before)))


def make_folds(labels: Labels, groups: Sequence[str] | None) -> list[Fold]:
    """Calibration folds: indices of the training and of the held-out rows of each.

    Whole groups are held out together. Without groups, or where they cannot be divided so that
    both parts of every fold hold both classes, the folds are by row.

    Args:
        labels: ``(N,)``, 1 = fake, 0 = real; two or more of each.
        groups: ``(N,)``.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    n_folds = min(_FOLDS, int(np.bincount(labels).min()))
    n_groups = len(labels) if groups is None else len(set(groups))
    if n_groups < len(labels):  # groups of one row each ask for nothing
        by_group = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
        folds = list(by_group.split(labels, labels, groups)) if n_groups >= n_folds else []
        # scikit-learn returns folds without a class, and says nothing.
        if folds and all(len(set(labels[part])) == 2 for fold in folds for part in fold):
            return folds
        logger.warning(
            "the %d groups cannot be divided into %d folds that hold both classes; the calibration "
            "sees rows of one group on both sides, and its probabilities may be too sure",
            n_groups,
            n_folds,
        )
    by_row = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    return list(by_row.split(labels, labels))
