"""Cut, blanked and spoilt videos give what is there, and say how much that is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deepfake.errors import MediaError
from deepfake.records import Sampling
from tests.media.drawn_videos import (
    KEYFRAMES,
    indexes,
    numbers,
    read_video,
    refusal,
    write_video,
)

FASTSTART = {"movflags": "faststart"}


@pytest.mark.parametrize("percent", [30, 60, 95])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("a.mp4", {"container_options": FASTSTART}, id="mp4"),
        pytest.param("a.mkv", {}, id="mkv"),
        pytest.param("a.avi", {"codec": "mpeg4"}, id="avi"),
    ],
)
def test_cut_files_give_what_is_there(
    tmp_path: Path, name: str, options: dict[str, Any], percent: int
) -> None:
    path = write_video(tmp_path / name, 60, b_frames=0, **options)
    os.truncate(path, path.stat().st_size * percent // 100)
    try:
        frames, note = read_video(path)
    except MediaError as error:
        # So little is left that no frame is.
        if percent > 30:
            raise
        assert error.code in ("truncated", "no_frames")  # noqa: PT017
        return
    if len(frames) == 60:
        # AVI has its index behind the frames: only that is cut.
        assert (note, name) == ("", "a.avi")
        return
    assert note == f"damaged: {len(frames)} of 60 frames decoded"
    # The last one may be concealed: cut within its data.
    assert numbers(frames)[:-1] == indexes(frames)[:-1] == list(range(len(frames) - 1))
    for sampling in (Sampling(frames=5), KEYFRAMES):
        some, note = read_video(path, sampling)
        assert 1 <= len(some) <= 6
        assert note.startswith("damaged: ")
        assert indexes(some) == sorted(set(indexes(some)))


def test_a_cut_mp4_without_its_index_is_truncated(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60)
    os.truncate(path, path.stat().st_size // 2)
    assert refusal(path) == "truncated: the file ends before its own header says"


def test_damage_in_the_middle_costs_only_what_is_hit(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, "mjpeg", pixels="yuvj420p")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        hit = [packet for packet in container.demux(video=0) if packet.size][30:36]
    for packet in hit:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    for sampling in (Sampling(frames=5), Sampling(frames=60)):
        frames, note = read_video(path, sampling)
        assert note == "damaged: 54 of 60 frames decoded"
        assert indexes(frames) == numbers(frames)
        assert not set(indexes(frames)) & set(range(30, 36))
    # The next good frame stands in for a lost one.
    assert indexes(read_video(path, Sampling(frames=5))[0]) == [6, 18, 36, 42, 54]
    frames, note = read_video(path, Sampling(frames=5, mode="keyframes"))
    assert indexes(frames) == [6, 18, 42, 54]
    assert note == "damaged: 4 of 5 keyframes decoded"


def test_a_damaged_end_gives_the_last_good_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 20, "mjpeg", pixels="yuvj420p")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[8:]:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    frames, note = read_video(path, Sampling(frames=1))
    assert (numbers(frames), note) == ([7], "damaged: 8 of 20 frames decoded")
    for packet in packets[:8]:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    for sampling in (Sampling(frames=1), KEYFRAMES):
        assert refusal(path, sampling) == "no_frames: none of 20 frames can be decoded"


def spoil(data: bytes, seed: int) -> bytes:
    """Change single bytes anywhere or in the header, blank a stretch, or take one out."""
    rng = np.random.default_rng(seed)
    spoilt = bytearray(data)
    start, length = int(rng.integers(len(data))), int(rng.integers(1, len(data) // 3))
    if seed % 4 == 0:
        spoilt[start : start + length] = bytes(min(length, len(data) - start))
    elif seed % 4 == 1:
        del spoilt[start : start + length]
    else:
        reach = len(data) if seed % 4 == 2 else min(len(data), 1500)
        for at in rng.integers(0, reach, int(rng.integers(1, 30))):
            spoilt[at] ^= int(rng.integers(1, 256))
    return bytes(spoilt)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        pytest.param("a.mp4", "libx264", {"b_frames": 2}, id="h264"),
        pytest.param("a.mkv", "mpeg4", {"b_frames": 2}, id="mkv"),
        pytest.param("a.ts", "mpeg2video", {"b_frames": 2}, id="ts"),
        pytest.param("a.mpg", "mpeg2video", {"b_frames": 2, "container": "mpeg"}, id="mpg"),
        pytest.param("a.webm", "libvpx-vp9", {}, id="vp9"),
        pytest.param("a.avi", "mpeg4", {"b_frames": 2}, id="avi"),
        pytest.param("a.wmv", "wmv2", {}, id="wmv"),
        pytest.param("a.flv", "flv", {}, id="flv"),
    ],
)
@pytest.mark.timeout(120)
def test_random_damage_gives_frames_or_a_media_error(
    tmp_path: Path,
    name: str,
    codec: str,
    options: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_video(tmp_path / name, 40, codec, **options)
    data = path.read_bytes()
    capfd.readouterr()
    for seed in range(60):
        path.write_bytes(spoil(data, seed))
        for sampling in (Sampling(frames=7), KEYFRAMES, Sampling(frames=None, fps=5)):
            try:
                frames, _ = read_video(path, sampling)
            except MediaError as error:
                assert error.code != "io_error", seed  # noqa: PT017
                continue
            assert frames
            assert indexes(frames) == sorted(set(indexes(frames))), seed
            assert sampling.frames is None or len(frames) <= sampling.frames
    assert capfd.readouterr() == ("", "")


def test_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(tmp_path / "a.mp4", 30, b_frames=2, container_options=FASTSTART)
    capfd.readouterr()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : -200] = bytes(len(data) - len(data) // 2 - 200)
    path.write_bytes(data[:-100])
    with contextlib.suppress(MediaError):
        read_video(path)
    assert capfd.readouterr() == ("", "")
