"""Numbers that say how good scores are; pure functions, equal to scikit-learn where it has them.

Labels are 1 = fake and 0 = real, scores rise with fake. A number that does not exist (one class
only) is ``nan``, never 0; ``measure`` says why. Knows no model and no file.

References:
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (expected calibration error).
    Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    log_loss,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

CALIBRATION_BINS = 15
FALSE_ALARM_RATES = (0.01, 0.05)
"""Shares of accused reals at which the share of found fakes is told."""
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


def compute_average_precision(labels: Labels, scores: Scores) -> float:
    """Area under the precision-recall curve, without interpolation; ``nan`` with one class only.

    Raises:
        ValueError: If a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    return float(average_precision_score(labels, scores)) if _has_both(labels) else float("nan")


def compute_balanced_accuracy(labels: Labels, scores: Scores, threshold: float) -> float:
    """Mean of the share of found fakes and that of spared reals; ``nan`` with one class only.

    Raises:
        ValueError: If a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    if not _has_both(labels):
        return float("nan")
    called = scores >= threshold
    return float((called[labels == 1].mean() + (~called[labels == 0]).mean()) / 2)


def compute_log_loss(labels: Labels, p_fake: Scores) -> float:
    """Mean negative log-likelihood of the labels in nats; ``nan`` without rows.

    Raises:
        ValueError: If a probability is not in [0, 1] or the lengths differ.
    """
    _check_probabilities(labels, p_fake)
    return float(log_loss(labels, p_fake, labels=[0, 1])) if len(labels) else float("nan")


def compute_brier(labels: Labels, p_fake: Scores) -> float:
    """Mean squared distance of the probabilities from the labels; ``nan`` without rows.

    Raises:
        ValueError: If a probability is not in [0, 1] or the lengths differ.
    """
    _check_probabilities(labels, p_fake)
    return float(np.mean((p_fake - labels) ** 2)) if len(labels) else float("nan")


def calibration_bin(p_fake: Scores) -> NDArray[np.int64]:
    """Bin of each probability out of ``CALIBRATION_BINS`` of equal width."""
    bins: NDArray[np.int64] = np.minimum(
        (np.asarray(p_fake, dtype=np.float64) * CALIBRATION_BINS).astype(np.int64),
        CALIBRATION_BINS - 1,
    )
    return bins


def compute_calibration_error(labels: Labels, p_fake: Scores) -> float:
    """Expected calibration error: how far probabilities are from shares of fakes, on average.

    Rows fall into 15 bins of equal width; each bin counts by its rows. ``nan`` without rows.

    Raises:
        ValueError: If a probability is not in [0, 1] or the lengths differ.
    """
    _check_probabilities(labels, p_fake)
    if not len(labels):
        return float("nan")
    surplus = np.bincount(calibration_bin(p_fake), p_fake - labels, minlength=CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / len(labels))


def compute_tpr_at_fpr(labels: Labels, scores: Scores, false_alarm_rate: float) -> float:
    """Share of fakes that are found where at most this share of reals is accused.

    No interpolation: it belongs to a threshold that can be set. ``nan`` with one class only.

    Raises:
        ValueError: If a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    if not _has_both(labels):
        return float("nan")
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(tpr[fpr <= false_alarm_rate + 1e-12].max())


def trace_roc(labels: Labels, scores: Scores) -> tuple[Scores, Scores]:
    """Shares of accused reals and of found fakes as the threshold falls; empty with one class.

    Raises:
        ValueError: If a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    if not _has_both(labels):
        return np.zeros(0), np.zeros(0)
    fpr, tpr, _ = roc_curve(labels, scores)
    return fpr, tpr


def trace_precision(labels: Labels, scores: Scores) -> tuple[Scores, Scores]:
    """Shares of found fakes and of right accusations as the threshold falls; empty with one class.

    Raises:
        ValueError: If a score is not finite or the lengths differ.
    """
    _check(labels, scores)
    if not _has_both(labels):
        return np.zeros(0), np.zeros(0)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    # Its last point is no threshold: the curve begins where the first file is accused.
    return recall[-2::-1], precision[-2::-1]


def trace_calibration(labels: Labels, p_fake: Scores) -> tuple[Scores, Scores, Scores]:
    """Mean probability, share of fakes and number of rows of each bin that is not empty.

    Raises:
        ValueError: If a probability is not in [0, 1] or the lengths differ.
    """
    _check_probabilities(labels, p_fake)
    bins = calibration_bin(p_fake)
    rows, said, seen = (
        np.bincount(bins, weights, minlength=CALIBRATION_BINS).astype(np.float64)
        for weights in (np.ones(len(labels)), p_fake, labels)
    )
    there = rows > 0
    return said[there] / rows[there], seen[there] / rows[there], rows[there]


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


def choose_threshold_for_rate(labels: Labels, scores: Scores, false_alarm_rate: float) -> float:
    """Lowest threshold at which at most this share of the reals is called fake.

    It lies in the middle between the highest real that must be spared and the next score above.

    Raises:
        ValueError: If the rate is out of range, there are too few reals to measure it, a score is
            not finite or the lengths differ.
    """
    _check(labels, scores)
    if not 0 < false_alarm_rate < 1:
        raise ValueError(
            f"a false-alarm rate of {false_alarm_rate:g}; expected one between 0 and 1"
        )
    reals = np.sort(scores[labels == 0])[::-1]
    allowed = int(false_alarm_rate * len(reals) + 1e-9)
    if not allowed:
        raise ValueError(
            f"a false-alarm rate of {false_alarm_rate:g} cannot be measured on {len(reals)} reals; "
            f"it takes {int(np.ceil(1 / false_alarm_rate - 1e-9))}"
        )
    spared = reals[allowed]
    above = scores[scores > spared]
    lowest = np.nextafter(spared, np.inf)
    return float(max((spared + above.min()) / 2, lowest) if len(above) else lowest)


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


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, with its interval where there is one, or the reason why there is no number.

    Args:
        value: ``nan`` if it does not exist.
        reason: Why it does not exist; empty if it does.
        low: Lower end of the 95 % interval, ``nan`` without one.
        high: Its upper end.
        note: Remark on the interval, or why there is none.
    """

    value: float
    reason: str = ""
    low: float = float("nan")
    high: float = float("nan")
    note: str = ""


