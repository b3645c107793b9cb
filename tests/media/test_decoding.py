"""What a file holds decides how it is opened; which frames are chosen is arithmetic alone."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from deepfake.errors import MediaError
from deepfake.media import images
from deepfake.media.clips import choose_frames, snap_to_nearest
from deepfake.media.decoding import open_media
from deepfake.media.images import read_image
from deepfake.records import Frame, Sampling
from tests.media.drawn_videos import draw_number, read_number, write_video

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


sorted_times = st.lists(st.floats(0, 1e4), min_size=1, max_size=60).map(sorted)


@given(times_s=sorted_times, frames=st.integers(1, 80), most=st.integers(1, 80))
def test_frames_are_the_middles_of_equal_parts(
    times_s: list[float], frames: int, most: int
) -> None:
    chosen, _ = choose_frames(times_s, Sampling(frames=frames, max_frames=most))
    n = len(times_s)
    assert len(chosen) == min(n, frames, most)
    assert chosen == sorted(set(chosen))
    if frames <= min(n, most):
        parts = np.arange(frames) * n / frames
        assert all(low <= at < low + n / frames for low, at in zip(parts, chosen, strict=True))


@settings(deadline=None)  # the plain way is slow
@given(times_s=sorted_times, fps=st.floats(0.001, 1e9))
def test_pace_takes_the_first_frame_at_or_after_each_moment(
    times_s: list[float], fps: float
) -> None:
    times_s = [time - times_s[0] for time in times_s]
    chosen, note = choose_frames(times_s, Sampling(frames=None, fps=fps))
    assert note == ""
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    if fps > 30:
        return
    moments = range(math.ceil(times_s[-1] * fps) + 1)
    if len(moments) > 1000:
        return
    plain = {
        next((i for i, time in enumerate(times_s) if time >= k / fps - 1e-3), None) for k in moments
    } - {None}
    # At the very millisecond, either side is right.
    doubtful = {i for i in plain ^ set(chosen) if i is not None}
    assert len(doubtful) <= 2 * sum(
        abs((time + 1e-3) * fps - round((time + 1e-3) * fps)) < 1e-6 for time in times_s
    )


@given(n=st.integers(1, 200), every=st.integers(1, 250), most=st.integers(1, 50))
def test_every_counts_from_the_first(n: int, every: int, most: int) -> None:
    chosen, note = choose_frames(range(n), Sampling(frames=None, every=every, max_frames=most))
    asked = list(range(0, n, every))
    assert set(chosen) <= set(asked)
    assert len(chosen) == min(len(asked), most)
    assert note == (f"limited to {most} of {len(asked)} frames" if len(asked) > most else "")


def test_milliseconds_of_matroska_keep_every_frame() -> None:
    times_s = [round(k / 30, 3) for k in range(300)]
    assert choose_frames(times_s, Sampling(frames=None, fps=30))[0] == list(range(300))
    assert choose_frames(times_s, Sampling(frames=None, fps=10))[0] == list(range(0, 300, 3))


def test_broken_times_cost_nothing() -> None:
    assert choose_frames([0.0, 1e15], Sampling(frames=None, fps=1e300))[0] == [0, 1]


@given(
    wanted=st.sets(st.integers(0, 59), min_size=1).map(sorted),
    allowed=st.sets(st.integers(0, 59), min_size=1).map(sorted),
)
def test_snaps_to_the_nearest(wanted: list[int], allowed: list[int]) -> None:
    times_s = [float(k) for k in range(60)]
    snapped = snap_to_nearest(wanted, allowed, times_s)
    assert snapped == sorted(set(snapped))
    assert set(snapped) == {min(allowed, key=lambda at: (abs(at - i), at)) for i in wanted}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "MPO"])
def test_a_photo_is_its_one_frame(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.mp4"
    draw(77).save(path, kind)
    expected = read_image(path, "photo.mp4")
    for sampling in (Sampling(), EVERY, Sampling(frames=None, fps=9), Sampling(mode="keyframes")):
        frames, note = read(path, sampling)
        assert note == ""
        assert [(f.index, f.time_s, f.note) for f in frames] == [(0, 0.0, expected.note)]
        np.testing.assert_array_equal(frames[0].image, expected.image)


def test_a_video_is_one_whatever_its_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30).rename(tmp_path / "photo.jpg")
    frames, note = read(path, Sampling(frames=3))
    assert (numbers(frames), note) == ([5, 15, 25], "")


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
    assert numbers(read(path, Sampling(frames=None, fps=10))[0]) == [0]


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
    assert (numbers(frames), note) == ([2], "damaged: 4 of 10 frames decoded")
    frames, note = read(path, EVERY)
    assert (numbers(frames), note) == ([0, 1, 2, 3], "damaged: 4 of 10 frames decoded")
    frames, note = read(path, Sampling(frames=None, fps=5))
    assert (numbers(frames), note) == ([0, 2], "damaged: 4 of 10 frames decoded")
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
    assert (numbers(frames), note) == ([1], "damaged: 1 of 2 frames decoded")


def test_a_huge_animation_is_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", 3)
    monkeypatch.setattr(images, "_COUNT_FRAMES_BYTES", 10)
    frames, _ = read(path)
    assert [frame.note for frame in frames] == ["first of several frames"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"just words\n" * 90, id="text"),
        pytest.param(b"ffconcat version 1.0\nfile a.mp4\n", id="ffconcat"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(40), id="png-without-picture"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), id="heic"),
        pytest.param(b"GIF89a" + bytes(20), id="gif-without-picture"),
    ],
)
def test_what_is_neither_gets_the_error_of_a_photo(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError) as expected:
        read_image(path, "a.mp4")
    with pytest.raises(MediaError) as info:
        read(path)
    assert str(info.value) == str(expected.value)


@pytest.mark.timeout(20)
def test_does_not_touch_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="not_regular_file: a fifo"):
        read(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="not_regular_file: a folder"):
        read(tmp_path)
    with pytest.raises(MediaError, match="io_error: no such file"):
        read(tmp_path / "none")


def is_frame(image: NDArray[np.uint8]) -> bool:
    return image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size > 0


@pytest.mark.data
@pytest.mark.timeout(300)
def test_hostile_files_give_frames_or_a_media_error(shared_media: Path) -> None:
    import resource

    paths = sorted(path for path in (shared_media / "hostile").rglob("*") if path.is_file())
    assert len(paths) > 100
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: dict[str, int] = {}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, hard))
    try:
        for path in paths:
            outcome = "ok"
            try:
                with open_media(path, path.name, Sampling(frames=4), 20_000_000) as clip:
                    n_frames = 0
                    for frame in clip:
                        assert is_frame(frame.image), path
                        n_frames += 1
                    assert 1 <= n_frames <= 4, path
            except MediaError as error:
                outcome = error.code
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 2_000_000
    assert outcomes["ok"] > 100
    assert set(outcomes) <= {"ok", "decode_error", "truncated", "too_large", "unsupported"}


def test_gif_bytes_are_left_alone(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", 3)
    before = path.read_bytes()
    path.chmod(0o444)
    read(path)
    assert path.read_bytes() == before
    assert Image.open(io.BytesIO(before)).n_frames == 3  # type: ignore[attr-defined]
