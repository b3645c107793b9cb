from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.inference.tracking import Box, link_tracks


def square(x: float, y: float, side: float = 40) -> Box:
    return (x, y, x + side, y + side)


def test_two_people_keep_their_numbers_while_they_move() -> None:
    frames, boxes = [], []
    for step in range(10):
        frames += [step * 30] * 2
        # The larger face comes first in each frame; who that is changes half-way.
        pair = [square(10 + 8 * step, 20), square(400 - 8 * step, 30, 38)]
        boxes += pair if step < 5 else pair[::-1]
    tracks = link_tracks(frames, boxes)
    assert tracks == [0, 1] * 5 + [1, 0] * 5


def test_a_new_person_gets_a_new_number() -> None:
    boxes = [square(0, 0), square(0, 0), square(300, 200), square(300, 200)]
    assert link_tracks([0, 1, 2, 3], boxes) == [0, 0, 1, 1]


@pytest.mark.parametrize(("missed", "expected"), [(2, 0), (3, 1)], ids=["short", "long"])
def test_a_short_gap_does_not_end_a_track(missed: int, expected: int) -> None:
    other = square(500, 500)
    frames = [0, *range(1, missed + 1), missed + 1]
    tracks = link_tracks(frames, [square(0, 0), *[other] * missed, square(4, 4)])
    assert tracks[1:-1] == [1] * missed
    assert tracks[-1] == (expected if expected == 0 else 2)


@pytest.mark.parametrize(
    "later",
    [square(100, 0), square(0, 0, 100), square(-40, 40)],
    ids=["elsewhere", "much-larger", "diagonal"],
)
def test_what_does_not_fit_is_somebody_else(later: Box) -> None:
    assert link_tracks([0, 1], [square(0, 0), later]) == [0, 1]


def test_the_best_fit_wins() -> None:
    """Two faces of one frame never share a track; the nearer one takes it."""
    boxes = [square(0, 0), square(12, 0), square(2, 0)]
    assert link_tracks([0, 7, 7], boxes) == [0, 1, 0]


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 200), st.integers(0, 200), st.integers(5, 80)),
        max_size=25,
    )
)
def test_numbers_are_dense_and_unique_within_a_frame(items: list[tuple[int, ...]]) -> None:
    items = sorted(items, key=lambda item: item[0])
    frames = [item[0] for item in items]
    tracks = link_tracks(frames, [square(x, y, side) for _, x, y, side in items])
    assert len(tracks) == len(items)
    assert len(set(zip(frames, tracks, strict=True))) == len(items)
    first_seen = list(dict.fromkeys(tracks))
    assert first_seen == sorted(first_seen) == list(range(len(first_seen)))
