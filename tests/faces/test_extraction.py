"""From a file to crops: statuses, the upside-down retry, and the bytes that are the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepfake.dataset.cropping import crop_media
from deepfake.dataset.manifest import read_manifest
from deepfake.demo.people import portrait_geometry
from deepfake.errors import MediaError
from deepfake.faces.detector import MTCNN
from deepfake.faces.extraction import FaceExtractor, cut_face, decode_crop, encode_crop
from deepfake.faces.geometry import TEMPLATE, to_crop
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Face, Frame, Sampling, Status, TurnedWindow, Workers
from tests.fakes import (
    FakeDetector,
    Picture,
    make_face,
    make_source,
    montage,
    portrait,
    upside_down,
    write_photo,
)

SMALL = CropSpec(size=64)


def frame(picture: Picture, note: str = "") -> Frame:
    return Frame(0, 0.0, picture, note)


def difference(one: Picture, other: Picture) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.fixture(scope="module")
def extractor() -> FaceExtractor:
    return FaceExtractor(SMALL)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(CropSpec.from_preset("square"), id="square"),
        pytest.param(CropSpec.from_preset("dacon"), id="dacon"),
        pytest.param(CropSpec.from_preset("aligned", faces="all"), id="aligned"),
        pytest.param(
            CropSpec.from_preset("square", jpeg_quality=None, faces="all", search="exact"),
            id="png-all",
        ),
    ],
)
def test_prediction_crop_is_the_training_crop(tmp_path: Path, spec: CropSpec) -> None:
    photos = tmp_path / "photos"
    write_photo(photos / "a.png", portrait(1, 0, 256))
    write_photo(photos / "b.jpg", montage(), quality=90)
    write_photo(photos / "turned.webp", upside_down(portrait(2, 0, 256)))
    crop_media(str(photos), tmp_path / "crops", spec, workers=Workers(0), quiet=True)
    stored = {
        (row.source, row.face): (tmp_path / "crops" / row.crop).read_bytes()
        for row in read_manifest(tmp_path / "crops").rows
    }
    extractor = FaceExtractor(spec)
    predicted = {
        (source.id, crop.face_index): crop.encoded
        for source in discover(photos).sources
        for crop in extractor.extract(source).crops
    }
    assert stored == predicted
    assert len({source for source, _ in stored}) == 3


def test_crop_is_the_decoded_cut(extractor: FaceExtractor) -> None:
    picture = portrait(2, 0, 256)
    extraction = extractor.extract_frame(frame(picture))
    assert (extraction.status, extraction.reason) == (Status.OK, "")
    (crop,) = extraction.crops
    assert (crop.frame_index, crop.time_s, crop.face_index, crop.rotation) == (0, 0.0, 0, 0)
    assert crop.encoded.startswith(b"\xff\xd8")
    seen = decode_crop(crop.encoded)
    assert seen.shape == (64, 64, 3)
    assert seen.dtype == np.uint8
    # JPEG is lossy; swapped colours would be far off.
    assert difference(seen, cut_face(picture, crop.face, SMALL)) < 6
    assert difference(seen[..., ::-1], cut_face(picture, crop.face, SMALL)) > 6
    np.testing.assert_array_equal(crop.face.box_xyxy, np.round(crop.face.box_xyxy, 2))


@pytest.mark.parametrize("preset", ["square", "aligned"])
def test_upside_down_face_gives_an_upright_crop(tmp_path: Path, preset: str) -> None:
    picture = portrait(2, 0, 256)  # one that MTCNN cannot find upside down
    spec = CropSpec.from_preset(preset, size=64, jpeg_quality=None)
    extractor = FaceExtractor(spec)
    (upright,) = extractor.extract_frame(frame(picture)).crops
    source = make_source(write_photo(tmp_path / "turned.png", upside_down(picture)))
    extraction = extractor.extract(source)
    (turned,) = extraction.crops
    assert (extraction.status, turned.rotation) == (Status.OK, 180)
    assert turned.encoded == upright.encoded
    np.testing.assert_array_equal(turned.face.box_xyxy, upright.face.box_xyxy)
    assert turned.window == upright.window


def test_a_whole_picture_is_the_crop_whatever_it_shows() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    spec = CropSpec.from_preset("whole", size=64, jpeg_quality=None)
    extraction = FaceExtractor(spec).extract_frame(frame(noise))
    (crop,) = extraction.crops
    assert (extraction.status, extraction.n_found, crop.rotation) == (Status.OK, 1, 0)
    assert (crop.window, crop.face.landmarks.shape) == ((0, 0, 120, 90), (0, 2))
    shrunk = cv2.resize(noise, (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(decode_crop(crop.encoded), shrunk)
    of_size = FaceExtractor(replace(spec, faces="largest")).extract_frame(frame(noise[:64, :64]))
    np.testing.assert_array_equal(decode_crop(of_size.crops[0].encoded), noise[:64, :64])
    tiny = FaceExtractor(spec).extract_frame(frame(noise[:19]))
    assert (tiny.status, tiny.reason.split(";")[0]) == (
        Status.TOO_SMALL,
        "too_small: frame of 120x19 px",
    )


class DetectorOfPoints:
    """Finds faces with given points, ``(5, 2)``, in every picture."""

    def __init__(self, *points: NDArray[np.float32]) -> None:
        self.points = points

    def detect(self, images: Sequence[Picture]) -> list[list[Face]]:
        faces = [Face(np.array([20, 20, 70, 80], np.float32), 0.9, one) for one in self.points]
        return [list(faces) for _ in images]


def turn(picture: Picture, points: Any, degrees: float) -> tuple[Picture, NDArray[np.float32]]:
    """A picture turned clockwise around its middle, and points of it."""
    middle = (len(picture) - 1) / 2
    affine = cv2.getRotationMatrix2D((middle, middle), -degrees, 1.0)
    turned = cv2.warpAffine(
        picture, affine, picture.shape[:2], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    moved = points @ affine[:, :2].T + affine[:, 2]
    return np.asarray(turned, np.uint8), moved.astype(np.float32)


@pytest.mark.parametrize("degrees", [-35, 20])
def test_aligned_faces_stand_upright_however_they_are_turned(degrees: float) -> None:
    spec = CropSpec.from_preset("aligned", size=128, jpeg_quality=None)
    picture, points = portrait(1, 0, 256), portrait_geometry(1, 0).points.astype(np.float32)
    plain = FaceExtractor(spec, DetectorOfPoints(points)).extract_frame(frame(picture)).crops[0]
    tilted, moved = turn(picture, points, degrees)
    crop = FaceExtractor(spec, DetectorOfPoints(moved)).extract_frame(frame(tilted)).crops[0]
    assert isinstance(plain.window, TurnedWindow)
    assert isinstance(crop.window, TurnedWindow)
    assert crop.window.angle - plain.window.angle == pytest.approx(degrees, abs=0.1)
    assert difference(decode_crop(crop.encoded), decode_crop(plain.encoded)) < 2.5
    # Its five points stand around those of the template, and MTCNN finds them there.
    places = (TEMPLATE + 0.15) / 1.3 * 128 - 0.5
    np.testing.assert_allclose(to_crop(moved, crop.window, 128), places, atol=0.06 * 128)
    (seen,) = MTCNN(min_face=40).detect([decode_crop(crop.encoded)])[0]
    np.testing.assert_allclose(seen.landmarks, to_crop(moved, crop.window, 128), atol=0.05 * 128)


def test_points_that_are_no_face_are_left_out_and_said(tmp_path: Path) -> None:
    spec = CropSpec.from_preset("aligned", size=64)
    source = make_source(write_photo(tmp_path / "a.png", np.full((100, 100, 3), 128, np.uint8)))
    line = np.array([[30, 30], [40, 40], [45, 45], [50, 50], [60, 60]], np.float32)
    good = make_face((20, 20, 70, 80)).landmarks
    why = "their five points are not placed like a face's, or lie outside the frame"
    for unusable in (line, good + 100):
        nothing = FaceExtractor(spec, DetectorOfPoints(unusable)).extract(source)
        assert (nothing.status, nothing.n_found, nothing.crops) == (Status.NO_FACE, 1, ())
        assert nothing.reason == (
            f"no_face: no face that the detector found can be cut; 1 of 1 faces left out: {why}"
        )
        both = FaceExtractor(spec, DetectorOfPoints(unusable, good)).extract(source)
        assert (both.status, len(both.crops)) == (Status.OK, 1)
        assert both.reason == f"1 of 2 faces left out: {why}"
    # Other crops do not go by the points.
    assert FaceExtractor(SMALL, DetectorOfPoints(line)).extract(source).status == Status.OK


@pytest.mark.parametrize("retry", [True, False], ids=["retry", "no-retry"])
def test_the_picture_is_turned_once_and_only_if_need_be(retry: bool) -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[0, 0] = 255  # a mark that tells the top from the bottom
    spec = replace(SMALL, rotate_retry=retry)
    turned = FakeDetector((20, 20, 70, 80), finds_in=lambda image: bool(image[-1, -1, 0]))
    extraction = FaceExtractor(spec, turned).extract_frame(frame(picture))
    assert turned.calls == 1 + retry
    assert extraction.status == (Status.OK if retry else Status.NO_FACE)
    upright = FakeDetector((20, 20, 70, 80))
    (crop,) = FaceExtractor(spec, upright).extract_frame(frame(picture)).crops
    assert (upright.calls, crop.rotation) == (1, 0)


@pytest.mark.parametrize(
    ("shape", "min_face", "status"),
    [
        pytest.param((39, 400), 40, Status.TOO_SMALL, id="below-min-face"),
        pytest.param((400, 19), 12, Status.TOO_SMALL, id="below-20"),
        pytest.param((40, 40), 40, Status.NO_FACE, id="at-min-face"),
        pytest.param((1, 1), 12, Status.TOO_SMALL, id="one-pixel"),
    ],
)
def test_small_pictures_are_not_searched(
    shape: tuple[int, int], min_face: int, status: Status
) -> None:
    detector = FakeDetector()
    extractor = FaceExtractor(replace(SMALL, min_face=min_face), detector)
    extraction = extractor.extract_frame(frame(np.zeros((*shape, 3), np.uint8)))
    assert extraction.status == status
    assert extraction.reason.startswith(f"{status.value}: ")
    assert extraction.crops == ()
    assert detector.calls == (0 if status == Status.TOO_SMALL else 2)


def test_too_small_says_what_was_wanted() -> None:
    extraction = FaceExtractor(SMALL, FakeDetector()).extract_frame(
        frame(np.zeros((30, 200, 3), np.uint8))
    )
    assert extraction.reason == (
        "too_small: frame of 200x30 px; its shorter side must hold a face of 40 px"
    )


def test_no_face_in_a_plain_picture(extractor: FaceExtractor) -> None:
    extraction = extractor.extract_frame(frame(np.full((200, 200, 3), 128, np.uint8)))
    assert extraction.status == Status.NO_FACE
    assert extraction.reason == "no_face: the detector found no face"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "decode_error: empty file", id="empty"),
        pytest.param(b"no photo at all", "decode_error", id="text"),
        pytest.param(b"\xff\xd8\xff\xe0 broken", "", id="broken"),
    ],
)
def test_unreadable_files(
    tmp_path: Path, extractor: FaceExtractor, data: bytes, reason: str
) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    extraction = extractor.extract(make_source(tmp_path / "x.jpg"))
    assert (extraction.status, extraction.crops) == (Status.UNREADABLE, ())
    assert extraction.reason.startswith(reason)
    assert ": " in extraction.reason


def test_truncated_photo_is_unreadable(tmp_path: Path, extractor: FaceExtractor) -> None:
    path = write_photo(tmp_path / "x.jpg", portrait(0, 0, 256))
    path.write_bytes(path.read_bytes()[:-3000])
    extraction = extractor.extract(make_source(path))
    assert extraction.status == Status.UNREADABLE
    assert extraction.reason.startswith("truncated: ")


def test_pixel_limit(tmp_path: Path) -> None:
    source = make_source(write_photo(tmp_path / "x.png", portrait(0, 0, 256)))
    extraction = FaceExtractor(SMALL, FakeDetector(), max_pixels=60_000).extract(source)
    assert extraction.status == Status.UNREADABLE
    assert extraction.reason.startswith("too_large: ")


def test_problem_of_discovery_becomes_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    source = make_source(tmp_path / "fifo.jpg")
    assert source.problem is not None
    detector = FakeDetector()
    extraction = FaceExtractor(SMALL, detector).extract(source)
    assert (extraction.status, extraction.reason) == (Status.UNREADABLE, source.problem)
    assert detector.calls == 0


def test_the_main_face_is_cut_the_same_whoever_else_is_there() -> None:
    """What training cuts out of a frame is among what prediction cuts, byte for byte."""
    shots = [frame(np.array(portrait(number, 0, 128))) for number in range(4)]
    moved = 0
    for shot in [frame(montage()), *shots]:
        (largest,) = FaceExtractor(SMALL).extract_frame(shot).crops
        every = FaceExtractor(SMALL.for_scoring("all")).extract_frame(shot).crops
        exact = FaceExtractor(replace(SMALL, faces="all", search="exact")).extract_frame(shot).crops
        assert (every[0].encoded, len(every)) == (largest.encoded, len(exact))
        moved += exact[0].encoded != largest.encoded
    assert moved  # or exact mode alone would do


def test_all_faces_or_the_largest() -> None:
    largest = FaceExtractor(SMALL).extract_frame(frame(montage())).crops
    every = (
        FaceExtractor(replace(SMALL, faces="all", search="exact"))
        .extract_frame(frame(montage()))
        .crops
    )
    assert len(largest) == 1
    assert len(every) >= 4
    assert [crop.face_index for crop in every] == list(range(len(every)))
    assert every[0].encoded == largest[0].encoded
    assert len({crop.encoded for crop in every}) == len(every)


def test_faces_outside_the_picture_do_not_count() -> None:
    outside, inside = (300, 300, 380, 380), (20, 20, 70, 80)
    picture = np.zeros((100, 100, 3), np.uint8)
    for spec in (SMALL, CropSpec.from_preset("dacon", size=64)):
        extractor = FaceExtractor(spec, FakeDetector(outside, inside))
        (crop,) = extractor.extract_frame(frame(picture)).crops
        np.testing.assert_array_equal(crop.face.box_xyxy, inside)
        nothing = FaceExtractor(spec, FakeDetector(outside)).extract_frame(frame(picture))
        assert (nothing.status, nothing.n_found) == (Status.NO_FACE, 1)
        assert nothing.reason == "no_face: no face that the detector found can be cut"


def test_a_remark_on_the_frame_stays_with_the_crops() -> None:
    extractor = FaceExtractor(SMALL, FakeDetector((20, 20, 70, 80)))
    extraction = extractor.extract_frame(frame(montage(), "first of 12 frames"))
    assert (extraction.status, extraction.reason) == (Status.OK, "first of 12 frames")


def test_tiny_differences_of_the_box_do_not_move_the_crop() -> None:
    crops = [
        FaceExtractor(SMALL, FakeDetector((20.5 + shift, 20.5, 70.5, 80.5)))
        .extract_frame(frame(montage()))
        .crops[0]
        .encoded
        for shift in (-1e-5, 0, 1e-5)
    ]
    assert len(set(crops)) == 1


def test_exif_rotation_gives_the_same_face(tmp_path: Path) -> None:
    picture = portrait(3, 0, 256)
    plain = write_photo(tmp_path / "plain.png", picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    rotated = write_photo(tmp_path / "rotated.png", np.rot90(picture), exif=exif)
    extractor = FaceExtractor(SMALL)
    (one,), (other,) = (extractor.extract(make_source(path)).crops for path in (plain, rotated))
    assert one.encoded == other.encoded


def test_png_is_lossless_and_jpeg_is_smaller() -> None:
    crop = cut_face(portrait(0, 0, 256), make_face((70, 60, 190, 200)), CropSpec(size=128))
    png, good, poor = (encode_crop(crop, quality) for quality in (None, 95, 40))
    assert png.startswith(b"\x89PNG")
    assert good.startswith(b"\xff\xd8")
    assert len(poor) < len(good) < len(png)
    np.testing.assert_array_equal(decode_crop(png), crop)
    assert difference(decode_crop(good), crop) < difference(decode_crop(poor), crop) < 10
    assert encode_crop(decode_crop(png), None) == png


def test_stored_crop_looks_the_same_to_other_programs(tmp_path: Path) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (tmp_path / "crop.png").write_bytes(encode_crop(crop, None))
    with Image.open(tmp_path / "crop.png") as image:
        np.testing.assert_array_equal(np.asarray(image), crop)
    assert cv2.imread(str(tmp_path / "crop.png")) is not None


@pytest.mark.parametrize("data", [b"", b"no image"], ids=["empty", "text"])
def test_decoding_no_image(data: bytes) -> None:
    with pytest.raises(MediaError, match=rf"c\.jpg: decode_error: not an image \({len(data)} b"):
        decode_crop(data, "c.jpg")


# --- videos and animations ----------------------------------------------------------------------


def write_gif(path: Path, pictures: list[Picture]) -> Path:
    frames = [Image.fromarray(picture) for picture in pictures]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0)
    return path


def write_video(path: Path, pictures: list[Picture], rate: int = 5) -> Path:
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.bit_rate = width, height, 4_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey() -> Picture:
    return np.full((160, 160, 3), 120, np.uint8)


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_gif, "a.gif"), (write_video, "a.mp4"), (write_video, "a.avi")],
    ids=["gif", "mp4", "avi"],
)
def test_frames_of_a_clip_become_crops_with_their_times(
    write: Callable[[Path, list[Picture]], Path], name: str, tmp_path: Path
) -> None:
    pictures = [portrait(0, 0), grey(), portrait(0, 1), portrait(0, 2)]
    source = make_source(write(tmp_path / name, pictures))
    extraction = FaceExtractor(SMALL, sampling=Sampling(frames=None, every=1)).extract(source)
    assert extraction.status is Status.OK
    assert extraction.reason == "faces in 3 of 4 frames"
    assert [crop.frame_index for crop in extraction.crops] == [0, 2, 3]
    assert [crop.time_s for crop in extraction.crops] == pytest.approx([0.0, 0.4, 0.6], abs=0.01)


def test_only_the_frames_that_are_asked_for(tmp_path: Path) -> None:
    source = make_source(write_video(tmp_path / "a.mp4", [portrait(0, 0)] * 8))
    for sampling, expected in (
        (Sampling(frames=2), [2, 6]),
        (Sampling(frames=None, every=3), [0, 3, 6]),
        (Sampling(frames=None, fps=1), [0, 5]),
        (Sampling(frames=None, every=1, max_frames=1), [4]),
    ):
        extraction = FaceExtractor(SMALL, sampling=sampling).extract(source)
        assert [crop.frame_index for crop in extraction.crops] == expected


def test_a_clip_without_a_face_has_one_status(tmp_path: Path) -> None:
    source = make_source(write_video(tmp_path / "a.mp4", [grey()] * 4))
    extraction = FaceExtractor(SMALL, sampling=Sampling(frames=2)).extract(source)
    assert extraction.status is Status.NO_FACE
    assert extraction.reason == "no_face: the detector found no face, in 2 frames"


def test_a_damaged_video_uses_what_decodes_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", [portrait(0, 0)] * 40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    sampling = Sampling(frames=None, every=1)
    extraction = FaceExtractor(SMALL, sampling=sampling).extract(make_source(path))
    assert extraction.status is Status.OK
    assert 5 <= len(extraction.crops) < 40
    assert f"faces in {len(extraction.crops)} of" in extraction.reason


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of its own memory")
def test_a_huge_picture_takes_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    picture = np.full((8250, 12000, 3), 90, dtype=np.uint8)  # 99 megapixels, 297 MB
    picture[:, :, 0] = np.linspace(0, 255, 8250, dtype=np.uint8)[:, None]
    cv2.imwrite(str(tmp_path / "huge.jpg"), picture)
    code = (
        "import pathlib, resource, sys\n"
        "from deepfake.faces.extraction import FaceExtractor\n"
        "from deepfake.records import CropSpec, Source\n"
        "def peak_mb():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "extractor = FaceExtractor(CropSpec.from_preset('square', rotate_retry=True))\n"
        "before = peak_mb()\n"
        "result = extractor.extract(Source('0' * 16, pathlib.Path(sys.argv[1]), 'huge.jpg'))\n"
        "print(result.status.value, peak_mb() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "huge.jpg")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    status, growth_mb = run.stdout.split()
    assert status == "no_face"
    assert float(growth_mb) < 750


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["box_xyxy", "confidence", "landmarks"])
def test_a_face_that_lies_nowhere_makes_no_crop(place: str, number: float, tmp_path: Path) -> None:
    class Lost(FakeDetector):
        def detect(self, images: Sequence[Picture]) -> list[list[Face]]:
            face = make_face((20, 20, 80, 80))
            value = number if place == "confidence" else getattr(face, place) * number
            changed: dict[str, Any] = {place: value}
            return [[face, replace(face, **changed)] for _ in images]

    source = make_source(write_photo(tmp_path / "a.png", portrait()))
    found = FaceExtractor(SMALL, Lost()).extract(source)
    assert (found.status, found.crops) == (Status.UNREADABLE, ())
    assert found.reason.startswith("not_finite: in frame 0 the detector gives a face with box ")
