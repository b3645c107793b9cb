"""Samples follow from seed, pass and row; what is broken stops the training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deepfake.augment.recipes import Augmentation, sample_seed
from deepfake.augment.self_blending import self_blend
from deepfake.errors import JobError
from deepfake.learning.batches import SampleKey
from tests.made_crops import edited, write_crop_folder
from tests.made_data import COUNTS, at_epoch, change, make, stream


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


def test_self_blended_reals_take_the_place_of_fakes(pairs: Path) -> None:
    plain = make(pairs, share=1.0).datasets["train"]
    data = make(pairs, share=1.0, self_blend=1.0).datasets["train"]
    augment = Augmentation("dacon")
    for index, row in enumerate(data.rows):
        sample = data[SampleKey(2, index, True)]
        same = torch.equal(sample["image"], plain[SampleKey(2, index, True)]["image"])
        assert same == (row.label == 0)
        assert int(sample["label"]) == row.label
        assert torch.equal(data[SampleKey(2, index, False)]["image"], plain[index]["image"])
        if row.label:
            # The picture comes from the fake's own original.
            seed = sample_seed(0, 2, index)
            rng = np.random.default_rng((seed, 0))
            rng.random()
            rng.choice(data._reals, 8)
            real = data.rows[int(data.originals[index])]
            points = data.points(real)
            assert points is not None
            blended = augment(self_blend(data.read(real), points, rng), seed, points)
            assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), blended)


def test_half_of_the_fakes_are_blended(crops: Path) -> None:
    options = {"share": 1.0, "self_blend": 0.5, "extra": ["blind_face", "pattern"]}
    half = stream(make(crops, **options).train_dataloader())
    unblended = stream(make(crops, **(options | {"self_blend": 0.0})).train_dataloader())
    changed = [one != other for one, other in zip(half, unblended, strict=True)]
    fakes = [label == 1 for _, label, _ in unblended]
    assert not any(blended and not fake for blended, fake in zip(changed, fakes, strict=True))
    assert 0 < sum(changed) < sum(fakes)


def test_a_fake_stays_where_no_real_has_a_face(pairs: Path) -> None:
    edited(pairs, change(lambda row: row.label == 0, landmarks=(3.0,) * 10))
    plain = make(pairs, share=1.0).datasets["train"]
    data = make(pairs, share=1.0, self_blend=1.0).datasets["train"]
    for index in range(len(data)):
        key = SampleKey(0, index, True)
        assert torch.equal(data[key]["image"], plain[key]["image"])


@pytest.mark.parametrize("count", [5, 68])
def test_landmarks_in_pixels_of_the_crop(pairs: Path, count: int) -> None:
    values = tuple(float(n) for n in range(2 * count))
    edited(pairs, change(lambda row: True, landmarks=values, window=(0, 0, 32, 32)))
    dataset = make(pairs, extra=["blind_face"]).datasets["train"]
    points = dataset.points(dataset.rows[0])
    assert points is not None
    np.testing.assert_allclose(points.ravel(), (np.arange(2 * count) + 0.5) / 2 - 0.5)


def test_an_example_is_a_crop_and_what_training_makes_of_it(crops: Path) -> None:
    dataset = make(crops, extra=["blind_face"], self_blend=1.0, seed=5).datasets["train"]
    for index, row in enumerate(dataset.rows):
        example = dataset.example(index)
        assert np.array_equal(example.crop, dataset.read(row))
        assert example.label == row.label
        augmented = dataset[SampleKey(0, index, True)]["image"].permute(1, 2, 0)
        assert np.array_equal(example.augmented, augmented.numpy())
