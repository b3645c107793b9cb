"""Which frames are chosen is arithmetic alone."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from deepfake.media.clips import choose_frames, snap_to_nearest
from deepfake.records import Sampling

sorted_times = st.lists(st.floats(0, 1e4), min_size=1, max_size=60).map(sorted)


@given(times_s=sorted_times, frames=st.integers(1, 80), most=st.integers(1, 80))
def test_frames_are_the_middles_of_equal_parts(
    times_s: list[float], frames: int, most: int
) -> None:
    chosen, _ = choose_frames(times_s, Sampling(frames=frames, max_frames=most))
    n = len(times_s)
    assert len(chosen) == min(n, frames, most)
    assert chosen == sorted(set(chosen))
    if frames <= min(n, most):
        middles = [Fraction((2 * part + 1) * n, 2 * frames) for part in range(frames)]
        assert all(at <= middle < at + 1 for middle, at in zip(middles, chosen, strict=True))


@settings(deadline=None)  # the plain way is slow
@given(times_s=sorted_times, fps=st.floats(0.001, 1e9))
def test_pace_takes_the_first_frame_at_or_after_each_moment(
    times_s: list[float], fps: float
) -> None:
    times_s = [time - times_s[0] for time in times_s]
    chosen, note = choose_frames(times_s, Sampling(frames=None, fps=fps))
    assert note == ""
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    if times_s[-1] == 0:  # they have none
        assert len(chosen) == len(times_s)
        return
    if fps > 30:
        return
    moments = range(math.ceil(times_s[-1] * fps) + 1)
    if len(moments) > 1000:
        return
    plain = {
        next((i for i, time in enumerate(times_s) if time >= k / fps - 1e-3), None) for k in moments
    } - {None}
    # At the very millisecond, either side is right.
    doubtful = {i for i in plain ^ set(chosen) if i is not None}
    assert len(doubtful) <= 2 * sum(
        abs((time + 1e-3) * fps - round((time + 1e-3) * fps)) < 1e-6 for time in times_s
    )


@given(n=st.integers(1, 200), every=st.integers(1, 250), most=st.integers(1, 50))
def test_every_counts_from_the_first(n: int, every: int, most: int) -> None:
    chosen, note = choose_frames(range(n), Sampling(frames=None, every=every, max_frames=most))
    asked = list(range(0, n, every))
    assert set(chosen) <= set(asked)
    assert len(chosen) == min(len(asked), most)
    assert note == (f"limited to {most} of {len(asked)} frames" if len(asked) > most else "")


def test_milliseconds_of_matroska_keep_every_frame() -> None:
    times_s = [round(k / 30, 3) for k in range(300)]
    assert choose_frames(times_s, Sampling(frames=None, fps=30))[0] == list(range(300))
    assert choose_frames(times_s, Sampling(frames=None, fps=10))[0] == list(range(0, 300, 3))


def test_broken_times_cost_nothing() -> None:
    assert choose_frames([0.0, 1e15], Sampling(frames=None, fps=1e300))[0] == [0, 1]


@given(
    wanted=st.sets(st.integers(0, 59), min_size=1).map(sorted),
    allowed=st.sets(st.integers(0, 59), min_size=1).map(sorted),
)
def test_snaps_to_the_nearest(wanted: list[int], allowed: list[int]) -> None:
    times_s = [float(k) for k in range(60)]
    snapped = snap_to_nearest(wanted, allowed, times_s)
    assert snapped == sorted(set(snapped))
    assert set(snapped) == {min(allowed, key=lambda at: (abs(at - i), at)) for i in wanted}
