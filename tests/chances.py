"""What many seeded draws must look like: a share that happened, values between two limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def assert_rate(count: int, p: float, times: int = 1000) -> None:
    """Four standard deviations of a binomial: of 1,000 draws of 0.5, within 63."""
    assert abs(count - p * times) <= 4 * math.sqrt(times * p * (1 - p)), (count, p * times)


def assert_uniform(values: Sequence[float] | Floats, low: float, high: float, slack: float) -> None:
    """All of them between two limits, as near as ``slack`` to both, and evenly so.

    Args:
        values: A few hundred measurements.
        low: Limit.
        high: Limit.
        slack: How exact a measurement is.
    """
    width, number = high - low, len(values)
    assert low - slack <= min(values) <= low + slack + 0.05 * width, min(values)
    assert high - slack - 0.05 * width <= max(values) <= high + slack, max(values)
    # The mean of so many has this standard deviation.
    deviation = width / math.sqrt(12 * number)
    assert abs(np.mean(values) - (low + high) / 2) <= 4 * deviation + slack / 2, np.mean(values)
