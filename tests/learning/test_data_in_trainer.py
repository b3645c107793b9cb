"""Crops reach a plain Lightning Trainer, with its own settings, on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from deepfake.dataset.manifest import read_manifest
from deepfake.errors import UsageError
from deepfake.learning.crops import Sample
from tests.made_crops import edited, write_crop_folder
from tests.made_data import COUNTS, make_data
from tests.made_trainer import make_trainer

N_CROPS = 40


class Recorder(LightningModule):
    """Knows nothing of crops but their indices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[list[int]]] = {"fit": [], "validate": [], "test": []}

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        self.seen["fit"].append(batch["index"].tolist())
        return self.weight.sum() * batch["label"].float().mean()

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        self.seen["validate"].append(batch["index"].tolist())

    def test_step(self, batch: Sample, batch_idx: int) -> None:
        self.seen["test"].append(batch["index"].tolist())

    def predict_step(self, batch: Sample, batch_idx: int) -> list[str]:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return [data.datasets["predict"].rows[index].crop for index in batch["index"].tolist()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def together(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_measuring_needs_no_fit_before(crops: Path, tmp_path: Path, stage: str) -> None:
    task = Recorder()
    getattr(make_trainer(tmp_path), stage)(task, datamodule=make_data(crops), verbose=False)
    assert together(task.seen.pop(stage)) == list(range(8))
    assert not any(task.seen.values())


def test_every_crop_is_predicted_once_by_name(folder: Path, tmp_path: Path) -> None:
    # Crops to predict on have no label and no split.
    edited(folder, lambda row: replace(row, label=None, split=""))
    data = make_data(folder)
    found = make_trainer(tmp_path).predict(Recorder(), datamodule=data)
    assert found is not None
    names = [name for batch in found for name in batch]
    assert names == [row.crop for row in read_manifest(folder).rows]
    labels = [batch["label"] for batch in data.predict_dataloader()]
    assert torch.cat(labels).tolist() == [-1] * N_CROPS


def test_a_fit_may_come_before_and_after(crops: Path, tmp_path: Path) -> None:
    data, task = make_data(crops), Recorder()
    assert len(make_trainer(tmp_path).predict(task, datamodule=data) or []) == 5
    make_trainer(tmp_path).fit(task, datamodule=data)
    make_trainer(tmp_path).test(task, datamodule=data, verbose=False)
    assert len(make_trainer(tmp_path).predict(task, datamodule=data) or []) == 5
    assert [len(task.seen[stage]) for stage in ("fit", "validate", "test")] == [3, 1, 1]


def test_there_is_nothing_to_test_on(tmp_path: Path) -> None:
    counts = {split: COUNTS[split] for split in ("train", "validation")}
    root = write_crop_folder(tmp_path / "crops", counts, size=16)
    with pytest.raises(UsageError, match="has no test split; deepfake evaluate takes any crops"):
        make_trainer(tmp_path).test(Recorder(), datamodule=make_data(root), verbose=False)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"limit_val_batches": 0}, {"fit": 3, "validate": 0}),
        ({"limit_train_batches": 2}, {"fit": 2, "validate": 1}),
        ({"limit_train_batches": 0.4}, {"fit": 1, "validate": 1}),
        ({"fast_dev_run": True}, {"fit": 1, "validate": 1}),
        ({"max_steps": 2}, {"fit": 2, "validate": 0}),
        ({"val_check_interval": 1}, {"fit": 3, "validate": 3}),
        ({"barebones": True}, {"fit": 3, "validate": 1}),
    ],
    ids=lambda value: "-".join(value),
)
def test_with_the_trainers_own_settings(
    crops: Path, tmp_path: Path, options: dict[str, Any], steps: dict[str, int]
) -> None:
    if options.get("barebones"):
        # It takes none of what a quiet trainer asks for.
        names = ("enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")
        options |= dict.fromkeys(names)
    task = Recorder()
    make_trainer(tmp_path, **options).fit(task, datamodule=make_data(crops))
    assert {stage: len(task.seen[stage]) for stage in steps} == steps


def test_overfitting_repeats_its_batches(crops: Path, tmp_path: Path) -> None:
    task = Recorder()
    trainer = make_trainer(tmp_path, overfit_batches=2, max_epochs=3)
    trainer.fit(task, datamodule=make_data(crops))
    first, second, *others = task.seen["fit"]
    assert first != second
    assert others == [first, second] * 2


SCRIPT = """\
import json, sys
from pathlib import Path

from pytorch_lightning import Trainer
from tests.learning.test_data_in_trainer import Recorder
from tests.made_data import make_data

crops, output, devices = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
trainer = Trainer(
    max_epochs=2, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
    logger=False, enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0,
    enable_model_summary=False,
)
task, data = Recorder(), make_data(crops, batch_size=6, balance=True)
trainer.fit(task, datamodule=data)
trainer.test(task, datamodule=data, verbose=False)
found = trainer.predict(task, datamodule=data)
seen = task.seen | {"predict": [name for batch in found for name in batch]}
(output / f"{devices}-{trainer.global_rank}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow  # the command on two processes is in tests/test_processes.py
def test_on_two_processes_as_on_one(tmp_path: Path) -> None:
    counts = {"train": (14, 10), "validation": (4, 3), "test": (3, 4)}
    crops = write_crop_folder(tmp_path / "crops", counts, size=16)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for devices in (1, 2):
        command = [sys.executable, str(script), str(crops), str(tmp_path), str(devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
        assert done.returncode == 0, done.stderr
    alone, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    assert [sorted(a + b) for a, b in zip(first["fit"], second["fit"], strict=True)] == [
        sorted(batch) for batch in alone["fit"]
    ]
    for stage in ("validate", "test"):
        # Of an odd number one crop comes twice; all loops have one length.
        shares = [together(part[stage]) for part in (first, second)]
        assert set(shares[0] + shares[1]) == set(range(7)) == set(together(alone[stage]))
        assert len(shares[0]) == len(shares[1])
    names = [row.crop for row in read_manifest(crops).rows]
    assert alone["predict"] == names
    assert Counter(first["predict"] + second["predict"]) == Counter(names)
