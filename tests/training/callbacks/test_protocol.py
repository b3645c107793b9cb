"""What callbacks need of the module that they accompany."""

from __future__ import annotations

import pytest
from pytorch_lightning import LightningModule

from deepfake.errors import JobError
from deepfake.training.callbacks.protocol import as_embedding_module


def test_refuses_a_module_without_an_embedding() -> None:
    with pytest.raises(JobError, match="LightningModule trains no embedding"):
        as_embedding_module(LightningModule())
