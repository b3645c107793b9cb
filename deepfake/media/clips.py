"""What every clip is: frames one after the other, and the choice of which of them are used.

The room decodes nothing: videos and animated images bring their own frames and frame times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Self

from deepfake.records import Frame, Sampling

_ROUNDING_S = 1e-3
"""Containers round frame times to as much as a millisecond."""


class Clip:
    """The chosen frames of one file in order of time, decoded while they are asked for.

    Use it as a context manager, or close it: it holds a file open. It can be walked through once.

    Args:
        frames: Gives the frames, and returns the remark for ``note``.
        resources: What has to be closed in the end.
        is_photo: Whether the file is one picture, however frames are chosen.

    Attributes:
        note: Filled after the last frame: empty if all went well, else what was wrong
            (``damaged: 33 of 60 frames``).
    """

    def __init__(
        self, frames: Generator[Frame, None, str], resources: ExitStack, is_photo: bool = False
    ) -> None:
        self.note, self.is_photo = "", is_photo
        self._frames = frames
        self._resources = resources

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        """Decode up to the next chosen frame.

        Raises:
            MediaError: If the file turns out to hold not one frame that can be decoded, or one of
                forbidden size.
        """
        try:
            return next(self._frames)
        except StopIteration as stop:
            # A generator that ends, or ended before, has no second result to give.
            self.note = stop.value or self.note
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; there are no more frames after that. Closing twice does no harm."""
        self._frames.close()
        self._resources.close()


def choose_frames(times_s: Sequence[float], sampling: Sampling) -> tuple[list[int], str]:
    """Choose frames of a clip whose every frame time is known.

    ``frames=N`` cuts the frames into N equal parts and takes the middle one of each, so that the
    whole length counts and neither a fade-in nor a fade-out is favoured. ``fps=R`` takes the first
    frame at or after each k/R seconds, give or take the millisecond that containers round to;
    of frames without times, which are all at one, it takes each.
    More than ``max_frames`` choices are thinned out evenly instead of cut off at the end.

    Args:
        times_s: Time of each frame in seconds, ascending.
        sampling: What to choose.

    Returns:
        Ascending indexes without repetition, and a remark (empty without one).

    Example:
        >>> choose_frames([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], Sampling(frames=3))
        ([1, 3, 5], '')
        >>> choose_frames([0.0, 0.1, 0.2, 0.9], Sampling(frames=None, fps=5))
        ([0, 2, 3], '')
    """
    if sampling.frames is not None:
        chosen: Sequence[int] = _spread(len(times_s), sampling.frames)
    elif sampling.every is not None:
        chosen = range(0, len(times_s), sampling.every)
    else:
        chosen = _pace(times_s, sampling.fps or 1.0)
    if len(chosen) <= sampling.max_frames:
        return list(chosen), ""
    kept = [chosen[at] for at in _spread(len(chosen), sampling.max_frames)]
    return kept, f"limited to {len(kept)} of {len(chosen)} frames"


def snap_to_nearest(
    wanted: Sequence[int], allowed: Sequence[int], times_s: Sequence[float]
) -> list[int]:
    """Replace each wanted frame by the allowed one nearest in time, then in number, then earlier.

    Args:
        wanted: Ascending indexes.
        allowed: Ascending indexes, at least one.
        times_s: Time of each frame in seconds.

    Returns:
        Ascending indexes without repetition.

    Example:
        >>> snap_to_nearest([1, 4, 5], [0, 3, 6], [0, 1, 2, 3, 4, 5, 6])
        [0, 3, 6]
    """
    snapped: dict[int, None] = {}
    for index in wanted:
        after = bisect_left(allowed, index)
        near = allowed[max(0, after - 1) : after + 1]

        def distance(at: int, index: int = index) -> tuple[float, int]:
            # Rounded: equal distances differ by an ulp.
            return round(abs(times_s[at] - times_s[index]), 6), abs(at - index)

        snapped[min(near, key=distance)] = None
    return list(snapped)


def _spread(n: int, parts: int) -> Sequence[int]:
    if parts >= n:
        return range(n)
    # Integers: (k + 1/2) * n / parts in floating point may fall on the other side.
    return [(2 * k + 1) * n // (2 * parts) for k in range(parts)]


def _pace(times_s: Sequence[float], fps: float) -> list[int]:
    # By frame and not by k: a broken time of many years must cost nothing.
    if times_s[-1] <= times_s[0]:  # pages, and animations as fast as they can be: without times
        return list(range(len(times_s)))
    fps = min(fps, 1e6)
    chosen = []
    index = 0
    while index < len(times_s):
        chosen.append(index)
        next_k = int((times_s[index] + _ROUNDING_S) * fps) + 1
        index = bisect_left(times_s, next_k / fps - _ROUNDING_S, lo=index + 1)
    return chosen
