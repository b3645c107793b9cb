"""Many frames at a time, and frames between those that were searched."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfake.errors import MediaError
from deepfake.faces import extraction as extraction_room
from deepfake.faces.detector import MTCNN, FaceDetector
from deepfake.faces.extraction import FaceExtractor
from deepfake.media.clips import Clip
from deepfake.records import CropSpec, Extraction, Face, Frame, Sampling, Source, Status
from tests.fakes import (
    Picture,
    make_face,
    portrait,
    upside_down,
)

SMALL = CropSpec(size=64)


def grey() -> Picture:
    return np.full((160, 160, 3), 120, np.uint8)


class SquareDetector:
    """Finds every white square on black, and counts what it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def detect(self, images: Sequence[Picture]) -> list[list[Face]]:
        self.batches.append(len(images))
        return [self._find(image) for image in images]

    def _find(self, image: Picture) -> list[Face]:
        edges = np.flatnonzero(np.diff(image[:, :, 0].max(axis=0) > 200, prepend=0, append=0))
        boxes = []
        for left, right in edges.reshape(-1, 2):
            rows = np.flatnonzero(image[:, left, 0] > 200)
            boxes.append((left, rows[0], right, rows[-1] + 1))
        faces = [make_face([float(value) for value in box]) for box in boxes]
        return sorted(
            faces, key=lambda face: -float(np.prod(face.box_xyxy[2:] - face.box_xyxy[:2]))
        )


def squares(*boxes: tuple[int, int, int], size: tuple[int, int] = (160, 240)) -> Picture:
    picture = np.zeros((*size, 3), np.uint8)
    for x, y, side in boxes:
        picture[y : y + side, x : x + side] = 255
    return picture


def play(
    monkeypatch: pytest.MonkeyPatch,
    pictures: Sequence[Picture],
    detector: FaceDetector,
    spec: CropSpec = SMALL,
    problem: MediaError | None = None,
    times_s: Sequence[float] | None = None,
    **sampling: Any,
) -> Extraction:
    """Extract a clip of these very frames; it may end with a problem."""

    def walk() -> Generator[Frame, None, str]:
        for index, picture in enumerate(pictures):
            yield Frame(index, index / 25 if times_s is None else times_s[index], picture)
        if problem is not None:
            raise problem
        return ""

    monkeypatch.setattr(extraction_room, "open_media", lambda *_: Clip(walk(), ExitStack()))
    extractor = FaceExtractor(spec, detector, sampling=Sampling(**sampling))
    return extractor.extract(Source("0" * 16, Path("clip"), "clip"))


