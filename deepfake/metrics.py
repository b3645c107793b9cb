"""The metrics, each defined once: name, title, meaning, formula, formula over resamples.

Evaluation, bootstrap, pages, tables and JSON read ``METRICS``. Labels are 1 = fake and 0 = real,
scores rise with fake, and a score at the threshold or above it is a fake (the positive class).
Where scikit-learn defines a metric as we do, it computes it, imported by the first call only. A
metric that does not exist (one class only) is ``nan``, never 0; ``compute_metrics`` says why. All
formulas raise ``ValueError`` for unequal lengths, scores that are not finite, and, where they need
them, scores that are no probabilities. Knows no model and no file.

References:
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (expected calibration error).
    Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.records import Estimate as Estimate

CALIBRATION_BINS = 15
Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
NAN = float("nan")


def compute_auc(y_true: Labels, y_score: Scores) -> float:
    """Area under the ROC curve; ``nan`` with one class only."""
    from sklearn.metrics import roc_auc_score

    check_scores(y_true, y_score)
    return float(roc_auc_score(y_true, y_score)) if has_both_classes(y_true) else NAN


def compute_average_precision(y_true: Labels, y_score: Scores) -> float:
    """Area under the precision-recall curve, not interpolated; ``nan`` with one class only."""
    from sklearn.metrics import average_precision_score

    check_scores(y_true, y_score)
    return float(average_precision_score(y_true, y_score)) if has_both_classes(y_true) else NAN


def compute_eer(y_true: Labels, y_score: Scores) -> float:
    """Equal error rate: where false negative rate and false positive rate are the same.

    Not in scikit-learn. Linear interpolation between the two neighbouring points of the ROC curve;
    ``nan`` with one class only.
    """
    fpr, tpr = _every_roc_point(y_true, y_score)
    # False positive less false negative rate rises from -1 to 1, with every point of the curve.
    return float(np.interp(0, fpr + tpr - 1, fpr)) if len(fpr) else NAN


def compute_tpr_at_fpr(y_true: Labels, y_score: Scores, max_fpr: float) -> float:
    """Highest true positive rate at a false positive rate of at most ``max_fpr``.

    No interpolation, unlike a point read off the ROC curve: it belongs to a threshold that can be
    set. ``nan`` with one class only.
    """
    fpr, tpr = _every_roc_point(y_true, y_score)
    return float(tpr[fpr <= max_fpr + 1e-12].max()) if len(fpr) else NAN


def compute_accuracy(y_true: Labels, y_score: Scores, threshold: float) -> float:
    """Share of correct predictions; at the threshold or above is fake; ``nan`` without rows."""
    check_scores(y_true, y_score)
    return float(np.mean((y_score >= threshold) == (y_true == 1))) if len(y_true) else NAN


def compute_balanced_accuracy(y_true: Labels, y_score: Scores, threshold: float) -> float:
    """Mean of true positive rate and true negative rate; ``nan`` with one class only."""
    from sklearn.metrics import balanced_accuracy_score

    check_scores(y_true, y_score)
    if not has_both_classes(y_true):
        return NAN
    return float(balanced_accuracy_score(y_true, y_score >= threshold))


def compute_log_loss(y_true: Labels, p_fake: Scores) -> float:
    """Mean negative log-likelihood of the labels in nats; ``nan`` without rows."""
    from sklearn.metrics import log_loss

    _check_probabilities(y_true, p_fake)
    return float(log_loss(y_true, p_fake, labels=[0, 1])) if len(y_true) else NAN


def compute_brier(y_true: Labels, p_fake: Scores) -> float:
    """Mean squared distance of the probabilities from the labels; ``nan`` without rows."""
    _check_probabilities(y_true, p_fake)
    return float(np.mean((p_fake - y_true) ** 2)) if len(y_true) else NAN


def calibration_bin(p_fake: Scores) -> NDArray[np.int64]:
    """Bin of each probability out of ``CALIBRATION_BINS`` of equal width."""
    bins = (np.asarray(p_fake, dtype=np.float64) * CALIBRATION_BINS).astype(np.int64)
    return np.minimum(bins, CALIBRATION_BINS - 1)


def compute_calibration_error(y_true: Labels, p_fake: Scores) -> float:
    """Expected calibration error: how far probabilities are from shares of fakes, on average.

    Rows fall into 15 bins of equal width; each bin counts by its rows. ``nan`` without rows.
    torchmetrics' ``BinaryCalibrationError`` is the same but for probabilities on the edge of a bin,
    which it places in float32.
    """
    _check_probabilities(y_true, p_fake)
    if not len(y_true):
        return NAN
    surplus = np.bincount(calibration_bin(p_fake), p_fake - y_true, minlength=CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / len(y_true))


@dataclass(frozen=True, slots=True)
class Resamples:
    """Weighted counts of R resamples of the same rows: what metrics of resamples are made of.

    Args:
        n_real: ``(R,)``.
        n_fake: ``(R,)``.
        true_positives: ``(R,)``, at the threshold.
        true_negatives: ``(R,)``, at the threshold.
        log_loss: ``(R,)``, sum over rows.
        squared_error: ``(R,)``, sum over rows.
        surplus: ``(R, CALIBRATION_BINS)``, probabilities less labels, sum over the rows of a bin.
        fakes_above: ``(R, U)``, fakes at or above each of the U different scores, highest first.
        reals_above: ``(R, U)``, reals at or above it.
    """

    n_real: Floats
    n_fake: Floats
    true_positives: Floats
    true_negatives: Floats
    log_loss: Floats
    squared_error: Floats
    surplus: Floats
    fakes_above: NDArray[np.int32]
    reals_above: NDArray[np.int32]

    @property
    def n_rows(self) -> Floats:
        """Rows of each resample, ``(R,)``."""
        return self.n_real + self.n_fake


def _resampled_auc(r: Resamples) -> Floats:
    new_fakes = np.diff(r.fakes_above, axis=1, prepend=0)
    new_reals = np.diff(r.reals_above, axis=1, prepend=0)
    # Trapezia: a real is beaten by the fakes above it, and by half of those beside it.
    beaten = (new_reals * (2.0 * r.fakes_above - new_fakes)).sum(axis=1) / 2
    auc: Floats = beaten / (r.n_fake * r.n_real)
    return auc


def _resampled_average_precision(r: Resamples) -> Floats:
    precision = r.fakes_above / np.maximum(r.fakes_above + r.reals_above, 1)
    new_fakes = np.diff(r.fakes_above, axis=1, prepend=0)
    average: Floats = (new_fakes * precision).sum(axis=1) / r.n_fake
    return average


def _resampled_eer(r: Resamples) -> Floats:
    fpr = r.reals_above / r.n_real[:, None]
    gap = fpr - (1 - r.fakes_above / r.n_fake[:, None])  # rises to 1; it is -1 before the first row
    rows = np.arange(len(gap))
    after = np.argmax(gap >= 0, axis=1)
    before, first = np.maximum(after - 1, 0), after == 0
    gap_before = np.where(first, -1.0, gap[rows, before])
    fpr_before = np.where(first, 0.0, fpr[rows, before])
    step = -gap_before / (gap[rows, after] - gap_before)
    eer: Floats = fpr_before + step * (fpr[rows, after] - fpr_before)
    return eer


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as everything else reads it.

    Args:
        name: In JSON, tables and code.
        title: For people.
        meaning: What it says, in a few words.
        formula: Of ``(y_true, y_score, threshold)``.
        resampled: The same of every resample, ``(R,)``; may divide by 0 where a class is missing.
        needs_both: It only exists where there are rows of both classes.
        min_rows: It only exists from so many rows on.
        min_real: It only exists from so many real rows on.
    """

    name: str
    title: str
    meaning: str
    formula: Callable[[Labels, Scores, float], float]
    resampled: Callable[[Resamples], Floats]
    needs_both: bool = True
    min_rows: int = 0
    min_real: int = 0

    def find_reason(self, n_real: int, n_fake: int) -> str:
        """Why it does not exist of so many rows, or nothing if it does."""
        if self.needs_both and not (n_real and n_fake):
            return f"one class only: {n_real} real and {n_fake} fake rows"
        if n_real + n_fake < self.min_rows:
            return f"{n_real + n_fake} rows are too few, it needs {self.min_rows}"
        if n_real < self.min_real:
            return f"{n_real} real rows are too few, it needs {self.min_real}"
        return ""


