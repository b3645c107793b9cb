"""From a source to its face crops: the one path that training and prediction share.

A crop leaves this room as the bytes of an image file, because the stored file *is* the contract:
``crop.py`` writes these bytes, training and prediction decode them with ``decode_crop``, and so
the network sees the same pixels either way. Knows nothing of labels, folders or networks that
score.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.errors import MediaError
from deepfake.faces.detector import MTCNN, FaceDetector
from deepfake.faces.geometry import cut_window, entry_window, square_window
from deepfake.media.decoding import open_media
from deepfake.media.images import MAX_PIXELS
from deepfake.records import (
    CropSpec,
    Extraction,
    Face,
    FaceCrop,
    Frame,
    Sampling,
    Source,
    Status,
)

_NO_FACE = "no_face: the detector found no face"
_MIN_SIDE_PX = 20  # below this a picture holds no face that anybody could judge


class FaceExtractor:
    """Reads sources and cuts out their faces as a ``CropSpec`` says.

    Args:
        spec: The recipe.
        detector: Finds the faces; by default the ``MTCNN`` that the recipe describes.
        max_pixels: Pictures with more pixels are ``unreadable``, so that memory stays bounded.
        sampling: Which frames of a video or animation are looked at.
    """

    def __init__(
        self,
        spec: CropSpec,
        detector: FaceDetector | None = None,
        max_pixels: int = MAX_PIXELS,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ) -> None:
        self.spec, self.sampling = spec, sampling
        self.detector = detector or MTCNN(
            min_face=spec.min_face,
            factor=spec.factor,
            thresholds=spec.thresholds,
            mode=spec.search,
            min_face_ratio=spec.min_face_ratio,
        )
        self.max_pixels = max_pixels

    def extract(self, source: Source) -> Extraction:
        """Read one source and cut out its faces; a bad file is a status, never an exception."""
        if source.problem is not None:
            return Extraction(Status.UNREADABLE, source.problem)
        results: list[Extraction] = []
        notes: list[str] = []
        try:
            with open_media(source.path, source.name, self.sampling, self.max_pixels) as clip:
                for frame in clip:
                    results.append(self.extract_frame(frame))
                    notes.append(frame.note)
                notes.append(clip.note)
        except MediaError as error:
            # What was decoded before the damage counts; a photo has nothing before it.
            if not any(result.crops for result in results):
                return Extraction(Status.UNREADABLE, error.reason)
            notes.append(error.reason)
        return _combine(results, [note for note in notes if note])

    def extract_frame(self, frame: Frame) -> Extraction:
        """Cut out the faces of one decoded frame."""
        spec = self.spec
        height, width = frame.image.shape[:2]
        smallest = max(_MIN_SIDE_PX, spec.min_face)
        if min(height, width) < smallest:
            return Extraction(
                Status.TOO_SMALL,
                f"too_small: picture of {width}x{height} px; its shorter side must hold a face "
                f"of {smallest} px",
            )
        image, rotation = frame.image, 0
        faces = self._usable_faces(image)
        if not faces and spec.rotate_retry:
            turned = np.ascontiguousarray(image[::-1, ::-1])
            faces = self._usable_faces(turned)
            if faces:
                image, rotation = turned, 180
        if not faces:
            return Extraction(Status.NO_FACE, _NO_FACE)
        crops = tuple(
            FaceCrop(
                frame_index=frame.index,
                time_s=frame.time_s,
                face_index=index,
                face=face,
                rotation=rotation,
                encoded=encode_crop(cut_face(image, face, spec), spec.jpeg_quality),
            )
            for index, face in enumerate(faces)
        )
        return Extraction(Status.OK, frame.note, crops)

    def _usable_faces(self, image: NDArray[np.uint8]) -> Sequence[Face]:
        faces = [
            Face(np.round(face.box_xyxy, 2), face.confidence, np.round(face.landmarks, 2))
            # Rounded before anything is cut: the same face in another batch or on another
            # machine may differ by 1e-5 px, which must not move a crop by a whole pixel.
            for face in self.detector.detect([image])[0]
        ]
        faces = [face for face in faces if _has_area(_window(image, face, self.spec))]
        return faces[:1] if self.spec.faces == "largest" else faces


def _combine(results: Sequence[Extraction], notes: Sequence[str]) -> Extraction:
    """One status for all frames of a source."""
    crops = tuple(crop for result in results for crop in result.crops)
    remarks = list(dict.fromkeys(notes))
    if crops:
        with_face = sum(bool(result.crops) for result in results)
        if len(results) > 1:
            remarks.insert(0, f"faces in {with_face} of {len(results)} frames")
        return Extraction(Status.OK, "; ".join(remarks), crops)
    if all(result.status is Status.TOO_SMALL for result in results):
        status, reason = Status.TOO_SMALL, results[0].reason
    else:
        status, reason = Status.NO_FACE, _NO_FACE
    if len(results) > 1:
        reason += f", in {len(results)} frames"
    return Extraction(status, "; ".join([reason, *remarks]))


def _window(image: NDArray[np.uint8], face: Face, spec: CropSpec) -> tuple[int, int, int, int]:
    height, width = image.shape[:2]
    if spec.geometry == "entry":
        return entry_window(face.box_xyxy, height, width, spec.margins)
    return square_window(face.box_xyxy, height, width, spec.margins[0])


def _has_area(window: tuple[int, int, int, int]) -> bool:
    x0, y0, x1, y1 = window
    return x1 > x0 and y1 > y0


def cut_face(image: NDArray[np.uint8], face: Face, spec: CropSpec) -> NDArray[np.uint8]:
    """Cut one face out of its picture, ``(size, size, 3)`` uint8 RGB, before any JPEG."""
    return cut_window(image, _window(image, face, spec), spec.size, spec.interpolation)


def encode_crop(crop: NDArray[np.uint8], jpeg_quality: int | None) -> bytes:
    """Turn a crop into the bytes of the file that is stored.

    Args:
        crop: ``(S, S, 3)`` uint8 RGB.
        jpeg_quality: 1 to 100, or ``None`` for PNG.
    """
    bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
    if jpeg_quality is None:
        _, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    else:
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    return bytes(data)


def decode_crop(encoded: bytes, name: str = "crop") -> NDArray[np.uint8]:
    """Turn the bytes of a stored crop into pixels, ``(S, S, 3)`` uint8 RGB.

    Raises:
        MediaError: If the bytes are no image.
    """
    # An empty buffer makes OpenCV raise instead of returning None.
    bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if bgr is None:
        raise MediaError(name, "decode_error", f"not an image ({len(encoded)} bytes)")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
