"""From faces to a file: by hand, and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.inference.aggregation import AGGREGATIONS, aggregate

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [pytest.param("max", 0.9, id="max"), pytest.param("mean", 0.5, id="mean")],
)
def test_by_hand(policy: str, expected: float) -> None:
    assert aggregate([0.2, 0.9, 0.4], policy) == pytest.approx(expected)


@pytest.mark.parametrize("policy", AGGREGATIONS)
def test_no_face_no_score(policy: str) -> None:
    assert aggregate([], policy) is None


@pytest.mark.parametrize("policy", AGGREGATIONS)
@given(scores=probabilities)
def test_between_the_extremes_and_independent_of_order(policy: str, scores: list[float]) -> None:
    score = aggregate(scores, policy)
    assert score is not None
    rounding = 1e-12  # the mean of equal numbers may differ from them in the last digit
    assert min(scores) - rounding <= score <= max(scores) + rounding
    assert 0 <= score <= 1
    assert aggregate(scores[::-1], policy) == pytest.approx(score)
    assert aggregate(scores[:1], policy) == scores[0]


def test_unknown_policy() -> None:
    for scores in ([0.5], []):
        with pytest.raises(ValueError, match="no aggregation 'median'; there are max, mean"):
            aggregate(scores, "median")
