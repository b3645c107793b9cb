"""The right frames of every container, proven by numbers drawn into them; real files come last."""

from __future__ import annotations

import struct
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.media import packets, video
from deepfake.media.clips import choose_frames
from deepfake.media.containers import HEAD_BYTES, is_video
from deepfake.media.timeline import Timeline
from deepfake.media.video import open_video
from deepfake.records import Sampling
from tests.media.drawn_videos import (
    EVERY,
    KEYFRAMES,
    draw_number,
    indexes,
    numbers,
    read_number,
    read_video,
    refusal,
    write_video,
)

M2TS = {"mpegts_m2ts_mode": "1"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
OPEN_GOP = {"x264-params": "open-gop=1"}
REFRESH = {"x264-params": "intra-refresh=1"}
NO_PYRAMID: dict[str, Any] = {"x264-params": "b-pyramid=0"}
INTERLACED: dict[str, Any] = {"x264-params": "interlaced=1"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "8"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        pytest.param("a.mp4", "libx264", {"b_frames": 3}, id="h264"),
        pytest.param("a.mp4", "libx264", {"gop": 250}, id="one-keyframe"),
        pytest.param("a.mp4", "libx264", {"b_frames": 2, **OPEN_GOP}, id="open-gop"),
        pytest.param("a.mp4", "libx264", REFRESH, id="intra-refresh"),
        pytest.param(
            "a.mp4", "libx264", {"b_frames": 2, "container_options": FRAGMENTED}, id="fragments"
        ),
        pytest.param("a.mov", "mpeg4", {}, id="mpeg4-mov"),
        pytest.param("a.mkv", "libx265", {"b_frames": 2}, id="hevc-mkv"),
        pytest.param("a.webm", "libvpx-vp9", ALT_REF, id="vp9"),
        pytest.param("a.webm", "libvpx", {"gop": 30, **ALT_REF}, id="vp8-with-hidden-frames"),
        pytest.param("a.avi", "mpeg4", {"b_frames": 2}, id="mpeg4-avi"),
        pytest.param("a.avi", "libx264", {"b_frames": 2}, id="h264-avi"),
        pytest.param("a.avi", "mjpeg", {"pixels": "yuvj420p"}, id="mjpeg"),
        pytest.param("a.ts", "libx264", {"b_frames": 2, **OPEN_GOP}, id="h264-ts"),
        pytest.param("a.ts", "mpeg2video", {"b_frames": 2}, id="mpeg2-ts"),
        pytest.param("a.m2ts", "libx264", {"container_options": M2TS}, id="m2ts"),
        pytest.param("a.flv", "flv", {}, id="flv1"),
        pytest.param("a.flv", "libx264", {"b_frames": 2}, id="h264-flv"),
        pytest.param("a.wmv", "wmv2", {}, id="wmv2"),
        pytest.param("a.mpg", "mpeg2video", {"b_frames": 2, "container": "mpeg"}, id="mpg"),
        pytest.param("a.mp4", "libx264", {"size": (63, 47), "pixels": "yuv444p"}, id="odd-size"),
        pytest.param("a.mp4", "libx264", {"pixels": "yuv420p10le"}, id="10-bit"),
    ],
)
def test_gives_the_frames_asked_for(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any]
) -> None:
    path = write_video(tmp_path / name, 60, codec, **options)
    assert is_video(path.read_bytes()[:HEAD_BYTES])
    for sampling, expected in (
        (Sampling(frames=5), [6, 18, 30, 42, 54]),
        (Sampling(frames=1), [30]),
        (Sampling(frames=None, fps=4), [0, 7, 13, 19, 25, 32, 38, 44, 50, 57]),
        (Sampling(frames=None, every=17), [0, 17, 34, 51]),
        (EVERY, list(range(60))),
    ):
        frames, note = read_video(path, sampling)
        assert note == ""
        assert indexes(frames) == numbers(frames) == expected
        times = [frame.time_s for frame in frames]
        np.testing.assert_allclose(times, np.array(expected) / 25, atol=2e-3)
    frames, note = read_video(path, KEYFRAMES)
    assert note == ""
    assert 1 <= len(frames) <= 6
    assert indexes(frames) == numbers(frames) == sorted(set(indexes(frames)))
    width, height = options.get("size", (64, 48))
    assert all(frame.image.shape == (height, width, 3) for frame in frames)
    assert all(frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous for frame in frames)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        pytest.param("a.mkv", "ffv1", {}, id="ffv1"),
        pytest.param("a.avi", "ffv1", {"pixels": "yuv444p"}, id="ffv1-avi"),
        pytest.param("a.mov", "prores_ks", {"pixels": "yuv422p10le"}, id="prores"),
        pytest.param("a.avi", "huffyuv", {"pixels": "yuv422p"}, id="huffyuv"),
        pytest.param("a.avi", "ffvhuff", {"pixels": "yuv420p"}, id="ffvhuff"),
        pytest.param("a.avi", "utvideo", {"pixels": "yuv420p"}, id="utvideo"),
        pytest.param("a.avi", "rawvideo", {"pixels": "yuv420p"}, id="raw-avi"),
        pytest.param("a.mov", "v210", {"pixels": "yuv422p10le"}, id="raw-10-bit"),
        pytest.param("a.mkv", "jpeg2000", {"pixels": "rgb24"}, id="jpeg2000"),
        pytest.param("a.mov", "png", {"pixels": "rgb24"}, id="png"),
        pytest.param("a.avi", "dvvideo", {"size": (720, 576)}, id="dv-avi"),
        pytest.param("a.dv", "dvvideo", {"size": (720, 576)}, id="dv"),
        pytest.param("a.mxf", "mpeg2video", {"size": (720, 576)}, id="mxf"),
    ],
)
def test_decodes_what_cameras_and_archives_use(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any]
) -> None:
    path = write_video(tmp_path / name, 12, codec, **options)
    for sampling in (EVERY, Sampling(frames=4), KEYFRAMES):
        frames, note = read_video(path, sampling)
        assert note == ""
        assert numbers(frames) == indexes(frames)
    assert len(read_video(path)[0]) == 12