def _tpr_at_fpr(percent: int) -> Metric:
    rate = percent / 100

    def resampled(r: Resamples) -> Floats:
        allowed = r.reals_above <= rate * r.n_real[:, None] + 1e-9
        tpr: Floats = np.where(allowed, r.fakes_above, 0).max(axis=1) / r.n_fake
        return tpr

    return Metric(
        name=f"tpr_at_fpr_{percent}",
        title=f"TPR@{percent}%",
        meaning=f"true positive rate at a false positive rate of at most {percent} %",
        formula=lambda y, p, _: compute_tpr_at_fpr(y, p, rate),
        resampled=resampled,
        min_real=100 // percent,
    )


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                "auc",
                "AUC",
                "area under the ROC curve: chance that a fake scores above a real",
                lambda y, p, _: compute_auc(y, p),
                _resampled_auc,
            ),
            Metric(
                "ap",
                "AP",
                "average precision: area under the precision-recall curve",
                lambda y, p, _: compute_average_precision(y, p),
                _resampled_average_precision,
            ),
            Metric(
                "eer",
                "EER",
                "equal error rate: where false positive and false negative rate are the same",
                lambda y, p, _: compute_eer(y, p),
                _resampled_eer,
            ),
            Metric(
                "accuracy",
                "accuracy",
                "share of correct predictions at the threshold",
                compute_accuracy,
                lambda r: (r.true_positives + r.true_negatives) / r.n_rows,
                needs_both=False,
            ),
            Metric(
                "balanced_accuracy",
                "bal. acc.",
                "balanced accuracy: mean of true positive and true negative rate at the threshold",
                compute_balanced_accuracy,
                lambda r: (r.true_positives / r.n_fake + r.true_negatives / r.n_real) / 2,
            ),
            Metric(
                "log_loss",
                "log loss",
                "mean negative log-likelihood of the labels, in nats",
                lambda y, p, _: compute_log_loss(y, p),
                lambda r: r.log_loss / r.n_rows,
                needs_both=False,
            ),
            Metric(
                "brier",
                "Brier",
                "mean squared distance of the scores from the labels",
                lambda y, p, _: compute_brier(y, p),
                lambda r: r.squared_error / r.n_rows,
                needs_both=False,
            ),
            Metric(
                "ece",
                "ECE",
                "expected calibration error: how far scores are from being probabilities",
                lambda y, p, _: compute_calibration_error(y, p),
                lambda r: np.abs(r.surplus).sum(axis=1) / r.n_rows,
                needs_both=False,
                min_rows=CALIBRATION_BINS,
            ),
            _tpr_at_fpr(1),
            _tpr_at_fpr(5),
        )
    }
)
"""All metrics by name, in the order in which they are shown."""


