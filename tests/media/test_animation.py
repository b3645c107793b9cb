"""Animated images are short clips; each frame is what a viewer would show."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from deepfake.errors import MediaError
from deepfake.media.images import read_image
from deepfake.records import Sampling
from tests.media.drawn_videos import read_number
from tests.media.made_animations import EVERY, draw, numbers, read, times, write_animation

ANIMATED = [
    pytest.param("GIF", {"duration": 40, "disposal": 1}, id="gif"),
    pytest.param("WEBP", {"duration": 40, "lossless": True}, id="webp"),
    pytest.param("PNG", {"duration": 40}, id="apng"),
    pytest.param("AVIF", {"duration": 40, "quality": 90}, id="avif"),
]


@pytest.mark.parametrize(("kind", "options"), ANIMATED)
def test_animations_are_short_clips(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    path = write_animation(tmp_path / "a.bin", kind, 20, **options)
    for sampling, expected in (
        (EVERY, list(range(20))),
        (Sampling(frames=4), [2, 7, 12, 17]),
        (Sampling(frames=4, mode="keyframes"), [2, 7, 12, 17]),
        (Sampling(frames=None, every=8), [0, 8, 16]),
        (Sampling(frames=None, fps=5), [0, 5, 10, 15]),
    ):
        frames, note = read(path, sampling)
        assert note == ""
        assert [frame.index for frame in frames] == numbers(frames) == expected
        assert times(frames) == [round(0.04 * index, 6) for index in expected]
        assert all(f.image.shape == (48, 64, 3) and f.image.flags.c_contiguous for f in frames)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_frames_may_last_differently(tmp_path: Path, kind: str) -> None:
    path = write_animation(tmp_path / "a", kind, 4, duration=[100, 500, 50, 100])
    frames, _ = read(path)
    assert times(frames) == [0, 0.1, 0.6, 0.65]
    assert [f.index for f in read(path, Sampling(frames=None, fps=2))[0]] == [0, 2]


def test_pages_of_a_tiff_are_frames_at_time_zero(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.tif", "TIFF", 6)
    frames, note = read(path, Sampling(frames=3))
    assert (numbers(frames), times(frames), note) == ([1, 3, 5], [0, 0, 0], "")
    # They have no times that a rate could go by, and none is passed over for that.
    assert numbers(read(path, Sampling(frames=None, fps=10))[0]) == [0, 1, 2, 3, 4, 5]
    few = Sampling(frames=None, fps=10, max_frames=2)
    assert read(path, few)[1] == "limited to 2 of 6 frames"
    flicker = write_animation(tmp_path / "a.gif", "GIF", 6, duration=0)
    assert numbers(read(flicker, Sampling(frames=None, fps=10))[0]) == [0, 1, 2, 3, 4, 5]


def test_the_picture_beside_an_animation_is_none_of_its_frames(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *others = (Image.new("RGB", (40, 40), colour) for colour in colours)
    path = tmp_path / "a.png"
    first.save(path, save_all=True, append_images=others, default_image=True, duration=[100, 200])
    for sampling in (EVERY, Sampling(frames=None, fps=100)):
        frames, _ = read(path, sampling)
        assert [tuple(frame.image[0, 0].tolist()) for frame in frames] == colours[1:]
        assert times(frames) == [0, 0.1]


def test_never_more_than_max_frames(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", 20, duration=40)
    frames, note = read(path, Sampling(frames=None, every=1, max_frames=2))
    assert (numbers(frames), note) == ([5, 15], "limited to 2 of 20 frames")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_turned_like_a_photo(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write_animation(tmp_path / "a", kind, 3, duration=40, lossless=True, exif=exif)
    frames, _ = read(path)
    assert [read_number(np.rot90(frame.image)) for frame in frames] == [0, 1, 2]


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    clear = [Image.new("RGBA", (4, 4), (255, 0, 0, alpha)) for alpha in (0, 255)]
    clear[0].save(tmp_path / "a.webp", save_all=True, append_images=clear[1:], lossless=True)
    frames, _ = read(tmp_path / "a.webp")
    assert [tuple(frame.image[0, 0]) for frame in frames] == [(255, 255, 255), (255, 0, 0)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF"])
def test_a_cut_animation_gives_what_is_there(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(10)]
    path = tmp_path / "a"
    noise[0].save(path, kind, save_all=True, append_images=noise[1:], duration=100)
    os.truncate(path, path.stat().st_size * 6 // 10)
    for sampling in (EVERY, Sampling(frames=2), Sampling(frames=None, fps=10)):
        try:
            frames, note = read(path, sampling)
        except MediaError as error:
            # Pillow may then take it for a single broken picture.
            assert error.code in ("truncated", "decode_error")  # noqa: PT017
            continue
        assert 1 <= len(frames) <= 10
        assert note.startswith("damaged: ") or frames[0].note or len(frames) < 10


def test_damage_before_the_first_choice_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", 10, duration=100)
    load = ImageFile.ImageFile.load
    broken = 4

    def fail(image: ImageFile.ImageFile) -> Any:
        if image.tell() >= broken:
            raise OSError("image file is truncated")
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    frames, note = read(path, Sampling(frames=1))
    assert (numbers(frames), note) == ([2], "damaged: 6 of 10 frames")
    frames, note = read(path, EVERY)
    assert (numbers(frames), note) == ([0, 1, 2, 3], "damaged: 6 of 10 frames")
    frames, note = read(path, Sampling(frames=None, fps=5))
    assert (numbers(frames), note) == ([0, 2], "damaged: 6 of 10 frames")
    broken = 0
    with pytest.raises(MediaError, match=r"a\.gif: truncated"):
        read(path)


def test_broken_durations_count_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_animation(tmp_path / "a.png", "PNG", 3, duration=40)
    for duration in ("x", -5, math.nan, math.inf, None):
        load = ImageFile.ImageFile.load

        def spoil(image: ImageFile.ImageFile, value: Any = duration, load: Any = load) -> Any:
            result = load(image)
            image.info["duration"] = value
            return result

        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", spoil)
            assert times(read(path)[0]) == [0, 0, 0]


def test_too_many_pixels(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", 3)
    with pytest.raises(MediaError, match="too_large: 64x48 pixels"):
        read(path, max_pixels=64 * 48 - 1)
    pages = [draw(1), draw(2, 640, 480)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    frames, note = read(tmp_path / "a.tif", max_pixels=64 * 48)
    assert (numbers(frames), note) == ([1], "damaged: 1 of 2 frames")


def test_a_huge_animation_is_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", 3)
    monkeypatch.setattr("deepfake.media.animation.COUNT_FRAMES_BYTES", 10)
    frames, _ = read(path)
    assert [frame.note for frame in frames] == ["first of several frames"]


def test_gif_bytes_are_left_alone(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", 3)
    before = path.read_bytes()
    path.chmod(0o444)
    read(path)
    assert path.read_bytes() == before
    assert Image.open(io.BytesIO(before)).n_frames == 3  # type: ignore[attr-defined]


def tagged(number: int, size: tuple[int, int], tags: dict[int, int]) -> Image.Image:
    """A page of a TIFF with tags of its own."""
    page = draw(number, *size)
    page.encoderinfo = {"tiffinfo": tags}
    return page


@pytest.mark.parametrize("tags", [{254: 1}, {255: 2}, {254: 4}, {254: 5}], ids=str)
def test_copies_and_masks_of_a_tiff_are_no_frames(tmp_path: Path, tags: dict[int, int]) -> None:
    path = tmp_path / "a.tif"
    others = [tagged(2, (16, 12), tags), tagged(3, (8, 6), tags)]
    draw(1).save(path, "TIFF", save_all=True, append_images=others)
    frames, note = read(path)
    assert (numbers(frames), note, frames[0].note) == ([1], "", "")
    assert read_image(path, "a").note == ""
    # A scanner may put the copy first, or between two pages.
    pages = [tagged(4, (64, 48), {}), tagged(5, (16, 12), tags), tagged(6, (64, 48), {})]
    tagged(2, (16, 12), tags).save(path, "TIFF", save_all=True, append_images=pages, tiffinfo=tags)
    frames, note = read(path)
    assert (numbers(frames), [frame.index for frame in frames]) == ([4, 6], [0, 1])
    page = tagged(7, (64, 48), {})
    tagged(2, (16, 12), tags).save(path, "TIFF", save_all=True, append_images=[page], tiffinfo=tags)
    assert numbers(read(path)[0]) == [7]


def test_a_tiff_of_copies_alone_is_its_first_page(tmp_path: Path) -> None:
    draw(9).save(tmp_path / "a.tif", "TIFF", tiffinfo={254: 1})
    assert numbers(read(tmp_path / "a.tif")[0]) == [9]


def test_an_animation_that_shows_nothing_says_so(tmp_path: Path) -> None:
    dark = [Image.new("RGB", (64, 48), (n, n, n)) for n in (0, 15)]
    dark[0].save(tmp_path / "b.webp", save_all=True, append_images=dark[1:], lossless=True)
    assert [frame.note for frame in read(tmp_path / "b.webp")[0]] == [
        "nearly black: no value above 0 of 255",
        "nearly black: no value above 15 of 255",
    ]


@pytest.mark.data
def test_the_page_that_is_a_copy(shared_media: Path) -> None:
    path = shared_media / "cases" / "tiff_reduced_pages" / "scanner_thumb.tif"
    frames, note = read(path)
    assert [frame.image.shape for frame in frames] == [(400, 320, 3)]
    assert note == frames[0].note == ""
