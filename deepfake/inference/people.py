"""From the faces of a file to its people: which faces are scored, and whose they are.

A face that is too small or that the detector is unsure of is not usable: it decides nothing where
the file has a usable one. Knows no network and no score of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from deepfake.errors import JobError
from deepfake.faces.geometry import measure_box
from deepfake.faces.tracking import link_tracks
from deepfake.records import Aggregation, Face, FaceQuality, FaceScore, FoundFace

Found = TypeVar("Found", bound=FoundFace)


def is_too_small(face: Face | FaceScore, how: Aggregation) -> bool:
    """Whether a face has too few pixels to be judged."""
    return measure_box(face.box_xyxy) < how.min_face_px


def is_usable(face: Face | FaceScore, how: Aggregation) -> bool:
    """Whether a face may decide: large enough, and the detector is sure that it is one."""
    return not is_too_small(face, how) and face.confidence >= how.min_confidence


def choose_faces(found: Sequence[Found], how: Aggregation) -> list[Found]:
    """The faces that are worth scoring.

    Returns:
        Those that are large enough; all of them where the file has no usable one.
    """
    asked = [one for one in found if how.faces_per_frame == "all" or one.face_index == 0]
    if not any(is_usable(one.face, how) for one in asked):
        return asked
    return [one for one in asked if not is_too_small(one.face, how)]


def score_faces(
    found: Sequence[FoundFace],
    p_fake: Sequence[float],
    how: Aggregation,
    qualities: Sequence[FaceQuality | None] | None = None,
) -> tuple[FaceScore, ...]:
    """Give the faces of a file their scores and their people.

    Args:
        found: The faces, by frame.
        p_fake: Score of each.
        how: Whether the faces of a frame are several people.
        qualities: Of each, where they were measured.

    Returns:
        People are numbered from 0 in order of their first face.

    Raises:
        JobError: If a score is no probability; it names the face.
    """
    for one, score in zip(found, p_fake, strict=True):
        if not 0 <= score <= 1:  # false for NaN, too
            raise JobError(
                f"frame {one.frame_index}, face {one.face_index} has score {score}: the weights "
                "are damaged, or their numbers too large"
            )
    people = [0] * len(found)
    if how.faces_per_frame == "all":
        people = link_tracks([one.frame_index for one in found], [one.face for one in found])
    return tuple(
        FaceScore(
            frame_index=one.frame_index,
            time_s=one.time_s,
            face_index=one.face_index,
            box_xyxy=_box_of(one.face),
            confidence=one.face.confidence,
            p_fake=score,
            person=person,
            rotation=one.rotation,
            quality=quality,
        )
        for one, score, person, quality in zip(
            found, p_fake, people, qualities or [None] * len(found), strict=True
        )
    )


def _box_of(face: Face) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in face.box_xyxy)
    return (x0, y0, x1, y1)
