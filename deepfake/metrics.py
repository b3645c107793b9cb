"""Numbers that say how good scores are; pure functions, equal to scikit-learn where it has them.

Labels are 1 = fake and 0 = real, scores rise with fake. A number that does not exist (one class
only) is ``nan``, never 0. Knows no model and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def compute_auc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve; ``nan`` with one class only.

    Raises:
        ValueError: If a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    return float(roc_auc_score(labels, scores)) if _has_both(labels) else float("nan")


def compute_eer(labels: Labels, scores: Scores) -> float:
    """Equal error rate: where the share of missed fakes equals that of accused reals.

    Linear interpolation between the two neighbouring points of the ROC curve; ``nan`` with one
    class only.

    Raises:
        ValueError: If a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    if not _has_both(labels):
        return float("nan")
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = fpr - (1 - tpr)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    if gap[after] == 0 or after == 0:
        return float(fpr[after])
    step = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(fpr[after - 1] + step * (fpr[after] - fpr[after - 1]))


def compute_accuracy(labels: Labels, scores: Scores, threshold: float) -> float:
    """Share of right answers, where ``score >= threshold`` says fake; ``nan`` without rows."""
    _check(labels, scores)
    return float(np.mean((scores >= threshold) == (labels == 1))) if len(labels) else float("nan")


def choose_threshold(labels: Labels, scores: Scores) -> float:
    """Threshold with the best balanced accuracy, in the middle of its plateau.

    Raises:
        ValueError: If a class is missing, a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    if not _has_both(labels):
        raise ValueError("a threshold cannot be chosen from one class only")
    values = np.unique(scores)
    # The middle of two neighbouring floats rounds to one of them; it must stay above the lower.
    middles = np.maximum((values[1:] + values[:-1]) / 2, np.nextafter(values[:-1], np.inf))
    candidates = np.concatenate([[values[0]], middles, [np.nextafter(values[-1], np.inf)]])
    fakes, reals = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    found = 1 - np.searchsorted(fakes, candidates, side="left") / len(fakes)
    spared = np.searchsorted(reals, candidates, side="left") / len(reals)
    balanced = found + spared
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    return float(candidates[best[len(best) // 2]])


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one split.

    Args:
        n_real: Number of real rows.
        n_fake: Number of fake rows.
        auc: Area under the ROC curve.
        eer: Equal error rate.
        accuracy: At the threshold given, never one chosen on the same rows.
    """

    n_real: int
    n_fake: int
    auc: float
    eer: float
    accuracy: float


def summarise(labels: Labels, scores: Scores, threshold: float) -> Summary:
    """All figures of one split at a threshold that came from elsewhere."""
    return Summary(
        n_real=int(np.sum(labels == 0)),
        n_fake=int(np.sum(labels == 1)),
        auc=compute_auc(labels, scores),
        eer=compute_eer(labels, scores),
        accuracy=compute_accuracy(labels, scores, threshold),
    )


def format_figure(value: float, width: int = 0, digits: int = 4) -> str:
    """A figure for a table; ``n/a`` where it does not exist.

    Example:
        >>> format_figure(0.87654), format_figure(float("nan"), width=6)
        ('0.8765', '   n/a')
    """
    text = "n/a" if np.isnan(value) else f"{value:.{digits}f}"
    return text.rjust(width)


def _has_both(labels: Labels) -> bool:
    return len(np.unique(labels)) == 2


def _check(labels: Labels, scores: Scores) -> None:
    if len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels but {len(scores)} scores")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{int(np.sum(~np.isfinite(scores)))} of {len(scores)} scores are not finite"
        )
