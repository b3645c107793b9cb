"""Cut, blanked and spoilt videos give what is there, and say how much that is."""

from __future__ import annotations

import contextlib
import os
import re
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deepfake.errors import MediaError
from deepfake.media.damage import choose_stand_ins, find_whole_by_order, find_whole_frames
from deepfake.media.packets import PacketReader, read_timeline
from deepfake.media.timeline import Timeline
from deepfake.records import MAX_PIXELS, Sampling
from tests.media.drawn_videos import (
    EVERY,
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
    assert note == f"damaged: {60 - len(frames)} of 60 frames"
    assert numbers(frames) == indexes(frames) == list(range(len(frames)))
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
        assert note == "damaged: 6 of 60 frames"
        assert indexes(frames) == numbers(frames)
        assert not set(indexes(frames)) & set(range(30, 36))
    # The next good frame stands in for a lost one.
    assert indexes(read_video(path, Sampling(frames=5))[0]) == [6, 18, 36, 42, 54]
    frames, note = read_video(path, Sampling(frames=5, mode="keyframes"))
    assert indexes(frames) == [6, 18, 42, 54]
    assert note == "damaged: 1 of 5 keyframes"


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
    assert (numbers(frames), note) == ([7], "damaged: 12 of 20 frames")
    for packet in packets[:8]:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    for sampling in (Sampling(frames=1), KEYFRAMES):
        assert refusal(path, sampling) == "no_frames: damaged: 20 of 20 frames"


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


def find_packets(path: Path) -> list[tuple[int, int]]:
    """Position and size of each packet in the file."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [(packet.pos or 0, packet.size) for packet in packets]


def overwrite(path: Path, at: int, n: int, seed: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + n] = np.random.default_rng(seed).bytes(n)
    path.write_bytes(data)


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"crf": "10"}), ("mpeg2video", {"b": "4000000"}), ("mpeg4", {"b": "4000000"})],
)
def test_frames_made_from_a_corrupt_one_are_not_delivered(
    tmp_path: Path, codec: str, options: dict[str, Any], b_frames: int
) -> None:
    path = write_video(
        tmp_path / "a.mkv", 40, codec, gop=10, b_frames=b_frames, noise=25, **options
    )
    whole = read_video(path)[0]
    with path.open("rb") as file:
        reader = PacketReader(file, "a.mkv", MAX_PIXELS)
        timeline = read_timeline(reader)
        reader.close()
    hit = next(ordinal for ordinal in timeline.keys if ordinal >= 10)
    after = next(ordinal for ordinal in timeline.keys if ordinal > hit)
    position, size = find_packets(path)[hit]
    overwrite(path, position + size // 3, size // 2)
    lost = {timeline.find_shown(ordinal) for ordinal in range(hit, after)}
    for sampling in (EVERY, Sampling(frames=8), Sampling(frames=20)):
        frames, note = read_video(path, sampling)
        assert not set(indexes(frames)) & lost
        for frame in frames:
            np.testing.assert_array_equal(frame.image, whole[frame.index].image)
    frames, note = read_video(path)
    n_left = len(frames)
    assert 40 - n_left <= len(lost) + b_frames  # in an open group, those before the next key
    assert note == f"damaged: {40 - n_left} of 40 frames"


def test_a_lost_keyframe_costs_the_whole_file_where_there_is_no_other(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30, gop=100, noise=25)
    position, size = find_packets(path)[0]
    overwrite(path, position + size // 2, size // 4)
    for sampling in (EVERY, Sampling(frames=1), KEYFRAMES):
        assert refusal(path, sampling) == "no_frames: damaged: 30 of 30 frames"


def test_packets_lost_on_the_air_cost_what_is_made_from_them(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", 40, gop=10, noise=25)
    whole = {frame.time_s: frame.image for frame in read_video(path)[0]}
    data = path.read_bytes()
    cells = [data[at : at + 188] for at in range(0, len(data), 188)]
    # The second half of the packets of one programme, without a trace but for their counters.
    del cells[len(cells) // 2 : len(cells) // 2 + 3]
    path.write_bytes(b"".join(cells))
    frames, note = read_video(path)
    assert re.fullmatch(r"damaged: \d+ of (39|40) frames", note)
    assert 20 <= len(frames) < 40
    for frame in frames:
        np.testing.assert_array_equal(frame.image, whole[frame.time_s])


def make_timeline(kinds: str, breaks: tuple[int, ...] = (), corrupt: str = "") -> Timeline:
    """Packets by kind in file order: K at once, P at once, b unreferenced and shown before the
    packet before it."""
    order = list(range(len(kinds)))
    for at, kind in enumerate(kinds):
        if kind == "b":
            order[at], order[at - 1] = order[at - 1], order[at]
    return Timeline(
        pts=array("q", order),
        sizes_end=array("q", range(1, len(kinds) + 1)),
        keys=array("q", (at for at, kind in enumerate(kinds) if kind == "K")),
        shown=array("q", sorted(range(len(kinds)), key=order.__getitem__)),
        times_s=array("d", map(float, range(len(kinds)))),
        is_trusted=True,
        key_frames=array("q"),
        unreferenced=bytearray(kind == "b" for kind in kinds),
        n_expected=len(kinds),
        breaks=breaks,
        corrupt=frozenset(at for at, mark in enumerate(corrupt) if mark == "x"),
    )


@pytest.mark.parametrize(
    ("kinds", "marks", "breaks", "expected"),
    [
        pytest.param("KPPPKPP", ".......", (), [0, 1, 2, 3, 4, 5, 6], id="whole"),
        pytest.param("KPPPKPP", "..x....", (), [0, 1, 4, 5, 6], id="until-the-next-key"),
        pytest.param("KPPPKPP", "x......", (), [4, 5, 6], id="key"),
        pytest.param("KPPPKPP", "....x..", (), [0, 1, 2, 3], id="last-key"),
        pytest.param("KPbPPKP", "..x....", (), [0, 2, 3, 4, 5, 6], id="nothing-refers-to-it"),
        pytest.param("KPbPPKP", ".x.....", (), [0, 5, 6], id="shown-before-but-made-from-it"),
        pytest.param("KPPKbPP", ".x.....", (), [0, 4, 5, 6], id="open-group"),
        pytest.param("KPPKbPP", ".......", (), [0, 1, 2, 3, 4, 5, 6], id="open-group-whole"),
        pytest.param("KPPPKPP", ".......", (2,), [0, 1, 4, 5, 6], id="stretch-missing"),
    ],
)
@pytest.mark.parametrize("teller", ["decoder", "container"])
def test_damage_is_followed_through_the_packets(
    kinds: str, marks: str, breaks: tuple[int, ...], expected: list[int], teller: str
) -> None:
    by_container = teller == "container"
    timeline = make_timeline(kinds, breaks, marks if by_container else "")
    clean = [int(by_container or mark == ".") for mark in marks]
    assert find_whole_frames(timeline, clean, ()) == expected


def test_a_hidden_packet_that_fails_counts() -> None:
    timeline = make_timeline("KPPPKP")
    hidden = replace(timeline, shown=array("q", [0, 1, 3, 4, 5]))
    assert find_whole_frames(hidden, [1] * 6, ()) == [0, 1, 2, 3, 4]
    assert find_whole_frames(hidden, [1] * 6, {2}) == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("kinds", "errors", "expected"),
    [
        ("KPPKP", [], [0, 1, 2, 3, 4]),
        ("KPPKP", [1], [0, 3, 4]),
        ("KBBCPKB", [], [0, 5, 6]),
        ("CPPP", [], []),
        ("", [], []),
    ],
)
def test_damage_is_followed_through_the_output(
    kinds: str, errors: list[int], expected: list[int]
) -> None:
    assert find_whole_by_order(kinds, errors) == expected


def test_without_a_whole_frame_nothing_stands_in() -> None:
    assert choose_stand_ins([1, 2], []) == []


@pytest.mark.data
@pytest.mark.parametrize("sampling", [EVERY, Sampling(frames=16)], ids=["all", "16"])
def test_the_damaged_cases(shared_media: Path, sampling: Sampling) -> None:
    folder = shared_media / "cases" / "damaged_video"
    frames, note = read_video(folder / "with_audio.mp4", sampling)
    assert (len(frames), note) == (min(75, sampling.frames or 75), "")
    assert refusal(folder / "rot_key.mp4", sampling) == "no_frames: damaged: 75 of 75 frames"
    some, note = read_video(folder / "rot_p.mp4", sampling)
    assert note == "damaged: 74 of 75 frames"
    whole = read_video(folder / "with_audio.mp4", EVERY)[0]
    for frame in some:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
