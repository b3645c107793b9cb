"""From the scores of faces to those of people, and to the score of a file; pure functions.

A policy makes one score of the usable faces of a person. The most suspicious person who counts
decides the file: one swapped face makes it fake. Knows no network and no verdict.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from types import MappingProxyType

from deepfake.faces.geometry import measure_box
from deepfake.inference.people import is_too_small, is_usable
from deepfake.records import Aggregation, FaceCrop, FaceScore, PersonScore, Result

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
"""Policies that make one score of the frames of a person."""


MOST_PEOPLE = 6
"""So many people of a file are shown one by one, the first of ``rank_people``."""


def rank_people(score: Result) -> list[PersonScore]:
    """Who decides, then those who count and the others, each the most suspicious first.

    Where nobody counts the largest decides.
    """
    ranked = sorted(score.people, key=lambda one: (not one.counts, -one.p_fake, one.person))
    if ranked and not ranked[0].counts:
        largest = max(score.people, key=lambda one: one.size_px)
        ranked.remove(largest)
        ranked.insert(0, largest)
    return ranked


def choose_crops(score: Result, found: Sequence[FaceCrop]) -> dict[int, bytes]:
    """The most suspicious crop of each person who is shown, by person."""
    by_place = {(crop.frame_index, crop.face_index): crop.encoded for crop in found}
    return {
        one.person: by_place[one.frame_index, one.face_index]
        for one in rank_people(score)[:MOST_PEOPLE]
    }


@dataclass(frozen=True, slots=True)
class FileScore:
    """The score of a file, and whose it is.

    Args:
        p_fake: Of the person who decides.
        people: Everybody in the file, in order of their number.
        face: The most suspicious usable face of the person who decides.
        n_people: How many people count; 0: nobody does, and the largest one gave the score.
    """

    p_fake: float
    people: tuple[PersonScore, ...]
    face: FaceScore
    n_people: int


def aggregate(faces: Sequence[FaceScore], how: Aggregation = _DEFAULT) -> FileScore | None:
    """Score of a file from its faces, or ``None`` without a face.

    People who count have a usable face and are seen in ``person_share`` of the frames that have
    one, or, where nobody is, in any of them: a film whose cuts are closer together than the sampled
    frames is no reason to look at nobody.
    """
    if not faces:
        return None
    by_person: dict[int, list[FaceScore]] = defaultdict(list)
    for face in faces:
        by_person[face.person].append(face)
    usable = {person: [f for f in own if is_usable(f, how)] for person, own in by_person.items()}
    n_frames = len({face.frame_index for own in usable.values() for face in own})
    most = max(map(len, usable.values()))
    enough = how.person_share * n_frames
    people, tops = [], dict[int, FaceScore]()
    for person in sorted(by_person):
        own = by_person[person]
        remark = ""
        if not usable[person]:
            remark = _why_unusable(own, how)
        elif len(usable[person]) < enough <= most:
            remark = f"seen in {len(usable[person])} of {n_frames} frames"
        times = [face.time_s for face in own]
        top = max(usable[person] or own, key=lambda one: one.p_fake)
        tops[person] = top
        people.append(
            PersonScore(
                person=person,
                p_fake=OF_FRAMES[how.policy]([face.p_fake for face in usable[person] or own], how),
                n_faces=len(own),
                first_s=min(times),
                last_s=max(times),
                size_px=max(measure_box(face.box_xyxy) for face in own),
                counts=not remark,
                remark=remark,
                frame_index=top.frame_index,
                face_index=top.face_index,
            )
        )
    counting = [one for one in people if one.counts]
    decides = (
        max(counting, key=lambda one: one.p_fake)
        if counting
        else max(people, key=lambda one: one.size_px)
    )
    return FileScore(decides.p_fake, tuple(people), tops[decides.person], len(counting))


def _why_unusable(faces: Sequence[FaceScore], how: Aggregation) -> str:
    large = [face for face in faces if not is_too_small(face, how)]
    if not large:
        largest = max(measure_box(face.box_xyxy) for face in faces)
        return f"face of {largest:.0f} px, {how.min_face_px} px are needed"
    surest = max(face.confidence for face in large)
    return f"the detector is unsure of the face ({surest:.2f} of {how.min_confidence:g})"
