"""Recorded videos play what was put in, when it was put in."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from deepfake.errors import JobError
from deepfake.media.recording import record_video
from tests.media.drawn_videos import draw_number, numbers, read_video


@pytest.mark.parametrize("size", [(64, 48), (65, 47)], ids=["even", "odd"])
def test_frames_come_back_at_their_times(tmp_path: Path, size: tuple[int, int]) -> None:
    times = [0.0, 0.04, 0.5, 0.51, 2.0]
    frames = [(time_s, draw_number(n, *size)) for n, time_s in enumerate(times)]
    assert record_video(tmp_path / "v.mp4", frames, "so & <so>") == 5
    seen, _ = read_video(tmp_path / "v.mp4")
    assert numbers(seen) == [0, 1, 2, 3, 4]
    assert [frame.time_s for frame in seen] == pytest.approx(times, abs=1e-4)
    assert seen[0].image.shape == (48, size[0] + size[0] % 2, 3)
    with av.open(str(tmp_path / "v.mp4")) as container:
        (stream,) = container.streams
        assert isinstance(stream, VideoStream)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert container.metadata["comment"] == "so & <so>"


def test_colours_are_kept(tmp_path: Path) -> None:
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    colours = [(213, 94, 0), (86, 180, 233), (240, 228, 66)]
    for n, colour in enumerate(colours):
        image[:, 32 * n : 32 * (n + 1)] = colour
    record_video(tmp_path / "v.mp4", [(0.0, image)], "")
    ((frame,), _) = read_video(tmp_path / "v.mp4")
    for n, colour in enumerate(colours):
        assert np.abs(frame.image[32, 32 * n + 16].astype(int) - colour).max() <= 6


def test_frames_of_other_sizes_and_equal_times_are_written(tmp_path: Path) -> None:
    frames = [(0.0, draw_number(1)), (0.0, draw_number(2, 128, 96)), (0.0, draw_number(3, 32, 24))]
    record_video(tmp_path / "v.mp4", frames, "")
    assert numbers(read_video(tmp_path / "v.mp4")[0]) == [1, 2, 3]


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no frame to write"):
        record_video(tmp_path / "v.mp4", [], "")
    with pytest.raises(JobError, match="cannot write"):
        record_video(tmp_path / "no" / "v.mp4", [(0.0, draw_number(1))], "")
