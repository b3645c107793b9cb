"""What the packets say of the frames, against decoding all of them."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from deepfake.media.packets import PacketReader, read_timeline
from deepfake.media.timeline import Timeline
from deepfake.records import MAX_PIXELS
from tests.media.drawn_videos import write_video


def read(path: Path) -> Timeline:
    with path.open("rb") as file:
        reader = PacketReader(file, path.name, MAX_PIXELS)
        try:
            return read_timeline(reader)
        finally:
            reader.close()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_frames_in_presentation_order(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, 30, b_frames=3)
    timeline = read(path)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert len(timeline) == timeline.n_expected == len(decoded) == 30
    assert timeline.is_trusted
    assert not timeline.is_damaged
    assert [timeline.find(frame.pts) for frame in decoded] == list(range(30))
    assert timeline.find(None) is None
    assert timeline.find(-12345) is None
    keys = [index for index, frame in enumerate(decoded) if frame.key_frame]
    assert list(timeline.key_frames) == keys
    for index in range(30):
        start = timeline.start_for(index)
        # Decoding from there reaches the frame: the keyframe is shown at or before it.
        shown = timeline.find_shown(start)
        assert shown is not None
        assert shown <= index
        assert timeline.find_shown(timeline.shown[index]) == index


def test_bytes_between_packets(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 12)
    timeline = read(path)
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.size]
    assert timeline.n_bytes(0, 12) == sum(sizes)
    assert timeline.n_bytes(3, 7) == sum(sizes[3:7])
    assert timeline.n_bytes(5, 5) == 0
