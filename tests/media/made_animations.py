"""Animations whose every frame carries its own number in its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from deepfake.media.decoding import open_media
from deepfake.records import Frame, Sampling
from tests.media.drawn_videos import draw_number, read_number

EVERY = Sampling(frames=None, every=1)


def read(path: Path, sampling: Sampling = EVERY, **options: Any) -> tuple[list[Frame], str]:
    with open_media(path, path.name, sampling, **options) as clip:
        return list(clip), clip.note


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.image) for frame in frames]


def times(frames: list[Frame]) -> list[float]:
    return [round(frame.time_s, 6) for frame in frames]


def draw(number: int, width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(draw_number(number, width, height))


def write_animation(path: Path, kind: str, n: int, **options: Any) -> Path:
    first, *others = [draw(number) for number in range(n)]
    first.save(path, kind, save_all=True, append_images=others, **options)
    return path
