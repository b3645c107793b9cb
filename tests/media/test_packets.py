"""What is opened at all, with which decoder, and what is refused."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import av
import numpy as np
import pytest

from deepfake.media import packets
from deepfake.media.video import open_video
from deepfake.records import Sampling
from tests.media.drawn_videos import (
    EVERY,
    KEYFRAMES,
    indexes,
    numbers,
    read_video,
    refusal,
    write_video,
)


def write_tone(path: Path) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        output.mux([*stream.encode(frame), *stream.encode(None)])


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.mp4")
    assert refusal(tmp_path / "a.mp4").startswith("no_video_stream: ")


def test_a_codec_off_the_list_is_not_used(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 3, "zmbv", pixels="bgr0")
    assert refusal(path) == (
        "unsupported: video codec zmbv is not decoded here; convert it without loss, to FFV1 say"
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_refuses_frames_of_too_many_pixels(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, 3)
    assert "64x48" in refusal(path, max_pixels=64 * 48 - 1)
    assert refusal(path, max_pixels=64 * 48 - 1).startswith("too_large: ")
    assert len(read_video(path, max_pixels=64 * 48)[0]) == 3


def test_refuses_endless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 5)
    monkeypatch.setattr(packets, "MAX_PACKETS", 4)
    assert refusal(path) == "too_large: more than 4 frames; cut the video"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no video at all\n" * 100, id="text"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100), id="jpeg"),
        pytest.param(b"ffconcat version 1.0\nfile secret.mp4\n", id="ffconcat"),
        pytest.param(b"#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n", id="m3u8"),
        pytest.param(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 1 RTP/AVP 96\r\n", id="sdp"),
        pytest.param(b"\0\0\0\x18ftypisom\0\0\0\0isommp42", id="only-a-brand"),
    ],
)
def test_opens_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("secret.mp4"), 3)
    Path("a.mp4").write_bytes(data)
    assert refusal(Path("a.mp4")).startswith("decode_error: ")


@pytest.mark.parametrize("name", ["http:x.mp4", "concat:a|b", "-i.mp4", "%03d.mp4", "\udcff.mp4"])
def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("plain.mp4"), 3).rename(name)
    frames, note = read_video(Path(name))
    assert (numbers(frames), note) == ([0, 1, 2], "")


@pytest.mark.timeout(20)
def test_does_not_wait_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert refusal(tmp_path / "a.mp4").startswith("not_regular_file: a fifo")
    assert refusal(tmp_path / "none.mp4") == "io_error: no such file"


def test_a_disk_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 3)

    def fail(*args: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(av, "open", fail)
        assert refusal(path) == "io_error: Input/output error"


def n_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_closes_its_files(tmp_path: Path) -> None:
    good = write_video(tmp_path / "a.mp4", 10)
    bad = write_video(tmp_path / "b.avi", 3, "zmbv", pixels="bgr0")
    before = n_open_files()
    with open_video(good, "a", EVERY) as clip:
        next(clip)
        assert n_open_files() == before + 1
    assert n_open_files() == before
    assert list(clip) == []
    clip = open_video(good, "a", EVERY)
    assert len(list(clip)) == 10
    assert n_open_files() == before
    refusal(bad)
    open_video(good, "a", EVERY).close()
    assert n_open_files() == before


def write_streams(path: Path, *videos: Path) -> Path:
    """Put the video streams of some files side by side into one."""
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(av.open(str(path), "w"))
        inputs = [stack.enter_context(av.open(str(video))) for video in videos]
        streams = [output.add_stream_from_template(source.streams.video[0]) for source in inputs]
        for source, stream in zip(inputs, streams, strict=True):
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    output.mux(packet)
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
@pytest.mark.parametrize("is_first", [False, True])
def test_the_stream_with_the_frames_is_used_and_the_other_named(
    tmp_path: Path, name: str, is_first: bool
) -> None:
    film = write_video(tmp_path / "film.mp4", 20)
    still = write_video(tmp_path / "still.mp4", 1, size=(128, 96))
    videos = [film, still] if is_first else [still, film]
    path = write_streams(tmp_path / name, *videos)
    for sampling in (EVERY, Sampling(frames=3), KEYFRAMES):
        frames, note = read_video(path, sampling)
        assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
        assert numbers(frames) == indexes(frames)
        used, other = (0, 1) if is_first else (1, 0)
        assert note == (f"video stream {used} is used; left out: {other} (h264, 128x96, 1 packets)")
    assert len(read_video(path)[0]) == 20


def test_a_stream_that_cannot_be_decoded_does_not_win(tmp_path: Path) -> None:
    odd = write_video(tmp_path / "odd.avi", 20, "zmbv", pixels="bgr0")
    film = write_video(tmp_path / "film.avi", 5, "mpeg4")
    path = write_streams(tmp_path / "a.avi", odd, film)
    frames, note = read_video(path)
    assert numbers(frames) == [0, 1, 2, 3, 4]
    assert note == "video stream 1 is used; left out: 0 (zmbv, 64x48, 20 packets)"


@pytest.mark.data
def test_the_still_stream_comes_first(shared_media: Path) -> None:
    path = shared_media / "cases" / "two_video_streams" / "still_stream_first.mkv"
    frames, note = read_video(path)
    assert {frame.image.shape for frame in frames} == {(400, 320, 3)}
    assert note == "video stream 1 is used; left out: 0 (mjpeg, 200x250, 1 packets)"
