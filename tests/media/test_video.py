"""The right frames of every container, proven by numbers drawn into them; real files come last."""

from __future__ import annotations

import contextlib
import os
import struct
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.errors import MediaError
from deepfake.media import packets, video
from deepfake.media.clips import choose_frames
from deepfake.media.packets import is_video
from deepfake.media.video import open_video
from deepfake.records import Frame, Sampling
from tests.media.drawn_videos import draw_number, read_number, write_video

EVERY = Sampling(frames=None, every=1)
KEYFRAMES = Sampling(frames=6, mode="keyframes")


def read(path: Path, sampling: Sampling = EVERY, **options: Any) -> tuple[list[Frame], str]:
    with open_video(path, path.name, sampling, **options) as clip:
        return list(clip), clip.note


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.image) for frame in frames]


def indexes(frames: list[Frame]) -> list[int]:
    return [frame.index for frame in frames]


def refusal(path: Path, sampling: Sampling = EVERY, **options: Any) -> str:
    with pytest.raises(MediaError) as info:
        read(path, sampling, **options)
    assert info.value.detail.isprintable()
    return info.value.reason


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
    assert is_video(path.read_bytes()[: packets.HEAD_BYTES])
    for sampling, expected in (
        (Sampling(frames=5), [6, 18, 30, 42, 54]),
        (Sampling(frames=1), [30]),
        (Sampling(frames=None, fps=4), [0, 7, 13, 19, 25, 32, 38, 44, 50, 57]),
        (Sampling(frames=None, every=17), [0, 17, 34, 51]),
        (EVERY, list(range(60))),
    ):
        frames, note = read(path, sampling)
        assert note == ""
        assert indexes(frames) == numbers(frames) == expected
        times = [frame.time_s for frame in frames]
        np.testing.assert_allclose(times, np.array(expected) / 25, atol=2e-3)
    frames, note = read(path, KEYFRAMES)
    assert note == ""
    assert 1 <= len(frames) <= 6
    assert indexes(frames) == numbers(frames) == sorted(set(indexes(frames)))
    width, height = options.get("size", (64, 48))
    assert all(frame.image.shape == (height, width, 3) for frame in frames)
    assert all(frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous for frame in frames)


def test_keyframes_are_the_nearest_ones(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, gop=20, b_frames=2)
    assert numbers(read(path, KEYFRAMES)[0]) == [0, 20, 40]
    assert numbers(read(path, Sampling(frames=1, mode="keyframes"))[0]) == [20]
    assert numbers(read(path, Sampling(frames=None, fps=1, mode="keyframes"))[0]) == [0, 20, 40]


