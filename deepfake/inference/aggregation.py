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

from deepfake.records import FaceScore

_TOP_SHARE = _TRACK_SHARE = 0.25
_SURE_FAKE, _SURE_REAL = 0.8, 0.2
_ENOUGH_SHARE, _ENOUGH_FRAMES, _NEARLY_ALL = 1 / 2.5, 11, 0.9


def top_mean(frames: Sequence[float]) -> float:
    """Mean of the highest quarter of the frames, of one frame at least.

    Example:
        >>> top_mean([0.1, 0.2, 0.9, 0.3, 0.7])
        0.8
    """
    return fmean(sorted(frames)[-max(1, math.ceil(_TOP_SHARE * len(frames))) :])


def confident_vote(frames: Sequence[float]) -> float:
    """Mean of the frames that are sure, where they are many; else of all.

    If more than 11 frames, and more than 1 in 2.5, are above 0.8: the mean of those. If more than
    90 % are below 0.2: the mean of those. Else the mean.

    References:
        Seferbekov, first place of the Deepfake Detection Challenge, 2020.
    """
    fake = [score for score in frames if score > _SURE_FAKE]
    real = [score for score in frames if score < _SURE_REAL]
    if len(fake) > _ENOUGH_SHARE * len(frames) and len(fake) > _ENOUGH_FRAMES:
        return fmean(fake)
    return fmean(real if len(real) > _NEARLY_ALL * len(frames) else frames)


AGGREGATIONS: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {"mean": fmean, "median": median, "top": top_mean, "confident": confident_vote, "max": max}
)
"""How the frames of a file make its score, by name."""
TRACKS = "tracks"
"""Highest mean of a track (a person), of those in a quarter of the frames that have a face."""
POLICIES = (*AGGREGATIONS, TRACKS)
DEFAULT_AGGREGATION = "mean"


def aggregate(faces: Sequence[FaceScore], policy: str) -> float | None:
    """Score of a file from its faces, or ``None`` without a face.

    Raises:
        ValueError: If there is no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"no aggregation {policy!r}; there are {', '.join(POLICIES)}")
    if policy == TRACKS:
        return _highest_track(faces)
    frames: dict[int, float] = defaultdict(float)
    for face in faces:
        frames[face.frame_index] = max(frames[face.frame_index], face.p_fake)
    return AGGREGATIONS[policy](list(frames.values())) if frames else None


def _highest_track(faces: Sequence[FaceScore]) -> float | None:
    tracks: dict[int, list[float]] = defaultdict(list)
    for face in faces:
        tracks[face.track].append(face.p_fake)
    # A face that flashes up once is noise more often than a person.
    enough = _TRACK_SHARE * len({face.frame_index for face in faces})
    long = [fmean(scores) for scores in tracks.values() if len(scores) >= enough]
    return max(long or [fmean(scores) for scores in tracks.values()], default=None)
