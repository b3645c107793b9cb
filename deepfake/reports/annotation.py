"""Results in, annotated media out: a photo beside the photo, a video beside the video.

Boxes are solid in the frames that were scored and dashed between them, where they are interpolated;
nobody looked there. Colours are of Okabe and Ito, who chose them for the colour-blind, and every
box has its number and score in words. Computes no score.

References:
    Okabe and Ito, "Color Universal Design", 2002, https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake import __version__
from deepfake.errors import DeepfakeError, MediaError, UsageError
from deepfake.jobs.engine import hash_inputs
from deepfake.jobs.workers import Failure, read_in_workers
from deepfake.media.decoding import open_media
from deepfake.media.recording import record_video
from deepfake.records import FaceScore, Frame, Limits, Result, Sampling, Source, Verdict, Workers
from deepfake.storage import TEMPORARY_PREFIX, no_space_is_an_error, sync_file, sync_folder
from deepfake.stores.objects import fetched

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Point = tuple[int, int]

COLOURS: Mapping[Verdict | None, tuple[int, int, int]] = {
    Verdict.FAKE: (213, 94, 0),
    Verdict.REAL: (86, 180, 233),
    Verdict.UNCLEAR: (240, 228, 66),
    None: (170, 170, 170),
}
"""RGB of the boxes; without a verdict, a person does not count."""
LEAST_PX = 640
"""Smaller media are enlarged by a whole factor, so that words can be read in them."""
_EVERY_FRAME = Sampling(frames=None, every=1, max_frames=2**31 - 1)
_WHOLE_LENGTH = 20  # times the time limit of a few frames
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_LEFTOVER = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}.+-[0-9a-f]{{16}}\.(jpg|png|mp4)")
_FONT = cv2.FONT_HERSHEY_DUPLEX
_JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to draw.

    Args:
        box_xyxy: In pixels of the upright frame.
        label: Beside it.
        verdict: Decides its colour.
        is_between: Whether nobody looked at this frame.
    """

    box_xyxy: Box
    label: str
    verdict: Verdict | None
    is_between: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Annotated(Source):
    """A source with what is drawn on it, and where that goes, without a suffix."""

    result: Result
    target: Path


def annotate_files(
    answers: Iterable[tuple[Source, Result]], folder: Path, workers: Workers
) -> Iterator[tuple[Source, Path | str]]:
    """Draw the faces of every scored file into a copy of it.

    A copy is named by its file and by a hash of all that decides it, so that names never meet; one
    that is there already is left as it is.

    Args:
        answers: Sources and their results.
        folder: Where the copies go; it exists, and this process alone holds it.
        workers: How many processes do it; each file may take twenty times their time limit.

    Yields:
        Each source that has a score, with its copy, or the reason why there is none.

    Raises:
        JobError: If workers cannot be started.
    """
    for leftover in folder.iterdir():
        if _LEFTOVER.fullmatch(leftover.name):
            leftover.unlink()
    scored = (
        _Annotated(**_facts(source), result=result, target=folder / _name(source, result))
        for source, result in answers
        if result.p_fake is not None
    )
    slow = replace(workers, timeout_s=_WHOLE_LENGTH * workers.timeout_s)
    written = read_in_workers(scored, partial(_make_annotate, workers.max_pixels), slow)
    with closing(written):
        for source, answer in written:
            yield source, answer.reason if isinstance(answer, Failure) else answer


def refuse_folder(folder: Path, inputs: Path) -> None:
    """Refuse, before any work, a folder for copies that would be inputs the next time.

    Raises:
        UsageError: If it lies within the folder of inputs, or is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--annotate {folder} is no folder; name a new one")
    if inputs.is_dir() and folder.resolve().is_relative_to(inputs.resolve()):
        raise UsageError(
            f"--annotate {folder} lies within {inputs}: its files would be inputs the next time; "
            "name a folder outside"
        )


def _facts(source: Source) -> dict[str, Any]:
    return {one.name: getattr(source, one.name) for one in fields(source)}


def _name(source: Source, result: Result) -> str:
    """Letters that every system knows, then a hash."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(source.name).stem).strip("._-")[:80] or "file"
    decides = [__version__, source.id, *hash_inputs([source]).values(), asdict(result)]
    return f"{stem}-{hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]}"


def _make_annotate(max_pixels: int) -> Callable[[Source], Path | str]:
    cv2.setNumThreads(1)
    return partial(_annotate, max_pixels)


def _annotate(max_pixels: int, source: Source) -> Path | str:
    if not isinstance(source, _Annotated):
        raise TypeError(f"{source} has no result")
    there = [path for path in _targets(source.target) if path.is_file()]
    if there:
        return there[0]
    try:
        with (
            fetched(source) as file,
            open_media(file.path, file.name, _EVERY_FRAME, max_pixels) as clip,
        ):
            first = list(islice(clip, 2))
            if len(first) == 1:
                return _write_photo(source, file.path, first[0])
            return _write_video(source, chain(first, clip))
    except MediaError as error:
        return error.reason
    except (DeepfakeError, OSError) as error:
        return str(error)


