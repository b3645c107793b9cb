"""Small videos whose every frame carries its own number in its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.errors import MediaError
from deepfake.media.video import open_video
from deepfake.records import Frame, Sampling

BITS = 8


def draw_number(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Bars from left to right, white for each set bit, on a grey that drifts with the number."""
    image = np.full((height, width, 3), 40 + number % 16, dtype=np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image[:, bit * width // BITS : (bit + 1) * width // BITS] = 230
    return image


def read_number(image: NDArray[np.uint8]) -> int:
    width = image.shape[1]
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    row = image[image.shape[0] // 4 : -(image.shape[0] // 4), :, 1].mean(axis=0)
    return sum(1 << bit for bit, x in enumerate(middles) if row[x] > 128)


def write_video(
    path: Path,
    n: int = 60,
    codec: str = "libx264",
    *,
    gop: int = 10,
    b_frames: int = 0,
    container: str | None = None,
    ticks: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    size: tuple[int, int] = (64, 48),
    pixels: str = "yuv420p",
    container_options: dict[str, str] | None = None,
    every_packet: Any = None,
    noise: int = 0,
    pixel_aspect: Fraction | None = None,
    **options: str,
) -> Path:
    """Encode frames 0 to n - 1.

    ``every_packet`` may change or drop packets on their way; with ``noise``, packets are long.
    """
    options = {"g": str(gop), "bf": str(b_frames), **options}
    if codec in ("libx264", "libx265"):
        options = {"preset": "ultrafast", "sc_threshold": "0", **options}
    if codec == "libx265":
        options["x265-params"] = f"log-level=none:keyint={gop}:bframes={b_frames}:pools=none"
    with av.open(
        str(path), "w", format=container, container_options=container_options or {}
    ) as output:
        stream: Any = output.add_stream(codec, rate=Fraction(25))
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        stream.options = options
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        packets = []
        for number in range(n):
            image = draw_number(number, *size)
            if noise:
                image += np.random.default_rng(number).integers(0, noise, image.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            if every_packet is None or every_packet(packet):
                output.mux(packet)
    return path


EVERY = Sampling(frames=None, every=1)


KEYFRAMES = Sampling(frames=6, mode="keyframes")


def read_video(path: Path, sampling: Sampling = EVERY, **options: Any) -> tuple[list[Frame], str]:
    with open_video(path, path.name, sampling, **options) as clip:
        return list(clip), clip.note


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.image) for frame in frames]


def indexes(frames: list[Frame]) -> list[int]:
    return [frame.index for frame in frames]


def refusal(path: Path, sampling: Sampling = EVERY, **options: Any) -> str:
    with pytest.raises(MediaError) as info:
        read_video(path, sampling, **options)
    assert info.value.detail.isprintable()
    return info.value.reason
