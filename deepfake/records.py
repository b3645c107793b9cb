"""Frozen records that travel between the rooms of the package.

Labels are 1 = fake and 0 = real everywhere in code, and the words ``fake`` and ``real`` in every
file that people read. Boxes are ``(x0, y0, x1, y1)`` in pixels of their frame.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from deepfake.errors import UsageError
from deepfake.recipe import MAX_DETECT_EVERY as MAX_DETECT_EVERY
from deepfake.recipe import POLICIES as POLICIES
from deepfake.recipe import PRESETS as PRESETS
from deepfake.recipe import Aggregation as Aggregation
from deepfake.recipe import CropSpec as CropSpec
from deepfake.recipe import FacesPerFrame as FacesPerFrame
from deepfake.recipe import Policy as Policy
from deepfake.recipe import Recipe as Recipe
from deepfake.recipe import Sampling as Sampling
from deepfake.recipe import list_differences as list_differences

if TYPE_CHECKING:
    import pandas as pd

LABEL_NAMES = ("real", "fake")
"""Index = label: ``LABEL_NAMES[1] == "fake"``."""


MAX_PIXELS = 100_000_000
"""Larger photos and frames are not decoded, unless asked for."""


class Status(StrEnum):
    """What became of one input. There is exactly one per input, always."""

    OK = "ok"
    NO_FACE = "no_face"
    TOO_SMALL = "too_small"
    UNREADABLE = "unreadable"


_ROUNDING = 1e-9


class Verdict(StrEnum):
    """The decision on a file that has a score."""

    REAL = "real"
    UNCLEAR = "unclear"
    FAKE = "fake"


@dataclass(frozen=True, slots=True)
class Limits:
    """The two limits of the verdict: real up to the one, fake from the other, unclear between.

    Args:
        real: Highest ``p_fake`` that means real.
        fake: Lowest ``p_fake`` that means fake, for files of 1, 2, ... people who count; the last
            one holds for more.

    Where the two are equal nothing is unclear: the score itself means fake. Beyond 0 or 1, by less
    than rounding, a limit is one that no score reaches.

    Raises:
        UsageError: If there is no limit for fakes, one is no probability, or they cross.
    """

    real: float
    fake: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.fake:
            raise UsageError("limits need a limit for fakes")
        for limit in (self.real, *self.fake):
            if not -_ROUNDING <= limit <= 1 + _ROUNDING:  # true for NaN, too
                raise UsageError(f"the limit {limit:g} is no probability")
        rising = (self.real, *self.fake)
        if any(low > high for low, high in pairwise(rising)):
            raise UsageError(
                f"the limits cross: real up to {self.real:g}, fake from "
                f"{', '.join(f'{limit:g}' for limit in self.fake)}; expected rising numbers"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {"real": self.real, "fake": list(self.fake)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Rebuild from ``to_dict``, without trust.

        Raises:
            UsageError: If a limit is missing, unknown, of the wrong kind, no probability, or they
                cross.
        """
        known = isinstance(values, dict) and set(values) == {"real", "fake"}
        if not known or not isinstance(values["fake"], list):
            raise UsageError(f"limits {values!r:.200}; expected real and fake, a list")
        for limit in (values["real"], *values["fake"]):
            if not isinstance(limit, float):
                raise UsageError(f"the limit {limit!r:.80} is no number")
        return cls(values["real"], tuple(values["fake"]))

    def of_fake(self, n_people: int = 1) -> float:
        """Lowest ``p_fake`` that means fake in a file of so many people who count."""
        return self.fake[min(max(n_people, 1), len(self.fake)) - 1]

    def judge(self, p_fake: float, n_people: int = 1) -> Verdict:
        """The verdict on a file.

        Args:
            p_fake: Score of the file.
            n_people: How many people count in it: the most suspicious of many is suspicious
                by chance more often than one is. 0: nobody can be judged, and it is unclear.
        """
        if not n_people:
            return Verdict.UNCLEAR
        if p_fake >= self.of_fake(n_people):
            return Verdict.FAKE
        return Verdict.REAL if p_fake <= self.real else Verdict.UNCLEAR


ALL_UNCLEAR = Limits(math.nextafter(0, -1), (math.nextafter(1, 2),))
"""Of who knows nothing: no score is real, none is fake."""


EVEN_ODDS = 0.5
"""Where a hard 0 or 1 is asked for (accuracy, a contest's labels): a calibrated score at or above
it is likelier a fake than not. Verdicts go by ``Limits``."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value, with its interval where there is one, or the reason why there is no value.

    Args:
        value: ``nan`` if it does not exist.
        reason: Why it does not exist; empty if it does.
        low: Lower end of the 95 % interval, ``nan`` without one.
        high: Its upper end.
        note: Remark on the interval, or why there is none.
    """

    value: float
    reason: str = ""
    low: float = math.nan
    high: float = math.nan
    note: str = ""


