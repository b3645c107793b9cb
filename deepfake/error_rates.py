"""What the limits of a verdict were chosen for and reach: kept in a checkpoint, shown to people.

Chooses and measures nothing: that is ``thresholds`` and ``evaluation``. Read without trust.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Self

from deepfake.errors import UsageError
from deepfake.records import Estimate, Limits

MAX_ERROR_RATE = 0.05
"""Share of real files that may be called fake, and of fake ones that may be called real."""
MAX_PEOPLE = 16
"""Of a file, for whom the limits are corrected; files of more people are held to theirs."""
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
        origin: Which files they are.
        auc: Of these files.
        fpr: Share of the real files that are called fake.
        tpr: Share of the fake files that are called fake.
        fnr: Share of the fake files that are called real.
        unclear: Share of all files that is left unclear.
    """

    max_fpr: float
    max_fnr: float
    n_real: int
    n_fake: int
    n_groups: int
    n_supported: int
    fnr_supported: bool
    origin: str
    auc: Estimate
    fpr: Estimate
    tpr: Estimate
    fnr: Estimate
    unclear: Estimate

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
                f"files with a face that counts, of {self.n_real} there are fewer; the limit for "
                "fakes is extrapolated"
            )
        elif self.n_supported < MAX_PEOPLE:
            people = "one person" if self.n_supported == 1 else f"{self.n_supported} people"
            lines.append(
                f"for more than {people} in a file the limit for fakes is "
                f"extrapolated: {self.n_real} real files are too few to measure it"
            )
        if not self.fnr_supported:
            lines.append(
                f"NOT measured: a false negative rate of {self.max_fnr:.1%} takes "
                f"{count_needed(self.max_fnr)} fake files with a face that counts, of "
                f"{self.n_fake} there are fewer; the limit for reals is extrapolated"
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
    parts: dict[str, Any] = {key: math.nan if v is None else v for key, v in value.items()}
    return Estimate(**parts)


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
