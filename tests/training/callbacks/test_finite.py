"""A number that is none stops a training, before it is kept."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import SGD

from deepfake.errors import JobError
from deepfake.training.callbacks.finite import RefuseNonFinite
from tests.made_task import fit, make_task, sgd


def feed(watch: RefuseNonFinite, losses: list[Tensor]) -> Any:
    """Show it steps 0, 1, ... of epoch 2, each on the crop of its number."""
    trainer: Any = SimpleNamespace(current_epoch=2, callbacks=[])
    trainer.optimizers = [SGD([torch.zeros(1, requires_grad=True)], lr=0.5)]
    module = LightningModule()
    for trainer.global_step, loss in enumerate(losses):
        watch.on_train_batch_start(
            trainer, module, {"index": torch.tensor([trainer.global_step])}, 0
        )
        watch.on_before_backward(trainer, module, loss)
    return trainer


def losses(*values: float) -> list[Tensor]:
    return [torch.tensor(value, requires_grad=True) for value in values]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_on_a_processor_a_bad_step_is_known_at_once(bad: float) -> None:
    expected = rf"became {bad} in epoch 2, step 1, at lr 0\.5, on the crops with indices \[1\]"
    with pytest.raises(JobError, match=expected):
        feed(RefuseNonFinite(), losses(1.0, bad))


def test_a_patient_watch_finds_the_first_bad_step_later() -> None:
    bad = [1.0, math.nan, math.nan, 1.0]
    feed(RefuseNonFinite(patience=3), losses(*bad))
    with pytest.raises(JobError, match="epoch 2, step 1,"):
        feed(RefuseNonFinite(patience=3), losses(*bad, 1.0))


def test_nothing_escapes_the_last_look() -> None:
    watch, module = RefuseNonFinite(patience=8), LightningModule()
    trainer = feed(watch, losses(1.0, 2.0, math.nan))
    with pytest.raises(JobError, match="epoch 2, step 2,"):
        watch.on_train_epoch_end(trainer, module)
    watch.on_train_epoch_end(trainer, module)


@pytest.mark.gpu
def test_on_a_gpu_the_watch_does_not_wait() -> None:
    steps = [torch.full((), math.nan if step == 3 else 1.0, device="cuda") for step in range(20)]
    watch = RefuseNonFinite()
    with pytest.raises(JobError, match="epoch 2, step 3,"):
        watch.on_train_epoch_end(feed(watch, steps), LightningModule())


@pytest.mark.parametrize("where", ["projection", "late"])
def test_a_loss_that_is_no_number_stops_the_run(crops: Path, where: str) -> None:
    task = make_task()
    if where == "projection":
        with torch.no_grad():
            task.embedder.projection.weight.fill_(torch.nan)
        with pytest.raises(JobError, match=r"the loss became nan in epoch 0, step 0, at lr 0\.01"):
            fit(task, crops, RefuseNonFinite())
    else:
        # The last step of an epoch may break the weights; no loss sees it any more.
        task = make_task(optimizer=sgd(1e30))
        with pytest.raises(JobError, match="became NaN in epoch 0; no checkpoint was written yet"):
            fit(task, crops, RefuseNonFinite())


def test_a_patient_watch_still_stops_the_run(crops: Path) -> None:
    # As on a GPU, where the answer comes late: the bad step is named, not the one that is running.
    task = make_task(optimizer=sgd(1e30))
    with pytest.raises(
        JobError, match=r"the loss became (nan|inf) in epoch 0, step 1, at lr 1e\+30"
    ):
        fit(task, crops, RefuseNonFinite(patience=2), batch_size=2, limit_val_batches=0)


def test_weights_that_are_no_numbers_are_never_kept(crops: Path) -> None:
    task = make_task()
    trainer = fit(task, crops, RefuseNonFinite(), limit_val_batches=0)
    with torch.no_grad():  # as the last step of a run may leave it: no loss sees it any more
        task.embedder.projection.bias[3] = torch.nan
    with pytest.raises(JobError, match=r"the weights became NaN by the end of step 1"):
        trainer.save_checkpoint(crops / "never.ckpt")
    assert not (crops / "never.ckpt").exists()


def test_switched_off_an_embedding_of_nan_has_no_auc(crops: Path) -> None:
    trainer = fit(make_task(optimizer=sgd(1e30)), crops)
    assert torch.isnan(trainer.callback_metrics["val_auc"])