def compute_metrics(y_true: Labels, y_score: Scores, threshold: float) -> dict[str, Estimate]:
    """All metrics at a threshold that came from elsewhere, by name, in the order of ``METRICS``.

    Never an error and never a 0 for a metric that does not exist: it is ``nan``, with a reason.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> metrics = compute_metrics(np.array([0, 0]), np.array([0.1, 0.7]), threshold=0.5)
        >>> metrics["accuracy"].value, metrics["auc"].reason
        (0.5, 'one class only: 2 real and 0 fake rows')
    """
    _check_lengths(y_true, y_score)
    n_real, n_fake = int(np.sum(y_true == 0)), int(np.sum(y_true == 1))
    bad = int(np.sum(~((y_score >= 0) & (y_score <= 1))))  # true for NaN, too
    nothing = "" if len(y_true) else "no rows"
    if bad:
        nothing = f"{bad} of {len(y_true)} scores are no probabilities"
    estimates = {}
    for name, metric in METRICS.items():
        reason = nothing or metric.find_reason(n_real, n_fake)
        value = NAN if reason else metric.formula(y_true, y_score, threshold)
        estimates[name] = Estimate(value, reason)
    return estimates


@dataclass(frozen=True, slots=True)
class Summary:
    """The metrics of one split that a checkpoint remembers.

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


def summarise(y_true: Labels, y_score: Scores, threshold: float) -> Summary:
    """The metrics of one split at a threshold that came from elsewhere."""
    return Summary(
        n_real=int(np.sum(y_true == 0)),
        n_fake=int(np.sum(y_true == 1)),
        auc=compute_auc(y_true, y_score),
        eer=compute_eer(y_true, y_score),
        accuracy=compute_accuracy(y_true, y_score, threshold),
    )


def format_metric(value: float, width: int = 0, digits: int = 4) -> str:
    """A value for a table; ``n/a`` where it does not exist.

    Example:
        >>> format_metric(0.87654), format_metric(float("nan"), width=6)
        ('0.8765', '   n/a')
    """
    return (f"{value:.{digits}f}" if np.isfinite(value) else "n/a").rjust(width)


def _every_roc_point(y_true: Labels, y_score: Scores) -> tuple[Scores, Scores]:
    """False and true positive rate at every threshold, highest first; empty with one class."""
    from sklearn.metrics import roc_curve

    check_scores(y_true, y_score)
    if not has_both_classes(y_true):
        return np.zeros(0), np.zeros(0)
    fpr, tpr, _ = roc_curve(y_true, y_score, drop_intermediate=False)
    return fpr, tpr


def _check_probabilities(y_true: Labels, p_fake: Scores) -> None:
    check_scores(y_true, p_fake)
    if len(p_fake) and not 0 <= np.min(p_fake) <= np.max(p_fake) <= 1:
        raise ValueError(
            f"scores from {np.min(p_fake):g} to {np.max(p_fake):g} are no probabilities"
        )


def has_both_classes(y_true: Labels) -> bool:
    """Whether there are reals and fakes."""
    return len(np.unique(y_true)) == 2


def check_scores(y_true: Labels, y_score: Scores) -> None:
    """Refuse scores that are not finite or not as many as labels."""
    _check_lengths(y_true, y_score)
    bad = int(np.sum(~np.isfinite(y_score)))
    if bad:
        raise ValueError(f"{bad} of {len(y_score)} scores are not finite")


def _check_lengths(y_true: Labels, y_score: Scores) -> None:
    if len(y_true) != len(y_score):
        raise ValueError(f"{len(y_true)} labels but {len(y_score)} scores")
