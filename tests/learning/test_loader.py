"""Batches are the same whatever the number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepfake.augment.recipes import EXTRAS
from tests.made_data import at_epoch, make, stream

EVERYTHING = {"extra": list(EXTRAS), "self_blend": 0.5}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"paired": True, "steps_per_epoch": 3} | EVERYTHING, id="paired"),
        pytest.param({"balance": True, "per_group": 2}, id="balanced-groups"),
    ],
)
def test_the_stream_does_not_depend_on_workers(grouped: Path, options: dict[str, Any]) -> None:
    streams = []
    for workers in (0, 1, 3):
        data = make(grouped, num_workers=workers, share=0.5, batch_size=6, **options)
        loader = data.train_dataloader()
        streams.append([stream(at_epoch(loader, epoch)) for epoch in (0, 1, 2)])
    assert streams[0] == streams[1] == streams[2]
    orders = {tuple(index for _, _, index in epoch) for epoch in streams[0]}
    assert len(orders) == 3
    # Nor does a crop that comes again look as it did.
    looks = [{(index, image) for image, _, index in epoch} for epoch in streams[0]]
    assert len(looks[0] | looks[1] | looks[2]) > len(looks[0]) + 6


def test_the_seed_reaches_order_and_augmentation(crops: Path) -> None:
    first, again, other = (
        stream(make(crops, seed=seed, share=1.0).train_dataloader()) for seed in (1, 1, 2)
    )
    assert first == again
    assert [row[2] for row in first] != [row[2] for row in other]
    images = {index: image for image, _, index in first}
    assert any(images[index] != image for image, _, index in other if index in images)


def test_a_batch_is_bytes_and_integers(crops: Path) -> None:
    batch = next(iter(make(crops).train_dataloader()))
    assert (batch["image"].dtype, tuple(batch["image"].shape)) == (torch.uint8, (8, 3, 32, 32))
    for name in ("label", "index"):
        assert (batch[name].dtype, tuple(batch[name].shape)) == (torch.int64, (8,))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_interleaved_in_memory(crops: Path, workers: int) -> None:
    data = make(crops, num_workers=workers)
    batch = next(iter(data.train_dataloader()))
    images = batch["image"]
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    rows = data.datasets["train"]
    plain = next(iter(data.load(data.datasets["train"])))
    for i in range(8):
        assert torch.equal(plain["image"][i], rows[i]["image"])