@dataclass(frozen=True, slots=True)
class Workers:
    """How media are read: by how many processes, within which limits, on which device.

    Args:
        processes: Worker processes; 0 works in this one, without time limit or protection from
            crashes. The results do not depend on it.
        timeout_s: Longest time for one file in seconds, with that of fetching it from a store.
        max_pixels: Larger photos and frames are ``unreadable``.
        detect_device: Where faces are searched for: ``cpu``, ``cuda`` or ``cuda:N``.
        other_stores: Whether names in a list, and redirects of a web server, may lead to other
            stores than the one that was named.

    Raises:
        UsageError: If the number of processes is negative.
    """

    processes: int = 1
    timeout_s: float = 60.0
    max_pixels: int = MAX_PIXELS
    detect_device: str = "cpu"
    other_stores: bool = False

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise UsageError(f"workers={self.processes}; expected 0 or more")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a store, as it was seen when the job was planned.

    Args:
        url: Its address.
        size: In bytes; ``None`` where the store does not tell.
        stamp: What changes with its content: made of its entity tag, or of its date.
        other_stores: As of ``Workers``.
    """

    url: str = field(repr=False)  # it may be signed
    size: int | None
    stamp: str
    other_stores: bool = False

    @property
    def version(self) -> str:
        """What stands for the hash of its content, without reading it."""
        return f"{self.stamp} {'' if self.size is None else self.size}"


@dataclass(frozen=True, slots=True)
class Source:
    """One input file, with whatever its layout says about it.

    Args:
        id: 16 hexadecimal digits, from the name; two sources of a job never share it.
        path: Where to open it; of an object of a store nothing can be opened before it is fetched.
        name: The path as the user knows it (relative to the input folder, or as listed); may hold
            undecodable bytes as surrogates, as ``os.fsdecode`` gives them.
        label: 1 = fake, 0 = real, ``None`` = unlabelled.
        group: What must stay in one split: identity, source video, folder.
        split: ``train``, ``validation`` or ``test`` where the data brings it.
        method: Name of the manipulation where known.
        problem: Reason (``code: detail``) if discovery already knows that it cannot be read.
        original: Id of the source that a fake was made from, if it is among the inputs.
        mask: Photo or video that shows where a fake was forged, if the data brings one.
        stored: The object of a store that it is; ``None`` for a file of this disk.
    """

    id: str
    path: Path
    name: str
    label: int | None = None
    group: str | None = None
    split: str | None = None
    method: str | None = None
    problem: str | None = None
    original: str | None = None
    mask: Path | None = None
    stored: StoredObject | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture: a photo is a single frame with index 0 at time 0.

    Args:
        index: Position in its source.
        time_s: Presentation time in seconds.
        image: Pixels, ``(H, W, 3)`` uint8 RGB, upright.
        note: Remark for the status row (``first of 12 frames``), empty if none.
    """

    index: int
    time_s: float
    image: NDArray[np.uint8]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Face:
    """One detected face.

    Args:
        box_xyxy: ``(4,)`` float32 pixels of the frame; may leave the frame.
        confidence: The last network's probability.
        landmarks: ``(5, 2)`` float32 pixels: left eye, right eye, nose, left and right mouth
            corner, as seen in the picture.
    """

    box_xyxy: NDArray[np.float32]
    confidence: float
    landmarks: NDArray[np.float32]


Window = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` in whole pixels, ``x1`` and ``y1`` exclusive; may leave the frame."""


class TurnedWindow(NamedTuple):
    """A rectangle of a frame, turned around its middle; may leave the frame.

    Args:
        x0: Left edge before it is turned, in pixels; the left edge of the frame is 0.
        y0: Upper edge.
        x1: Right edge.
        y1: Lower edge.
        angle: By how much it is turned clockwise, in degrees: as much as the head that it holds.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    angle: float


Landmarks = Literal["five", "mesh"]
"""What is located in a face: the detector's five points, or the mesh of 468 beside them."""


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face, and where in its source it was found.

    Args:
        frame_index: Frame of the source that it comes from.
        time_s: Time of that frame in seconds.
        face_index: 0 = largest face of the frame.
        face: The detection, in pixels of the frame as it was searched.
        rotation: 0, or 180 if the face was only found in the frame turned upside down; box and
            landmarks then refer to the turned frame.
    """

    frame_index: int
    time_s: float
    face_index: int
    face: Face
    rotation: int


@dataclass(frozen=True, slots=True)
class FaceCrop(FoundFace):
    """One face cut out exactly as a ``CropSpec`` says.

    Args:
        encoded: The stored file (JPEG or PNG bytes); decoding it gives the network's input.
        window: What the crop shows of the frame; turned for an aligned crop.
        mesh: ``(468, 2)`` float32 pixels of the crop; ``None`` where it was not asked for, or
            sees no face.
    """

    encoded: bytes
    window: Window | TurnedWindow | None = None
    mesh: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class FrameView:
    """A frame as the detector saw it, shrunk for a page.

    Args:
        encoded: JPEG bytes.
        scale: Its pixels per pixel of the frame, at most 1.
    """

    encoded: bytes
    scale: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """Everything that came out of one source: a status, and the crops if it is ``ok``.

    Args:
        status: What became of it.
        reason: Why there are no crops, or a remark on them.
        crops: By frame, the largest face of a frame first.
        n_found: Faces that the detector found, those that were not asked for included.
        views: Frames that have crops, by index, where they were asked for.
    """

    status: Status
    reason: str = ""
    crops: tuple[FaceCrop, ...] = ()
    n_found: int = 0
    views: Mapping[int, FrameView] = field(default_factory=dict)


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
        n_too_small: Number of faces that were found and too small to be scored.
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
