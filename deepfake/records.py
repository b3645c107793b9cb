"""Frozen records that travel between the rooms of the package.

Labels are 1 = fake and 0 = real everywhere in code, and the words ``fake`` and ``real`` in every
file that people read. Boxes are ``(x0, y0, x1, y1)`` in pixels of their frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

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
from deepfake.result import FaceQuality as FaceQuality
from deepfake.result import FaceScore as FaceScore
from deepfake.result import PersonScore as PersonScore
from deepfake.result import Result as Result
from deepfake.result import Status as Status
from deepfake.result import load_renderer as load_renderer
from deepfake.verdict import ALL_UNCLEAR as ALL_UNCLEAR
from deepfake.verdict import EVEN_ODDS as EVEN_ODDS
from deepfake.verdict import Limits as Limits
from deepfake.verdict import Verdict as Verdict

LABEL_NAMES = ("real", "fake")
"""Index = label: ``LABEL_NAMES[1] == "fake"``."""


MAX_PIXELS = 100_000_000
"""Larger photos and frames are not decoded, unless asked for."""
OF_FRAMES = "faces in "
"""What is said of clips of several frames, and of them alone, begins so."""


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
            corner, as seen in the picture; ``(0, 2)`` of a face that was not searched for.
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
        is_clip: Whether the source has more frames than those of a photo, one.
    """

    status: Status
    reason: str = ""
    crops: tuple[FaceCrop, ...] = ()
    n_found: int = 0
    views: Mapping[int, FrameView] = field(default_factory=dict)
    is_clip: bool = False
