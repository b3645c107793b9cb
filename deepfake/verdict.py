"""The verdict: the decision on a file that has a score, and the limits that it goes by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, Self

from deepfake.errors import UsageError

_ROUNDING = 1e-9


class Verdict(StrEnum):
    """The decision on a file that has a score."""

    REAL = "real"
    UNCLEAR = "unclear"
    FAKE = "fake"


@dataclass(frozen=True, slots=True)
class Limits:
    """The two limits of the verdict: real up to the one, fake from the other, unclear between.

    Args:
        real: Highest ``p_fake`` that means real.
        fake: Lowest ``p_fake`` that means fake, for files of 1, 2, ... people who count; the last
            one holds for more.

    Where the two are equal nothing is unclear: the score itself means fake. Beyond 0 or 1, by less
    than rounding, a limit is one that no score reaches.

    Raises:
        UsageError: If there is no limit for fakes, one is no probability, or they cross.
    """

    real: float
    fake: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.fake:
            raise UsageError("limits need a limit for fakes")
        for limit in (self.real, *self.fake):
            if not -_ROUNDING <= limit <= 1 + _ROUNDING:  # true for NaN, too
                raise UsageError(f"the limit {limit:g} is no probability")
        rising = (self.real, *self.fake)
        if any(low > high for low, high in pairwise(rising)):
            raise UsageError(
                f"the limits cross: real up to {self.real:g}, fake from "
                f"{', '.join(f'{limit:g}' for limit in self.fake)}; expected rising numbers"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {"real": self.real, "fake": list(self.fake)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Rebuild from ``to_dict``, without trust.

        Raises:
            UsageError: If a limit is missing, unknown, of the wrong kind, no probability, or they
                cross.
        """
        known = isinstance(values, dict) and set(values) == {"real", "fake"}
        if not known or not isinstance(values["fake"], list):
            raise UsageError(f"limits {values!r:.200}; expected real and fake, a list")
        for limit in (values["real"], *values["fake"]):
            if not isinstance(limit, float):
                raise UsageError(f"the limit {limit!r:.80} is no number")
        return cls(values["real"], tuple(values["fake"]))

    def of_fake(self, n_people: int = 1) -> float:
        """Lowest ``p_fake`` that means fake in a file of so many people who count."""
        return self.fake[min(max(n_people, 1), len(self.fake)) - 1]

    def judge(self, p_fake: float, n_people: int = 1) -> Verdict:
        """The verdict on a file.

        Args:
            p_fake: Score of the file.
            n_people: How many people count in it: the most suspicious of many is suspicious
                by chance more often than one is. 0: nobody can be judged, and it is unclear.
        """
        if not n_people:
            return Verdict.UNCLEAR
        if p_fake >= self.of_fake(n_people):
            return Verdict.FAKE
        return Verdict.REAL if p_fake <= self.real else Verdict.UNCLEAR


ALL_UNCLEAR = Limits(math.nextafter(0, -1), (math.nextafter(1, 2),))
"""Of who knows nothing: no score is real, none is fake."""


EVEN_ODDS = 0.5
"""Where a hard 0 or 1 is asked for (accuracy, a contest's labels): a calibrated score at or above
it is likelier a fake than not. Verdicts go by ``Limits``."""
