"""Frames are turned, mirrored and stretched as the container asks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.media.conversion import FrameConverter
from deepfake.records import Sampling
from tests.media.drawn_videos import (
    KEYFRAMES,
    draw_number,
    read_number,
    read_video,
    write_video,
)


def turn(data: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """Write a display matrix into the track header of an MP4."""
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return data[:at] + matrix + data[at + 36 :]


@pytest.mark.parametrize("mode", ["exact", "keyframes"])
@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        pytest.param((1, 0, 0, 1), lambda image: image, id="upright"),
        pytest.param((0, 1, -1, 0), lambda image: np.rot90(image, -1), id="clockwise"),
        pytest.param((-1, 0, 0, -1), lambda image: np.rot90(image, 2), id="upside-down"),
        pytest.param((0, -1, 1, 0), lambda image: np.rot90(image), id="counterclockwise"),
        pytest.param((-1, 0, 0, 1), lambda image: image[:, ::-1], id="mirrored"),
        pytest.param((1, 0, 0, -1), lambda image: image[::-1], id="flipped"),
        pytest.param((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2), id="transposed"),
    ],
)
def test_turns_frames_upright(
    tmp_path: Path,
    matrix: tuple[int, int, int, int],
    expected: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    mode: Any,
) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    sampling = Sampling(frames=3, mode=mode)
    before, _ = read_video(path, sampling)
    path.write_bytes(turn(path.read_bytes(), *matrix))
    after, _ = read_video(path, sampling)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new.image, expected(old.image))
        assert new.image.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    ("aspect", "shape"),
    [
        pytest.param(Fraction(2), (48, 128, 3), id="wide"),
        pytest.param(Fraction(1, 2), (96, 64, 3), id="tall"),
        pytest.param(Fraction(16, 15), (48, 68, 3), id="pal"),
        pytest.param(Fraction(405, 404), (48, 64, 3), id="rounded"),
        pytest.param(Fraction(100), (48, 64, 3), id="absurd"),
    ],
)
def test_frames_have_their_display_shape(
    tmp_path: Path, name: str, aspect: Fraction, shape: tuple[int, ...]
) -> None:
    path = write_video(tmp_path / name, 12, pixel_aspect=aspect)
    for sampling in (Sampling(frames=4), KEYFRAMES):
        frames, _ = read_video(path, sampling)
        assert {frame.image.shape for frame in frames} == {shape}
        assert [read_number(frame.image) for frame in frames] == [frame.index for frame in frames]


def test_stretching_stays_within_the_limit() -> None:
    frame = av.VideoFrame.from_ndarray(draw_number(5), format="rgb24")
    stretched = FrameConverter("a", 64 * 48 * 2, Fraction(2)).convert(frame)
    squeezed = FrameConverter("a", 64 * 48 * 2 - 1, Fraction(2)).convert(frame)
    assert (stretched.shape, squeezed.shape) == ((48, 128, 3), (24, 64, 3))


@pytest.mark.data
def test_an_anamorphic_video_looks_like_the_square_one(shared_media: Path) -> None:
    folder = shared_media / "cases" / "anamorphic_video"
    (one,), _ = read_video(folder / "a.mp4", Sampling(frames=1))
    (other,), _ = read_video(folder / "anamorphic_2to1.mp4", Sampling(frames=1))
    assert other.image.shape == one.image.shape
    assert np.abs(one.image.astype(int) - other.image).mean() < 6