def _targets(target: Path) -> list[Path]:
    return [target.with_name(target.name + suffix) for suffix in (".jpg", ".png", ".mp4")]


def _write_photo(source: _Annotated, path: Path, frame: Frame) -> Path:
    jpeg, png, _ = _targets(source.target)
    with path.open("rb") as file:
        is_jpeg = file.read(3) == b"\xff\xd8\xff"
    drawn = draw_marks(frame.image, Marker(source.result).list_marks(frame), source.result)
    target, options = png, []
    if is_jpeg:
        target, options = jpeg, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, data = cv2.imencode(target.suffix, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), options)
    _publish(target, lambda path: path.write_bytes(bytes(data)))
    return target


def _write_video(source: _Annotated, frames: Iterable[Frame]) -> Path:
    target = _targets(source.target)[-1]
    marker = Marker(source.result)
    # Pages of a TIFF have no times: a second each.
    drawn = (
        (frame.time_s or float(frame.index), draw_marks(frame.image, marks, source.result))
        for frame in frames
        for marks in [marker.list_marks(frame)]
    )
    comment = f"Annotated by deepfake {__version__}: boxes and words are drawn in, without sound"
    _publish(target, lambda path: record_video(path, drawn, comment))
    return target


def _publish(target: Path, write: Callable[[Path], object]) -> None:
    """Have a file written aside, and give it its name when it is whole.

    The folder may be anybody's, so that what a killed run leaves has a name that only it can have.
    """
    temporary = target.with_name(TEMPORARY_PREFIX + target.name)
    with no_space_is_an_error(target):
        try:
            write(temporary)
            sync_file(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


class Marker:
    """Where the people of a result are, in the frames that were scored and between them.

    Between two frames that were scored, a box moves evenly, if the two overlap and no more lies
    between them than a second, or two and a half times the usual; before the first and behind the
    last it stays for half as long as usual.

    Args:
        result: Of one file.
    """

    def __init__(self, result: Result) -> None:
        self._result = result
        self._tracks: dict[int, list[FaceScore]] = {}
        for face in sorted(result.faces, key=lambda face: face.frame_index):
            self._tracks.setdefault(face.person, []).append(face)
        times = sorted({face.time_s for face in result.faces})
        usual_s = median(late - early for early, late in pairwise(times)) if times[1:] else 1.0
        self._bridge_s, self._hold_s = max(1.0, 2.5 * usual_s), usual_s / 2

    def list_marks(self, frame: Frame) -> list[Mark]:
        """What to draw into a frame, the lowest score first."""
        height, width = frame.image.shape[:2]
        marks = []
        for person, faces in self._tracks.items():
            at = bisect_left(faces, frame.index, key=lambda face: face.frame_index)
            before, after = faces[at - 1] if at else None, faces[at] if at < len(faces) else None
            if after is not None and after.frame_index == frame.index:
                box, is_between = _upright(after, width, height), False
            else:
                found = self._place(frame, before, after, width, height)
                if found is None:
                    continue
                box, is_between = found, True
            p_fake, verdict, word = self._judge(person, faces)
            label = f"{person + 1}: {p_fake:.2f} {word}"
            marks.append((p_fake, Mark(box, label, verdict, is_between)))
        return [mark for _, mark in sorted(marks, key=lambda pair: pair[0])]

    def _place(
        self,
        frame: Frame,
        before: FaceScore | None,
        after: FaceScore | None,
        width: int,
        height: int,
    ) -> Box | None:
        if before is not None and after is not None:
            length_s = after.time_s - before.time_s
            ends = _upright(before, width, height), _upright(after, width, height)
            if 0 < length_s <= self._bridge_s and _overlap(*ends):
                share = (frame.time_s - before.time_s) / length_s
                x0, y0, x1, y1 = (a + share * (b - a) for a, b in zip(*ends, strict=True))
                return (x0, y0, x1, y1)
        for face in (before, after):
            if face is not None and 0 < abs(frame.time_s - face.time_s) <= self._hold_s:
                return _upright(face, width, height)
        return None

    def _judge(self, person: int, faces: Sequence[FaceScore]) -> tuple[float, Verdict | None, str]:
        """Score of a person, what it means, and in a word."""
        known = {one.person: one for one in self._result.people}
        one = known.get(person)
        p_fake = fmean(face.p_fake for face in faces) if one is None else one.p_fake
        limits = self._result.limits
        if limits is None or (one is not None and not one.counts):
            return p_fake, None, "not counted"
        verdict = Limits(limits[0], (limits[1],)).judge(p_fake)
        decides = one is not None and one.p_fake == self._result.p_fake
        if self._result.verdict is Verdict.UNCLEAR and (decides or verdict is Verdict.FAKE):
            verdict = Verdict.UNCLEAR  # the face is unlike those that the detector has learnt from
        return p_fake, verdict, verdict.value


def _overlap(one: Box, other: Box) -> bool:
    """Whether boxes have a pixel in common: the largest faces of two frames may be two people."""
    return all(one[n] < other[n + 2] and other[n] < one[n + 2] for n in (0, 1))


def _upright(face: FaceScore, width: int, height: int) -> Box:
    """The box in the upright frame: some faces were only found upside down."""
    x0, y0, x1, y1 = face.box_xyxy
    if face.rotation == 180:
        return (width - x1, height - y1, width - x0, height - y0)
    return (x0, y0, x1, y1)


def draw_marks(image: Picture, marks: Sequence[Mark], result: Result) -> Picture:
    """A copy of a frame with boxes, and below it what they mean.

    Args:
        image: ``(H, W, 3)`` RGB; enlarged by a whole factor where its longer side is below
            ``LEAST_PX``.
        marks: The last one lies on top.
        result: Of the file.
    """
    factor = max(1, -(-LEAST_PX // max(image.shape[:2])))
    drawn = np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
    unit = math.sqrt(drawn.shape[0] * drawn.shape[1]) / 1000
    for mark in marks:
        _draw_box(drawn, mark, factor, unit)
    for mark in marks:
        _draw_label(drawn, mark, factor, unit)
    return np.concatenate([drawn, _draw_caption(drawn.shape[1], unit, result)])


def _draw_box(drawn: Picture, mark: Mark, factor: int, unit: float) -> None:
    width = max(2, round(3 * unit))
    x0, y0, x1, y1 = (round(factor * value) for value in mark.box_xyxy)
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    for line, colour in ((width + 2 * max(1, width // 2), _BLACK), (width, COLOURS[mark.verdict])):
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            for piece in _cut_line(start, end, 8 * width if mark.is_between else 0):
                cv2.line(drawn, *piece, colour, line)


def _cut_line(start: Point, end: Point, dash: int) -> Iterator[tuple[Point, Point]]:
    """The line, or dashes with gaps of the same length."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    n_pieces = max(1, 2 * (length // (2 * dash)) + 1) if dash else 1

    def at(piece: int) -> Point:
        x, y = (round(a + (b - a) * piece / n_pieces) for a, b in zip(start, end, strict=True))
        return (x, y)

    return ((at(piece), at(piece + 1)) for piece in range(0, n_pieces, 2))


def _draw_label(drawn: Picture, mark: Mark, factor: int, unit: float) -> None:
    scale, thickness = _font(unit)
    (width, height), below = cv2.getTextSize(mark.label, _FONT, scale, thickness)
    pad = max(2, round(4 * unit))
    x0, y0, _, y1 = (round(factor * value) for value in mark.box_xyxy)
    tall = height + below + 2 * pad
    # Above the box, else below it; in any case within the frame.
    top = y0 - tall - pad if y0 >= tall + pad else min(y1 + pad, drawn.shape[0] - tall)
    left = min(max(x0, 0), max(drawn.shape[1] - width - 2 * pad, 0))
    corner = (left + width + 2 * pad, max(top, 0) + tall)
    cv2.rectangle(drawn, (left, max(top, 0)), corner, _BLACK, -1)
    bottom = (left, corner[1] - pad // 2)
    cv2.line(drawn, bottom, (corner[0], bottom[1]), COLOURS[mark.verdict], max(2, pad // 2))
    place = (left + pad, corner[1] - pad - below)
    cv2.putText(drawn, mark.label, place, _FONT, scale, _WHITE, thickness, cv2.LINE_AA)


def _draw_caption(width: int, unit: float, result: Result) -> Picture:
    """Lines of words on black, as wide as the frame."""
    scale, thickness = _font(unit)
    pad = max(4, round(8 * unit))
    lines = [
        line
        for text in _describe(result)
        for line in _wrap(text, width - 4 * pad, scale, thickness)
    ]
    (_, height), below = cv2.getTextSize("Ag", _FONT, scale, thickness)
    step = height + below + pad
    strip = np.zeros((step * len(lines) + pad, width, 3), dtype=np.uint8)
    strip[:, :pad] = COLOURS[result.verdict]
    for number, line in enumerate(lines, start=1):
        place = (2 * pad, number * step - below)
        cv2.putText(strip, line, place, _FONT, scale, _WHITE, thickness, cv2.LINE_AA)
    return strip


def _describe(result: Result) -> Iterator[str]:
    if result.p_fake is not None and result.verdict is not None and result.limits is not None:
        real, fake = result.limits
        yield (
            f"{result.verdict.value}, score {result.p_fake:.3f} (real up to {real:.3f}, fake from "
            f"{fake:.3f})"
        )
    yield (
        f"deepfake {__version__}. Boxes: person, score. Dashed: between scored frames. A score is "
        "evidence, not proof."
    )


def _wrap(text: str, width: int, scale: float, thickness: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and cv2.getTextSize(longer, _FONT, scale, thickness)[0][0] > width:
            yield line
            longer = word
        line = longer
    yield line


def _font(unit: float) -> tuple[float, int]:
    return max(0.45, 0.75 * unit), max(1, round(1.4 * unit))
