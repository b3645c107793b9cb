"""95 % intervals for every metric, by a cluster bootstrap: whole groups are drawn with replacement.

Frames of one video, or videos of one person, are no independent evidence; resampled row by row an
interval would be too narrow. A resample is a count per group; all resamples are worked out together
as weighted metrics over rows that were sorted once, which is measured to be 14 times as fast as a
loop over scikit-learn (``benchmarks/evaluate.py``). Knows no model and no file.

References:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals).
    Field and Welsh, "Bootstrapping clustered data", 2007 (the cluster bootstrap).
    Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 1934.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.texts import number_texts
from deepfake.metrics import (
    CALIBRATION_BINS,
    METRICS,
    NAN,
    Estimate,
    Floats,
    Labels,
    Resamples,
    Scores,
    calibration_bin,
    compute_metrics,
)
from deepfake.records import Verdict

Counts = NDArray[np.int32]
Groups = Sequence[str] | NDArray[Any]
"""``(N,)`` names, or numbers from 0 on that sort as names would."""

N_RESAMPLES = 1000
_MIN_GROUPS = 5
_CELLS = 1 << 19  # rows x resamples that are worked on at once: a few MB, whatever the data
_LEVEL = 0.95
_LOG_LOSS_EPSILON = float(np.finfo(np.float64).eps)  # as scikit-learn clips


def bootstrap_metrics(
    y_true: Labels,
    y_score: Scores,
    groups: Groups,
    threshold: float,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """All metrics of ``compute_metrics``, with intervals where there are enough groups.

    A resample that happens to hold one class only has no AUC; such resamples are left out of that
    metric's interval, and its note counts them. The calibration error of few rows is too high by
    nature, and more so in a resample that repeats some of them: its interval leans upwards.

    Args:
        y_true: ``(N,)``, 1 = fake, 0 = real.
        y_score: ``(N,)`` in [0, 1].
        groups: ``(N,)``, what was drawn from the world together: person, video.
        threshold: At or above it means fake; from elsewhere, never chosen on these rows.
        n_resamples: 0 gives no intervals.
        seed: Same seed, same intervals.

    Raises:
        ValueError: If the lengths differ.
    """
    metrics = compute_metrics(y_true, y_score, threshold)
    if len(groups) != len(y_true):
        raise ValueError(f"{len(y_true)} labels but {len(groups)} groups")
    if not n_resamples or all(estimate.reason for estimate in metrics.values()):
        return metrics
    n_groups, group_of_row = _number_groups(groups)
    if n_groups < _MIN_GROUPS:
        note = _too_few(n_groups)
        return {
            name: estimate if estimate.reason else replace(estimate, note=note)
            for name, estimate in metrics.items()
        }
    counts = resample_groups(n_groups, n_resamples, seed)
    resampled = resample_metrics(y_true, y_score, group_of_row, counts, threshold)
    return {
        name: estimate if estimate.reason else _with_interval(estimate, resampled[name])
        for name, estimate in metrics.items()
    }


def bootstrap_share(
    hits: NDArray[np.bool_],
    groups: Groups,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The share of rows that something is true of, with its interval where there can be one.

    Of none or all of the rows it is that of Clopper and Pearson, a group for a trial: what a share
    can be and still show itself in none of so many groups with a chance of 2.5 %.

    Args:
        hits: ``(N,)``.
        groups: ``(N,)``, what was drawn from the world together.
        n_resamples: 0 gives no interval.
        seed: Same seed, same interval.

    Example:
        >>> bootstrap_share(np.zeros(0, dtype=bool), []).reason
        'no rows'
    """
    if not len(hits):
        return Estimate(NAN, "no rows")
    share = Estimate(float(hits.mean()))
    if not n_resamples:
        return share
    n_groups, group_of_row = _number_groups(groups)
    if n_groups < _MIN_GROUPS:
        return replace(share, note=_too_few(n_groups))
    if hits.all() or not hits.any():
        # Alike rows show no spread, however they are resampled; that is no reason to be sure.
        unseen = 1 - ((1 - _LEVEL) / 2) ** (1 / n_groups)
        low, high = (1 - unseen, 1.0) if hits.all() else (0.0, unseen)
        note = f"exact interval of {n_groups} groups: all {len(hits)} rows are alike"
        return replace(share, low=low, high=high, note=note)
    counts = resample_groups(n_groups, n_resamples, seed)
    sums = np.column_stack([np.bincount(group_of_row), np.bincount(group_of_row, hits)])
    weighted = np.concatenate([part @ sums for part in _chunks(counts, n_groups)])
    return _with_interval(share, weighted[:, 1] / weighted[:, 0])


def measure_verdicts(
    y_true: Labels,
    verdicts: Sequence[Verdict] | NDArray[np.object_],
    groups: Groups,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Estimate]:
    """How often verdicts are wrong, right, or none: the names of ``RATES``, with intervals.

    Args:
        y_true: ``(N,)``, 1 = fake.
        verdicts: ``N`` of them.
        groups: ``(N,)``, what was drawn from the world together.
        n_resamples: Of the bootstrap; 0 gives no intervals.
    """
    said, numbers = np.asarray(verdicts, object), _number_groups(groups)[1]
    real, fake = y_true == 0, y_true == 1

    def share(verdict: Verdict, of: NDArray[np.bool_]) -> Estimate:
        return bootstrap_share(said[of] == verdict, numbers[of], n_resamples)

    return {
        "fpr": share(Verdict.FAKE, real),
        "tpr": share(Verdict.FAKE, fake),
        "fnr": share(Verdict.REAL, fake),
        "unclear": share(Verdict.UNCLEAR, real | fake),
    }


