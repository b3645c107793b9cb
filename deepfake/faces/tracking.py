"""Links the faces of a clip into tracks, one per person as far as boxes and landmarks can tell.

Pure functions. A box says where a face is, its landmarks how it is turned: of two people who pass
each other, that tells more than where they are. Knows no pixel: two people who look the same way
and change places between two sampled frames change tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from deepfake.records import Face

_MIN_OVERLAP = 0.2
_MAX_SHIFT = 0.6  # between centres, in sides of the smaller box: sampled frames are far apart
_MAX_GROWTH = 1.7
_MAX_GAP = 3  # frames with a face that a track may miss: one bad detection does not end it
_POSE_WEIGHT = 4.0  # overlap that landmarks moved by one side within the box outweigh


def link_tracks(frames: Sequence[int], faces: Sequence[Face]) -> list[int]:
    """Give each face the number of its track.

    Frame by frame, the pairs of tracks and faces that fit are joined, best fit first. A face that
    fits no track begins one.

    Args:
        frames: Frame index of each face, ascending.
        faces: The faces, in pixels.

    Returns:
        Track of each face; tracks are numbered from 0 in order of their first face.

    Example:
        >>> points = np.zeros((5, 2), np.float32)
        >>> left = Face(np.array([0, 0, 10, 10], np.float32), 1.0, points)
        >>> right = Face(np.array([50, 0, 60, 10], np.float32), 1.0, points + [50, 0])
        >>> link_tracks([0, 0, 5, 5], [left, right, right, left])
        [0, 1, 1, 0]
    """
    tracks = [0] * len(frames)
    last_seen: dict[int, tuple[int, Face]] = {}  # track -> number of the frame, face
    by_frame = groupby(range(len(frames)), key=frames.__getitem__)
    for number, members in enumerate(list(group) for _, group in by_frame):
        pairs = [
            (fit, track, at)
            for track, (seen, face) in last_seen.items()
            if number - seen <= _MAX_GAP
            for at in members
            if (fit := _fit(face, faces[at])) is not None
        ]
        free = set(members)
        taken: set[int] = set()
        for _, track, at in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if at in free and track not in taken:
                tracks[at] = track
                free.discard(at)
                taken.add(track)
        for at in sorted(free):
            tracks[at] = len(last_seen)
            last_seen[tracks[at]] = (number, faces[at])
        for at in members:
            last_seen[tracks[at]] = (number, faces[at])
    return tracks


def interpolate_faces(
    before: Sequence[Face], after: Sequence[Face], share: float
) -> list[Face] | None:
    """The faces of a moment between two frames, if all faces of both belong together.

    Args:
        before: Faces of the earlier frame.
        after: Faces of the later frame.
        share: How far the moment is from the one to the other, 0 to 1.

    Returns:
        Largest face first, each with the lower confidence of the two that it lies between; or
        ``None`` where a face has no partner in the other frame, or there is none at all.
    """
    tracks = link_tracks([0] * len(before) + [1] * len(after), [*before, *after])
    starts = dict(zip(tracks[: len(before)], before, strict=True))
    ends = dict(zip(tracks[len(before) :], after, strict=True))
    if not starts or starts.keys() != ends.keys():
        return None
    between = [_between(starts[track], ends[track], share) for track in starts]
    return sorted(between, key=lambda face: -_area(face))


def _between(one: Face, other: Face, share: float) -> Face:
    return Face(
        one.box_xyxy + np.float32(share) * (other.box_xyxy - one.box_xyxy),
        min(one.confidence, other.confidence),
        one.landmarks + np.float32(share) * (other.landmarks - one.landmarks),
    )


def _fit(one: Face, other: Face) -> float | None:
    """How well two faces fit as the same one a while later; ``None`` if they do not.

    Overlap of the boxes, less what the pose has changed.
    """
    boxes = np.stack([one.box_xyxy, other.box_xyxy]).astype(np.float64)
    widths, heights = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6).T
    sides = np.maximum(widths, heights)
    if sides.max() > _MAX_GROWTH * sides.min():
        return None
    shared = np.maximum(boxes[:, 2:].min(axis=0) - boxes[:, :2].max(axis=0), 0).prod()
    overlap = float(shared / max((widths * heights).sum() - shared, 1e-6))
    shift = np.hypot(*(boxes[0, :2] + boxes[0, 2:] - boxes[1, :2] - boxes[1, 2:]) / 2)
    if shift > _MAX_SHIFT * sides.min() and overlap < _MIN_OVERLAP:
        return None
    turned = 0.0
    if len(one.landmarks) and len(other.landmarks):
        turned = float(np.linalg.norm(_pose(one) - _pose(other), axis=1).mean())
    return overlap - _POSE_WEIGHT * turned


def _pose(face: Face) -> NDArray[np.float64]:
    """Where the landmarks are in the box, ``(5, 2)``, in its sides from its centre."""
    corners = face.box_xyxy.astype(np.float64).reshape(2, 2)
    pose: NDArray[np.float64] = (face.landmarks - corners.mean(axis=0)) / np.maximum(
        corners[1] - corners[0], 1e-6
    )
    return pose


def _area(face: Face) -> float:
    x0, y0, x1, y1 = (float(value) for value in face.box_xyxy)
    return (x1 - x0) * (y1 - y0)
