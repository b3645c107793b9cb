"""Which memory format is taken, and that it stays."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks import memory
from deepfake.training.callbacks.memory import MemoryFormat
from deepfake.training.callbacks.protocol import as_embedding_module
from tests.made_task import fit, make_task


@pytest.mark.parametrize("wanted", ["auto", True, False])
def test_memory_format_is_set_and_kept(crops: Path, tmp_path: Path, wanted: Any) -> None:
    task = make_task()
    trainer = fit(task, crops, MemoryFormat(wanted))
    convolution = next(m for m in task.modules() if isinstance(m, torch.nn.Conv2d))
    interleaved = convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert interleaved == (wanted is not False)  # a CPU is faster so
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert content["callbacks"]["MemoryFormat"] == {"channels_last": interleaved}
    again = make_task()
    path = tmp_path / "x.ckpt"
    fit(again, crops, MemoryFormat("auto"), ckpt_path=path, max_epochs=2)
    kept = again.embedder.memory_format
    assert kept == (torch.channels_last if interleaved else torch.contiguous_format)


def test_on_a_gpu_the_faster_format_is_taken_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shapes: list[tuple[int, ...]] = []
    real_zeros, cuda = torch.zeros, torch.device("cuda")

    def zeros(*shape: Any, **options: Any) -> Tensor:
        device = options.pop("device", None)  # there is no GPU to put it on
        return real_zeros(*shape, **options, device=None if device == cuda else device)

    def timed(module: Any, images: Tensor, context: Any) -> tuple[float, float]:
        shapes.append(tuple(images.shape))
        return seconds

    class _Strategy:
        root_device = torch.device("cuda")

        def broadcast(self, value: bool) -> bool:
            return value

    class _Trainer:
        precision_plugin = MixedPrecision("bf16-mixed", "cpu")
        strategy, world_size, datamodule = _Strategy(), 2, CropDataModule("none", batch_size=32)

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(memory, "time_memory_formats", timed)
    for times, chosen in (((0.2, 0.1), True), ((0.1, 0.2), False)):
        seconds = times
        module = as_embedding_module(make_task(chunk_size=12))
        assert MemoryFormat()._choose(_Trainer(), module) is chosen  # type: ignore[arg-type]
    assert shapes == [(12, 3, 32, 32)] * 2
    assert "channels_last 100.0 ms a step, contiguous 200.0 ms: channels_last" in caplog.text
    assert "channels_last 200.0 ms a step, contiguous 100.0 ms: contiguous" in caplog.text
