from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.faces.detector import MTCNN
from deepfake.faces.tracking import interpolate_faces, link_tracks
from deepfake.media.video import open_video
from deepfake.records import Face, Sampling
from tests.fakes import make_face, portrait


def square(x: float, y: float, side: float = 40) -> Face:
    return make_face((x, y, x + side, y + side))


def looking(x: float, y: float, turn: float, side: float = 40) -> Face:
    """A face whose eyes, nose and mouth lie to one side of its box."""
    face = square(x, y, side)
    return Face(
        face.box_xyxy, face.confidence, face.landmarks + np.array([turn * side, 0], np.float32)
    )


def test_two_people_keep_their_numbers_while_they_move() -> None:
    frames, faces = [], []
    for step in range(10):
        frames += [step * 30] * 2
        # The larger face comes first in each frame; who that is changes half-way.
        pair = [square(10 + 8 * step, 20), square(400 - 8 * step, 30, 38)]
        faces += pair if step < 5 else pair[::-1]
    tracks = link_tracks(frames, faces)
    assert tracks == [0, 1] * 5 + [1, 0] * 5


def test_faces_that_nobody_searched_for_are_linked_by_their_boxes_alone() -> None:
    faces = [replace(square(x, 0), landmarks=np.empty((0, 2), np.float32)) for x in (0, 2, 300)]
    assert link_tracks([0, 1, 1], faces) == [0, 0, 1]
    between = interpolate_faces(faces[:1], faces[1:2], 0.5)
    assert between is not None
    assert (between[0].box_xyxy[0], between[0].landmarks.shape) == (1, (0, 2))


def test_a_new_person_gets_a_new_number() -> None:
    faces = [square(0, 0), square(0, 0), square(300, 200), square(300, 200)]
    assert link_tracks([0, 1, 2, 3], faces) == [0, 0, 1, 1]


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
def test_what_does_not_fit_is_somebody_else(later: Face) -> None:
    assert link_tracks([0, 1], [square(0, 0), later]) == [0, 1]


def test_the_best_fit_wins() -> None:
    """Two faces of one frame never share a track; the nearer one takes it."""
    faces = [square(0, 0), square(12, 0), square(2, 0)]
    assert link_tracks([0, 7, 7], faces) == [0, 1, 0]


def test_who_passes_by_is_told_by_the_landmarks() -> None:
    """Between two sampled frames two people have changed places; each looks ahead."""
    right, left = 0.1, -0.1
    before = [looking(100, 50, right), looking(125, 50, left)]
    after = [looking(125, 50, right), looking(100, 50, left)]
    assert link_tracks([0, 0, 1, 1], before + after) == [0, 1, 0, 1]
    # By the boxes alone they would have stayed where they were.
    alike = [looking(face.box_xyxy[0], 50, 0.0) for face in before + after]
    assert link_tracks([0, 0, 1, 1], alike) == [0, 1, 1, 0]


def test_a_turn_of_the_head_does_not_end_a_track() -> None:
    turns = [0.15 * np.sin(step) for step in range(12)]
    faces = [looking(100 + 3 * step, 50, turn) for step, turn in enumerate(turns)]
    assert link_tracks(range(12), faces) == [0] * 12


def crossing(n_frames: int) -> Iterator[tuple[np.ndarray, Sequence[float]]]:
    """Two drawn people who walk past each other; the pictures, and where the first one is."""
    people = [portrait(1, 0, 128), portrait(4, 1, 128)]
    for step in range(n_frames):
        canvas = np.full((200, 420, 3), (96, 120, 140), np.uint8)
        x = [20 + 240 * step // (n_frames - 1), 260 - 240 * step // (n_frames - 1)]
        canvas[36:164, x[1] : x[1] + 128] = people[1]
        canvas[30:158, x[0] : x[0] + 128] = people[0]  # nearer to the camera
        yield canvas, (x[0], 30, x[0] + 128, 158)


def test_drawn_people_who_cross_do_not_change_tracks() -> None:
    """The one behind is hidden for longer than a track may miss, and comes back as a new one."""
    detector = MTCNN(min_face=40)
    frames: list[int] = []
    faces: list[Face] = []
    who: list[int] = []
    for number, (canvas, (x0, _, x1, _)) in enumerate(crossing(13)):
        for face in detector.detect([canvas])[0]:
            frames.append(number)
            faces.append(face)
            middle = float(face.box_xyxy[0] + face.box_xyxy[2]) / 2
            is_first = abs(middle - (x0 + x1) / 2) <= abs(middle - (280 - x0 + 64))
            who.append(0 if is_first else 1)
    assert len(faces) >= 22
    tracks = link_tracks(frames, faces)
    first = {track for track, person in zip(tracks, who, strict=True) if person == 0}
    second = {track for track, person in zip(tracks, who, strict=True) if person == 1}
    assert len(first) == 1
    assert first.isdisjoint(second)


def test_between_two_frames_boxes_and_landmarks_move_evenly() -> None:
    one, other = make_face((0, 0, 40, 40), 0.9), make_face((12, 8, 60, 56), 0.8)
    (face,) = interpolate_faces([one], [other], 0.25) or []
    np.testing.assert_allclose(face.box_xyxy, (3, 2, 45, 44))
    np.testing.assert_allclose(face.landmarks, 0.75 * one.landmarks + 0.25 * other.landmarks)
    assert face.confidence == 0.8


def test_the_largest_face_between_comes_first() -> None:
    before = [square(0, 0, 50), square(200, 0, 40)]
    after = [square(200, 0, 60), square(0, 0, 40)]
    for share, sides in ((0.25, [47.5, 45.0]), (0.75, [55.0, 42.5])):
        faces = interpolate_faces(before, after, share) or []
        assert [float(f.box_xyxy[2] - f.box_xyxy[0]) for f in faces] == pytest.approx(sides)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([], [], id="nobody"),
        pytest.param([square(0, 0)], [], id="gone"),
        pytest.param([], [square(0, 0)], id="come"),
        pytest.param([square(0, 0)], [square(300, 0)], id="elsewhere"),
        pytest.param([square(0, 0)], [square(0, 0), square(300, 0)], id="one-more"),
        pytest.param([square(0, 0), square(99, 0)], [square(0, 0), square(300, 0)], id="other"),
    ],
)
def test_nothing_is_invented(before: list[Face], after: list[Face]) -> None:
    assert interpolate_faces(before, after, 0.5) is None


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


@pytest.mark.data
def test_people_of_a_crowd_keep_their_tracks(shared_media: Path) -> None:
    """Linked at a fifth of the rate, the three who are there throughout are still one each."""
    path = shared_media / "videos" / "unlabelled_real" / "facenet-pytorch_video.mp4"
    frames: list[int] = []
    faces: list[Face] = []
    with open_video(path, path.name, Sampling(frames=None, every=5)) as clip:
        detector = MTCNN(min_face=60)
        for frame in clip:
            found = detector.detect([frame.image])[0]
            frames += [frame.index] * len(found)
            faces += found
    tracks = link_tracks(frames, faces)
    lengths = sorted((tracks.count(track) for track in set(tracks)), reverse=True)
    assert all(length >= 18 for length in lengths[:3]), lengths
