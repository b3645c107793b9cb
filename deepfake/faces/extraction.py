"""From a source to its face crops: the one path that training and prediction share.

A crop leaves this room as the bytes of an image file, because the stored file *is* the contract:
``crop.py`` writes these bytes, training and prediction decode them with ``decode_crop``, and so
the network sees the same pixels either way. Knows nothing of labels, folders or networks that
score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.errors import MediaError
from deepfake.faces.detector import MTCNN, FaceDetector, SearchMode, WholePicture
from deepfake.faces.geometry import (
    aligned_window,
    cut_turned,
    cut_window,
    entry_window,
    square_window,
    to_crop,
)
from deepfake.faces.landmarks import FaceMesh
from deepfake.faces.masks import Masks
from deepfake.faces.tracking import interpolate_faces
from deepfake.media.ahead import reading_ahead
from deepfake.media.decoding import open_media
from deepfake.records import (
    MAX_PIXELS,
    OF_FRAMES,
    CropSpec,
    Extraction,
    Face,
    FaceCrop,
    Frame,
    FrameView,
    Landmarks,
    Sampling,
    Source,
    Status,
    TurnedWindow,
    Window,
)
from deepfake.stores.objects import fetched

_NO_FACE = "no_face: the detector found no face"
_NONE_CUT = "no_face: no face that the detector found can be cut"
_MIN_SIDE_PX = 20  # below this a frame holds no face that anybody could judge
# Frames that are searched together: a GPU wants many at once, memory wants few.
_CHUNK_FRAMES = 16
_CHUNK_PIXELS = 16 * 1920 * 1080
Watch = Callable[[Frame, Extraction | None], None]
"""Told of each frame twice: when it is decoded, and with its faces when they are cut out."""

# Longer than that, a face does anything but move evenly; and the millisecond of containers.
_MAX_BRIDGE_S = 1.001
_VIEW_QUALITY = 90


class FaceExtractor:
    """Reads sources and cuts out their faces as a ``CropSpec`` says.

    Args:
        spec: The recipe.
        detector: Finds the faces; by default as the recipe describes.
        max_pixels: Larger photos and frames are ``unreadable``, so that memory stays bounded.
        sampling: Which frames of a video or animation are looked at.
        device: Where that one runs, and the face mesh.
        landmarks: ``mesh`` gives every crop the points of the face mesh.
        view_px: Longer side of the views that are kept of frames with crops; 0 keeps none.
    """

    def __init__(
        self,
        spec: CropSpec,
        detector: FaceDetector | None = None,
        max_pixels: int = MAX_PIXELS,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        device: str = "cpu",
        landmarks: Landmarks = "five",
        view_px: int = 0,
    ) -> None:
        self.spec, self.sampling, self.view_px = spec, sampling, view_px
        self.detector = detector or _make_detector(spec, device)
        self._detects_as_told, self._device = detector is None, device
        self._every: FaceExtractor | None = None
        self.max_pixels = max_pixels
        self._mesh = FaceMesh(device) if landmarks == "mesh" else None
        self._min_side_px = max(_MIN_SIDE_PX, spec.min_face)

    def extract(self, source: Source, watch: Watch | None = None) -> Extraction:
        """Read one source and cut out its faces; a bad file is a status, never an exception.

        Args:
            source: The file.
            watch: Sees its frames go by.
        """
        if source.problem is not None:
            return Extraction(Status.UNREADABLE, source.problem)
        results: list[Extraction] = []
        notes: list[str] = []
        n_interpolated = n_left_out = n_found = 0
        try:
            with ExitStack() as stack:
                file = stack.enter_context(fetched(source))
                clip = stack.enter_context(
                    open_media(file.path, file.name, self.sampling, self.max_pixels)
                )
                masks = self._open_masks(source, stack, notes)
                searching = self if masks is None else self._everybody()
                frames = stack.enter_context(reading_ahead(clip, _CHUNK_FRAMES, _CHUNK_PIXELS))
                if watch is not None:
                    frames = _watched(frames, watch)
                for frame, found in searching._search(frames):
                    if masks is not None:
                        forged = masks.choose(frame, found.faces, found.rotation)
                        found = replace(found, faces=forged)
                    results.append(self._cut(frame, found))
                    if watch is not None:
                        watch(frame, results[-1])
                    notes.append(frame.note)
                    n_interpolated += found.is_interpolated
                    n_left_out += found.n_left_out
                    n_found += found.n_found
                notes.append(clip.note)
                if masks is not None and masks.missing:
                    why = f" ({masks.problem})" if masks.problem else ""
                    notes.append(f"no mask for {masks.missing} of {len(results)} frames{why}")
        except MediaError as error:
            # What was decoded before the damage counts; a photo has nothing before it.
            if not any(result.crops for result in results):
                return Extraction(Status.UNREADABLE, error.reason)
            notes.append(error.reason)
        if n_interpolated:
            notes.append(f"boxes of {n_interpolated} of {len(results)} frames interpolated")
        if n_left_out:
            notes.append(f"{n_left_out} of {n_found} faces left out: {self._why_left_out}")
        combined = _combine(results, [note for note in notes if note])
        return replace(combined, is_clip=not clip.is_photo)

    def _open_masks(self, source: Source, stack: ExitStack, notes: list[str]) -> Masks | None:
        """What tells the forged face of each frame, where one face of several is asked for."""
        if source.mask is None or self.spec.faces == "all":
            return None
        try:
            mask = open_media(source.mask, source.name, self.sampling, self.max_pixels)
        except MediaError as error:
            notes.append(f"its mask cannot be read ({error.reason})")
            return None
        return Masks(stack.enter_context(mask))

    def _everybody(self) -> FaceExtractor:
        """The same, for all faces of a frame."""
        if self._every is None:
            spec = self.spec.for_scoring("all")
            detector = None if self._detects_as_told else self.detector
            self._every = FaceExtractor(
                spec, detector, self.max_pixels, self.sampling, self._device
            )
        return self._every

    def extract_frame(self, frame: Frame) -> Extraction:
        """Cut out the faces of one decoded frame."""
        return self._cut(frame, *self._find([frame]))

    def _search(self, clip: Iterator[Frame]) -> Iterator[tuple[Frame, _Found]]:
        """Find the faces of every frame, many frames at a time.

        Raises:
            MediaError: If the clip does, after all frames that came before.
        """
        known: tuple[Frame, _Found] | None = None  # the last frame that was searched
        frames: list[Frame] = []  # those after it
        n_done = 0
        is_last = False
        problem: MediaError | None = None
        while not is_last:
            try:
                is_last = not _take(clip, frames)
            except MediaError as error:
                is_last, problem = True, error
            at = [n for n in range(len(frames)) if (n_done + n) % self.sampling.detect_every == 0]
            if is_last and frames and len(frames) - 1 not in at:
                at.append(len(frames) - 1)  # nothing lies behind the last frame to go by
            if not at:
                continue
            found = dict(zip(at, self._find([frames[n] for n in at]), strict=True))
            between = self._interpolate(frames, found, known)
            rest = [n for n in range(at[-1]) if n not in found and n not in between]
            found |= between | dict(zip(rest, self._find([frames[n] for n in rest]), strict=True))
            ready, frames = frames[: at[-1] + 1], frames[at[-1] + 1 :]
            known = (ready[-1], found[at[-1]])
            n_done += len(ready)
            for n, frame in enumerate(ready):
                yield frame, found[n]
        if problem is not None:
            raise problem

    def _interpolate(
        self,
        frames: Sequence[Frame],
        found: Mapping[int, _Found],
        known: tuple[Frame, _Found] | None,
    ) -> dict[int, _Found]:
        """The faces of the frames between those that were searched, where they can be told."""
        stations = [(n, frames[n], found[n]) for n in sorted(found)]
        if known is not None:
            stations.insert(0, (-1, *known))
        between = {}
        for (start, first, one), (end, last, other) in pairwise(stations):
            if last.time_s - first.time_s > _MAX_BRIDGE_S:
                continue
            for n in range(start + 1, end):
                shapes = {frame.image.shape for frame in (first, frames[n], last)}
                if one.rotation != other.rotation or len(shapes) > 1:
                    continue
                share = (n - start) / (end - start)
                if last.time_s > first.time_s:  # pages of a TIFF have no times
                    share = (frames[n].time_s - first.time_s) / (last.time_s - first.time_s)
                faces = interpolate_faces(one.faces, other.faces, share)
                if faces is not None:
                    usable = self._keep_usable(frames[n].image, faces, one.rotation)
                    between[n] = replace(usable, is_interpolated=True)
        return {n: item for n, item in between.items() if item.faces}

    def _find(self, frames: Sequence[Frame]) -> list[_Found]:
        """Search frames together, those without an upright face once more, turned."""
        found = [_Found()] * len(frames)
        large = [n for n, frame in enumerate(frames) if not self._is_too_small(frame)]
        for rotation in (0, 180) if self.spec.rotate_retry else (0,):
            images = [_turn(frames[n].image, rotation) for n in large]
            if not images:
                break
            for n, image, faces in zip(large, images, self.detector.detect(images), strict=True):
                _check_numbers(frames[n], faces)
                usable = self._keep_usable(image, faces, rotation)
                # What cannot be cut, the turned frame does not make unseen.
                if usable.faces or not found[n].n_found:
                    found[n] = usable
            large = [n for n in large if not found[n].faces]
        return found

    def _is_too_small(self, frame: Frame) -> bool:
        return bool(min(frame.image.shape[:2]) < self._min_side_px)

    def _keep_usable(
        self, image: NDArray[np.uint8], faces: Sequence[Face], rotation: int
    ) -> _Found:
        # Rounded before anything is cut: the same face in another batch or on another machine may
        # differ by 1e-5 px, which must not move a crop by a whole pixel.
        rounded = [
            Face(np.round(face.box_xyxy, 2), face.confidence, np.round(face.landmarks, 2))
            for face in faces
        ]
        usable = [face for face in rounded if _has_area(_window(image, face, self.spec))]
        kept = usable[:1] if self.spec.faces == "largest" else usable
        return _Found(kept, rotation, len(faces), len(faces) - len(usable))

    @property
    def _why_left_out(self) -> str:
        if self.spec.geometry == "aligned":
            return "their five points are not placed like a face's, or lie outside the frame"
        return "they lie outside the frame"

    def _cut(self, frame: Frame, found: _Found) -> Extraction:
        spec = self.spec
        if self._is_too_small(frame):
            height, width = frame.image.shape[:2]
            return Extraction(
                Status.TOO_SMALL,
                f"too_small: frame of {width}x{height} px; its shorter side must hold a face "
                f"of {self._min_side_px} px",
            )
        if not found.faces:
            reason = _NONE_CUT if found.n_found else _NO_FACE
            return Extraction(Status.NO_FACE, reason, n_found=found.n_found)
        image = _turn(frame.image, found.rotation)
        windows = [_window(image, face, spec) for face in found.faces]
        meshes = self._locate(image, found.faces, windows)
        crops = tuple(
            FaceCrop(
                frame_index=frame.index,
                time_s=frame.time_s,
                face_index=index,
                face=face,
                rotation=found.rotation,
                encoded=encode_crop(cut_face(image, face, spec), spec.jpeg_quality),
                window=window,
                mesh=mesh,
            )
            for index, (face, window, mesh) in enumerate(
                zip(found.faces, windows, meshes, strict=True)
            )
        )
        views = {frame.index: _view(image, self.view_px)} if self.view_px else {}
        return Extraction(Status.OK, frame.note, crops, found.n_found, views)

    def _locate(
        self,
        image: NDArray[np.uint8],
        faces: Sequence[Face],
        windows: Sequence[Window | TurnedWindow],
    ) -> list[NDArray[np.float32] | None]:
        """The mesh of every face in pixels of its crop, where it is asked for and sees a face."""
        if self._mesh is None:
            return [None] * len(faces)
        located = self._mesh.locate(image, faces)
        return [
            # Rounded as boxes are: the same face in another batch may differ by 1e-5 px.
            None if np.isnan(points).any() else np.round(to_crop(points, window, self.spec.size), 2)
            for points, window in zip(located, windows, strict=True)
        ]


def _make_detector(spec: CropSpec, device: str) -> FaceDetector:
    if spec.search == "none":
        return WholePicture()
    mode: SearchMode = spec.search
    if spec.faces == "all" and mode == "main":
        mode = "main-first"
    return MTCNN(
        min_face=spec.min_face,
        factor=spec.factor,
        thresholds=spec.thresholds,
        mode=mode,
        device=device,
        min_face_ratio=spec.min_face_ratio,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The faces of one frame, in pixels of the frame turned by ``rotation`` degrees."""

    faces: Sequence[Face] = ()
    rotation: int = 0
    n_found: int = 0
    n_left_out: int = 0  # of those, because they cannot be cut
    is_interpolated: bool = False


