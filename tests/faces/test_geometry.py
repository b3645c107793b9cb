"""Windows around faces: against a brute force, by hand, and as properties."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepfake.faces.geometry import (
    TEMPLATE,
    aligned_window,
    clip_box,
    cut_turned,
    cut_window,
    entry_window,
    square_window,
    to_crop,
    to_frame,
)
from deepfake.records import TurnedWindow, Window

sides = st.integers(20, 300)
ratios = st.floats(0, 1)


def as_box(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@st.composite
def boxes(draw: st.DrawFn) -> np.ndarray:
    x0, y0 = draw(st.floats(-150, 320, width=32)), draw(st.floats(-150, 320, width=32))
    width, height = draw(st.floats(1, 250, width=32)), draw(st.floats(1, 250, width=32))
    return as_box((x0, y0, x0 + width, y0 + height))


def brute_entry_window(
    box: np.ndarray, height: int, width: int, margins: tuple[float, float]
) -> Window:
    """Pixel columns and rows that the entry would slice out, found one by one."""
    x0, y0, x1, y1 = (int(v) for v in box)
    pad_x, pad_y = int(margins[0] * (y1 - y0)), int(margins[1] * (x1 - x0))
    columns = [x for x in range(width) if x0 - pad_x <= x < x1 + pad_x]
    rows = [y for y in range(height) if y0 - pad_y <= y < y1 + pad_y]
    if not columns or not rows:
        return (0, 0, 0, 0)
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def has_area(window: Window | TurnedWindow) -> bool:
    return window[2] > window[0] and window[3] > window[1]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((200, 200, 300, 340), (182, 190, 318, 350), id="margins-cross-the-axes"),
        pytest.param((200.9, 200.9, 300.9, 340.9), (182, 190, 318, 350), id="corners-truncated"),
        pytest.param((5, 4, 105, 144), (0, 0, 123, 154), id="cut-at-the-top-left"),
        pytest.param((350, 350, 450, 490), (332, 340, 400, 400), id="cut-at-the-bottom-right"),
    ],
)
def test_entry_window_by_hand(box: tuple[float, ...], expected: Window) -> None:
    assert entry_window(as_box(box), 400, 400, (0.135, 0.10)) == expected


@given(boxes(), sides, sides, ratios, ratios)
def test_entry_window_equals_brute_force(
    box: np.ndarray, height: int, width: int, across: float, along: float
) -> None:
    window = entry_window(box, height, width, (across, along))
    expected = brute_entry_window(box, height, width, (across, along))
    assert has_area(window) == has_area(expected)
    if has_area(expected):
        assert window == expected
    assert 0 <= window[0] <= width
    assert 0 <= window[3] <= height


@given(boxes(), sides, sides)
def test_clip_box_stays_inside(box: np.ndarray, height: int, width: int) -> None:
    x0, y0, x1, y1 = clip_box(box, height, width)
    assert 0 <= x0 <= x1 <= width
    assert 0 <= y0 <= y1 <= height
    touches = box[2] > 0 and box[3] > 0 and box[0] < width and box[1] < height
    assert touches == (x1 > x0 and y1 > y0)


@given(boxes(), sides, sides, ratios)
@example(as_box((-5, -5, 0.25, 0.25)), 40, 40, 0.2)
def test_square_window_properties(box: np.ndarray, height: int, width: int, margin: float) -> None:
    window = x0, y0, x1, y1 = square_window(box, height, width, margin)
    c0, d0, c1, d1 = (float(v) for v in clip_box(box, height, width))
    if c1 <= c0 or d1 <= d0:
        assert not has_area(window)
        return
    assert has_area(window)
    side = x1 - x0
    assert side == y1 - y0
    # Whole pixels: a fractional box edge may lie up to one pixel outside.
    assert x0 - 1 <= c0 <= c1 <= x1 + 1
    assert y0 - 1 <= d0 <= d1 <= y1 + 1
    if side <= width:
        assert 0 <= x0 < x1 <= width
    if side <= height:
        assert 0 <= y0 < y1 <= height
    longer = max(c1 - c0, d1 - d0)
    if longer <= min(height, width):
        assert side <= min(height, width)
    if longer * (1 + 2 * margin) <= min(height, width):
        assert abs(side - longer * (1 + 2 * margin)) <= 1


@given(boxes(), st.floats(0, 0.5))
def test_square_window_is_centred_where_there_is_room(box: np.ndarray, margin: float) -> None:
    box = box + np.float32(1000)
    x0, y0, x1, y1 = square_window(box, 3000, 3000, margin)
    assert abs((x0 + x1) / 2 - (box[0] + box[2]) / 2) <= 1
    assert abs((y0 + y1) / 2 - (box[1] + box[3]) / 2) <= 1


def brute_resize(inside: np.ndarray, size: int) -> Any:
    """Area average of a picture whose sides are multiples of ``size``."""
    height, width = inside.shape[0] // size, inside.shape[1] // size
    blocks = inside.reshape(size, height, size, width, 3).astype(float)
    return blocks.mean(axis=(1, 3))


def test_auto_averages_areas_to_shrink() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    crop = cut_window(image, (8, 4, 104, 100), 32, "auto")
    assert np.abs(crop - brute_resize(image[4:100, 8:104], 32)).max() <= 0.51


def test_auto_enlarges_bicubically_and_linear_stays_linear() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    inside = image[5:25, 5:25]
    for interpolation, method in (("auto", cv2.INTER_CUBIC), ("linear", cv2.INTER_LINEAR)):
        crop = cut_window(image, (5, 5, 25, 25), 64, interpolation)  # type: ignore[arg-type]
        np.testing.assert_array_equal(crop, cv2.resize(inside, (64, 64), interpolation=method))


def test_a_window_of_the_right_size_is_copied() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    crop = cut_window(image, (3, 4, 35, 36), 32, "auto")
    np.testing.assert_array_equal(crop, image[4:36, 3:35])
    assert crop.flags.c_contiguous


@given(st.integers(-10, 30), st.integers(-10, 30), st.integers(20, 60))
def test_outside_the_picture_its_border_repeats(x0: int, y0: int, side: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    crop = cut_window(image, (x0, y0, x0 + side, y0 + side), side, "auto")
    rows = np.clip(np.arange(y0, y0 + side), 0, 39)
    columns = np.clip(np.arange(x0, x0 + side), 0, 47)
    np.testing.assert_array_equal(crop, image[rows][:, columns])


def disc(radius_x: int, radius_y: int) -> np.ndarray:
    y, x = np.mgrid[0:300, 0:300]
    inside = ((x - 150) / radius_x) ** 2 + ((y - 150) / radius_y) ** 2 <= 1
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, axis=2)


def spread(crop: np.ndarray) -> float:
    """Width of what is drawn, over its height."""
    rows, columns = np.nonzero(crop[..., 0] > 127)
    return float(np.ptp(columns) + 1) / float(np.ptp(rows) + 1)


def test_square_keeps_the_aspect_and_entry_squashes_it() -> None:
    face, box = disc(40, 60), as_box((110, 90, 190, 210))
    kept = cut_window(face, square_window(box, 300, 300, 0.2), 120, "auto")
    assert spread(kept) == pytest.approx(40 / 60, abs=0.03)
    window = entry_window(box, 300, 300, (0.135, 0.10))
    squashed = cut_window(face, window, 120, "linear")
    # 80 + 2 * 16 by 120 + 2 * 8 pixels become a square.
    assert window == (94, 82, 206, 218)
    assert spread(squashed) == pytest.approx(40 / 60 * 136 / 112, abs=0.03)


@pytest.mark.parametrize(
    ("window", "size"),
    [
        pytest.param((20, 30, 100, 110), 80, id="as-it-is"),
        pytest.param((20, 30, 100, 110), 37, id="smaller"),
        pytest.param((40, 10, 90, 120), 160, id="squashed-and-enlarged"),
        pytest.param((-30, -20, 110, 120), 96, id="beyond-the-border"),
    ],
)
@pytest.mark.parametrize("interpolation", ["linear", "auto"])
def test_points_lie_in_the_crop_where_their_spots_do(
    window: Window, size: int, interpolation: Any
) -> None:
    points = np.array([[55.0, 60.0], [80.0, 70.0], [62.0, 95.0]], dtype=np.float32)
    found = to_crop(points, window, size)
    y, x = np.mgrid[0:130, 0:130]
    for (centre_x, centre_y), (crop_x, crop_y) in zip(points, found, strict=True):
        spot = 250 * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 2 / 3**2)
        picture = np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)
        crop = cut_window(picture, window, size, interpolation)[..., 0].astype(float)
        rows, columns = np.mgrid[0:size, 0:size]
        assert (crop * columns).sum() / crop.sum() == pytest.approx(crop_x, abs=0.3)
        assert (crop * rows).sum() / crop.sum() == pytest.approx(crop_y, abs=0.3)


@pytest.mark.parametrize(
    ("window", "size"),
    [
        pytest.param(TurnedWindow(20.25, 31.5, 100.25, 111.5, 0), 80, id="shifted"),
        pytest.param(TurnedWindow(20.25, 31.5, 100.25, 111.5, 33), 37, id="smaller"),
        pytest.param(TurnedWindow(30, 40, 95.5, 105.5, -120), 160, id="enlarged"),
        pytest.param(TurnedWindow(-31.4, -20, 110.6, 122, 15), 96, id="beyond-the-border"),
    ],
)
@pytest.mark.parametrize("interpolation", ["linear", "auto"])
def test_points_lie_in_a_turned_crop_where_their_spots_do(
    window: TurnedWindow, size: int, interpolation: Any
) -> None:
    points = np.array([[55.0, 60.0], [80.0, 70.0], [62.0, 95.0]], dtype=np.float32)
    found = to_crop(points, window, size)
    y, x = np.mgrid[0:130, 0:130]
    rows, columns = np.mgrid[0:size, 0:size]
    for (centre_x, centre_y), (crop_x, crop_y) in zip(points, found, strict=True):
        spot = 250 * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 2 / 3**2)
        picture = np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)
        crop = cut_turned(picture, window, size, interpolation)[..., 0].astype(float)
        assert (crop * columns).sum() / crop.sum() == pytest.approx(crop_x, abs=0.15)
        assert (crop * rows).sum() / crop.sum() == pytest.approx(crop_y, abs=0.15)
    np.testing.assert_allclose(to_frame(found, window, size), points, atol=1e-3)


def test_an_upright_window_is_the_same_turned_or_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 80, 3))
    image = np.asarray(cv2.GaussianBlur(noise.astype(np.uint8), (0, 0), 3), np.uint8)
    window = (10, 15, 70, 75)
    points = np.array([[10, 15], [40.5, 33]], np.float32)
    turned = TurnedWindow(*window, 0)
    np.testing.assert_array_equal(to_crop(points, window, 33), to_crop(points, turned, 33))
    for size in (30, 60, 120):
        crop = cut_window(image, window, size, "auto").astype(int)
        assert np.abs(crop - cut_turned(image, turned, size, "auto")).max() <= 2


def test_a_turned_window_that_shrinks_averages_and_does_not_alias() -> None:
    checks = ((np.add(*np.mgrid[0:300, 0:300]) % 2) * 255).astype(np.uint8)
    image = np.repeat(checks[..., None], 3, axis=2)
    window = TurnedWindow(50, 50, 250, 250, 30)
    assert np.abs(cut_turned(image, window, 50, "auto").astype(int) - 127).max() <= 8
    assert cut_turned(image, window, 50, "linear").std() > 30


def test_beyond_the_frame_a_turned_window_repeats_its_border() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30], image[:, 30:] = (200, 10, 10), (10, 10, 200)
    crop = cut_turned(image, TurnedWindow(-100, -80, 160, 180, 10), 65, "auto")
    assert crop.shape == (65, 65, 3)
    corners = crop[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_array_equal(corners, [(200, 10, 10), (10, 10, 200)] * 2)


def make_points(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    """The template, so many pixels large, turned clockwise, its middle in one place."""
    turn = np.exp(1j * np.radians(degrees))
    points = (TEMPLATE @ [1, 1j] - (TEMPLATE @ [1, 1j]).mean()) * scale * turn + x + 1j * y
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)


@given(
    st.floats(20, 400), st.floats(-180, 180), st.sampled_from([0.0, 0.15, 0.5]), st.integers(0, 999)
)
def test_an_aligned_window_is_the_least_squares_similarity(
    scale: float, degrees: float, margin: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.03 * scale, (5, 2))
    points = (make_points(scale, degrees, 500, 400) + noise).astype(np.float32)
    window, size = aligned_window(points, 900, 1000, margin), 224
    assert window.x1 - window.x0 == pytest.approx(window.y1 - window.y0)
    # (a, b, c, d) of x' = a x - b y + c, y' = b x + a y + d, by the normal equations.
    wanted = (TEMPLATE + margin) / (1 + 2 * margin) * size - 0.5
    x, y = points.astype(np.float64).T
    zeros, ones = np.zeros(5), np.ones(5)
    rows = np.r_[np.c_[x, -y, ones, zeros], np.c_[y, x, zeros, ones]]
    best = np.linalg.lstsq(rows, wanted.T.ravel(), rcond=None)[0]
    expected = (rows @ best).reshape(2, 5).T
    hundredth = 2 * size / (window.x1 - window.x0) / 100
    np.testing.assert_allclose(to_crop(points, window, size), expected, atol=hundredth + 0.01)


@pytest.mark.parametrize("degrees", [0, 20, -35, 90, 180])
def test_the_points_of_a_face_come_to_the_places_of_the_template(degrees: float) -> None:
    points = make_points(90, degrees, 130, 120)
    window = aligned_window(points, 240, 260, 0.15)
    assert (window.angle - degrees + 180) % 360 - 180 == pytest.approx(0, abs=1e-3)
    assert window.x1 - window.x0 == pytest.approx(90 * 1.3, abs=0.02)
    # In a square of 112 with a margin of 0.15 on each side, at half a pixel from the edge.
    left_eye, right_eye = (np.array([38.2946, 73.5318]) + 16.8) / 145.6 * 224 - 0.5
    eyes = to_crop(points, window, 224)[:2]
    np.testing.assert_allclose(eyes[:, 0], [left_eye, right_eye], atol=0.05)
    np.testing.assert_allclose(
        eyes[:, 1], (np.array([51.6963, 51.5014]) + 16.8) / 0.65 - 0.5, atol=0.05
    )


@given(st.floats(0, 180), st.lists(st.floats(-40, 40), min_size=5, max_size=5))
def test_points_on_a_line_are_no_face(degrees: float, along: list[float]) -> None:
    turn = np.radians(degrees)
    points = 100 + np.outer(along, [np.cos(turn), np.sin(turn)]).astype(np.float32)
    assert not has_area(aligned_window(points, 200, 200, 0.15))


def test_mirrored_points_and_those_outside_are_no_face() -> None:
    face = make_points(60, 10, 100, 100)
    assert has_area(aligned_window(face, 200, 200, 0.15))
    mirrored = face * (-1, 1) + (200, 0)
    assert not has_area(aligned_window(mirrored.astype(np.float32), 200, 200, 0.15))
    for x, y in ((-3, 100), (203, 100), (100, -3), (100, 203)):
        assert not has_area(aligned_window(make_points(60, 10, x, y), 200, 200, 0.15))
    profile = (face - 100) * (0.15, 1) + 100  # seen from the side, the eyes are one
    assert has_area(aligned_window(profile.astype(np.float32), 200, 200, 0.15))
