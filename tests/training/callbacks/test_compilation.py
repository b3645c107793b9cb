"""A compiled forward computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from deepfake.learning import tuning
from deepfake.training.callbacks.collapse import CollapseWatch
from deepfake.training.callbacks.compilation import CompileForward
from deepfake.training.callbacks.finite import RefuseNonFinite
from tests.made_task import fit, make_task, sgd


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiling_changes_no_weight(
    crops: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(tuning, "COMPILER", backend)
    results = []
    for mode in (False, "default"):
        task = make_task(dropout=0.0, optimizer=sgd(0.05))
        fit(task, crops, CompileForward(mode), batch_size=8, limit_val_batches=0)
        assert task.training_forward == task.embedder.forward
        results.append(task.state_dict())
    assert set(results[0]) == set(results[1])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("mode", "chunk_size"), [(False, None), ("reduce-overhead", None), (False, 6)]
)
def test_a_step_on_a_gpu_never_waits(crops: Path, mode: Any, chunk_size: int | None) -> None:
    class _Strict(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("error" if args[-1] else "default")

        def on_train_epoch_end(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    task = make_task(chunk_size=chunk_size)
    try:
        fit(
            task,
            crops,
            CompileForward(mode),
            RefuseNonFinite(),
            CollapseWatch(),
            _Strict(),
            batch_size=8,
            accelerator="gpu",
            devices=1,
            precision="bf16-mixed",
            limit_val_batches=0,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