def _watched(clip: Iterator[Frame], watch: Watch) -> Iterator[Frame]:
    for frame in clip:
        watch(frame, None)
        yield frame


def _check_numbers(frame: Frame, faces: Sequence[Face]) -> None:
    """Refuse faces that lie nowhere.

    Raises:
        MediaError: If a number of one is not finite.
    """
    for face in faces:
        numbers = [*face.box_xyxy, face.confidence, *face.landmarks.ravel()]
        if not np.isfinite(numbers).all():
            raise MediaError(
                f"frame {frame.index}",
                "not_finite",
                f"in frame {frame.index} the detector gives a face with box "
                f"{face.box_xyxy.tolist()} and confidence {face.confidence}",
            )


def _take(clip: Iterator[Frame], frames: list[Frame]) -> bool:
    """Add to the frames until it is worth while to search them; whether there may be more."""
    n_pixels = 0
    for n_taken, frame in enumerate(clip, start=1):
        frames.append(frame)
        n_pixels += frame.image.size // 3
        if n_taken == _CHUNK_FRAMES or n_pixels >= _CHUNK_PIXELS:
            return True
    return False


def _turn(image: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    return image[::-1, ::-1] if rotation == 180 else image  # a view: frames may be huge


def _combine(results: Sequence[Extraction], notes: Sequence[str]) -> Extraction:
    """One status for all frames of a source."""
    crops = tuple(crop for result in results for crop in result.crops)
    n_found = sum(result.n_found for result in results)
    remarks = list(dict.fromkeys(notes))
    if crops:
        with_face = sum(bool(result.crops) for result in results)
        if len(results) > 1:
            remarks.insert(0, f"{OF_FRAMES}{with_face} of {len(results)} frames")
        views = {index: view for result in results for index, view in result.views.items()}
        return Extraction(Status.OK, "; ".join(remarks), crops, n_found, views)
    if all(result.status is Status.TOO_SMALL for result in results):
        status, reason = Status.TOO_SMALL, results[0].reason
    else:
        status, reason = Status.NO_FACE, _NONE_CUT if n_found else _NO_FACE
    if len(results) > 1:
        reason += f", in {len(results)} frames"
    return Extraction(status, "; ".join([reason, *remarks]), n_found=n_found)


def _view(image: NDArray[np.uint8], view_px: int) -> FrameView:
    """The frame with a longer side of so many pixels at most."""
    scale = min(1.0, view_px / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    shrunk = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    return FrameView(encode_crop(np.asarray(shrunk, np.uint8), _VIEW_QUALITY), scale)


def _window(image: NDArray[np.uint8], face: Face, spec: CropSpec) -> Window | TurnedWindow:
    height, width = image.shape[:2]
    if spec.geometry == "aligned":
        return aligned_window(face.landmarks, height, width, spec.margins[0])
    if spec.geometry == "entry":
        return entry_window(face.box_xyxy, height, width, spec.margins)
    return square_window(face.box_xyxy, height, width, spec.margins[0])


def _has_area(window: Window | TurnedWindow) -> bool:
    x0, y0, x1, y1 = window[:4]
    return x1 > x0 and y1 > y0


def cut_face(image: NDArray[np.uint8], face: Face, spec: CropSpec) -> NDArray[np.uint8]:
    """Cut one face out of its frame, ``(size, size, 3)`` uint8 RGB, before any JPEG."""
    window = _window(image, face, spec)
    if isinstance(window, TurnedWindow):
        return cut_turned(image, window, spec.size, spec.interpolation)
    return cut_window(image, window, spec.size, spec.interpolation)


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
