"""Links the faces of a clip into tracks, one per person as far as boxes can tell; pure functions.

Knows no picture: two people who change places between two sampled frames change tracks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

Box = tuple[float, float, float, float]

_MIN_OVERLAP = 0.2
_MAX_SHIFT = 0.6  # between centres, in sides of the smaller box: sampled frames are far apart
_MAX_GROWTH = 1.7
_MAX_GAP = 3  # frames with a face that a track may miss: one bad detection does not end it


def link_tracks(frames: Sequence[int], boxes: Sequence[Box]) -> list[int]:
    """Give each face the number of its track.

    Frame by frame, the pairs of tracks and faces that fit are joined, best overlap first. A face
    that fits no track begins one.

    Args:
        frames: Frame index of each face, ascending.
        boxes: Box of each face in pixels.

    Returns:
        Track of each face; tracks are numbered from 0 in order of their first face.

    Example:
        >>> left, right = (0, 0, 10, 10), (50, 0, 60, 10)
        >>> link_tracks([0, 0, 5, 5], [left, right, right, left])
        [0, 1, 1, 0]
    """
    by_frame: dict[int, list[int]] = defaultdict(list)
    for face, frame in enumerate(frames):
        by_frame[frame].append(face)
    tracks = [0] * len(frames)
    last_seen: dict[int, tuple[int, Box]] = {}  # track -> number of the frame, box
    for number, frame in enumerate(sorted(by_frame)):
        faces = by_frame[frame]
        pairs = [
            (fit, track, face)
            for track, (seen, box) in last_seen.items()
            if number - seen <= _MAX_GAP
            for face in faces
            if (fit := _fit(box, boxes[face])) is not None
        ]
        free = set(faces)
        taken: set[int] = set()
        for _, track, face in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if face in free and track not in taken:
                tracks[face] = track
                free.discard(face)
                taken.add(track)
        for face in sorted(free):
            tracks[face] = len(last_seen)
            last_seen[tracks[face]] = (number, boxes[face])
        for face in faces:
            last_seen[tracks[face]] = (number, boxes[face])
    return tracks


def _fit(one: Box, other: Box) -> float | None:
    """How well two boxes fit as the same face a while later; ``None`` if they do not."""
    sides = [max(box[2] - box[0], box[3] - box[1], 1e-6) for box in (one, other)]
    if max(sides) > _MAX_GROWTH * min(sides):
        return None
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    overlap = width * height / max(areas - width * height, 1e-6)
    shift_x = abs(one[0] + one[2] - other[0] - other[2]) / 2
    shift_y = abs(one[1] + one[3] - other[1] - other[3]) / 2
    near = (shift_x**2 + shift_y**2) ** 0.5 <= _MAX_SHIFT * min(sides)
    return overlap if near or overlap >= _MIN_OVERLAP else None
