"""Calibrated scores of labelled files in, the limits of the verdict out.

``p_fake`` at the limit for fakes or above it means fake, at the limit for reals or below it real,
and between the two nothing is claimed. Each limit is set for the error rate that its verdict may
have among *new* files, as split conformal prediction does: of N reals and a rate r, so many may
reach the limit that a further real, drawn like these, would be among them with a chance of r at
most: ``floor(r (N + 1)) - 1``. Labels are 1 = fake and 0 = real. Knows no head and no file.

References:
    Papadopoulos et al., "Inductive Confidence Machines for Regression", ECML 2002.
    Sidak, "Rectangular Confidence Regions for the Means of Multivariate Normal Distributions",
    1967 (the rate of one of n, so that the rate of all holds).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepfake.error_rates import MAX_ERROR_RATE, MAX_PEOPLE, check_rate, count_needed
from deepfake.metrics import Floats, Labels, Scores, check_scores, has_both_classes
from deepfake.records import Limits

_LOWEST_ODDS = 1e-12


@dataclass(frozen=True, slots=True)
class ChosenLimits:
    """Limits, and what stands behind them.

    Args:
        limits: The limits.
        n_supported: The false positive rate is measured for files of up to so many people; for
            more (or, if 0, for any) the limit is extrapolated beyond the highest real.
        fnr_supported: Whether the false negative rate is measured; else its limit is extrapolated.
    """

    limits: Limits
    n_supported: int
    fnr_supported: bool


def rate_of_one(rate: float, n_people: int) -> float:
    """The rate of each of n people at which one or more of them are wrong with a chance of rate.

    Example:
        >>> round(rate_of_one(0.05, 6), 4)
        0.0085
    """
    return -math.expm1(math.log1p(-rate) / n_people)


def choose_limits(
    people: Scores,
    y_true: Labels,
    p_fake: Scores,
    max_fpr: float = MAX_ERROR_RATE,
    max_fnr: float = MAX_ERROR_RATE,
) -> ChosenLimits:
    """The limits at which new files of one person or of many meet two error rates.

    The limit for n people is that of one person at Sidak's rate. Where there are too few scores to
    measure so small a rate, the limit lies beyond the most extreme of them, further out the smaller
    the rate: as far as an exponential tail of their log-odds reaches, with the mean distance that
    those above their median have from it, which is more than a normal tail reaches.

    A detector can meet both rates at one score, and at all between two of them; nothing is unclear
    then, and both limits lie where the balanced accuracy is best between those two. A detector at
    chance leaves nearly everything unclear.

    Args:
        people: ``(M,)`` scores of people in real files.
        y_true: ``(N,)``, 1 = fake, of files.
        p_fake: ``(N,)`` their scores.
        max_fpr: Highest share of real files that are called fake.
        max_fnr: Highest share of fake files that are called real.

    Raises:
        ValueError: If a class is missing, a rate is out of range, or a score is not finite.
    """
    check_rate("max_fpr", max_fpr)
    check_rate("max_fnr", max_fnr)
    check_scores(y_true, p_fake)
    if not has_both_classes(y_true) or not len(people):
        raise ValueError("limits cannot be chosen from one class only")
    reals, fakes = p_fake[y_true == 0], p_fake[y_true == 1]
    rates = [rate_of_one(max_fpr, n) for n in range(1, MAX_PEOPLE + 1)]
    # What is exact for a rate may reach further than what is extrapolated for a smaller one.
    of_fake = np.maximum.accumulate([_find_limit(people, fakes, rate, 1) for rate in rates])
    of_real = _find_limit(fakes, reals, max_fnr, -1)
    if of_real >= of_fake[0]:
        of_real = choose_threshold(y_true, p_fake, float(of_fake[0]), of_real)
        of_fake = np.maximum(of_fake, of_real)
    limits = Limits(real=float(of_real), fake=tuple(of_fake.tolist()))
    # Not by people: those of one file are not drawn each for itself.
    n_drawn = min(len(people), len(reals))
    n_supported = sum(n_drawn >= count_needed(rate) for rate in rates)
    return ChosenLimits(limits, n_supported, len(fakes) >= count_needed(max_fnr))


def _find_limit(within: Scores, others: Scores, rate: float, side: Literal[1, -1]) -> float:
    """The limit beyond which a further score, drawn like those within, seldom lies.

    In the middle between the outermost that must stay within and the next score of any kind.

    Args:
        within: Scores of the class that must stay within.
        others: Scores of the other class.
        rate: How often one of theirs may lie at the limit or beyond.
        side: 1: beyond is above, -1: below.
    """
    ordered = np.sort(side * within.astype(np.float64))[::-1]
    allowed = math.floor(rate * (len(ordered) + 1) + 1e-9) - 1
    outermost = float(ordered[max(allowed, 0)])
    nearest = float(np.nextafter(outermost, np.inf))
    if allowed < 0:
        odds = side * _to_log_odds(side * ordered)
        middle = float(np.median(odds))
        upper = odds[odds > middle]
        reach = float(upper.mean()) - middle if len(upper) else 0.0
        out = odds[0] - reach * math.log((len(ordered) + 1) * rate)
        return side * max(side * (1 + math.tanh(side * out / 2)) / 2, nearest)
    beyond = np.concatenate([ordered, side * others])
    following = float(beyond[beyond > outermost].min(initial=np.inf))
    return side * (max((outermost + following) / 2, nearest) if following < np.inf else nearest)


def _to_log_odds(p_fake: Scores) -> Floats:
    p = np.clip(p_fake, _LOWEST_ODDS, 1 - _LOWEST_ODDS)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def choose_threshold(
    y_true: Labels, y_score: Scores, low: float = -np.inf, high: float = np.inf
) -> float:
    """Threshold with the best balanced accuracy, in the middle of its plateau.

    Args:
        y_true: ``(N,)``, 1 = fake, 0 = real.
        y_score: ``(N,)``.
        low: Lowest threshold that may be chosen.
        high: Highest one.

    Raises:
        ValueError: If a class is missing, a score is not finite or the lengths differ.
    """
    check_scores(y_true, y_score)
    if not has_both_classes(y_true):
        raise ValueError("a threshold cannot be chosen from one class only")
    values = np.unique(y_score)
    # The middle of two neighbouring floats rounds to one of them; it must stay above the lower.
    middles = np.maximum((values[1:] + values[:-1]) / 2, np.nextafter(values[:-1], np.inf))
    candidates = np.concatenate([[values[0]], middles, [np.nextafter(values[-1], np.inf)]])
    candidates = np.unique(np.clip(candidates, low, high))
    fakes, reals = np.sort(y_score[y_true == 1]), np.sort(y_score[y_true == 0])
    true_positive_rate = 1 - np.searchsorted(fakes, candidates, side="left") / len(fakes)
    true_negative_rate = np.searchsorted(reals, candidates, side="left") / len(reals)
    balanced = true_positive_rate + true_negative_rate
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    return float(candidates[best[len(best) // 2]])