def test_keyframes_are_the_nearest_ones(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, gop=20, b_frames=2)
    assert numbers(read_video(path, KEYFRAMES)[0]) == [0, 20, 40]
    assert numbers(read_video(path, Sampling(frames=1, mode="keyframes"))[0]) == [20]
    assert numbers(read_video(path, Sampling(frames=None, fps=1, mode="keyframes"))[0]) == [
        0,
        20,
        40,
    ]


def count_decoded(path: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> int:
    n_packets = 0
    decode = packets.PacketReader.decode

    def counted(reader: packets.PacketReader, packet: Any) -> list[av.VideoFrame]:
        nonlocal n_packets
        n_packets += packet is not None
        return decode(reader, packet)

    with monkeypatch.context() as patch:
        patch.setattr(packets.PacketReader, "decode", counted)
        read_video(path, sampling)
    return n_packets


@pytest.mark.parametrize("jump_bytes", [0, 1 << 40], ids=["seek", "read-past"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_decodes_nothing_twice_and_skips_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, jump_bytes: int
) -> None:
    monkeypatch.setattr(packets, "_JUMP_BYTES", jump_bytes)
    path = write_video(tmp_path / name, 120, gop=20, b_frames=2)
    # Frames 20, 60 and 100 are keyframes: one packet each.
    assert count_decoded(path, Sampling(frames=3), monkeypatch) == 3
    assert count_decoded(path, Sampling(frames=40), monkeypatch) <= 120
    assert count_decoded(path, Sampling(frames=2, mode="keyframes"), monkeypatch) == 2
    assert numbers(read_video(path, Sampling(frames=3))[0]) == [20, 60, 100]
    assert numbers(read_video(path, Sampling(frames=40))[0]) == list(range(1, 120, 3))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
def test_leaves_out_pictures_that_nothing_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Lengths part the units of H.264 in MP4, Matroska and FLV, start codes in transport streams.

    Of ``I B B P B B P ...`` without a second keyframe, only each third picture is needed, and what
    is wanted.
    """
    path = write_video(tmp_path / name, 90, gop=250, b_frames=2, size=(160, 120), **NO_PYRAMID)
    everything, _ = read_video(path)
    for sampling in (Sampling(frames=3), Sampling(frames=5), Sampling(frames=None, every=7)):
        frames, note = read_video(path, sampling)
        assert note == ""
        assert numbers(frames) == indexes(frames)
        for frame in frames:
            assert np.array_equal(frame.image, everything[frame.index].image)
        n_decoded = count_decoded(path, sampling, monkeypatch)
        assert n_decoded <= frames[-1].index / 3 + len(frames) + 3
    assert count_decoded(path, EVERY, monkeypatch) == 90


def test_pictures_of_two_fields_are_decoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field may have a packet of its own: no shortcut is taken that ends between the two."""
    path = write_video(tmp_path / "a.mp4", 90, gop=30, b_frames=2, **INTERLACED)
    walks = []
    walk = video._Decoding._walk

    def noted(decoding: Any, chosen: list[int], **how: bool) -> Any:
        walks.append(tuple(how.values()))
        return walk(decoding, chosen, **how)

    monkeypatch.setattr(video._Decoding, "_walk", noted)
    assert numbers(read_video(path, Sampling(frames=3))[0]) == [15, 45, 75]
    assert walks == [(True, True), (True, False)]


def test_a_wrong_seek_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 60, b_frames=2)
    monkeypatch.setattr(packets, "_JUMP_BYTES", 0)
    seek = packets.PacketReader._seek

    def miss(reader: packets.PacketReader, ordinal: int, timeline: Timeline) -> bool:
        return seek(reader, min(59, ordinal + 20), timeline)

    for wrong in (miss, lambda *_: False):
        monkeypatch.setattr(packets.PacketReader, "_seek", wrong)
        frames, note = read_video(path, Sampling(frames=5))
        assert (numbers(frames), note) == ([6, 18, 30, 42, 54], "")
        assert numbers(read_video(path, KEYFRAMES)[0]) == [0, 10, 20, 30, 40, 50]


def test_keyframes_that_are_none_are_found_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, gop=250)
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    # Without this table, an MP4 claims that decoding can start anywhere.
    path.write_bytes(data.replace(b"stss", b"free"))
    for sampling in (Sampling(frames=5), Sampling(frames=5, mode="keyframes")):
        frames, note = read_video(path, sampling)
        assert note == ""
        assert indexes(frames) == numbers(frames)
    assert numbers(read_video(path, Sampling(frames=5))[0]) == [6, 18, 30, 42, 54]


