"""Frames are turned and mirrored as the container asks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.records import Sampling
from tests.media.drawn_videos import (
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
