"""A trainer for tests: one epoch on the CPU, without a word and without files unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint


def make_trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """Options are those of ``Trainer`` and go before these."""
    chosen: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return Trainer(**(chosen | options))
