"""Which face of a fake's frame was forged: the one that the data set's mask covers most.

A mask is a photo or a video like the fake, black but for the forged region. Knows no detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from deepfake.errors import MediaError
from deepfake.records import Face, Frame


class Masks:
    """The masks of a file, frame by frame, in the order of its frames.

    Args:
        clip: Its mask, sampled as the file is.

    Attributes:
        missing: Frames that had no mask so far.
        problem: Why the masks ended early; empty if they did not.
    """

    def __init__(self, clip: Iterator[Frame]) -> None:
        self._clip = clip
        self.missing, self.problem = 0, ""

    def choose(self, frame: Frame, faces: Sequence[Face], rotation: int) -> Sequence[Face]:
        """The face that is forged, alone; without a mask that shows one, the first.

        Args:
            frame: As in the file; asked for in ascending order.
            faces: In pixels of the frame turned by ``rotation``.
            rotation: 0 or 180 degrees.
        """
        mask = self._mask_of(frame)
        if mask is None:
            self.missing += 1
            return faces[:1]
        turned = mask[::-1, ::-1] if rotation == 180 else mask
        covered = [_cover(turned, face, frame.image.shape[:2]) for face in faces]
        return [faces[int(np.argmax(covered))]] if faces else []  # the first of equals

    def _mask_of(self, frame: Frame) -> NDArray[np.uint8] | None:
        try:
            for mask in self._clip:
                if mask.index == frame.index:
                    return mask.image
                if mask.index > frame.index:
                    self._clip = chain([mask], self._clip)
                    return None
        except MediaError as error:
            self._clip, self.problem = iter(()), error.reason
        return None


def _cover(mask: NDArray[np.uint8], face: Face, shape: tuple[int, ...]) -> float:
    """Mean of the mask over a face, 0 to 255; a mask may be smaller than its frame."""
    scale = np.array(mask.shape[1::-1] * 2) / np.array(shape[1::-1] * 2)
    x0, y0, x1, y1 = np.round(face.box_xyxy * scale).astype(int)
    region = mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    return float(region.mean()) if region.size else 0.0
