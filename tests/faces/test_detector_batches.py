"""Many frames and whole levels at once, as a GPU does it, on whatever device there is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.faces import detector as cascade
from deepfake.faces.detector import MTCNN
from deepfake.media.decoding import open_media
from deepfake.records import MAX_PIXELS, Face, Sampling
from tests.faces.test_detector import DACON, DEFAULT, Settings, flat, ours, theirs
from tests.fakes import Picture, montage, portrait


def batched(settings: Settings, device: str = "cpu", mode: Any = "exact") -> MTCNN:
    """A detector that works on many frames and whole levels at once, as on a GPU."""
    detector = MTCNN(*settings, mode=mode, device=device)
    detector._portions = cascade._GPU
    return detector


def assert_same(found: list[list[Face]], expected: list[list[Face]]) -> None:
    assert [len(faces) for faces in found] == [len(faces) for faces in expected]
    for faces, others in zip(found, expected, strict=True):
        for face, other in zip(faces, others, strict=True):
            np.testing.assert_allclose(face.box_xyxy, other.box_xyxy, atol=0.01)
            np.testing.assert_allclose(face.landmarks, other.landmarks, atol=0.01)
            assert face.confidence == pytest.approx(other.confidence, abs=1e-4)


def mixed_pictures() -> list[Picture]:
    """Several sizes, some of them several times, some without a face or smaller than any."""
    pictures = [portrait(index, index % 2, 256) for index in range(5)]
    pictures += [flat(256, 256), montage(), np.ascontiguousarray(montage()[::-1]), flat(9, 9)]
    pictures += [portrait(1, 0, 97), portrait(2, 0, 97), flat(0, 40), portrait(6, 0, 256)]
    return pictures


@pytest.mark.parametrize("settings", [DEFAULT, DACON], ids=["default", "dacon"])
def test_batches_find_the_same_faces(settings: Settings) -> None:
    pictures = mixed_pictures()
    expected = ours(settings).detect(pictures)
    assert sum(len(faces) for faces in expected) >= 8
    assert_same(batched(settings).detect(pictures), expected)


def test_batches_equal_facenet_pytorch() -> None:
    pictures = [portrait(index, 0, 256) for index in range(4)] + [flat(256, 256)]
    boxes, scores = theirs(DEFAULT).detect(np.stack(pictures))
    found = batched(DEFAULT).detect(pictures)
    assert found[-1] == []
    assert boxes[-1] is None
    for faces, other, their_scores in zip(found[:-1], boxes[:-1], scores[:-1], strict=True):
        assert len(faces) == len(other)
        for face, box, score in zip(faces, other, their_scores, strict=True):
            np.testing.assert_allclose(face.box_xyxy, box.astype(float), atol=0.01)
            assert face.confidence == pytest.approx(float(score), abs=1e-4)


@pytest.mark.parametrize("mode", ["main", "main-first"])
def test_the_main_face_has_one_box_on_every_device(mode: Any) -> None:
    # Fine and coarse levels, so that the search stops early and its box is not exact mode's.
    pictures = [*mixed_pictures(), *(portrait(index, 0, 500) for index in range(3))]
    expected = MTCNN(*DEFAULT, mode=mode).detect(pictures)
    assert_same(batched(DEFAULT, mode=mode).detect(pictures), expected)


@pytest.mark.parametrize("mode", ["exact", "main", "main-first"])
def test_what_a_device_computed_is_fetched_before_it_is_numpys(
    monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """A tensor of a GPU refuses ``numpy()``; so does here whatever was not fetched by ``cpu()``."""
    pictures = [portrait(0, 0, 500), portrait(1, 1, 256)]
    expected = MTCNN(*DEFAULT, mode=mode).detect(pictures)
    fetched: dict[int, torch.Tensor] = {}
    fetch, convert = torch.Tensor.cpu, torch.Tensor.numpy

    def cpu(self: torch.Tensor) -> torch.Tensor:
        copy = fetch(self).clone()
        fetched[id(copy)] = copy
        return copy

    def to_numpy(self: torch.Tensor) -> Any:
        if sys._getframe(1).f_code.co_filename == cascade.__file__:
            assert id(self) in fetched
        return convert(self)

    detector = batched(DEFAULT, mode=mode)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "numpy", to_numpy)
    found = detector.detect(pictures)
    monkeypatch.undo()
    assert fetched
    assert_same(found, expected)


def test_a_small_portion_at_a_time_changes_nothing() -> None:
    detector = MTCNN(*DEFAULT)
    detector._portions = cascade._Portions(frame_px=150_000, tile_px=56, rnet=3, onet=2)
    pictures = mixed_pictures()
    assert_same(detector.detect(pictures), ours(DEFAULT).detect(pictures))


@pytest.mark.data
def test_batches_of_frames_find_the_same_faces(shared_media: Path) -> None:
    clip = shared_media / "videos" / "unlabelled_real" / "facenet-pytorch_video.mp4"
    with open_media(clip, clip.name, Sampling(frames=3), MAX_PIXELS) as frames:
        pictures = [frame.image for frame in frames]
    settings = (60, 0.709, (0.6, 0.7, 0.7))
    expected = ours(settings).detect(pictures)
    assert sum(len(faces) for faces in expected) >= 6
    assert_same(batched(settings).detect(pictures), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["exact", "main", "main-first"])
@pytest.mark.parametrize("settings", [DEFAULT, DACON], ids=["default", "dacon"])
def test_a_gpu_finds_what_a_cpu_finds(settings: Settings, mode: Any) -> None:
    huge = np.full((2900, 3000, 3), 250, np.uint8)  # its sums wrap
    huge[2500:2900, 2600:3000] = portrait(0, 0, 400)
    pictures = [*mixed_pictures(), huge]
    expected = MTCNN(*settings, mode=mode).detect(pictures)
    assert_same(MTCNN(*settings, mode=mode, device="cuda").detect(pictures), expected)
