"""Frames that are decoded ahead are the frames of the clip."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from deepfake.errors import MediaError
from deepfake.media.ahead import reading_ahead
from deepfake.records import Frame


class _Clip:
    """Tells how many frames were asked for, and in which thread."""

    def __init__(self, n_frames: int, error: Exception | None = None) -> None:
        self.n_frames, self.error = n_frames, error
        self.asked: list[str] = []
        self.has_enough = threading.Event()
        self.enough = 0

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        index = len(self.asked)
        if index == self.n_frames:
            raise self.error or StopIteration
        self.asked.append(threading.current_thread().name)
        if len(self.asked) == self.enough:
            self.has_enough.set()
        return Frame(index, index / 25, np.zeros((4, 6, 3), np.uint8))


@pytest.mark.parametrize("n_frames", [0, 1, 2, 3, 50])
def test_all_frames_in_order(n_frames: int) -> None:
    with reading_ahead(_Clip(n_frames), 4, 10_000) as frames:
        assert [frame.index for frame in frames] == list(range(n_frames))


def test_a_photo_starts_no_thread() -> None:
    before = threading.active_count()
    with reading_ahead(_Clip(1), 4, 10_000) as frames:
        next(frames)
        assert next(frames, None) is None
        assert threading.active_count() == before


@pytest.mark.parametrize("n_frames", [0, 1, 2, 7])
def test_what_ends_the_clip_ends_the_frames(n_frames: int) -> None:
    clip = _Clip(n_frames, MediaError("a.mp4", "decode_error", "broken"))
    with reading_ahead(clip, 4, 10_000) as frames:
        seen = [frame.index for frame in islice(frames, n_frames)]
        with pytest.raises(MediaError, match="broken"):
            next(frames)
    assert seen == list(range(n_frames))


@pytest.mark.parametrize(("max_pixels", "n_ahead"), [(10_000, 4), (2 * 24, 2), (1, 1)])
def test_it_runs_ahead_so_far_and_no_further(max_pixels: int, n_ahead: int) -> None:
    clip = _Clip(50)
    clip.enough = 2 + n_ahead  # the third is worked on, and makes room when the fourth is asked for
    with reading_ahead(clip, 4, max_pixels) as frames:
        for _ in range(3):
            next(frames)
        assert clip.has_enough.wait(60)
    assert len(clip.asked) == clip.enough
    assert set(clip.asked[2:]) == {"deepfake-decode"}
    assert not any(thread.name == "deepfake-decode" for thread in threading.enumerate())