def _chunks(counts: Iterable[Counts], width: int) -> Iterator[Counts]:
    """A few resamples at a time, ``(R, groups)``, each of which takes ``width`` cells."""
    waiting = iter(counts)
    while part := [*islice(waiting, max(1, _CELLS // width))]:
        yield np.stack(part)


def _number_groups(groups: Groups) -> tuple[int, NDArray[np.int32]]:
    """How many groups there are, and the number of each row's, without a gap, as they sort."""
    if isinstance(groups, np.ndarray) and groups.dtype.kind == "i":
        numbers = groups
    else:
        (numbers,) = number_texts(groups)
    occurs = np.bincount(numbers) > 0
    return int(occurs.sum()), (np.cumsum(occurs, dtype=np.int32) - 1)[numbers]


def _too_few(n_groups: int) -> str:
    return f"no interval: {n_groups} groups, {_MIN_GROUPS} are needed"


def resample_groups(n_groups: int, n_resamples: int, seed: int = 0) -> Iterator[Counts]:
    """How often each group is in each resample, ``(groups,)``; one at a time, for all are many."""
    rng = np.random.default_rng(seed)
    for _ in range(n_resamples):
        drawn = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)
        yield drawn.astype(np.int32)


def resample_metrics(
    y_true: Labels,
    y_score: Scores,
    group_of_row: NDArray[np.integer[Any]],
    counts: Iterable[Counts],
    threshold: float,
) -> dict[str, Floats]:
    """Every metric of every resample, ``(R,)`` each; ``nan`` where a resample lacks a class.

    Args:
        y_true: ``(N,)``.
        y_score: ``(N,)``, finite, in [0, 1].
        group_of_row: ``(N,)``, number of each row's group.
        counts: ``(groups,)`` of each resample, the weight of each group's rows.
        threshold: Of the metrics that need one.
    """
    parts: dict[str, list[Floats]] = {name: [] for name in METRICS}
    for resamples in _weigh(y_true, y_score, group_of_row, counts, threshold):
        both = (resamples.n_fake > 0) & (resamples.n_real > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            for name, metric in METRICS.items():
                values = metric.resampled(resamples)
                parts[name].append(np.where(both, values, NAN) if metric.needs_both else values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _weigh(
    y_true: Labels,
    y_score: Scores,
    group_of_row: NDArray[np.integer[Any]],
    counts: Iterable[Counts],
    threshold: float,
) -> Iterator[Resamples]:
    """The weighted counts of a few resamples at a time."""
    order = np.argsort(-y_score, kind="stable")
    # A threshold can only stand between two different scores: ends of runs of equal ones, (U,).
    ends = np.append(np.flatnonzero(np.diff(y_score[order])), len(order) - 1)
    columns, is_fake = group_of_row[order], (y_true[order] == 1).astype(np.int32)
    sums: Floats | None = None
    for part in _chunks(counts, len(order)):
        if sums is None:
            sums = _sum_by_group(y_true, y_score, group_of_row, part.shape[1], threshold)
        weights = part.take(columns, axis=1)  # (R, N)
        fakes_above = np.cumsum(weights * is_fake, axis=1, dtype=np.int32)[:, ends]
        reals_above = np.cumsum(weights, axis=1, dtype=np.int32)[:, ends] - fakes_above
        weighted = part @ sums
        yield Resamples(
            n_real=reals_above[:, -1].astype(np.float64),
            n_fake=fakes_above[:, -1].astype(np.float64),
            true_positives=weighted[:, 0],
            true_negatives=weighted[:, 1],
            log_loss=weighted[:, 2],
            squared_error=weighted[:, 3],
            surplus=weighted[:, 4:],
            fakes_above=fakes_above,
            reals_above=reals_above,
        )


def _sum_by_group(
    y_true: Labels,
    y_score: Scores,
    group_of_row: NDArray[np.integer[Any]],
    n_groups: int,
    threshold: float,
) -> Floats:
    """What metrics add up over rows, summed once per group, ``(groups, 4 + bins)``."""
    labels, p_fake = y_true.astype(np.float64), y_score.astype(np.float64)
    predicted = p_fake >= threshold
    clipped = np.clip(p_fake, _LOG_LOSS_EPSILON, 1 - _LOG_LOSS_EPSILON)
    columns = [
        predicted * labels,
        ~predicted * (1 - labels),
        -np.where(labels == 1, np.log(clipped), np.log1p(-clipped)),
        (p_fake - labels) ** 2,
    ]
    sums = [np.bincount(group_of_row, column, minlength=n_groups) for column in columns]
    places = group_of_row.astype(np.int64) * CALIBRATION_BINS + calibration_bin(p_fake)
    surplus = np.bincount(places, p_fake - labels, minlength=n_groups * CALIBRATION_BINS)
    return np.column_stack([*sums, surplus.reshape(n_groups, CALIBRATION_BINS)])


def _with_interval(estimate: Estimate, resampled: Floats) -> Estimate:
    usable = resampled[np.isfinite(resampled)]
    lost = len(resampled) - len(usable)
    if not len(usable):
        return replace(estimate, note=f"no interval: all {lost} resamples hold one class only")
    low, high = np.quantile(usable, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    note = f"{lost} of {len(resampled)} resamples hold one class only" if lost else ""
    return replace(estimate, low=float(low), high=float(high), note=note)