TPR_NAMES = {rate: f"tpr_at_fpr_{100 * rate:g}" for rate in FALSE_ALARM_RATES}
FIGURES = (
    *("auc", "ap", "eer", "accuracy", "balanced_accuracy", "log_loss", "brier", "ece"),
    *TPR_NAMES.values(),
)
"""Names of all figures, in the order in which they are shown."""


def measure(labels: Labels, p_fake: Scores, threshold: float) -> dict[str, Figure]:
    """All figures at a threshold that came from elsewhere, by name, in the order of ``FIGURES``.

    Never an error and never a 0 for a number that does not exist: it is ``nan``, with a reason.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> figures = measure(np.array([0, 0]), np.array([0.1, 0.7]), threshold=0.5)
        >>> figures["accuracy"].value, figures["auc"].reason
        (0.5, 'one class only: 2 real and 0 fake rows')
    """
    if len(labels) != len(p_fake):
        raise ValueError(f"{len(labels)} labels but {len(p_fake)} scores")
    n_real, n_fake = int(np.sum(labels == 0)), int(np.sum(labels == 1))
    bad = int(np.sum(~((p_fake >= 0) & (p_fake <= 1))))  # true for NaN, too
    nothing = ""
    if not len(labels):
        nothing = "no rows"
    elif bad:
        nothing = f"{bad} of {len(labels)} scores are no probabilities"
    single = "" if n_real and n_fake else f"one class only: {n_real} real and {n_fake} fake rows"
    few_bins = (
        f"{len(labels)} rows are too few for {CALIBRATION_BINS} bins"
        if len(labels) < CALIBRATION_BINS
        else ""
    )
    parts: dict[str, tuple[str, Callable[[], float]]] = {
        "auc": (single, lambda: compute_auc(labels, p_fake)),
        "ap": (single, lambda: compute_average_precision(labels, p_fake)),
        "eer": (single, lambda: compute_eer(labels, p_fake)),
        "accuracy": ("", lambda: compute_accuracy(labels, p_fake, threshold)),
        "balanced_accuracy": (single, lambda: compute_balanced_accuracy(labels, p_fake, threshold)),
        "log_loss": ("", lambda: compute_log_loss(labels, p_fake)),
        "brier": ("", lambda: compute_brier(labels, p_fake)),
        "ece": (few_bins, lambda: compute_calibration_error(labels, p_fake)),
    }
    for rate, name in TPR_NAMES.items():
        enough = n_real * rate >= 1 - 1e-9
        few = "" if enough else f"{n_real} real rows are too few for a rate of {100 * rate:g} %"
        parts[name] = (single or few, partial(compute_tpr_at_fpr, labels, p_fake, rate))
    return {
        name: Figure(float("nan"), nothing or reason) if nothing or reason else Figure(compute())
        for name, (reason, compute) in parts.items()
    }


def format_metric(value: float, width: int = 0, digits: int = 4) -> str:
    """A figure for a table; ``n/a`` where it does not exist.

    Example:
        >>> format_metric(0.87654), format_metric(float("nan"), width=6)
        ('0.8765', '   n/a')
    """
    text = "n/a" if np.isnan(value) else f"{value:.{digits}f}"
    return text.rjust(width)


def _check_probabilities(labels: Labels, p_fake: Scores) -> None:
    _check(labels, p_fake)
    if len(p_fake) and not 0 <= np.min(p_fake) <= np.max(p_fake) <= 1:
        raise ValueError(
            f"scores from {np.min(p_fake):g} to {np.max(p_fake):g} are no probabilities"
        )


def _has_both(labels: Labels) -> bool:
    return len(np.unique(labels)) == 2


def _check(labels: Labels, scores: Scores) -> None:
    if len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels but {len(scores)} scores")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{int(np.sum(~np.isfinite(scores)))} of {len(scores)} scores are not finite"
        )