ALL_FACES = replace(SMALL, faces="all", search="exact")


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(("n_frames", "n_pixels"), [(3, 1 << 40), (16, 160 * 160)])
def test_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, n_frames: int, n_pixels: int, every: int
) -> None:
    people = [portrait(0, 0), grey(), upside_down(portrait(2, 0)), portrait(1, 0), portrait(1, 0)]
    pictures = [people[number // 3] for number in range(15)]
    detector = MTCNN(min_face=40, mode="main")
    whole = play(monkeypatch, pictures, detector, detect_every=every)
    monkeypatch.setattr(extraction_room, "_CHUNK_FRAMES", n_frames)
    monkeypatch.setattr(extraction_room, "_CHUNK_PIXELS", n_pixels)
    parts = play(monkeypatch, pictures, detector, detect_every=every)
    assert parts.reason == whole.reason
    assert len(whole.crops) >= 9
    assert {crop.rotation for crop in whole.crops} == {0, 180}
    assert [(c.frame_index, c.face_index, c.encoded) for c in parts.crops] == [
        (c.frame_index, c.face_index, c.encoded) for c in whole.crops
    ]
    if every == 1:
        alone = FaceExtractor(SMALL, detector)
        for crop in whole.crops:
            (expected,) = alone.extract_frame(
                Frame(crop.frame_index, 0.0, pictures[crop.frame_index])
            ).crops
            assert crop.encoded == expected.encoded


def test_the_detector_gets_many_frames_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = SquareDetector()
    pictures = [squares((20, 20, 60)) if number % 4 else squares() for number in range(40)]
    extraction = play(monkeypatch, pictures, detector)
    assert extraction.reason == "faces in 30 of 40 frames"
    # Those without a face once more, turned.
    assert detector.batches == [16, 4, 16, 4, 8, 2]
    detector.batches.clear()
    monkeypatch.setattr(extraction_room, "_CHUNK_PIXELS", 4 * 160 * 240)
    assert play(monkeypatch, pictures, detector).reason == extraction.reason
    assert detector.batches == [4, 1] * 10


def test_boxes_between_are_those_of_steady_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [squares((10 + 4 * n, 20 + 2 * n, 60), (150 - 2 * n, 10, 40)) for n in range(12)]
    each, some = SquareDetector(), SquareDetector()
    expected = play(monkeypatch, pictures, each, ALL_FACES)
    extraction = play(monkeypatch, pictures, some, ALL_FACES, detect_every=4)
    assert sum(each.batches) == 12
    assert some.batches == [4], "frames 0, 4 and 8, and the last one"
    assert extraction.reason == "faces in 12 of 12 frames; boxes of 8 of 12 frames interpolated"
    assert len(extraction.crops) == len(expected.crops) == 24
    for crop, other in zip(extraction.crops, expected.crops, strict=True):
        assert (crop.frame_index, crop.face_index) == (other.frame_index, other.face_index)
        np.testing.assert_allclose(crop.face.box_xyxy, other.face.box_xyxy, atol=0.011)
        np.testing.assert_allclose(crop.face.landmarks, other.face.landmarks, atol=0.011)


def test_boxes_between_go_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [squares((20, 20, 60)), squares((99, 20, 60)), squares((40, 20, 60))]
    for times_s, x in (((0.0, 0.1, 1.0), 22.0), ((0.0, 0.0, 0.0), 30.0)):
        extraction = play(monkeypatch, pictures, SquareDetector(), times_s=times_s, detect_every=2)
        assert [crop.face.box_xyxy[0] for crop in extraction.crops] == [20.0, x, 40.0]
    # After more than a second a face may have been anywhere.
    slow = play(monkeypatch, pictures, SquareDetector(), times_s=(0.0, 0.6, 1.2), detect_every=2)
    assert [crop.face.box_xyxy[0] for crop in slow.crops] == [20.0, 99.0, 40.0]


@pytest.mark.parametrize(
    ("change", "n_searched"),
    [
        pytest.param(lambda n: squares((20, 20, 60)) if n < 2 else squares(), 3, id="gone"),
        pytest.param(lambda n: squares((20, 20, 60)) if n > 1 else squares(), 3, id="comes"),
        pytest.param(lambda n: squares(), 3, id="nobody"),
        pytest.param(lambda n: squares((20 + 99 * (n // 2), 20, 60)), 3, id="somebody-else"),
        pytest.param(lambda n: squares((20, 20, 60), size=(160, 240 + 2 * n)), 3, id="other-size"),
        pytest.param(lambda n: squares((20, 20, 60)), 2, id="stays"),
    ],
)
def test_no_box_is_invented(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[int], Picture], n_searched: int
) -> None:
    detector = SquareDetector()
    pictures = [change(number) for number in range(3)]
    spec = replace(SMALL, rotate_retry=False)
    extraction = play(monkeypatch, pictures, detector, spec, detect_every=2)
    assert sum(detector.batches) == n_searched
    assert ("interpolated" in extraction.reason) == (n_searched == 2)
    in_full = play(monkeypatch, pictures, SquareDetector(), spec)
    assert [c.encoded for c in extraction.crops] == [c.encoded for c in in_full.crops]


def test_frames_before_an_error_count(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = MediaError("clip", "io_error", "the disk has gone")
    for every in (1, 3):
        pictures = [squares((20 + 2 * n, 20, 60)) for n in range(21)]
        extraction = play(
            monkeypatch, pictures, SquareDetector(), problem=problem, detect_every=every
        )
        assert extraction.status is Status.OK
        assert [crop.frame_index for crop in extraction.crops] == list(range(21))
        assert "io_error: the disk has gone" in extraction.reason
    extraction = play(monkeypatch, [], SquareDetector(), problem=problem)
    assert (extraction.status, extraction.reason) == (Status.UNREADABLE, problem.reason)


def test_memory_is_bounded_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    most = 0

    class Counted(np.ndarray):
        pass

    def make(number: int) -> Picture:
        nonlocal most
        picture = squares((20, 20, 60)).view(Counted)
        alive.add(number)
        weakref.finalize(picture, alive.discard, number)
        most = max(most, len(alive))
        return picture

    class Lazy(Sequence[Picture]):
        def __len__(self) -> int:
            return 200

        def __getitem__(self, number: Any) -> Any:
            if number >= 200:
                raise IndexError
            return make(number)

    extraction = play(monkeypatch, Lazy(), SquareDetector(), detect_every=5)
    assert extraction.reason == (
        "faces in 200 of 200 frames; boxes of 159 of 200 frames interpolated"
    )
    # A chunk with those before it that wait for its boxes, those that are read ahead meanwhile, and
    # some more that are being passed on.
    assert most <= (16 + 5) + 16 + 18
