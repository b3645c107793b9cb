"""From the scores of faces to the score of a file; pure functions by name.

A frame scores as its most fake face: one swapped face makes a picture fake. A policy then makes
one score of all frames; a photo has a single frame, so every policy gives that frame's score. The
policy ``tracks`` goes by person instead of by frame. Knows no model and no file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from types import MappingProxyType

from deepfake.records import Aggregation, FaceScore

_DEFAULT = Aggregation()


def top_mean(frames: Sequence[float], how: Aggregation = _DEFAULT) -> float:
    """Mean of the highest ``top_share`` of the frames, of one frame at least.

    Example:
        >>> top_mean([0.1, 0.2, 0.9, 0.3, 0.7])
        0.8
    """
    return fmean(sorted(frames)[-max(1, math.ceil(how.top_share * len(frames))) :])


def confident_vote(frames: Sequence[float], how: Aggregation = _DEFAULT) -> float:
    """Mean of the frames that are sure, where they are many; else of all.

    If more than ``enough_frames`` frames, and more than ``enough_share`` of them, are above
    ``sure_fake``: the mean of those. If more than ``nearly_all`` are below ``sure_real``: the mean
    of those. Else the mean.

    References:
        Seferbekov, first place of the Deepfake Detection Challenge, 2020.
    """
    fake = [score for score in frames if score > how.sure_fake]
    real = [score for score in frames if score < how.sure_real]
    if len(fake) > how.enough_share * len(frames) and len(fake) > how.enough_frames:
        return fmean(fake)
    return fmean(real if len(real) > how.nearly_all * len(frames) else frames)


OF_FRAMES: Mapping[str, Callable[[Sequence[float], Aggregation], float]] = MappingProxyType(
    {
        "mean": lambda frames, how: fmean(frames),
        "median": lambda frames, how: median(frames),
        "top": top_mean,
        "confident": confident_vote,
        "max": lambda frames, how: max(frames),
    }
)
"""Policies that make one score of the frames of a file; all but ``tracks``."""


def aggregate(faces: Sequence[FaceScore], how: Aggregation = _DEFAULT) -> float | None:
    """Score of a file from its faces, or ``None`` without a face."""
    if not faces:
        return None
    if how.policy == "tracks":
        return _highest_track(faces, how.track_share)
    frames: dict[int, float] = defaultdict(float)
    for face in faces:
        frames[face.frame_index] = max(frames[face.frame_index], face.p_fake)
    return OF_FRAMES[how.policy](list(frames.values()), how)


def _highest_track(faces: Sequence[FaceScore], least_share: float) -> float:
    """Highest mean of a track (a person), of those in enough of the frames that have a face."""
    tracks: dict[int, list[float]] = defaultdict(list)
    for face in faces:
        tracks[face.person].append(face.p_fake)
    # A face that flashes up once is noise more often than a person.
    enough = least_share * len({face.frame_index for face in faces})
    long = [fmean(scores) for scores in tracks.values() if len(scores) >= enough]
    return max(long or [fmean(scores) for scores in tracks.values()])
