"""Of the faces of a fake's frame, the forged one is cut: the data set's mask tells which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import MediaError
from deepfake.faces.extraction import FaceExtractor
from deepfake.faces.masks import Masks
from deepfake.records import CropSpec, Frame, Source, Status
from tests.fakes import Picture, make_face, make_source, portrait, write_photo

SPEC = CropSpec.from_preset("square", size=64)


def pair() -> Picture:
    """A large face on the left, a small one on the right."""
    picture = np.full((256, 420, 3), 120, np.uint8)
    picture[:, :256], picture[40:200, 258:418] = portrait(0, 0, 256), portrait(5, 0, 160)
    return picture


def mask_of(x0: int, x1: int, scale: float = 1.0) -> Picture:
    mask = np.zeros((round(256 * scale), round(420 * scale), 3), np.uint8)
    mask[:, round(x0 * scale) : round(x1 * scale)] = 255
    return mask


@pytest.fixture
def fake(tmp_path: Path) -> Source:
    return make_source(write_photo(tmp_path / "fake.png", pair()), label=1)


def centre(source: Source, spec: CropSpec = SPEC) -> list[float]:
    found = FaceExtractor(spec).extract(source)
    assert found.status is Status.OK
    assert [crop.face_index for crop in found.crops] == list(range(len(found.crops)))
    return [float(crop.face.box_xyxy[::2].mean()) for crop in found.crops]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_masked_face_is_cut(fake: Source, tmp_path: Path, scale: float) -> None:
    right = write_photo(tmp_path / "right.png", mask_of(280, 400, scale))
    left = write_photo(tmp_path / "left.png", mask_of(60, 200, scale))
    (largest,) = centre(fake)
    assert largest < 256
    assert centre(replace(fake, mask=left)) == [largest]
    assert centre(replace(fake, mask=right))[0] > 258
    # All faces stay all faces.
    assert len(centre(replace(fake, mask=right), SPEC.for_scoring("all"))) == 2


def test_a_mask_is_turned_with_its_frame() -> None:
    left, right = make_face((10, 0, 110, 100)), make_face((310, 0, 410, 100))
    frame = Frame(0, 0.0, np.zeros((256, 420, 3), np.uint8))
    for rotation, forged in ((0, left), (180, right)):
        masks = Masks(iter([Frame(0, 0.0, mask_of(10, 110))]))
        assert masks.choose(frame, [left, right], rotation) == [forged]


@pytest.mark.parametrize("content", [None, b"no picture"], ids=["gone", "broken"])
def test_without_its_mask_the_largest_is_cut_and_that_is_said(
    fake: Source, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "mask.png"
    if content is not None:
        path.write_bytes(content)
    (largest,) = centre(fake)
    found = FaceExtractor(SPEC).extract(replace(fake, mask=path))
    assert float(found.crops[0].face.box_xyxy[::2].mean()) == largest
    assert "mask" in found.reason


def test_masks_follow_their_frames() -> None:
    faces = [make_face((0, 0, 100, 100)), make_face((200, 0, 280, 80))]

    def play(*numbers: int, broken: bool = False) -> Iterator[Frame]:
        for number in numbers:
            yield Frame(number, number / 25, mask_of(200, 300))
        if broken:
            raise MediaError("m", "decode_error", "torn")

    def frame(number: int) -> Frame:
        return Frame(number, number / 25, np.zeros((256, 420, 3), np.uint8))

    masks = Masks(play(0, 2, 5, 9, broken=True))
    chosen = [masks.choose(frame(number), faces, 0) for number in (0, 3, 5, 9, 10)]
    assert [one[0] is faces[1] for one in chosen] == [True, False, True, True, False]
    assert (masks.missing, masks.problem) == (2, "decode_error: torn")
    assert Masks(play(0)).choose(frame(0), [], 0) == []
    nothing = Masks(iter([Frame(0, 0.0, np.zeros((256, 420, 3), np.uint8))]))
    assert nothing.choose(frame(0), faces, 0) == faces[:1]


def test_a_tree_of_faceforensics_tells_the_forged_face(tmp_path: Path) -> None:
    fakes = tmp_path / "manipulated_sequences/Deepfakes"
    write_photo(tmp_path / "original_sequences/youtube/c23/images/000/0000.png", pair())
    write_photo(fakes / "c23/images/000_003/0000.png", pair())
    write_photo(fakes / "masks/images/000_003/0000.png", mask_of(280, 400))
    real, fake = sorted(label_sources(tmp_path).sources, key=lambda one: one.label or 0)
    assert centre(real)[0] < 256
    assert centre(fake)[0] > 258
