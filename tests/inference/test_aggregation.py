from __future__ import annotations

from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.errors import UsageError
from deepfake.inference.aggregation import (
    OF_FRAMES,
    FileScore,
    aggregate,
    confident_vote,
    rank_people,
    top_mean,
)
from deepfake.records import POLICIES, Aggregation, FaceScore, PersonScore, Policy
from tests.made_results import make_answer

POLICIES_OF_FRAMES: list[Policy] = ["mean", "median", "top", "confident", "max"]
LARGE, SMALL = (0.0, 0.0, 90.0, 80.0), (0.0, 0.0, 30.0, 90.0)
probability = st.floats(0, 1)


def face(frame: int, p_fake: float, person: int = 0, **facts: Any) -> FaceScore:
    shown: dict[str, Any] = {"box_xyxy": LARGE, "confidence": 0.99} | facts
    return FaceScore(frame, frame / 25, person, p_fake=p_fake, person=person, **shown)


def video(*scores: float) -> list[FaceScore]:
    return [face(frame, score) for frame, score in enumerate(scores)]


def score_file(faces: list[FaceScore], how: Aggregation = Aggregation()) -> FileScore:  # noqa: B008
    score = aggregate(faces, how)
    assert score is not None
    return score


@pytest.mark.parametrize("policy", POLICIES_OF_FRAMES)
def test_no_face_is_no_score(policy: Policy) -> None:
    assert aggregate([], Aggregation(policy)) is None


@pytest.mark.parametrize("policy", POLICIES_OF_FRAMES)
@given(scores=st.lists(probability, min_size=1, max_size=5))
def test_a_photo_is_as_fake_as_its_most_fake_face(policy: Policy, scores: list[float]) -> None:
    photo = [face(0, score, person) for person, score in enumerate(scores)]
    score = score_file(photo, Aggregation(policy))
    assert (score.p_fake, score.n_people) == (max(scores), len(scores))
    assert score.face.p_fake == max(scores)


@pytest.mark.parametrize("policy", POLICIES_OF_FRAMES)
@given(scores=st.lists(probability, min_size=1, max_size=40))
def test_stays_within_the_frames_and_ignores_their_order(
    policy: Policy, scores: list[float]
) -> None:
    value = score_file(video(*scores), Aggregation(policy)).p_fake
    assert min(scores) - 1e-12 <= value <= max(scores) + 1e-12
    assert value == pytest.approx(score_file(video(*scores)[::-1], Aggregation(policy)).p_fake)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("mean", 0.5), ("median", 0.4), ("top", 0.95), ("max", 1.0), ("confident", 0.5)],
    ids=lambda value: str(value),
)
def test_by_hand(policy: Policy, expected: float) -> None:
    scores = (0.1, 0.3, 0.9, 0.4, 1.0, 0.2, 0.6)
    assert score_file(video(*scores), Aggregation(policy)).p_fake == pytest.approx(expected)
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
    assert set(POLICIES) == {*OF_FRAMES}
    with pytest.raises(UsageError, match="no aggregation 'mode'; there are mean, median"):
        Aggregation("mode")  # type: ignore[arg-type]


def person(number: int, frames: range, p_fake: float, **facts: Any) -> list[FaceScore]:
    return [face(frame, p_fake, number, **facts) for frame in frames]


def test_the_most_suspicious_person_decides() -> None:
    faces = person(0, range(8), 0.1) + person(1, range(8), 0.6)
    score = score_file(faces)
    assert score.p_fake == pytest.approx(0.6)
    assert (score.n_people, score.face.person) == (2, 1)
    assert score_file(faces[:8]).p_fake == pytest.approx(0.1)
    assert score.people[1] == PersonScore(
        1, score.p_fake, 8, 0.0, 7 / 25, 80.0, counts=True, face_index=1
    )


def test_a_face_that_flashes_up_is_no_person() -> None:
    faces = person(0, range(8), 0.1) + person(1, range(1), 0.99)
    score = score_file(faces, Aggregation("max"))
    assert score.p_fake == pytest.approx(0.1)
    assert score.n_people == 1
    assert [one.remark for one in score.people] == ["", "seen in 1 of 8 frames"]
    assert [one.p_fake for one in score.people] == pytest.approx([0.1, 0.99])


def test_where_everybody_only_flashes_up_all_of_them_count() -> None:
    """A film with a cut between any two sampled frames."""
    short = [one for n in range(6) for one in person(n, range(n, n + 1), 0.1 * n)]
    score = score_file(short)
    assert score.p_fake == pytest.approx(0.5)
    assert score.n_people == 6


