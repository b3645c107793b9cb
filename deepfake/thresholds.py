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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from deepfake.errors import UsageError
from deepfake.metrics import Estimate, Floats, Labels, Scores, check_scores, has_both_classes
from deepfake.records import Limits

MAX_ERROR_RATE = 0.05
"""Share of real files that may be called fake, and of fake ones that may be called real."""
EVEN_ODDS = 0.5
"""Where a hard 0 or 1 is asked for (accuracy, a contest's labels): a calibrated score at or above
it is likelier a fake than not. Verdicts go by ``Limits``."""
MAX_PEOPLE = 16
"""Of a file, for whom the limits are corrected; files of more people are held to theirs."""
_LOWEST_ODDS = 1e-12


RATES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fpr": ("FPR", "false positive rate: share of the reals that are called fake"),
        "tpr": ("TPR", "true positive rate: share of the fakes that are called fake"),
        "fnr": ("FNR", "false negative rate: share of the fakes that are called real"),
        "unclear": ("unclear", "share of all that is left unclear"),
    }
)
"""What verdicts are measured by: name, title and meaning."""


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """What the limits of a checkpoint were chosen for, on which files, and what they reach there.

    Args:
        max_fpr: Highest share of real files that were to be called fake.
        max_fnr: Highest share of fake files that were to be called real.
        n_real: Real files.
        n_fake: Fake files.
        n_groups: Groups that they fall into.
        n_supported: As of ``ChosenLimits``.
        fnr_supported: As of ``ChosenLimits``.
        auc: Of these files.
        fpr: Share of the real files that are called fake.
        tpr: Share of the fake files that are called fake.
        fnr: Share of the fake files that are called real.
        unclear: Share of all files that is left unclear.
        origin: Which files they are.
    """

    max_fpr: float
    max_fnr: float
    n_real: int
    n_fake: int
    n_groups: int
    n_supported: int
    fnr_supported: bool
    auc: Estimate
    fpr: Estimate
    tpr: Estimate
    fnr: Estimate
    unclear: Estimate
    origin: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; a number that does not exist is ``None``."""
        return {
            name: {key: _without_nan(part) for key, part in value.items()}
            if isinstance(value, dict)
            else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Rebuild from ``to_dict``, without trust.

        Raises:
            UsageError: If a value is missing, unknown or of the wrong kind.
        """
        kinds = {field.name: str(field.type) for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != set(kinds):
            raise UsageError("its error rates do not fit this version")
        read: dict[str, Any] = {}
        for name, kind in kinds.items():
            value = values[name]
            read[name] = _read_estimate(name, value) if kind == "Estimate" else value
            if kind != "Estimate" and type(value).__name__ != kind:
                raise UsageError(f"its error rates have {name}={value!r}; expected {kind}")
        if min(read["n_real"], read["n_fake"], read["n_groups"], read["n_supported"]) < 0:
            raise UsageError("its error rates have a number of files below 0")
        for name in ("max_fpr", "max_fnr"):
            try:
                check_rate(name, read[name])
            except ValueError as error:
                raise UsageError(f"its error rates have {error}") from error
        return cls(**read)

    def describe(self, limits: Limits) -> list[str]:
        """The limits and what they rest on, as lines for people."""
        lines = [
            f"verdict: real up to {limits.real:.4f}, fake from {limits.of_fake():.4f} (from "
            f"{limits.of_fake(2):.4f} for two people, {limits.of_fake(6):.4f} for six), unclear "
            "between",
            f"chosen for at most {self.max_fpr:.1%} false positives and {self.max_fnr:.1%} false "
            f"negatives; there {show_rate(self.fpr)} of {self.n_real:,} real files and "
            f"{show_rate(self.fnr)} of {self.n_fake:,} fake ones, {show_rate(self.unclear)} "
            f"unclear ({self.origin}, {self.n_groups:,} groups)",
        ]
        needed = count_needed(self.max_fpr)
        if not self.n_supported:
            lines.append(
                f"NOT measured: a false positive rate of {self.max_fpr:.1%} takes {needed} real "
                f"files, there are {self.n_real}; the limit for fakes is extrapolated"
            )
        elif self.n_supported < MAX_PEOPLE:
            lines.append(
                f"for more than {self.n_supported} people in a file the limit for fakes is "
                f"extrapolated: {self.n_real} real files are too few to measure it"
            )
        if not self.fnr_supported:
            lines.append(
                f"NOT measured: a false negative rate of {self.max_fnr:.1%} takes "
                f"{count_needed(self.max_fnr)} fake files, there are {self.n_fake}; the limit for "
                "reals is extrapolated"
            )
        if is_chance(self.auc):
            lines.append(f"there the detector is {describe_chance(self.auc)}")
        return lines


def show_rate(rate: Estimate) -> str:
    """A rate with its interval, in per cent.

    Example:
        >>> show_rate(Estimate(0.048, low=0.031, high=0.07))
        '4.8% (3.1 to 7.0)'
    """
    if math.isnan(rate.value):
        return "n/a"
    interval = "" if math.isnan(rate.low) else f" ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
    return f"{rate.value:.1%}{interval}"


def is_chance(auc: Estimate) -> bool:
    """Whether a detector cannot be told from chance, or from worse, on what an AUC is made of.

    Without an interval its value alone decides; without a value nothing is known.
    """
    return (auc.value if math.isnan(auc.low) else auc.low) <= 0.5


def describe_chance(auc: Estimate) -> str:
    """That it cannot, in words."""
    if math.isnan(auc.low):
        return f"not better than chance: AUC {auc.value:.3f}"
    where = "holds" if auc.high >= 0.5 else "lies below"
    return (
        f"not better than chance: AUC {auc.value:.3f}, whose 95 % interval, {auc.low:.3f} to "
        f"{auc.high:.3f}, {where} 0.5"
    )


def _without_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _read_estimate(name: str, value: Any) -> Estimate:
    texts = ("reason", "note")
    known = {field.name for field in fields(Estimate)}
    if not isinstance(value, dict) or set(value) != known:
        raise UsageError(f"its error rates have {name}={value!r}; expected an estimate")
    for key, part in value.items():
        if not isinstance(part, str if key in texts else float | None):
            raise UsageError(f"its error rates have {name}.{key}={part!r}")
    numbers = {key: math.nan if part is None else part for key, part in value.items()}
    return Estimate(**numbers)


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


def check_rate(name: str, rate: float) -> None:
    """Refuse an error rate that nobody can want.

    Raises:
        ValueError: If it is not above 0, or above a half.
    """
    if not 0 < rate <= 0.5:  # true for NaN, too
        raise ValueError(f"{name}={rate:g}; expected a rate above 0 and up to 0.5")


def count_needed(rate: float) -> int:
    """Rows that it takes to measure an error rate.

    Example:
        >>> count_needed(0.05)
        19
    """
    return math.ceil(1 / rate - 1e-9) - 1


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
    of_fake = np.maximum.accumulate([_find_limit(people, fakes, rate) for rate in rates])
    of_real = 1 - _find_limit(1 - fakes, 1 - reals, max_fnr)
    if of_real >= of_fake[0]:
        of_real = choose_threshold(y_true, p_fake, float(of_fake[0]), of_real)
        of_fake = np.maximum(of_fake, of_real)
    limits = Limits(real=float(of_real), fake=tuple(of_fake.tolist()))
    n_supported = sum(len(people) >= count_needed(rate) for rate in rates)
    return ChosenLimits(limits, n_supported, len(fakes) >= count_needed(max_fnr))


def _find_limit(below: Scores, others: Scores, rate: float) -> float:
    """Lowest limit that a further score, drawn like those that must stay below, seldom reaches.

    In the middle between the highest that must stay below and the next score of any kind.
    """
    ordered = np.sort(below.astype(np.float64))[::-1]
    allowed = math.floor(rate * (len(ordered) + 1) + 1e-9) - 1
    highest = float(ordered[max(allowed, 0)])
    lowest = float(np.nextafter(highest, np.inf))
    if allowed < 0:
        odds = _to_log_odds(ordered)
        middle = float(np.median(odds))
        upper = odds[odds > middle]
        reach = float(upper.mean()) - middle if len(upper) else 0.0
        out = odds[0] - reach * math.log((len(ordered) + 1) * rate)
        return max(float(1 / (1 + np.exp(-out))), lowest)
    above = [scores[scores > highest].min(initial=np.inf) for scores in (ordered, others)]
    return max((highest + min(above)) / 2, lowest) if np.isfinite(min(above)) else lowest


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
