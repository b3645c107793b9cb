from __future__ import annotations

from dataclasses import replace
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.errors import UsageError
from deepfake.inference.aggregation import OF_FRAMES, aggregate, confident_vote, top_mean
from deepfake.records import POLICIES, Aggregation, FaceScore, Policy

POLICIES_OF_FRAMES: list[Policy] = ["mean", "median", "top", "confident", "max"]
TRACKS = Aggregation("tracks")
probability = st.floats(0, 1)


def face(frame: int, p_fake: float) -> FaceScore:
    return FaceScore(frame, frame / 25, 0, (0.0, 0.0, 1.0, 1.0), 0.99, p_fake)


def video(*scores: float) -> list[FaceScore]:
    return [face(frame, score) for frame, score in enumerate(scores)]


@pytest.mark.parametrize("policy", POLICIES_OF_FRAMES)
def test_no_face_is_no_score(policy: Policy) -> None:
    assert aggregate([], Aggregation(policy)) is None


@pytest.mark.parametrize("policy", POLICIES_OF_FRAMES)
@given(scores=st.lists(probability, min_size=1, max_size=5))
def test_a_photo_is_as_fake_as_its_most_fake_face(policy: Policy, scores: list[float]) -> None:
    assert aggregate([face(0, score) for score in scores], Aggregation(policy)) == max(scores)


@pytest.mark.parametrize("policy", POLICIES_OF_FRAMES)
@given(scores=st.lists(probability, min_size=1, max_size=40))
def test_stays_within_the_frames_and_ignores_their_order(
    policy: Policy, scores: list[float]
) -> None:
    value = aggregate(video(*scores), Aggregation(policy))
    assert value is not None
    assert min(scores) - 1e-12 <= value <= max(scores) + 1e-12
    assert value == pytest.approx(aggregate(video(*scores)[::-1], Aggregation(policy)))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("mean", 0.5), ("median", 0.4), ("top", 0.95), ("max", 1.0), ("confident", 0.5)],
    ids=lambda value: str(value),
)
def test_by_hand(policy: Policy, expected: float) -> None:
    scores = (0.1, 0.3, 0.9, 0.4, 1.0, 0.2, 0.6)
    assert aggregate(video(*scores), Aggregation(policy)) == pytest.approx(expected)
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


def test_every_policy_is_there() -> None:
    assert set(POLICIES) == {*OF_FRAMES, "tracks"}
    with pytest.raises(UsageError, match="no aggregation 'mode'; there are mean, median"):
        Aggregation("mode")  # type: ignore[arg-type]


def person(track: int, frames: range, p_fake: float) -> list[FaceScore]:
    return [
        FaceScore(frame, 0.0, track, (0.0, 0.0, 1.0, 1.0), 0.99, p_fake, track) for frame in frames
    ]


def test_tracks_take_the_most_fake_person() -> None:
    faces = person(0, range(8), 0.1) + person(1, range(8), 0.6)
    assert aggregate(faces, TRACKS) == pytest.approx(0.6)
    assert aggregate(faces[:8], TRACKS) == pytest.approx(0.1)


def test_tracks_ignore_a_face_that_flashes_up() -> None:
    faces = person(0, range(8), 0.1) + person(1, range(1), 0.99)
    assert aggregate(faces, TRACKS) == pytest.approx(0.1)
    assert aggregate(faces, Aggregation("max")) == pytest.approx(0.99)
    # Where everybody only flashes up, all of them count.
    short = [face for track in range(6) for face in person(track, range(track, track + 1), 0.3)]
    assert aggregate(short, TRACKS) == pytest.approx(0.3)


def test_tracks_without_a_face() -> None:
    assert aggregate([], TRACKS) is None


def sum_up(table: pd.DataFrame, how: Aggregation) -> float:
    """The same, told as tables."""
    frames = table.groupby("frame")["p"].max()
    sure = frames[frames > how.sure_fake]
    clean = frames[frames < how.sure_real]
    people = table.groupby("track")["p"].agg(["mean", "size"])
    there = people["size"] >= how.track_share * frames.size
    answers = {
        "mean": frames.mean(),
        "median": frames.quantile(0.5),
        "max": frames.max(),
        "top": frames.nlargest(max(1, int(np.ceil(how.top_share * frames.size)))).mean(),
        "tracks": people["mean"][there if there.any() else there | True].max(),
    }
    if sure.size > how.enough_frames and sure.size / frames.size > how.enough_share:
        answers["confident"] = sure.mean()
    elif clean.size / frames.size > how.nearly_all:
        answers["confident"] = clean.mean()
    else:
        answers["confident"] = frames.mean()
    return float(answers[how.policy])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("numbers", [{}, {"top_share": 0.5, "enough_frames": 2, "track_share": 0}])
def test_equals_the_table(policy: Policy, numbers: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    how = Aggregation(policy, **numbers)
    voted = set()
    for clip in range(60):
        n = int(rng.integers(1, 60))
        table = pd.DataFrame(
            {
                "frame": rng.integers(0, 40, n),
                "track": rng.integers(0, 1 + clip % 5, n),
                # Clips of all kinds: sure fakes, sure reals, and between.
                "p": rng.beta(*((9, 1), (1, 19), (2, 2))[clip % 3], n).round(3),
            }
        )
        faces = [
            FaceScore(row.frame, 0.0, 0, (0.0, 0.0, 1.0, 1.0), 0.99, row.p, row.track)
            for row in table.itertuples()
        ]
        expected = sum_up(table, how)
        assert aggregate(faces, how) == pytest.approx(expected)
        voted.add(bool(abs(expected - sum_up(table, replace(how, policy="mean"))) > 1e-9))
    assert voted == ({False} if policy == "mean" else {True, False})


def test_numbers_are_those_of_the_settings() -> None:
    scores = video(0.1, 0.2, 0.9, 0.3, 0.7)
    assert aggregate(scores, Aggregation("top", top_share=0.0)) == 0.9
    assert aggregate(scores, Aggregation("top", top_share=1.0)) == pytest.approx(0.44)
    vote = Aggregation("confident", sure_fake=0.6, enough_frames=1, enough_share=0.3)
    assert aggregate(scores, vote) == pytest.approx(0.8)
