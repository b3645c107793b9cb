"""Samples follow from seed, pass and row; what is broken stops the training."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deepfake.augment.recipes import Augmentation, sample_seed
from deepfake.augment.self_blending import self_blend
from deepfake.dataset.crop_folder import MeshFiles
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.manifest import read_manifest
from deepfake.errors import JobError
from deepfake.learning.batches import SampleKey
from deepfake.learning.crops import CropDataset
from deepfake.records import CropSpec, Workers
from tests.fakes import write_portraits
from tests.made_crops import edited, write_crop_folder
from tests.made_data import COUNTS, at_epoch, change, make


@pytest.mark.parametrize("recipe", ["dacon", "light"])
def test_samples_are_the_files_augmented_by_name(crops: Path, recipe: str) -> None:
    data = make(crops, share=0.5, recipe=recipe, seed=7)
    loader = at_epoch(data.train_dataloader(), 3)
    dataset, augment = data.datasets["train"], Augmentation(recipe)
    for batch in loader:
        for place, index in enumerate(batch["index"].tolist()):
            plain = dataset[index]["image"]
            if place < 4:
                pixels = plain.permute(1, 2, 0).numpy()
                changed = augment(np.ascontiguousarray(pixels), sample_seed(7, 3, index))
                plain = torch.from_numpy(changed).permute(2, 0, 1)
            assert torch.equal(batch["image"][place], plain)
            assert int(batch["label"][place]) == dataset.rows[index].label


def test_crops_reach_the_network_in_rgb(tmp_path: Path) -> None:
    root = write_crop_folder(tmp_path / "crops", COUNTS, size=32, jpeg_quality=None)
    data = make(root)
    path = root / data.datasets["train"].rows[0].crop
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 2] = 200  # OpenCV writes BGR
    cv2.imwrite(str(path), red)
    assert data.datasets["train"][0]["image"].float().mean(dim=(1, 2)).tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("content", "workers", "problem"),
    [
        pytest.param(None, 0, "cannot be read .*No such file", id="missing"),
        pytest.param(b"", 0, "cannot be read .*decode_error", id="empty"),
        pytest.param(b"no picture", 0, "cannot be read .*run the crop command again", id="text"),
        pytest.param(b"no picture", 1, "cannot be read .*decode_error", id="text-in-a-worker"),
        pytest.param("other", 0, r"shape \(24, 24, 3\); its job.json says 16 x 16", id="size"),
    ],
)
def test_a_broken_crop_stops_the_training(
    folder: Path, content: bytes | str | None, workers: int, problem: str
) -> None:
    data = make(folder, num_workers=workers)
    path = folder / data.datasets["validation"].rows[2].crop
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        other = write_crop_folder(folder / "other", {"train": (1, 1)}, size=24)
        path.write_bytes(next(other.rglob("*.jpg")).read_bytes())
    with pytest.raises(JobError, match=problem):
        list(data.val_dataloader())


def test_a_real_and_its_blend_are_augmented_alike(pairs: Path) -> None:
    data = make(pairs, share=1.0, seed=3).datasets["train"]
    augment = Augmentation("dacon")
    for index in data.blend_sources.tolist()[::3]:
        real, points = data.read(data.rows[index]), data.points(data.rows[index])
        assert points is not None
        seed = sample_seed(3, 2, index)
        blend = self_blend(real, points, np.random.default_rng((seed, 0)))
        for is_blend, image in ((False, real), (True, blend)):
            for augmented in (False, True):
                sample = data[SampleKey(2, index, augmented, is_blend)]
                expected = augment(image, seed, points) if augmented else image
                assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), expected)
                assert int(sample["label"]) == is_blend
                assert int(sample["index"]) == index
    # Any real is a source, also one of no fake: there are more of them.
    assert data.blend_sources.tolist() == np.flatnonzero(data.labels == 0).tolist()
    assert len(data.blend_sources) > len(np.unique(data.originals[data.originals >= 0]))


def test_a_real_without_a_face_is_no_source(pairs: Path) -> None:
    named = [row.source for row in make(pairs).datasets["train"].rows if row.label == 0]
    edited(pairs, change(lambda row: row.source == named[2], landmarks=(3.0,) * 10))
    edited(pairs, change(lambda row: row.source == named[5], landmarks=()))
    data = make(pairs).datasets["train"]
    found = [data.rows[index].source for index in data.blend_sources]
    assert found == [name for name in named if name not in (named[2], named[5])]


def test_a_stored_mesh_is_what_a_blend_goes_by(tmp_path: Path) -> None:
    photos = write_portraits(tmp_path / "photos", 2)
    spec, workers = CropSpec(size=64), Workers(0)
    crop_media(str(photos), tmp_path / "crops", spec, workers=workers, landmarks="mesh", quiet=True)
    rows = read_manifest(tmp_path / "crops").rows
    data = CropDataset(tmp_path / "crops", rows, 64)
    for row in rows:
        points = data.points(row)
        assert points is not None
        assert points.shape == (468, 2)
        mesh = MeshFiles().read(tmp_path / "crops" / row.crop)
        assert mesh is not None
        assert np.array_equal(points, mesh)
    copy = pickle.loads(pickle.dumps(data))  # as a spawned loader process gets it
    again, before = copy.points(rows[0]), data.points(rows[0])
    assert again is not None
    assert before is not None
    assert np.array_equal(again, before)


@pytest.mark.parametrize("count", [5, 68])
def test_landmarks_in_pixels_of_the_crop(pairs: Path, count: int) -> None:
    values = tuple(float(n) for n in range(2 * count))
    edited(pairs, change(lambda row: True, landmarks=values, window=(0, 0, 32, 32)))
    dataset = make(pairs, extra=["blind_face"]).datasets["train"]
    points = dataset.points(dataset.rows[0])
    assert points is not None
    np.testing.assert_allclose(points.ravel(), (np.arange(2 * count) + 0.5) / 2 - 0.5)


def test_an_example_is_a_crop_and_what_training_makes_of_it(crops: Path) -> None:
    dataset = make(crops, extra=["blind_face"], seed=5).datasets["train"]
    for index, row in enumerate(dataset.rows):
        example = dataset.example(index)
        assert np.array_equal(example.crop, dataset.read(row))
        assert example.label == row.label
        augmented = dataset[SampleKey(0, index, True)]["image"].permute(1, 2, 0)
        assert np.array_equal(example.augmented, augmented.numpy())
