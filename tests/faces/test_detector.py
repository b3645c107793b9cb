"""Our cascade against facenet-pytorch's own, and against torch's area interpolation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import facenet_pytorch
import numpy as np
import pytest
import torch
from facenet_pytorch.models.utils import detect_face

from deepfake.faces import detector as cascade
from deepfake.faces import pyramid
from deepfake.faces.detector import MTCNN, put_first
from deepfake.faces.networks import BoxNetwork
from deepfake.media.images import read_image
from deepfake.records import Face
from tests.fakes import Picture, make_face, montage, portrait, upside_down

Settings = tuple[int, float, tuple[float, float, float]]
DEFAULT: Settings = (20, 0.709, (0.6, 0.7, 0.7))
DACON: Settings = (100, 0.7, (0.6, 0.7, 0.8))
STRICT: Settings = (160, 0.3, (0.98, 0.98, 0.98))
NO_FACE = "coral_test_data/people/kite_and_cold.jpg"  # people, seen from afar
REAL_PHOTOS = (
    "coral_test_data/people/face.jpg",
    NO_FACE,
    "face_recognition/examples/two_people.jpg",
    "face_recognition/examples/alex-lacamoire.png",
    "face_recognition/examples/obama-240p.jpg",
    "face_recognition/examples/obama-480p.jpg",
    "face_recognition/examples/obama_small.jpg",
    "face_recognition/examples/obama2.jpg",
    "face_recognition/examples/knn_examples/test/johnsnow_test1.jpg",
    "face_recognition/examples/knn_examples/test/kit_with_rose.jpg",
    "face_recognition/examples/knn_examples/train/rose_leslie/img2.jpg",
    "face_recognition/tests/test_images/obama_partial_face2.jpg",
)


@cache
def ours(settings: Settings) -> MTCNN:
    return MTCNN(*settings)


@cache
def theirs(settings: Settings) -> facenet_pytorch.MTCNN:
    min_face, factor, thresholds = settings
    return facenet_pytorch.MTCNN(
        min_face_size=min_face, factor=factor, thresholds=list(thresholds), keep_all=True
    )


def detect_by_theirs(image: Picture, settings: Settings) -> tuple[Any, Any, Any]:
    """Boxes, scores and landmarks of the reference, the landmarks where they belong.

    It takes them for shares of the last network's box, also where that leaves the picture and the
    network was shown the part inside.
    """
    moved: list[tuple[Any, Any]] = []

    def note(boxes: Any, regression: Any) -> Any:
        before = boxes.numpy().copy()
        after = bbreg(boxes, regression)
        moved.append((before, after.numpy().copy()))
        return after

    bbreg = detect_face.bbreg
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect_face, "bbreg", note)
        boxes, scores, marks = theirs(settings).detect(image.copy(), landmarks=True)
    if boxes is None:
        return None, None, None
    height, width = image.shape[:2]
    for box, points in zip(boxes, marks, strict=True):
        before, after = moved[-1]  # of the last network
        whole = before[np.abs(after[:, :4] - box.astype(float)).sum(axis=1).argmin(), :4]
        share = (points - whole[:2] + 1) / (whole[2:] - whole[:2] + 1)
        start, end = np.maximum(whole[:2], 1), np.minimum(whole[2:], (width, height))
        points[:] = share * (end - start + 1) + start - 1
    return boxes, scores, marks


def assert_same_faces(image: Picture, settings: Settings) -> int:
    """Compare both detectors on one picture; the number of faces."""
    (found,) = ours(settings).detect([image])
    if min(image.shape[:2]) < settings[0]:  # the reference raises here
        assert found == []
        return 0
    boxes, scores, marks = detect_by_theirs(image, settings)
    if boxes is None:
        assert found == []
        return 0
    assert len(found) == len(boxes)
    order = np.argsort([box[0] for box in boxes])
    found = sorted(found, key=lambda face: float(face.box_xyxy[0]))
    for face, index in zip(found, order, strict=True):
        np.testing.assert_allclose(face.box_xyxy, boxes[index].astype(float), atol=0.01)
        np.testing.assert_allclose(face.landmarks, marks[index].astype(float), atol=0.01)
        assert face.confidence == pytest.approx(float(scores[index]), abs=1e-4)
    return len(found)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(DEFAULT, id="default"),
        pytest.param(DACON, id="dacon"),
        pytest.param(STRICT, id="dacon-train"),
    ],
)
def test_same_faces_as_facenet_pytorch(settings: Settings) -> None:
    pictures = [portrait(index, 0, size) for index, size in enumerate((96, 160, 256, 400))]
    pictures += [portrait(7, 0, 400)[:, 30:317], montage(), upside_down(portrait(4, 1, 256))]
    found = [assert_same_faces(np.ascontiguousarray(picture), settings) for picture in pictures]
    assert sum(found) >= {DEFAULT: 9, DACON: 4, STRICT: 1}[settings]


def test_a_montage_has_several_faces() -> None:
    assert assert_same_faces(montage(), DEFAULT) >= 4


@pytest.mark.data
@pytest.mark.parametrize("name", REAL_PHOTOS, ids=lambda name: Path(name).stem)
def test_same_faces_as_facenet_pytorch_on_photos(shared_media: Path, name: str) -> None:
    image = read_image(shared_media / "faces" / name, name).image
    settings = DEFAULT if image.size < 3 * 400_000 else (40, 0.709, (0.6, 0.7, 0.7))
    n_faces = assert_same_faces(image, settings)
    assert (n_faces > 0) == (name != NO_FACE)


def flat(*shape: int, value: int = 128) -> Picture:
    return np.full((*shape, 3), value, np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(flat(1, 1), id="one-pixel"),
        pytest.param(portrait(0, 0, 160)[:19], id="smaller-than-the-smallest-face"),
        pytest.param(portrait(0, 0, 160)[:, :5], id="five-columns"),
        pytest.param(flat(0, 40), id="no-rows"),
        pytest.param(flat(200, 300), id="grey"),
        pytest.param(flat(64, 64, value=0), id="black"),
        pytest.param(flat(20, 2000, value=255), id="white-strip"),
        pytest.param(np.indices((3, 150, 150))[1:].sum(0).astype(np.uint8).T, id="ramp"),
    ],
)
def test_no_face_is_an_empty_list(image: Picture) -> None:
    assert ours(DEFAULT).detect([image]) == [[]]


def test_no_image_at_all() -> None:
    assert ours(DEFAULT).detect([]) == []


def test_unequal_sizes_in_one_call_change_nothing() -> None:
    pictures = [portrait(1, 0, 256), flat(8, 9), montage(), flat(90, 70), portrait(2, 0, 96)]
    together = ours(DEFAULT).detect(pictures)
    assert [len(faces) for faces in together][1::2] == [0, 0]
    for picture, faces in zip(pictures, together, strict=True):
        (alone,) = ours(DEFAULT).detect([picture])
        assert len(alone) == len(faces)
        for one, other in zip(alone, faces, strict=True):
            np.testing.assert_array_equal(one.box_xyxy, other.box_xyxy)


def test_largest_face_comes_first() -> None:
    (faces,) = ours(DEFAULT).detect([montage()])
    areas = [float(np.prod(face.box_xyxy[2:] - face.box_xyxy[:2])) for face in faces]
    assert len(areas) >= 4
    assert areas == sorted(areas, reverse=True)
    centre = (faces[0].box_xyxy[:2] + faces[0].box_xyxy[2:]) / 2
    assert (centre < 270).all()  # the largest portrait is at the top left


def test_faces_are_what_the_record_says() -> None:
    (faces,) = ours(DEFAULT).detect([portrait(0, 0, 160)])
    face = faces[0]
    assert face.box_xyxy.shape == (4,)
    assert face.landmarks.shape == (5, 2)
    assert face.box_xyxy.dtype == face.landmarks.dtype == np.float32
    assert type(face.confidence) is float
    assert 0.7 < face.confidence <= 1
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]


@pytest.mark.parametrize(("mode", "side"), [("exact", "left"), ("main", "right")])
def test_landmarks_of_a_face_that_leaves_the_picture(mode: Any, side: str) -> None:
    detector = MTCNN(40, mode=mode)
    picture = portrait(0, 0, 400)
    whole = detector.detect([picture])[0][0]
    x0, _, x1, _ = whole.box_xyxy
    tenth = 0.1 * (x1 - x0)
    start, end = (int(x0 + tenth), 400) if side == "left" else (0, int(x1 - tenth))
    tight = np.ascontiguousarray(picture[:, start:end])
    cut = detector.detect([tight])[0][0]
    assert cut.box_xyxy[0] < -5 or cut.box_xyxy[2] > tight.shape[1] + 5
    apart = np.linalg.norm(whole.landmarks[1] - whole.landmarks[0])
    found = cut.landmarks + np.array([start, 0])
    offsets = np.linalg.norm(found - whole.landmarks, axis=1) / apart
    assert offsets.max() < 0.12


def test_input_is_left_alone() -> None:
    picture = portrait(0, 0, 160).copy()
    ours(DEFAULT).detect([picture])
    np.testing.assert_array_equal(picture, portrait(0, 0, 160))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((40, 40), np.uint8), id="grey-plane"),
        pytest.param(np.zeros((40, 40, 4), np.uint8), id="alpha"),
        pytest.param(np.zeros((40, 40, 3), np.float32), id="float"),
    ],
)
def test_refuses_what_is_no_picture(image: Picture) -> None:
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) uint8 RGB"):
        ours(DEFAULT).detect([portrait(), image])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"min_face": 11}, "min_face=11; expected 12 pixels or more", id="min-face"),
        pytest.param({"factor": 1.0}, "factor=1.0; expected a ratio", id="factor-1"),
        pytest.param({"factor": 0}, "factor=0; expected a ratio", id="factor-0"),
        pytest.param(
            {"mode": "fast"}, "mode='fast'; expected one of exact, main, main-first", id="mode"
        ),
    ],
)
def test_refuses_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MTCNN(**options)  # type: ignore[arg-type]


def test_smallest_face_follows_the_picture() -> None:
    detector = MTCNN(min_face=40, min_face_ratio=0.5)
    assert detector.smallest_face_px(60, 70) == 40
    assert detector.smallest_face_px(900, 200) == 100
    picture = montage()  # 420 px high: faces below 210 px are not looked for
    (faces,) = detector.detect([picture])
    (same,) = MTCNN(min_face=210).detect([picture])
    assert [face.box_xyxy.tolist() for face in faces] == [face.box_xyxy.tolist() for face in same]
    assert len(faces) < len(ours(DEFAULT).detect([picture])[0])


def test_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        ours(DEFAULT).detect([flat(40, 40)])
        assert torch.get_num_threads() == 2
        broken = MTCNN()
        broken._onet = BoxNetwork(torch.nn.Conv2d(1, 2, 3), 48)
        with pytest.raises(RuntimeError, match="to have 1 channels"):
            broken.detect([flat(40, 40)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_face_is_found_in_a_huge_bright_picture() -> None:
    image = np.full((2900, 3000, 3), 250, np.uint8)
    image[2500:2900, 2600:3000] = portrait(0, 0, 400)
    (faces,) = MTCNN(min_face=100).detect([image])
    (alone,) = MTCNN(min_face=100).detect([portrait(0, 0, 400)])
    assert len(faces) == len(alone) == 1
    expected = alone[0].box_xyxy + np.array([2600, 2500, 2600, 2500])
    np.testing.assert_allclose(faces[0].box_xyxy, expected, atol=12)


# --- mode "main": the largest face, from coarse to fine -----------------------------------------


def overlap(one: Face, other: Face) -> float:
    a, b = one.box_xyxy.astype(float), other.box_xyxy.astype(float)
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - shared)


def levels_searched(
    detector: MTCNN, image: Picture, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Face], int]:
    scales: list[float] = []
    original = detector._run_pnet

    def count(tables: Any, some: list[float], near: Any = None) -> Any:
        scales.extend(some if near is None else [])
        return original(tables, some, near)

    with monkeypatch.context() as patch:
        patch.setattr(detector, "_run_pnet", count)
        (faces,) = detector.detect([image])
    assert scales == sorted(scales)  # from coarse to fine, none of them twice
    return faces, len(set(scales))


@pytest.mark.parametrize("size", [160, 256, 400])
def test_main_mode_finds_the_largest_face_of_exact_mode(size: int) -> None:
    pictures = [portrait(index, 0, size) for index in range(4)]
    for picture in pictures:
        (exact,) = ours(DEFAULT).detect([picture])
        (main,) = MTCNN(mode="main").detect([picture])
        assert len(main) == 1
        # The same face; but levels that might still have moved its box by a little were left out.
        assert overlap(main[0], exact[0]) > 0.8


@pytest.mark.parametrize("mode", ["exact", "main"])
def test_large_pictures_are_searched_strip_by_strip(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, detector = montage(), MTCNN(mode=mode)
    turned = picture[::-1, ::-1]
    expected = detector.detect([picture, np.ascontiguousarray(turned)])
    monkeypatch.setattr(pyramid, "TABLE_PX", 0)
    monkeypatch.setattr(pyramid, "_STRIP_PX", 20_000)
    found = detector.detect([picture, turned])
    assert expected[0]
    for faces, others in zip(found, expected, strict=True):
        assert len(faces) == len(others)
        for face, other in zip(faces, others, strict=True):
            np.testing.assert_array_equal(face.box_xyxy, other.box_xyxy)


def test_main_mode_shows_no_rectangle_to_a_network_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, detector = montage(), MTCNN(mode="main")
    seen: list[tuple[int, ...]] = []
    average = pyramid.average_cells

    def watch(tables: torch.Tensor, owners: torch.Tensor, rows: Any, columns: Any) -> torch.Tensor:
        if rows[0].shape[1] == 24:
            ends = (rows[0][:, 0], rows[1][:, -1], columns[0][:, 0], columns[1][:, -1])
            seen.extend(map(tuple, torch.stack(ends, dim=1).tolist()))
        return average(tables, owners, rows, columns)

    monkeypatch.setattr(cascade, "_SIZE_GUARD", 1e9)  # every finer level is a rival
    monkeypatch.setattr("deepfake.faces.networks.average_cells", watch)
    detector.detect([picture])
    assert seen
    assert len(seen) == len(set(seen))


def test_main_mode_stops_early_at_a_large_face(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = MTCNN(mode="main")
    picture = portrait(3, 0, 400)
    faces, searched = levels_searched(detector, picture, monkeypatch)
    assert len(faces) == 1
    assert searched < len(detector._pyramid_scales(*picture.shape[:2]))


def test_main_mode_without_a_face_has_searched_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = MTCNN(mode="main")
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    faces, searched = levels_searched(detector, picture, monkeypatch)
    (exact,) = ours(DEFAULT).detect([picture])
    assert [face.confidence for face in faces] == [face.confidence for face in exact[:1]]
    assert searched == len(detector._pyramid_scales(*picture.shape[:2]))


def test_main_mode_equals_exact_mode_where_it_does_not_stop_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deepfake.faces.detector._CERTAIN", 1.1)  # nothing is that certain
    for picture in (portrait(0, 0, 256), montage()):
        (main,) = MTCNN(mode="main").detect([picture])
        (exact,) = ours(DEFAULT).detect([picture])
        np.testing.assert_allclose(main[0].box_xyxy, exact[0].box_xyxy, atol=0.01)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL_PHOTOS, ids=lambda name: Path(name).stem)
def test_main_mode_finds_the_main_face_on_photos(shared_media: Path, name: str) -> None:
    image = read_image(shared_media / "faces" / name, name).image
    (main,) = MTCNN(40, mode="main").detect([image])
    (exact,) = MTCNN(40).detect([image])
    assert len(main) == min(len(exact), 1)
    assert not main or overlap(main[0], exact[0]) > 0.85


def test_main_mode_goes_on_below_a_face_that_finer_levels_could_exceed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = montage()
    with monkeypatch.context() as patch:
        patch.setattr(cascade, "_SIZE_GUARD", 1e9)  # every finer level is a rival
        detector = MTCNN(mode="main")
        faces, searched = levels_searched(detector, picture, monkeypatch)
    (exact,) = ours(DEFAULT).detect([picture])
    assert searched == len(detector._pyramid_scales(*picture.shape[:2]))
    np.testing.assert_allclose(faces[0].box_xyxy, exact[0].box_xyxy, atol=0.01)


def test_main_mode_weighs_two_faces_of_nearly_one_size() -> None:
    one, other = portrait(0, 0, 400), portrait(2, 0, 400)
    for picture in (np.hstack([one, other]), np.hstack([other, one])):
        (exact,) = ours(DEFAULT).detect([picture])
        (main,) = MTCNN(mode="main").detect([picture])
        assert len(exact) >= 2
        assert overlap(main[0], exact[0]) > 0.99


def test_the_main_face_comes_first_and_once() -> None:
    near, other = make_face((10, 10, 62, 70)), make_face((80, 10, 120, 50))
    main, crossing = make_face((10, 8, 60, 70)), make_face((45, 10, 105, 70))
    # The same face a little otherwise goes, the cheek beside it stays.
    assert put_first([main], [crossing, near, other]) == [main, crossing, other]
    assert put_first([], [near]) == [near]
    assert put_first([main], []) == [main]
    assert put_first([], []) == []


def test_main_first_is_the_box_of_main_and_the_others_of_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = np.pad(portrait(2, 0, 200), ((0, 200), (0, 0), (0, 0)))
    picture = np.hstack([portrait(0, 0, 400), small])
    (main,), (exact,) = MTCNN(mode="main").detect([picture]), ours(DEFAULT).detect([picture])
    assert len(exact) >= 2
    detector = MTCNN(mode="main-first")
    found, searched = levels_searched(detector, picture, monkeypatch)
    # No level is searched twice, although the search for the main face stops before the last.
    assert searched == len(detector._pyramid_scales(*picture.shape[:2]))
    np.testing.assert_array_equal(found[0].box_xyxy, main[0].box_xyxy)
    assert len(found) == len(exact)
    for one, other in zip(found[1:], exact[1:], strict=True):
        np.testing.assert_allclose(one.box_xyxy, other.box_xyxy, atol=0.01)


def test_main_first_of_an_image_without_a_face_is_nothing() -> None:
    assert MTCNN(mode="main-first").detect([np.zeros((200, 200, 3), np.uint8)]) == [[]]
