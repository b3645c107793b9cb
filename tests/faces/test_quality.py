"""What is measured of a face crop: against plain formulas, and whether strangers are told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepfake.errors import UsageError
from deepfake.evaluation.embeddings import measure_sharpness
from deepfake.faces.extraction import FaceExtractor, decode_crop
from deepfake.faces.quality import FaceSpace, TrainingFaces, measure_pixels
from deepfake.media.discovery import list_sources
from deepfake.records import CropSpec, FaceQuality, Frame
from tests.fakes import portrait

BOX = (10.0, 20.0, 90.0, 140.0)


def draw_faces(identities: range) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Drawn faces, cut out of their portraits, and who they are."""
    shots = [(identity, shot) for identity in identities for shot in range(3)]
    return [portrait(*one, 96)[8:88, 8:88] for one in shots], [f"id{one[0]}" for one in shots]


@pytest.fixture(scope="module")
def faces() -> TrainingFaces:
    crops, groups = draw_faces(range(20))
    return TrainingFaces.fit(crops, [BOX] * len(crops), groups)


def test_distances_are_those_of_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 192)) * rng.uniform(0.5, 2, 192)
    space = FaceSpace.fit(rows)
    components = space.components.astype(np.float64)
    assert components @ components.T == pytest.approx(np.eye(len(components)), abs=1e-5)
    outside = np.eye(192) - components.T @ components
    covariance = (
        components.T @ np.diag(space.variances) @ components + float(space.rest[0]) * outside
    )
    new = rng.normal(size=(5, 192))
    scaled = (new - space.mean) / space.scale
    naive = [np.sqrt(row @ np.linalg.inv(covariance) @ row / 192) for row in scaled]
    assert space.distances(new) == pytest.approx(naive, rel=1e-4)
    assert np.sqrt((space.distances(rows) ** 2).mean()) == pytest.approx(1, rel=1e-4)


def test_pixels_are_measured_as_their_definitions_say() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    sharpness, brightness = measure_pixels(crop)
    assert brightness == pytest.approx((crop @ np.array([0.299, 0.587, 0.114])).mean(), rel=1e-5)
    batch = torch.from_numpy(crop).permute(2, 0, 1)[None]
    assert sharpness == pytest.approx(float(measure_sharpness(batch)), rel=1e-4)
    plain = measure_pixels(np.full((9, 9, 3), 77, np.uint8))
    assert plain == pytest.approx((0, 77), abs=1e-3)


def test_percentiles_are_of_the_faces_that_were_measured(faces: TrainingFaces) -> None:
    crops, _ = draw_faces(range(20))
    values = [measure_pixels(crop)[0] for crop in crops]
    wanted = np.percentile(values, [0.5, 50, 99.5])
    assert faces.percentiles["sharpness"] == pytest.approx(wanted)
    assert faces.n_faces == len(crops)
    assert faces.percentiles["size_px"] == (80, 80, 80)


def test_distance_is_measured_on_groups_that_were_held_out() -> None:
    """Of copies, a face that its own copy is trained on is no new face."""
    crops, _ = draw_faces(range(8))
    copies, groups = crops * 2, [f"{n}" for n in range(len(crops))] * 2
    apart = TrainingFaces.fit(copies, [BOX] * len(copies), groups).percentiles["distance"]
    leaking = TrainingFaces.fit(copies, [BOX] * len(copies), ["one"] * len(copies))
    assert apart[1] > 1.2 * leaking.percentiles["distance"][1]


def test_strangers_are_far_and_new_drawings_are_not(faces: TrainingFaces) -> None:
    new, _ = draw_faces(range(100, 130))
    measured = [faces.measure(crop, BOX) for crop in new]
    assert np.mean([faces.is_far(one) for one in measured]) <= 0.05
    strangers = {
        "upside down": new[0][::-1].copy(),
        "negative": 255 - new[0],
        "half": np.where(np.arange(80)[:, None, None] < 40, new[0], 0).astype(np.uint8),
    }
    for name, crop in strangers.items():
        quality = faces.measure(crop, BOX)
        assert faces.is_far(quality), name
        assert faces.remarks_on(quality)[0].startswith("unlike the training faces (distance ")
    # What the thumbnail does not show, sharpness does.
    noise = np.random.default_rng(0).integers(0, 256, new[0].shape, dtype=np.uint8)
    for crop in (noise, np.full_like(noise, 128)):
        assert "sharpness" in "".join(faces.remarks_on(faces.measure(crop, BOX)))


def test_what_lies_outside_is_remarked(faces: TrainingFaces) -> None:
    middle = {name: values[1] for name, values in faces.percentiles.items()}
    assert faces.remarks_on(FaceQuality(**middle)) == ()
    for name, value, text in (
        ("size_px", 22.0, "face size 22 px (training faces: 80 to 80 px)"),
        ("sharpness", 0.0, "sharpness 0 (training faces: "),
        ("brightness", 254.0, "brightness 254 (training faces: "),
    ):
        quality = FaceQuality(**middle | {name: value})
        (remark,) = faces.remarks_on(quality)
        assert remark.startswith(text)
        assert not faces.is_far(quality)
    near = FaceQuality(**middle | {"distance": 0.0})
    assert faces.remarks_on(near) == ()  # nobody is too much like them
    assert faces.remarks_on(FaceQuality(80.0)) == ()  # nothing else is known


