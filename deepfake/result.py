"""The answer for one input file: of each face, of each person, of the file; or why there is none.

Boxes are ``(x0, y0, x1, y1)`` in pixels of their frame.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from deepfake.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd


class Status(StrEnum):
    """What became of one input. There is exactly one per input, always."""

    OK = "ok"
    NO_FACE = "no_face"
    TOO_SMALL = "too_small"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class FaceQuality:
    """What is known of a face crop besides its score.

    Args:
        size_px: Shorter side of the face's box in pixels of its frame.
        sharpness: Variance of the Laplacian of the crop's grey levels; ``None`` where unknown, as
            in all that follow.
        brightness: Mean grey level of the crop, 0 to 255.
        distance: From the training faces, as of ``FaceSpace.distances``; about 1 for one of them.
    """

    size_px: float
    sharpness: float | None = None
    brightness: float | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class FaceScore:
    """The score of one face crop, for the per-face table.

    Args:
        frame_index: Frame of the file.
        time_s: Time of that frame in seconds.
        face_index: 0 = largest face of the frame.
        box_xyxy: Its box in pixels of the frame.
        confidence: The detector's.
        p_fake: Its score.
        person: Faces of one person across the frames share a number, from 0.
        quality: Of its crop, where known.
        rotation: 0, or 180 if the face was only found in the frame turned upside down; its box
            then refers to the turned frame.
    """

    frame_index: int
    time_s: float
    face_index: int
    box_xyxy: tuple[float, float, float, float]
    confidence: float
    p_fake: float
    person: int = 0
    quality: FaceQuality | None = None
    rotation: int = 0


@dataclass(frozen=True, slots=True)
class PersonScore:
    """The score of one person of a file: their faces across its frames.

    Args:
        person: Number of the person, as in ``FaceScore``.
        p_fake: Score over their faces.
        n_faces: How many of their faces were scored.
        first_s: Time of the first of them in seconds.
        last_s: Time of the last.
        size_px: Shorter side of their largest box in pixels of its frame.
        counts: Whether this person may decide the file.
        remark: Why not; empty if they may.
        frame_index: Frame of their most suspicious face.
        face_index: Which face of that frame it is.
    """

    person: int
    p_fake: float
    n_faces: int
    first_s: float
    last_s: float
    size_px: float
    counts: bool
    remark: str = ""
    frame_index: int = 0
    face_index: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """The answer for one input file, or an honest status where there is none.

    It shows itself: as a line in a terminal, with the faces in a notebook.

    Args:
        path: The input as the user named it.
        status: ``ok`` if and only if ``p_fake`` is a number.
        reason: Why there is no answer; empty if there is one.
        remarks: What a reader of the answer must know.
        p_fake: Probability of fake in [0, 1], or ``None``.
        verdict: What the limits make of it, and unclear where the face that decided is unlike the
            training faces; ``None`` without a score.
        limits: The two that were applied, of real and of fake, the latter for this number of
            people; ``None`` without a score.
        n_found: Number of faces that the detector found.
        n_faces: Number of faces that were scored.
        n_too_small: Number of faces that were found and are too small to count; they are scored
            only where the file has no other.
        n_people: Number of people who count.
        box_xyxy: Box of the face that decided, in pixels of its frame.
        quality: Of the face that decided, where known.
        faces: Score of every face.
        people: Score of every person.
    """

    path: str
    status: Status
    reason: str = ""
    remarks: tuple[str, ...] = ()
    p_fake: float | None = None
    verdict: Verdict | None = None
    limits: tuple[float, float] | None = None
    n_found: int = 0
    n_faces: int = 0
    n_too_small: int = 0
    n_people: int = 0
    box_xyxy: tuple[float, float, float, float] | None = None
    quality: FaceQuality | None = None
    faces: tuple[FaceScore, ...] = ()
    people: tuple[PersonScore, ...] = ()

    def __str__(self) -> str:
        """Verdict or status, score, file, people and remarks on one line."""
        line: str = load_renderer().describe_result(self)
        return line

    def __repr__(self) -> str:
        return f"<Result {self}>"

    def _repr_html_(self) -> str:
        """For notebooks: thumbnails, verdict and people, self-contained."""
        html: str = load_renderer().format_cell([self])
        return html

    def to_frame(self, level: Literal["file", "face"] = "file") -> pd.DataFrame:
        """A table of pandas: a row for the file, or one for each of its faces."""
        return load_renderer().make_frame([self], level)

    def save_html(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write a page that holds everything it shows.

        Raises:
            UsageError: If the file exists and nobody asked to replace it.
        """
        page: Path = load_renderer().save_page([self], Path(path), overwrite)
        return page

    def show(self) -> None:
        """Show it in the notebook, elsewhere as a page in a browser."""
        load_renderer().show([self])


def load_renderer() -> ModuleType:
    """What shows results; imported only when one is to be shown.

    The one place where a lower room looks up at ``deepfake.reports``.
    """
    from deepfake.reports import result_page

    return result_page
