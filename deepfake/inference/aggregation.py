"""From the scores of faces to the score of a file; pure functions by name.

Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType

AGGREGATIONS: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {"max": max, "mean": fmean}
)
"""``max``: one fake face makes the file fake; ``mean``: all faces count alike."""


def aggregate(scores: Sequence[float], policy: str) -> float | None:
    """Score of a file from ``p_fake`` of its faces, or ``None`` without a face.

    Raises:
        ValueError: If there is no such policy.

    Example:
        >>> aggregate([0.2, 0.9], "max"), aggregate([], "mean")
        (0.9, None)
    """
    if policy not in AGGREGATIONS:
        raise ValueError(f"no aggregation {policy!r}; there are {', '.join(AGGREGATIONS)}")
    return AGGREGATIONS[policy](scores) if scores else None
