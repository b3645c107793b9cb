"""What a file holds decides how it is opened; which frames are chosen is arithmetic alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.errors import MediaError
from deepfake.media.decoding import open_media
from deepfake.media.images import read_image
from deepfake.records import Sampling
from tests.media.drawn_videos import write_video
from tests.media.made_animations import EVERY, draw, numbers, read


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
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(MediaError) as expected:
        read_image(path, "a.bin")
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


@pytest.mark.parametrize("data", [b"", b"no video at all " * 9, bytes(300)])
@pytest.mark.parametrize("suffix", [".mp4", ".MKV", ".3gp"])
def test_what_is_called_a_video_is_refused_as_one(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"decode_error: (no readable video|empty file)"):
        read(path)
    draw(3).save(path, "PNG")
    assert numbers(read(path)[0]) == [3]
