"""Loader processes, and samples stacked to batches. Knows no split and no order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from deepfake.learning.batches import SampleKey
from deepfake.learning.crops import CropDataset, Sample


def make_loader(
    dataset: CropDataset,
    num_workers: int,
    pin_memory: bool | None = None,
    batches: Iterable[list[SampleKey]] | None = None,
    **options: Any,
) -> DataLoader[Sample]:
    """A loader whose workers have one thread each and are some batches ahead.

    Args:
        dataset: The crops.
        num_workers: Loader processes; 0 loads in this one.
        pin_memory: Lay batches where a GPU can fetch them by itself; ``None``: where there is one.
        batches: Keys of the samples of each batch; ``None`` leaves that to ``options``.
        options: Of ``DataLoader``: what to sample, and how.
    """
    source: Dataset[Any] = dataset
    if batches is not None:
        # As the sampler, not the batch sampler: Lightning puts its own sampler into a loader of
        # several processes unless `loader.sampler` is a DistributedSampler.
        source = _Batches(dataset)
        options |= {"sampler": batches, "batch_size": None}
    return DataLoader(
        source,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        worker_init_fn=_use_one_thread,
        collate_fn=stack_samples,
        **options,
    )


class _Batches(Dataset[list[Sample]]):
    """A data set that is asked for the samples of a whole batch at once."""

    def __init__(self, crops: CropDataset) -> None:
        self.crops = crops

    def __getitem__(self, keys: list[SampleKey]) -> list[Sample]:
        return [self.crops[key] for key in keys]

    def __len__(self) -> int:
        return len(self.crops)


def stack_samples(samples: list[Sample]) -> Sample:
    """A batch of samples; images stay interleaved in memory, as decoders write them."""
    rows = [{**sample, "image": sample["image"].permute(1, 2, 0)} for sample in samples]
    batch: Sample = default_collate(rows)
    batch["image"] = batch["image"].permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S)
    return batch


def _use_one_thread(worker: int) -> None:
    # Each worker is a process of its own; more threads would only fight over the cores.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
