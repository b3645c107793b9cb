from __future__ import annotations

from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.inference.aggregation import AGGREGATIONS, aggregate, confident_vote, top_mean
from deepfake.records import FaceScore

probability = st.floats(0, 1)


def face(frame: int, p_fake: float) -> FaceScore:
    return FaceScore(frame, frame / 25, 0, (0.0, 0.0, 1.0, 1.0), 0.99, p_fake)


def video(*scores: float) -> list[FaceScore]:
    return [face(frame, score) for frame, score in enumerate(scores)]


@pytest.mark.parametrize("policy", AGGREGATIONS)
def test_no_face_is_no_score(policy: str) -> None:
    assert aggregate([], policy) is None


@pytest.mark.parametrize("policy", AGGREGATIONS)
@given(scores=st.lists(probability, min_size=1, max_size=5))
def test_a_photo_is_as_fake_as_its_most_fake_face(policy: str, scores: list[float]) -> None:
    assert aggregate([face(0, score) for score in scores], policy) == max(scores)


@pytest.mark.parametrize("policy", AGGREGATIONS)
@given(scores=st.lists(probability, min_size=1, max_size=40))
def test_stays_within_the_frames_and_ignores_their_order(policy: str, scores: list[float]) -> None:
    value = aggregate(video(*scores), policy)
    assert value is not None
    assert min(scores) - 1e-12 <= value <= max(scores) + 1e-12
    assert value == pytest.approx(aggregate(video(*scores)[::-1], policy))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("mean", 0.5), ("median", 0.4), ("top", 0.95), ("max", 1.0), ("confident", 0.5)],
    ids=lambda value: str(value),
)
def test_by_hand(policy: str, expected: float) -> None:
    scores = (0.1, 0.3, 0.9, 0.4, 1.0, 0.2, 0.6)
    assert aggregate(video(*scores), policy) == pytest.approx(expected)
    assert mean(scores) == pytest.approx(0.5)
    assert median(scores) == pytest.approx(0.4)


def test_confident_vote_needs_many_sure_frames() -> None:
    assert confident_vote([0.9] * 11 + [0.5] * 3) == pytest.approx((9.9 + 1.5) / 14)
    assert confident_vote([0.9] * 12 + [0.5] * 3) == pytest.approx(0.9)
    assert confident_vote([0.9] * 12 + [0.5] * 18) == pytest.approx((10.8 + 9) / 30)
    assert confident_vote([0.1] * 19 + [0.7]) == pytest.approx(0.1)
    assert confident_vote([0.1] * 9 + [0.7]) == pytest.approx(0.16)


def test_top_mean_takes_a_quarter_rounded_up() -> None:
    assert top_mean([0.5]) == 0.5
    assert top_mean([0.1, 0.2, 0.3, 0.4]) == pytest.approx(0.4)
    assert top_mean([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(0.45)


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="no aggregation 'mode'; there are mean, median"):
        aggregate([], "mode")


def person(track: int, frames: range, p_fake: float) -> list[FaceScore]:
    return [
        FaceScore(frame, 0.0, track, (0.0, 0.0, 1.0, 1.0), 0.99, p_fake, track) for frame in frames
    ]


def test_tracks_take_the_most_fake_person() -> None:
    faces = person(0, range(8), 0.1) + person(1, range(8), 0.6)
    assert aggregate(faces, "tracks") == pytest.approx(0.6)
    assert aggregate(faces[:8], "tracks") == pytest.approx(0.1)


def test_tracks_ignore_a_face_that_flashes_up() -> None:
    faces = person(0, range(8), 0.1) + person(1, range(1), 0.99)
    assert aggregate(faces, "tracks") == pytest.approx(0.1)
    assert aggregate(faces, "max") == pytest.approx(0.99)
    # Where everybody only flashes up, all of them count.
    short = [face for track in range(6) for face in person(track, range(track, track + 1), 0.3)]
    assert aggregate(short, "tracks") == pytest.approx(0.3)


def test_tracks_without_a_face() -> None:
    assert aggregate([], "tracks") is None
