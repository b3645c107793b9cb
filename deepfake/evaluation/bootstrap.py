"""95 % intervals for every figure, by drawing whole groups with replacement.

Frames of one video, or videos of one person, are no independent evidence; drawn row by row an
interval would be too narrow. A round is a count per group; all rounds are worked out together as
weighted figures over rows that were sorted once. Knows no model and no file.

References:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals).
    Field and Welsh, "Bootstrapping clustered data", 2007 (drawing whole groups).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.metrics import (
    CALIBRATION_BINS,
    FIGURES,
    TPR_NAMES,
    Figure,
    Labels,
    Scores,
    calibration_bin,
    measure,
)

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]

ROUNDS = 1000
_MIN_GROUPS = 5
_CELLS = 1 << 19  # rows x rounds that are worked on at once: a few MB, whatever the data
_LEVEL = 0.95
_LOG_LOSS_EPSILON = float(np.finfo(np.float64).eps)  # as scikit-learn clips


def measure_with_intervals(
    labels: Labels,
    p_fake: Scores,
    groups: Sequence[str] | NDArray[np.str_],
    threshold: float,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Figure]:
    """All figures of ``metrics.measure``, with intervals where there are enough groups.

    A round that happens to draw one class only has no AUC; such rounds are left out of that
    figure's interval, and its note counts them. The calibration error of few rows is too high by
    nature, and more so in a round that repeats some of them: its interval leans upwards.

    Args:
        labels: ``(N,)``, 1 = fake, 0 = real.
        p_fake: ``(N,)`` in [0, 1].
        groups: What was drawn from the world together: person, video.
        threshold: At or above it means fake; from elsewhere, never chosen on these rows.
        rounds: Number of drawings; 0 gives no intervals.
        seed: Same seed, same intervals.

    Raises:
        ValueError: If the lengths differ.
    """
    figures = measure(labels, p_fake, threshold)
    if len(groups) != len(labels):
        raise ValueError(f"{len(labels)} labels but {len(groups)} groups")
    names, group_of_row = _number(groups)
    exists = [name for name in FIGURES if not figures[name].reason]
    if not rounds or not exists:
        return figures
    if len(names) < _MIN_GROUPS:
        note = _too_few(len(names))
        return {
            name: figure if figure.reason else replace(figure, note=note)
            for name, figure in figures.items()
        }
    counts = draw_groups(len(names), rounds, seed)
    drawn = weighted_figures(labels, p_fake, group_of_row, counts, threshold)
    return {
        name: figure if figure.reason else _with_interval(figure, drawn[name])
        for name, figure in figures.items()
    }


def measure_share(
    hits: NDArray[np.bool_],
    groups: Sequence[str] | NDArray[np.str_],
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Figure:
    """The share of rows that something is true of, with its interval where there can be one.

    Args:
        hits: ``(N,)``.
        groups: What was drawn from the world together.
        rounds: Number of drawings; 0 gives no interval.
        seed: Same seed, same interval.

    Example:
        >>> measure_share(np.zeros(0, dtype=bool), []).reason
        'no rows'
    """
    if not len(hits):
        return Figure(float("nan"), "no rows")
    figure = Figure(float(hits.mean()))
    if not rounds:
        return figure
    names, group_of_row = _number(groups)
    if len(names) < _MIN_GROUPS:
        return replace(figure, note=_too_few(len(names)))
    if hits.all() or not hits.any():
        # Drawing alike rows again shows no spread; that is no reason to be sure.
        return replace(figure, note=f"no interval: all {len(hits)} rows are alike")
    counts = draw_groups(len(names), rounds, seed)
    columns = [np.ones_like(hits), hits]
    sums: Floats = np.stack([np.bincount(group_of_row, column) for column in columns], axis=1)
    drawn = _in_parts(counts, sums.astype(np.float64))
    return _with_interval(figure, drawn[:, 1] / drawn[:, 0])


def _number(
    groups: Sequence[str] | NDArray[np.str_],
) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """The names of groups, and which of them each row has."""
    names, places = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return names, places


def _too_few(n_groups: int) -> str:
    return f"no interval: {n_groups} groups, {_MIN_GROUPS} are needed"


def draw_groups(n_groups: int, rounds: int, seed: int = 0) -> Counts:
    """How often each group is drawn in each round, ``(rounds, n_groups)``; rows sum to n_groups."""
    rng = np.random.default_rng(seed)
    counts = np.empty((rounds, n_groups), dtype=np.int32)
    for number in range(rounds):
        drawn = rng.integers(0, n_groups, n_groups)
        counts[number] = np.bincount(drawn, minlength=n_groups)
    return counts


def weighted_figures(
    labels: Labels,
    p_fake: Scores,
    group_of_row: NDArray[np.integer[Any]],
    counts: Counts,
    threshold: float,
) -> dict[str, Floats]:
    """Every figure of every round, ``(rounds,)`` each; ``nan`` where a round lacks a class.

    Args:
        labels: ``(N,)``.
        p_fake: ``(N,)``, finite, in [0, 1].
        group_of_row: ``(N,)``, column of ``counts`` of each row.
        counts: ``(rounds, groups)``, the weight of each group's rows.
        threshold: Of accuracy and balanced accuracy.
    """
    results = _additive_figures(labels, p_fake, group_of_row, counts, threshold)
    order = np.argsort(-p_fake, kind="stable")
    # A threshold can only stand between two different scores: ends of runs of equal ones.
    ends = np.append(np.flatnonzero(np.diff(p_fake[order])), len(order) - 1)
    columns, is_fake = group_of_row[order], (labels[order] == 1).astype(np.int32)
    step = max(1, _CELLS // len(order))
    parts = [
        _rank_figures(counts[start : start + step].take(columns, axis=1), is_fake, ends)
        for start in range(0, len(counts), step)
    ]
    return results | {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _additive_figures(
    labels: Labels,
    p_fake: Scores,
    group_of_row: NDArray[np.integer[Any]],
    counts: Counts,
    threshold: float,
) -> dict[str, Floats]:
    """Figures made of sums over rows: summed once per group, then weighted by its count."""
    n_groups, n_bins = counts.shape[1], CALIBRATION_BINS
    truth, score = labels.astype(np.float64), p_fake.astype(np.float64)
    called = score >= threshold
    clipped = np.clip(score, _LOG_LOSS_EPSILON, 1 - _LOG_LOSS_EPSILON)
    columns = [
        np.ones_like(truth),
        truth,
        called * truth,
        ~called * (1 - truth),
        -np.where(truth == 1, np.log(clipped), np.log1p(-clipped)),
        (score - truth) ** 2,
    ]
    sums: Floats = np.stack(
        [np.bincount(group_of_row, column, minlength=n_groups) for column in columns], axis=1
    ).astype(np.float64)
    places = group_of_row * n_bins + calibration_bin(score)
    surplus = np.bincount(places, score - truth, minlength=n_groups * n_bins)
    sums = np.concatenate([sums, surplus.reshape(n_groups, n_bins)], axis=1)
    weighted = _in_parts(counts, sums)
    rows, fakes, found, spared, loss, square = weighted[:, :6].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "accuracy": (found + spared) / rows,
            "balanced_accuracy": (found / fakes + spared / (rows - fakes)) / 2,
            "log_loss": loss / rows,
            "brier": square / rows,
            "ece": np.abs(weighted[:, 6:]).sum(axis=1) / rows,
        }


def _in_parts(counts: Counts, sums: Floats) -> Floats:
    """``counts @ sums`` without a second, floating copy of all counts."""
    step = max(1, _CELLS // counts.shape[1])
    return np.concatenate(
        [counts[start : start + step] @ sums for start in range(0, len(counts), step)]
    )


def _rank_figures(
    weights: Counts, is_fake: NDArray[np.int32], ends: NDArray[np.integer[Any]]
) -> dict[str, Floats]:
    """Figures made of the ROC curve, for rows sorted by falling score.

    Args:
        weights: ``(R, N)``.
        is_fake: ``(N,)``, 0 or 1.
        ends: ``(U,)``, last row of each run of equal scores.
    """
    found = np.cumsum(weights * is_fake, axis=1, dtype=np.int32)[:, ends]
    accused = np.cumsum(weights, axis=1, dtype=np.int32)[:, ends] - found
    n_fake, n_real = found[:, -1:].astype(np.float64), accused[:, -1:].astype(np.float64)
    new_found = np.diff(found, axis=1, prepend=0)
    new_accused = np.diff(accused, axis=1, prepend=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Trapezia: a real is beaten by the fakes above it, and by half of those beside it.
        beaten = (new_accused * (2.0 * found - new_found)).sum(axis=1, keepdims=True) / 2
        precision = found / np.maximum(found + accused, 1)
        results = {
            "auc": beaten / (n_fake * n_real),
            "ap": (new_found * precision).sum(axis=1, keepdims=True) / n_fake,
            "eer": _equal_error(found / n_fake, accused / n_real),
        }
        for rate, name in TPR_NAMES.items():
            allowed = accused <= rate * n_real + 1e-9
            best = np.where(allowed, found, 0).max(axis=1, keepdims=True)
            results[name] = best / n_fake
    both = (n_fake > 0) & (n_real > 0)
    return {name: np.where(both, value, np.nan)[:, 0] for name, value in results.items()}


def _equal_error(tpr: Floats, fpr: Floats) -> Floats:
    """Where missed fakes and accused reals are equally frequent, ``(R, U)`` to ``(R, 1)``."""
    rows = np.arange(len(tpr))
    gap = fpr - (1 - tpr)  # rises to 1; it is -1 before the first row
    after = np.argmax(gap >= 0, axis=1)
    before = np.maximum(after - 1, 0)
    first = after == 0
    gap_before = np.where(first, -1.0, gap[rows, before])
    fpr_before = np.where(first, 0.0, fpr[rows, before])
    step = -gap_before / (gap[rows, after] - gap_before)
    crossing: Floats = fpr_before + step * (fpr[rows, after] - fpr_before)
    return crossing[:, None]


def _with_interval(figure: Figure, drawn: Floats) -> Figure:
    usable = drawn[np.isfinite(drawn)]
    lost = len(drawn) - len(usable)
    if not len(usable):
        return replace(figure, note=f"no interval: all {lost} rounds drew one class only")
    low, high = np.quantile(usable, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    note = f"{lost} of {len(drawn)} rounds drew one class only" if lost else ""
    return replace(figure, low=float(low), high=float(high), note=note)