def count_decoded(path: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> int:
    n_packets = 0
    decode = packets.PacketReader.decode

    def counted(reader: packets.PacketReader, packet: Any) -> list[av.VideoFrame]:
        nonlocal n_packets
        n_packets += packet is not None
        return decode(reader, packet)

    with monkeypatch.context() as patch:
        patch.setattr(packets.PacketReader, "decode", counted)
        read(path, sampling)
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
    assert numbers(read(path, Sampling(frames=3))[0]) == [20, 60, 100]
    assert numbers(read(path, Sampling(frames=40))[0]) == list(range(1, 120, 3))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
def test_leaves_out_pictures_that_nothing_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Lengths part the units of H.264 in MP4, Matroska and FLV, start codes in transport streams.

    Of ``I B B P B B P ...`` without a second keyframe, only each third picture is needed, and what
    is wanted.
    """
    path = write_video(tmp_path / name, 90, gop=250, b_frames=2, size=(160, 120), **NO_PYRAMID)
    everything, _ = read(path)
    for sampling in (Sampling(frames=3), Sampling(frames=5), Sampling(frames=None, every=7)):
        frames, note = read(path, sampling)
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
    assert numbers(read(path, Sampling(frames=3))[0]) == [15, 45, 75]
    assert walks == [(True, True), (True, False)]


def test_a_wrong_seek_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 60, b_frames=2)
    monkeypatch.setattr(packets, "_JUMP_BYTES", 0)
    seek = packets.PacketReader._seek

    def miss(reader: packets.PacketReader, ordinal: int, timeline: packets.Timeline) -> bool:
        return seek(reader, min(59, ordinal + 20), timeline)

    for wrong in (miss, lambda *_: False):
        monkeypatch.setattr(packets.PacketReader, "_seek", wrong)
        frames, note = read(path, Sampling(frames=5))
        assert (numbers(frames), note) == ([6, 18, 30, 42, 54], "")
        assert numbers(read(path, KEYFRAMES)[0]) == [0, 10, 20, 30, 40, 50]


def test_keyframes_that_are_none_are_found_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, gop=250)
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    # Without this table, an MP4 claims that decoding can start anywhere.
    path.write_bytes(data.replace(b"stss", b"free"))
    for sampling in (Sampling(frames=5), Sampling(frames=5, mode="keyframes")):
        frames, note = read(path, sampling)
        assert note == ""
        assert indexes(frames) == numbers(frames)
    assert numbers(read(path, Sampling(frames=5))[0]) == [6, 18, 30, 42, 54]


def test_variable_rate_by_time(tmp_path: Path) -> None:
    # Ten a second for two seconds, a pause of three, then 100 a second.
    ticks = [100 * k for k in range(20)] + [5000 + 10 * k for k in range(40)]
    path = write_video(tmp_path / "a.mp4", 60, b_frames=2, ticks=ticks, time_base=Fraction(1, 1000))
    frames, _ = read(path)
    assert numbers(frames) == list(range(60))
    np.testing.assert_allclose([f.time_s for f in frames], np.array(ticks) / 1000, atol=1e-3)
    frames, _ = read(path, Sampling(frames=None, fps=5))
    assert numbers(frames) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 40]
    assert numbers(read(path, Sampling(frames=3))[0]) == [10, 30, 50]


def test_time_counts_from_the_first_frame(tmp_path: Path) -> None:
    ticks = list(range(500, 560))
    path = write_video(tmp_path / "a.ts", 60, b_frames=2, ticks=ticks)
    frames, _ = read(path, Sampling(frames=2))
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
    frames, note = read(path)
    assert (indexes(frames), note) == (list(range(25)), "")
    assert numbers(frames) == list(range(15, 40))
    assert [frame.time_s for frame in frames[:2]] == [0, pytest.approx(0.04)]
    assert numbers(read(path, Sampling(frames=3))[0]) == [19, 27, 35]
    assert numbers(read(path, KEYFRAMES)[0]) == [20, 30]


def test_equal_times_do_not_lose_frames(tmp_path: Path) -> None:
    ticks = [k // 2 for k in range(40)]

    def spread(packet: Any) -> bool:
        packet.pts = packet.dts = (packet.pts or 0) // 2
        return True

    path = write_video(tmp_path / "a.mkv", 40, "mjpeg", pixels="yuvj420p", every_packet=spread)
    frames, note = read(path)
    assert (numbers(frames), note) == (list(range(40)), "")
    np.testing.assert_allclose([f.time_s for f in frames], np.array(ticks) / 25, atol=1e-3)
    assert numbers(read(path, Sampling(frames=4))[0]) == [5, 15, 25, 35]
    assert indexes(read(path, Sampling(frames=4, mode="keyframes"))[0]) == [5, 15, 25, 35]


def test_one_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 1)
    for sampling in (Sampling(), EVERY, KEYFRAMES, Sampling(frames=None, fps=1)):
        frames, note = read(path, sampling)
        assert (indexes(frames), note) == ([0], "")
        assert frames[0].time_s == 0


def test_never_more_than_max_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60)
    frames, note = read(path, Sampling(frames=None, every=2, max_frames=3))
    assert numbers(frames) == [10, 30, 50]
    assert note == "limited to 3 of 30 frames"
    assert numbers(read(path, Sampling(frames=30, max_frames=3))[0]) == [11, 31, 51]


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
    before, _ = read(path, sampling)
    path.write_bytes(turn(path.read_bytes(), *matrix))
    after, _ = read(path, sampling)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new.image, expected(old.image))
        assert new.image.flags.c_contiguous


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
        frames, note = read(path)
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
        some, note = read(path, sampling)
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
        frames, note = read(path, sampling)
        assert note == "damaged: 54 of 60 frames decoded"
        assert indexes(frames) == numbers(frames)
        assert not set(indexes(frames)) & set(range(30, 36))
    # The next good frame stands in for a lost one.
    assert indexes(read(path, Sampling(frames=5))[0]) == [6, 18, 36, 42, 54]
    frames, note = read(path, Sampling(frames=5, mode="keyframes"))
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
    frames, note = read(path, Sampling(frames=1))
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
                frames, _ = read(path, sampling)
            except MediaError as error:
                assert error.code != "io_error", seed  # noqa: PT017
                continue
            assert frames
            assert indexes(frames) == sorted(set(indexes(frames))), seed
            assert sampling.frames is None or len(frames) <= sampling.frames
    assert capfd.readouterr() == ("", "")


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
    path = write_video(tmp_path / "a.mkv", 3, "ffv1")
    assert refusal(path) == "unsupported: video codec ffv1; convert the file to H.264"


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_refuses_frames_of_too_many_pixels(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, 3)
    assert "64x48" in refusal(path, max_pixels=64 * 48 - 1)
    assert refusal(path, max_pixels=64 * 48 - 1).startswith("too_large: ")
    assert len(read(path, max_pixels=64 * 48)[0]) == 3


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
    frames, note = read(Path(name))
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
    bad = write_video(tmp_path / "b.mkv", 3, "ffv1")
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


def test_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(tmp_path / "a.mp4", 30, b_frames=2, container_options=FASTSTART)
    capfd.readouterr()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : -200] = bytes(len(data) - len(data) // 2 - 200)
    path.write_bytes(data[:-100])
    with contextlib.suppress(MediaError):
        read(path)
    assert capfd.readouterr() == ("", "")


def test_drawn_numbers_can_be_read() -> None:
    assert [read_number(draw_number(number)) for number in range(256)] == list(range(256))


SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".wmv", ".flv")


@pytest.mark.data
def test_real_videos_give_what_decoding_everything_gives(shared_media: Path) -> None:
    paths = [p for p in sorted((shared_media / "videos").rglob("*")) if p.suffix in SUFFIXES]
    assert len(paths) > 60
    for path in paths:
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
        frames, note = read(path, sampling)
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
