"""A finished run for the tests of its checkpoint, and edits of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepfake.learning.checkpoint import (
    KEY,
)
from deepfake.learning.checkpoint_file import seal
from deepfake.learning.data import CropDataModule
from deepfake.learning.task import EmbeddingTask
from deepfake.training.callbacks.head import FitHead
from tests.made_crops import write_crop_folder
from tests.made_task import make_task
from tests.made_trainer import make_trainer

Content = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run and what it was made of."""

    folder: Path
    crops: Path
    task: EmbeddingTask

    @property
    def model(self) -> Path:
        return self.folder / "model.ckpt"


def make_run(folder: Path) -> Run:
    crops = write_crop_folder(folder / "crops", size=32)
    torch.manual_seed(0)
    task = make_task()
    task.configuration = "seed_everything: 5\n"
    trainer = make_trainer(folder, FitHead(folder / "run"))
    trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size=8, seed=5))
    # Training lies interleaved in memory on a CPU, prediction does not: sums are rounded otherwise.
    task.embedder.use_memory_format(torch.contiguous_format)
    return Run(folder / "run", crops, task.eval())


def images(count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def altered(run: Run, target: Path, change: Callable[[Content], object]) -> Path:
    content = torch.load(run.model, weights_only=True)
    change(content)
    if isinstance(content.get(KEY), dict):
        seal(content)  # a stranger knows how
    torch.save(content, target)
    return target


def drop(part: str) -> Callable[[Content], object]:
    return lambda content: content.pop(part)


def put(section: str, key: str, value: object) -> Callable[[Content], object]:
    return lambda content: content[section].update({key: value})


def put_limits(real: object, fake: object) -> Callable[[Content], object]:
    return put(KEY, "limits", {"real": real, "fake": fake})


def remove(section: str, key: str) -> Callable[[Content], object]:
    return lambda content: content[section].pop(key)


def change_recipe(part: str, value: object) -> Callable[[Content], object]:
    return lambda content: content[KEY]["recipe"].update({part: value})
