"""Results that no network made."""

from __future__ import annotations

from typing import Any

from deepfake.records import FaceScore, Limits, Result, Status

BOX = (0.0, 0.0, 40.0, 40.0)


def make_answer(
    path: str,
    p_fake: float,
    limits: Limits = Limits(0.49, (0.5,)),  # noqa: B008 - frozen
    faces: tuple[FaceScore, ...] = (),
    **facts: Any,
) -> Result:
    """An answer as these limits judge it, of one person unless said."""
    n_people = facts.get("n_people", 1)
    counts = {"n_found": len(faces) or 1, "n_faces": len(faces) or 1, "n_people": n_people}
    return Result(
        path,
        Status.OK,
        p_fake=p_fake,
        verdict=limits.judge(p_fake, n_people),
        limits=(limits.real, limits.of_fake(n_people)),
        faces=faces,
        **{"box_xyxy": BOX} | counts | facts,
    )


def make_no_answer(path: str, status: Status = Status.NO_FACE) -> Result:
    """What there is to say of a file without a score."""
    return Result(path, status, f"{status.value}: so it is")
