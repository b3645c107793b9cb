"""Frames that are kept while a file is searched: what the page shows under the boxes.

Runs inside the worker process that decodes, so that the server itself decodes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.errors import JobError
from deepfake.faces.pipeline import make_worker_extractor
from deepfake.jobs.workers import tell_progress
from deepfake.media.inspection import FileFacts, inspect_file
from deepfake.records import CropSpec, Extraction, Frame, FrameView, Sampling, Source
from deepfake.storage import write_atomic

LONGEST_PX = 1280
"""Longest side of a kept frame."""
_QUALITY = 82
_NAME = re.compile(r"(\d+)-(\d+)x(\d+)(-turned)?\.jpg")


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """A frame that lies in the folder of its file.

    Args:
        index: Frame of the file.
        width: Of the frame that boxes refer to, in pixels; the kept one may be smaller.
        height: The same.
        is_turned: Whether it, and the boxes, are upside down.
        path: A JPEG.
    """

    index: int
    width: int
    height: int
    is_turned: bool
    path: Path


@dataclass(frozen=True, slots=True)
class FramesSoFar:
    """How far a worker is with one file: frames that are decoded, and those that are searched."""

    n_decoded: int = 0
    n_searched: int = 0


def make_reader(
    spec: CropSpec, max_pixels: int, sampling: Sampling, device: str, root: Path
) -> Callable[[Source], FileFacts]:
    """What a worker of the server does with a file: extraction as everywhere, then inspection.

    It tells ``FramesSoFar`` again and again, then the ``Extraction``, which stands whatever the
    inspection does; at last it gives what is known of the file besides.

    Args:
        spec: The crop recipe.
        max_pixels: Larger photos and frames are ``unreadable``.
        sampling: Which frames of a video.
        device: Where faces are searched for.
        root: Folder with a folder for each source, named by its id, for the frames that are kept.
    """
    extractor = make_worker_extractor(spec, max_pixels, sampling, device)

    def read(source: Source) -> FileFacts:
        tell_progress(extractor.extract(source, FrameKeeper(root / source.id)))
        return inspect_file(max_pixels, source)

    return read


class FrameKeeper:
    """Keeps the first frame of a file, and those with a face; tells how far the file is.

    Args:
        folder: Of the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = frames_folder(folder)
        self._n_decoded = self._n_searched = 0

    def __call__(self, frame: Frame, found: Extraction | None) -> None:
        """See one frame go by; it is kept turned as it was searched."""
        if found is None:
            self._n_decoded += 1
        else:
            self._n_searched += 1
            if found.crops or self._n_searched == 1:
                self._keep(frame, bool(found.crops) and found.crops[0].rotation == 180)
        tell_progress(FramesSoFar(self._n_decoded, self._n_searched))

    def _keep(self, frame: Frame, is_turned: bool) -> None:
        image = frame.image[::-1, ::-1] if is_turned else frame.image
        height, width = image.shape[:2]
        name = f"{frame.index:09d}-{width}x{height}{'-turned' if is_turned else ''}.jpg"
        # They are for show: where there is no room for them, the answer matters more.
        with suppress(OSError, JobError):
            self._folder.mkdir(exist_ok=True)
            write_atomic(self._folder / name, encode_frame(image))


def encode_frame(image: NDArray[np.uint8], longest_px: int = LONGEST_PX) -> bytes:
    """A frame as JPEG, ``(H, W, 3)`` RGB, no larger than this."""
    factor = min(1.0, longest_px / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def frames_folder(folder: Path) -> Path:
    """Where the kept frames of a file lie."""
    return folder / "frames"


def list_frames(folder: Path) -> Mapping[int, KeptFrame]:
    """The kept frames of a file by their index."""
    kept = {}
    for path in sorted(frames_folder(folder).glob("*.jpg")):
        if found := _NAME.fullmatch(path.name):
            index, width, height = (int(found[group]) for group in (1, 2, 3))
            kept[index] = KeptFrame(index, width, height, bool(found[4]), path)
    return kept


def read_views(folder: Path) -> dict[int, FrameView]:
    """The kept frames of a file by their index, as an explanation shows them."""
    return {
        index: FrameView(
            kept.path.read_bytes(), min(1.0, LONGEST_PX / max(kept.width, kept.height))
        )
        for index, kept in list_frames(folder).items()
    }
