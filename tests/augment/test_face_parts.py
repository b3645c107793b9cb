"""Landmarks lie on the face in the crop, and what is hidden is the part that was asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.augment.face_parts import (
    BLIND_CASES,
    Crop,
    Points,
    blind_face,
    cut_out_part,
    draw_frontal_face,
    face_area,
    hide_half,
    hull_mask,
    outline,
    part_of_face,
    to_68,
    to_five,
)
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.manifest import read_manifest
from deepfake.demo.people import portrait_geometry
from deepfake.demo.portraits import draw_portrait
from deepfake.faces.landmarks import FaceMesh
from deepfake.learning.crops import CropDataset
from deepfake.records import CropSpec, Face, Landmarks, Workers
from tests.chances import assert_rate
from tests.fakes import portrait, upside_down, write_photo

SIZE = 128


def face(scale: float = 20.0, tilt: float = 0.0) -> Points:
    """68 points in the middle of the crop, turned by ``tilt`` degrees."""
    turn = np.deg2rad(tilt)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(draw_frontal_face() @ matrix * scale + (64, 46), np.float32)


def grey() -> Crop:
    return np.full((SIZE, SIZE, 3), 150, np.uint8)


def hidden(crop: Crop) -> Crop:
    assert set(np.unique(crop)) <= {0, 150}
    return np.asarray(crop[..., 0] == 0, np.uint8)


def covers(mask: Crop, point: Points) -> bool:
    x, y = np.rint(point).astype(int)
    return bool(mask[y, x])


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "upside-down"])
@pytest.mark.parametrize(
    ("preset", "landmarks"),
    [
        ("square", "five"),
        ("dacon", "five"),
        ("aligned", "five"),
        ("square", "mesh"),
        ("aligned", "mesh"),
    ],
)
def test_the_eyes_of_a_crop_are_dark(
    tmp_path: Path, turned: bool, preset: str, landmarks: Landmarks
) -> None:
    crop = portrait(2, 0, 256)  # one that MTCNN cannot find upside down
    # Off the centre, so that the window must be moved or cut.
    shifted = np.pad(crop, ((0, 60), (90, 0), (0, 0)), mode="edge")
    photo = upside_down(crop) if turned else shifted
    write_photo(tmp_path / "photos" / "real" / "a.png", photo)
    spec = CropSpec.from_preset(preset, size=SIZE)
    crop_media(
        str(tmp_path / "photos"),
        tmp_path / "crops",
        spec,
        workers=Workers(0),
        landmarks=landmarks,
        quiet=True,
    )
    (row,) = read_manifest(tmp_path / "crops").rows
    assert row.rotation == (180 if turned else 0)
    data = CropDataset(tmp_path / "crops", [row], SIZE)
    crop, points = data.read(row).astype(float).mean(axis=2), data.points(row)
    assert points is not None
    assert len(points) == {"five": 5, "mesh": 468}[landmarks]
    points = to_five(points)
    eyes_apart = float(np.linalg.norm(points[1] - points[0]))
    radius = round(eyes_apart / 8)
    cheeks = points[3:] * 0.55 + points[:2] * 0.45
    for eye, cheek in zip(points[:2], cheeks, strict=True):
        (eye_x, eye_y), (x, y) = np.rint(eye).astype(int), np.rint(cheek).astype(int)
        dark = crop[eye_y - radius : eye_y + radius, eye_x - radius : eye_x + radius].min()
        skin = np.median(crop[y - radius : y + radius, x - radius : x + radius])
        assert dark < skin - 40


def test_the_68_of_a_mesh_lie_where_five_points_let_expect_them() -> None:
    five = portrait_geometry(1, 0).points.astype(np.float32)
    apart = float(five[1, 0] - five[0, 0])
    x, y = five.mean(axis=0)
    box = np.array([x - apart, y - 1.4 * apart, x + apart, y + 1.2 * apart], np.float32)
    mesh = FaceMesh().locate(draw_portrait(1, 0), [Face(box, 1.0, five)])[0]
    off = np.linalg.norm(to_68(mesh) - to_68(five), axis=1) / apart
    # A drawn frontal face is not this one, but each point must be the same one.
    assert np.median(off) < 0.15
    assert off.max() < 0.55
    assert len(outline(mesh)) == 36
    assert face_area(mesh) == pytest.approx(face_area(five), rel=0.35)
    for name in BLIND_CASES:
        hidden_part = hull_mask(part_of_face(name, mesh), 256) > 0
        expected = hull_mask(part_of_face(name, five), 256) > 0
        assert (hidden_part & expected).sum() > 0.5 * (hidden_part | expected).sum(), name


def test_the_drawn_face_is_a_face() -> None:
    drawn = draw_frontal_face()
    five = to_five(drawn)
    np.testing.assert_allclose(five[:2], [[-1, 0], [1, 0]], atol=1e-6)
    assert drawn.shape == (68, 2)
    mirrored = (drawn * (-1, 1)).tolist()
    for point in mirrored:  # as a set of points, left and right are alike
        assert np.abs(drawn - point).sum(axis=1).min() < 1e-5
    left_eye, _, nose, left_mouth, right_mouth = five
    assert left_eye[1] < nose[1] < left_mouth[1] == right_mouth[1] < drawn[8][1]


@pytest.mark.parametrize("tilt", [0, 25, -40])
def test_68_points_follow_from_five(tilt: float) -> None:
    points = face(tilt=tilt)
    np.testing.assert_allclose(to_68(to_five(points)), points, atol=1e-3)
    assert to_68(points) is points
    assert to_five(to_five(points)).shape == (5, 2)
    assert face_area(to_five(points)) == pytest.approx(face_area(points), rel=1e-4)


def test_the_outline_holds_the_face() -> None:
    points = face()
    whole = hull_mask(outline(points), SIZE)
    lower = hull_mask(outline(points, with_forehead=False), SIZE)
    assert all(covers(whole, point) for point in points[17:])
    assert whole.sum() > 1.05 * lower.sum()
    assert not (lower > whole).any()


@pytest.mark.parametrize(
    ("part", "inside", "outside"),
    [
        ("upper", [36, 45, 27, 19], [33, 48, 8]),
        ("eyes", [37, 44, 27], [30, 48, 8, 3]),
        ("left", [36, 48, 6, 4], [45, 54, 12]),
        ("right", [45, 54, 10, 12], [36, 48, 4]),
        ("nose", [30, 33, 29], [36, 45, 48]),
        ("forehead", [], [36, 30, 48]),
    ],
)
@pytest.mark.parametrize("tilt", [0, 20])
def test_regions(part: str, inside: list[int], outside: list[int], tilt: float) -> None:
    points = face(tilt=tilt)
    mask = hull_mask(part_of_face(part, points), SIZE)
    assert mask.any()
    assert all(covers(mask, points[n]) for n in inside)
    assert not any(covers(mask, points[n]) for n in outside)


def test_the_forehead_lies_above_the_brows() -> None:
    rows = np.flatnonzero(hull_mask(part_of_face("forehead", face()), SIZE).any(axis=1))
    assert rows.max() <= face()[17:27, 1].max() + 1
    assert np.ptp(rows) > 15


def test_blind_face_draws_the_entrys_seven_cases() -> None:
    points = face()
    parts = {name: hull_mask(part_of_face(name, points), SIZE).tobytes() for name in BLIND_CASES}
    names = {mask: name for name, mask in parts.items()}
    counts: Counter[str] = Counter()
    for seed in range(700):
        crop = blind_face(grey(), points, np.random.default_rng(seed))
        counts[names[(hidden(crop) * 255).tobytes()]] += 1
    assert BLIND_CASES.count("upper") == 2
    # A share of 1/7 of 700 has a standard deviation of 9.
    assert counts["upper"] == pytest.approx(200, abs=50)
    for name in set(BLIND_CASES) - {"upper"}:
        assert counts[name] == pytest.approx(100, abs=40)


def test_cut_out_parts_come_as_often_as_the_winners() -> None:
    points = to_five(face())
    eyes, nose, mouth = points[:2].mean(axis=0), points[2], points[3:].mean(axis=0)
    counts: Counter[str] = Counter()
    for seed in range(800):
        mask = hidden(cut_out_part(grey(), points, np.random.default_rng(seed)))
        seen = [covers(mask, part) for part in (points[0], nose, mouth)]
        counts[("eyes", "nose", "mouth")[seen.index(True)] if any(seen) else "nothing"] += 1
        if seen[1]:
            assert covers(mask, eyes)
    for name, expected in (("eyes", 400), ("mouth", 200), ("nose", 100), ("nothing", 100)):
        assert counts[name] == pytest.approx(expected, abs=60)


def test_half_of_the_face_is_hidden() -> None:
    points = face()
    whole = hull_mask(outline(points, with_forehead=False), SIZE) > 0
    halves = set()
    for seed in range(40):
        mask = hidden(hide_half(grey(), points, np.random.default_rng(seed))) > 0
        assert not (mask & ~whole).any()
        assert 0.35 < mask.sum() / whole.sum() < 0.65
        halves.add(mask.tobytes())
    assert len(halves) == 4


@pytest.mark.parametrize("change", [blind_face, cut_out_part, hide_half])
@pytest.mark.parametrize("count", [5, 68])
def test_points_far_outside_are_no_error(change: object, count: int) -> None:
    for points in (np.full((count, 2), 1e6), np.full((count, 2), -50.0), np.zeros((count, 2))):
        for seed in range(8):
            crop = grey()
            result = change(crop, points.astype(np.float32), np.random.default_rng(seed))  # type: ignore[operator]
            assert result.shape == crop.shape
            assert (crop == 150).all()


def test_hull_of_the_mask_is_opencvs() -> None:
    square = np.array([[10, 10], [50, 10], [50, 40], [10, 40], [30, 20]], np.float32)
    mask = hull_mask(square, SIZE)
    assert cv2.countNonZero(mask) == 41 * 31


def width_across(mask: Crop, start: Points, end: Points) -> float:
    """Pixels of a mask on the line that stands upright on the middle between two points."""
    middle, along = (start + end) / 2, (end - start) / np.linalg.norm(end - start)
    steps = np.arange(-60, 60, 0.25)[:, None]
    x, y = np.rint(middle + steps * np.array([-along[1], along[0]])).astype(int).T
    inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
    return float(mask[y[inside], x[inside]].sum() / 4)


@pytest.mark.parametrize("tilt", [0, 30])
def test_cut_out_lines_are_as_wide_as_the_winners(tilt: float) -> None:
    points = to_five(face(tilt=tilt))
    left, right, nose, *mouth = points
    apart = float(np.linalg.norm(right - left))
    wide = float(np.linalg.norm(mouth[1] - mouth[0]))
    parts = {
        "eyes": (left, right, apart / 2),
        "mouth": (*mouth, wide * 2 / 3),
        "nose": (nose, (left + right) / 2, apart / 2),
    }
    met = set()
    for seed in range(40):
        mask = hidden(cut_out_part(grey(), points, np.random.default_rng(seed)))
        for name, (start, end, width) in parts.items():
            if covers(mask, start) and covers(mask, end):
                met.add(name)
                # A line of two pixels, grown by half of the width on either side.
                assert width_across(mask, start, end) == pytest.approx(width + 2, abs=3)
                length = float(np.linalg.norm(end - start)) + width
                assert mask.sum() == pytest.approx(length * width, rel=0.25)
                break
    assert met == set(parts)


def test_the_forehead_rises_by_three_tenths_of_the_face() -> None:
    points = face()
    rise = points[17:27, 1].min() - outline(points)[17:, 1].min()
    assert rise == pytest.approx(0.3 * (points[8, 1] - points[17:27, 1].mean()), abs=0.01)


def test_all_four_halves_come_equally_often() -> None:
    points = face()
    counts = Counter(
        hide_half(grey(), points, np.random.default_rng(seed)).tobytes() for seed in range(400)
    )
    assert len(counts) == 4
    for half in counts:
        assert_rate(counts[half], 1 / 4, 400)