@pytest.mark.parametrize("n", [2, 9])
def test_few_faces_are_enough(n: int) -> None:
    crops, groups = draw_faces(range(3))
    fitted = TrainingFaces.fit(crops[:n], [BOX] * n, groups[:n])
    assert np.isfinite(fitted.percentiles["distance"]).all()
    alike = TrainingFaces.fit(crops[:1] * n, [BOX] * n, groups[:1] * n)
    assert (alike.measure(crops[1], BOX).distance or 0) > 0


def test_one_face_is_not_enough() -> None:
    with pytest.raises(UsageError, match="1 training faces; at least two"):
        TrainingFaces.fit(draw_faces(range(1))[0][:1], [BOX], ["a"])


def test_the_parts_make_the_whole(faces: TrainingFaces) -> None:
    arrays = faces.space.to_arrays()
    assert sum(array.nbytes for array in arrays.values()) < 20_000
    again = TrainingFaces.from_parts(arrays, faces.describe())
    crop = portrait(3, 0, 96)
    assert again.measure(crop, BOX) == faces.measure(crop, BOX)
    assert again.describe() == faces.describe()


def _set_array(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[..., None]:
    def apply(arrays: dict[str, Any], info: dict[str, Any]) -> None:
        arrays[name] = change(arrays[name].copy())

    return apply


def _with_nan(array: NDArray[Any]) -> NDArray[Any]:
    array.flat[0] = np.nan
    return array


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda a, i: a.pop("mean"), "has .* expected", id="missing array"),
        pytest.param(_set_array("mean", _with_nan), "quality.mean .* finite", id="nan"),
        pytest.param(_set_array("rest", lambda a: -a), "quality.rest .* not > 0", id="negative"),
        pytest.param(_set_array("scale", lambda a: 0 * a), "scale .* not > 0", id="zero scale"),
        pytest.param(_set_array("scale", lambda a: a[:5]), "expected finite", id="short"),
        pytest.param(
            _set_array("variances", lambda a: a.astype(np.float64)), "float64", id="another type"
        ),
        pytest.param(_set_array("variances", lambda a: a[:3]), "expected finite", id="torn"),
        pytest.param(lambda a, i: i.pop("n_faces"), "training faces is", id="missing number"),
        pytest.param(lambda a, i: i.update(n_faces=True), "True measured faces", id="bool"),
        pytest.param(lambda a, i: i.update(n_faces=10**400), "", id="huge"),
        pytest.param(lambda a, i: i.update(percentiles=[]), "percentiles are", id="list"),
        pytest.param(
            lambda a, i: i["percentiles"].update(distance=[1.0, float("nan"), 2.0]),
            "percentiles of distance .* expected 3 numbers",
            id="nan percentile",
        ),
        pytest.param(
            lambda a, i: i["percentiles"].update(size_px=[True, False, 1.0]),
            "percentiles of size_px",
            id="bools",
        ),
        pytest.param(
            lambda a, i: i["percentiles"].update(brightness=[3.0, 2.0, 1.0]),
            "percentiles of brightness .* expected to rise",
            id="falling",
        ),
    ],
)
def test_nonsense_is_refused(
    faces: TrainingFaces, spoil: Callable[[dict[str, Any], dict[str, Any]], None], message: str
) -> None:
    arrays, info = faces.space.to_arrays(), faces.describe()
    spoil(arrays, info)
    if not message:
        assert TrainingFaces.from_parts(arrays, info).n_faces == 10**400
        return
    with pytest.raises(UsageError, match=message):
        TrainingFaces.from_parts(arrays, info)


@pytest.mark.data
def test_photographs_are_far_from_drawings(shared_media: Path) -> None:
    """And drawings, of other people, are not."""
    extractor = FaceExtractor(CropSpec.from_preset("square", size=96))

    def cut(paths: list[Path]) -> list[NDArray[np.uint8]]:
        found = (
            extractor.extract(source) for source in list_sources(list(map(str, paths)), Path())
        )
        return [decode_crop(one.crops[0].encoded) for one in found if one.crops]

    rng = np.random.default_rng(0)
    photos = sorted((shared_media / "labelled/lfw_reals/real").iterdir())
    real = cut([photos[n] for n in rng.choice(len(photos), 20, replace=False)])
    drawn = {}
    for start in (0, 100):
        drawn[start] = [
            extractor.extract_frame(Frame(0, 0.0, portrait(identity, shot, 160))).crops
            for identity in range(start, start + 15)
            for shot in range(2)
        ]
    crops, new = ([decode_crop(c[0].encoded) for c in drawn[s] if c] for s in (0, 100))
    faces = TrainingFaces.fit(crops, [BOX] * len(crops), [f"{n // 2}" for n in range(len(crops))])
    assert np.mean([faces.is_far(faces.measure(crop, BOX)) for crop in real]) >= 0.95
    assert np.mean([faces.is_far(faces.measure(crop, BOX)) for crop in new]) <= 0.05