@pytest.mark.parametrize(
    ("facts", "remark"),
    [
        ({"box_xyxy": SMALL}, "face of 30 px, 48 px are needed"),
        ({"confidence": 0.8}, "the detector is unsure of the face (0.80 of 0.9)"),
    ],
    ids=["small", "unsure"],
)
def test_faces_that_are_not_usable_decide_nothing(facts: dict[str, Any], remark: str) -> None:
    doubtful = person(1, range(8), 0.99, **facts)
    score = score_file(person(0, range(8), 0.1) + doubtful, Aggregation("max"))
    assert score.p_fake == pytest.approx(0.1)
    assert score.n_people == 1
    assert (score.people[1].remark, score.people[1].counts) == (remark, False)
    # Nor within a person, where others of their faces are.
    mixed = person(0, range(4), 0.2) + person(0, range(4, 8), 0.9, **facts)
    assert score_file(mixed, Aggregation("max")).p_fake == 0.2
    # Frames without a usable face are no measure of how long somebody is there.
    late = person(0, range(1), 0.3) + person(1, range(1, 9), 0.99, **facts)
    assert score_file(late).p_fake == 0.3


def test_where_nobody_counts_the_largest_person_gives_the_score() -> None:
    small = person(0, range(3), 0.9, box_xyxy=SMALL)
    smaller = person(1, range(3), 0.99, box_xyxy=(0.0, 0.0, 20.0, 20.0))
    score = score_file(small + smaller)
    assert score.p_fake == pytest.approx(0.9)
    assert (score.n_people, score.face.person) == (0, 0)
    assert not any(one.counts for one in score.people)
    result = make_answer("a.jpg", score.p_fake, people=score.people)
    assert [one.person for one in rank_people(result)] == [0, 1], "who decides comes first"


def sum_up(table: pd.DataFrame, how: Aggregation) -> float:
    """The same, told as tables."""
    usable = table[(table["size"] >= how.min_face_px) & (table["sure"] >= how.min_confidence)]
    if usable.empty:
        chosen = table[table["person"] == table.loc[table["size"].idxmax(), "person"]]
    else:
        lengths = usable.groupby("person")["frame"].nunique()
        there = lengths[lengths >= how.person_share * usable["frame"].nunique()]
        chosen = usable[usable["person"].isin((there if there.size else lengths).index)]
    return max(_vote(frames["p"], how) for _, frames in chosen.groupby("person"))


def _vote(frames: pd.Series[float], how: Aggregation) -> float:
    sure, clean = frames[frames > how.sure_fake], frames[frames < how.sure_real]
    answers = {
        "mean": frames.mean(),
        "median": frames.quantile(0.5),
        "max": frames.max(),
        "top": frames.nlargest(max(1, int(np.ceil(how.top_share * frames.size)))).mean(),
    }
    if sure.size > how.enough_frames and sure.size / frames.size > how.enough_share:
        answers["confident"] = sure.mean()
    elif clean.size / frames.size > how.nearly_all:
        answers["confident"] = clean.mean()
    else:
        answers["confident"] = frames.mean()
    return float(answers[how.policy])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("numbers", [{}, {"top_share": 0.5, "enough_frames": 2, "person_share": 0}])
def test_equals_the_table(policy: Policy, numbers: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    how = Aggregation(policy, **numbers)
    n_nobody = 0
    for clip in range(60):
        n = int(rng.integers(1, 60))
        places = rng.permutation(40 * 5)[:n]  # a person is in a frame once
        table = pd.DataFrame(
            {
                "frame": places // 5,
                "person": places % (1 + clip % 5),
                # Clips of all kinds: sure fakes, sure reals, and between.
                "p": rng.beta(*((9, 1), (1, 19), (2, 2))[clip % 3], n).round(3),
                "size": rng.permutation(n) + (60 if clip % 4 else 20),
                "sure": rng.uniform(0.85 if clip % 7 else 0.0, 1 if clip % 7 else 0.8, n),
            }
        ).drop_duplicates(["frame", "person"])
        faces = [
            face(row.frame, row.p, row.person, box_xyxy=(0, 0, row.size, 200), confidence=row.sure)
            for row in table.itertuples()
        ]
        score = score_file(faces, how)
        assert score.p_fake == pytest.approx(sum_up(table, how))
        n_nobody += score.n_people == 0
    assert 5 < n_nobody < 30


def test_numbers_are_those_of_the_settings() -> None:
    scores = video(0.1, 0.2, 0.9, 0.3, 0.7)
    assert score_file(scores, Aggregation("top", top_share=0.0)).p_fake == 0.9
    assert score_file(scores, Aggregation("top", top_share=1.0)).p_fake == pytest.approx(0.44)
    vote = Aggregation("confident", sure_fake=0.6, enough_frames=1, enough_share=0.3)
    assert score_file(scores, vote).p_fake == pytest.approx(0.8)
    assert score_file(video(0.5), Aggregation(min_face_px=81)).n_people == 0
    assert score_file(video(0.5), Aggregation(min_face_px=80)).n_people == 1
    assert score_file(video(0.5), Aggregation(min_confidence=0.995)).n_people == 0