def test_variable_rate_by_time(tmp_path: Path) -> None:
    # Ten a second for two seconds, a pause of three, then 100 a second.
    ticks = [100 * k for k in range(20)] + [5000 + 10 * k for k in range(40)]
    path = write_video(tmp_path / "a.mp4", 60, b_frames=2, ticks=ticks, time_base=Fraction(1, 1000))
    frames, _ = read_video(path)
    assert numbers(frames) == list(range(60))
    np.testing.assert_allclose([f.time_s for f in frames], np.array(ticks) / 1000, atol=1e-3)
    frames, _ = read_video(path, Sampling(frames=None, fps=5))
    assert numbers(frames) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 40]
    assert numbers(read_video(path, Sampling(frames=3))[0]) == [10, 30, 50]


def test_time_counts_from_the_first_frame(tmp_path: Path) -> None:
    ticks = list(range(500, 560))
    path = write_video(tmp_path / "a.ts", 60, b_frames=2, ticks=ticks)
    frames, _ = read_video(path, Sampling(frames=2))
    assert numbers(frames) == [15, 45]
    np.testing.assert_allclose([f.time_s for f in frames], [0.6, 1.8], atol=1e-3)


def test_an_edit_list_cuts_both_ends(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, b_frames=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    # One second from frame 15 on; the keyframe before it stays, to decode from.
    (start,) = struct.unpack_from(">i", data, at + 4)
    struct.pack_into(">Ii", data, at, 1000, start + 15 * 512)
    path.write_bytes(data)
    frames, note = read_video(path)
    assert (indexes(frames), note) == (list(range(25)), "")
    assert numbers(frames) == list(range(15, 40))
    assert [frame.time_s for frame in frames[:2]] == [0, pytest.approx(0.04)]
    assert numbers(read_video(path, Sampling(frames=3))[0]) == [19, 27, 35]
    assert numbers(read_video(path, KEYFRAMES)[0]) == [20, 30]


def test_equal_times_do_not_lose_frames(tmp_path: Path) -> None:
    ticks = [k // 2 for k in range(40)]

    def spread(packet: Any) -> bool:
        packet.pts = packet.dts = (packet.pts or 0) // 2
        return True

    path = write_video(tmp_path / "a.mkv", 40, "mjpeg", pixels="yuvj420p", every_packet=spread)
    frames, note = read_video(path)
    assert (numbers(frames), note) == (list(range(40)), "")
    np.testing.assert_allclose([f.time_s for f in frames], np.array(ticks) / 25, atol=1e-3)
    assert numbers(read_video(path, Sampling(frames=4))[0]) == [5, 15, 25, 35]
    assert indexes(read_video(path, Sampling(frames=4, mode="keyframes"))[0]) == [5, 15, 25, 35]


def test_one_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 1)
    for sampling in (Sampling(), EVERY, KEYFRAMES, Sampling(frames=None, fps=1)):
        frames, note = read_video(path, sampling)
        assert (indexes(frames), note) == ([0], "")
        assert frames[0].time_s == 0


def test_never_more_than_max_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60)
    frames, note = read_video(path, Sampling(frames=None, every=2, max_frames=3))
    assert numbers(frames) == [10, 30, 50]
    assert note == "limited to 3 of 30 frames"
    assert numbers(read_video(path, Sampling(frames=30, max_frames=3))[0]) == [11, 31, 51]


