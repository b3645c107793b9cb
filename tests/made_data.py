"""Data modules, and what comes out of their loaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from deepfake.augment.recipes import AugmentationSettings
from deepfake.dataset.rows import CropRow
from deepfake.learning.data import BatchSettings, CropDataModule, SplitSettings
from tests.made_crops import Edit

COUNTS = {"train": (14, 10), "validation": (4, 4), "test": (4, 4)}
"""Real and fake crops of each split: not balanced."""


def make_data(root: Path | str, **options: Any) -> CropDataModule:
    """Not set up; settings are given by name alone, whatever record they belong to."""
    records: dict[str, Any] = {
        "augmentation": AugmentationSettings,
        "batches": BatchSettings,
        "split": SplitSettings,
    }
    settings: dict[str, Any] = {"batch_size": 8} | options
    for name, record in records.items():
        own = {f.name: settings.pop(f.name) for f in fields(record) if f.name in settings}
        settings[name] = record(**own)
    return CropDataModule(str(root), **settings)


def make(root: Path | str, **options: Any) -> CropDataModule:
    data = make_data(root, **options)
    data.setup()
    return data


def at_epoch(loader: DataLoader[Any], epoch: int) -> DataLoader[Any]:
    """What Lightning does before an epoch."""
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return loader


def stream(loader: DataLoader[Any]) -> list[tuple[bytes, int, int]]:
    return [
        (image.numpy().tobytes(), int(label), int(index))
        for batch in loader
        for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True)
    ]


def change(condition: Callable[[CropRow], bool], **values: Any) -> Edit:
    return lambda row: replace(row, **values) if condition(row) else row