def test_holds_few_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 250, gop=50, b_frames=3)
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0
    with open_video(path, "a", EVERY) as clip:
        for frame in clip:
            alive = [ref for ref in alive if ref() is not None] + [weakref.ref(frame.image)]
            most = max(most, len(alive))
    assert most <= 2


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    import resource

    size = (1280, 720)
    path = write_video(tmp_path / "a.mp4", 150, gop=50, size=size, crf="40")
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_video(path, "a", EVERY) as clip:
        assert sum(1 for _ in clip) == 150
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    # All frames would be 400 MB.
    assert grown_kb < 100_000


def test_drawn_numbers_can_be_read() -> None:
    assert [read_number(draw_number(number)) for number in range(256)] == list(range(256))


SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".wmv", ".flv")


@pytest.mark.data
@pytest.mark.parametrize(
    "sixth", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 6))]
)
def test_real_videos_give_what_decoding_everything_gives(shared_media: Path, sixth: int) -> None:
    paths = [p for p in sorted((shared_media / "videos").rglob("*")) if p.suffix in SUFFIXES]
    assert len(paths) > 60
    for path in paths[sixth::6]:
        if path.stem == "audio_only":
            assert refusal(path).startswith("no_video_stream: ")
            continue
        check_against_oracle(path)


def check_against_oracle(path: Path) -> None:
    samplings = [
        Sampling(frames=5),
        Sampling(frames=None, fps=0.7),
        Sampling(frames=None, every=61),
        Sampling(frames=5, mode="keyframes"),
    ]
    results = []
    for sampling in samplings:
        frames, note = read_video(path, sampling)
        if path.stem == "nasa_13013":  # it holds the film twice
            assert note == "video stream 3 is used; left out: 0 (h264, 320x180, 325 packets)"
        else:
            assert note == "", path
        results.append(frames)
    expected: dict[int, NDArray[np.uint8]] = {}
    times: list[float] = []
    used = {frame.index for frames in results for frame in frames}
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        for index, decoded in enumerate(container.decode(stream)):
            assert decoded.pts is not None
            times.append(decoded.pts * float(stream.time_base or 0))
            if index in used:
                rgb = decoded.to_ndarray(format="rgb24").astype(np.uint8)
                # The display matrix turns counterclockwise.
                expected[index] = np.rot90(rgb, round(decoded.rotation / 90))
    times = [time - times[0] for time in times]
    for sampling, frames in zip(samplings, results, strict=True):
        if sampling.mode == "exact":
            assert indexes(frames) == choose_frames(times, sampling)[0], (path, sampling)
        for frame in frames:
            assert frame.time_s == pytest.approx(times[frame.index], abs=1e-9), path
            assert np.array_equal(frame.image, expected[frame.index]), (path, frame.index)
