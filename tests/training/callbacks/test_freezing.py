"""A frozen backbone stands still, and the schedule goes on as if nothing had been."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, StepLR

from deepfake.errors import UsageError
from deepfake.learning.optimization import OneCycle
from deepfake.training.callbacks.freezing import FreezeBackbone
from deepfake.training.callbacks.run_record import RunRecord
from tests.made_task import Rates, Snapshots, adamw, fit, make_task, moved, sgd


@pytest.mark.parametrize("chunk_size", [None, 4], ids=["whole", "chunks"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_frozen_backbone_stands_still(
    crops: Path, optimizer: str, chunk_size: int | None
) -> None:
    kinds = {"sgd": sgd(weight_decay=0.1), "adamw": adamw(weight_decay=0.1)}
    task = make_task(optimizer=kinds[optimizer], chunk_size=chunk_size, dropout=0.0)
    snapshots, rates = Snapshots(), Rates()
    fit(task, crops, FreezeBackbone(2, 0.003), snapshots, rates, max_epochs=3, batch_size=8)
    start, *after = snapshots.states
    backbone, projection = "embedder.backbone.", "embedder.projection."
    assert not moved(start, after[1], backbone)
    assert moved(start, after[0], projection)
    assert moved(after[0], after[1], projection)
    assert moved(after[1], after[2], backbone)  # statistics of batch normalisation too
    assert moved(after[1], after[2], f"{backbone}bn1.running_mean")
    per_epoch = len(rates.seen) // 3
    assert rates.seen == [0.003] * 2 * per_epoch + [0.01] * per_epoch
    assert snapshots.lr == [0.01] * 4, "outside of steps it is the optimiser's own"


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def one_cycle_rate(step: int, n_steps: int, peak: float) -> float:
    """From peak / 25 to the peak in the first fifth, then down to peak / 25 / 10,000."""
    top = 0.2 * n_steps - 1
    if step <= top:
        return cosine(peak / 25, peak, step / top)
    return cosine(peak, peak / 25e4, (step - top) / (n_steps - 1 - top))


@pytest.mark.parametrize(
    ("schedule", "optimizer", "accumulate"),
    [("constant", "sgd", 1), ("one_cycle", "sgd", 1), ("one_cycle", "adamw", 3)],
)
def test_a_frozen_rate_gives_way_to_the_schedules_own(
    crops: Path, tmp_path: Path, schedule: str, optimizer: str, accumulate: int
) -> None:
    free, frozen, record = Rates(), Rates(), RunRecord(tmp_path)
    per_epoch = math.ceil(4 / accumulate)
    settings: dict[str, Any] = {"max_epochs": 3, "batch_size": 4, "limit_val_batches": 0}
    for rates, freeze in ((free, FreezeBackbone()), (frozen, FreezeBackbone(2, 0.003))):
        task = make_task(
            optimizer=sgd() if optimizer == "sgd" else adamw(),
            schedule=OneCycle if schedule == "one_cycle" else None,
        )
        record.history.clear()
        fit(task, crops, freeze, rates, record, accumulate_grad_batches=accumulate, **settings)
    n_steps = 3 * per_epoch
    own = [0.01] * n_steps
    if schedule == "one_cycle":
        own = [one_cycle_rate(step, n_steps, 0.01) for step in range(n_steps)]
    assert free.seen == pytest.approx(own, rel=1e-9)
    n_frozen = 2 * per_epoch
    assert frozen.seen[:n_frozen] == [0.003] * n_frozen
    assert frozen.seen[n_frozen:] == free.seen[n_frozen:]
    assert frozen.betas == free.betas
    assert [row["lr"] for row in record.history[:2]] == [0.003] * 2


@pytest.mark.parametrize(
    "schedule",
    [
        partial(CosineAnnealingLR, T_max=0, eta_min=1e-5),
        partial(StepLR, step_size=3, gamma=0.5),
        partial(ExponentialLR, gamma=0.9),
        partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    ],
    ids=lambda made: made.func.__name__,
)
def test_no_schedule_reckons_from_the_frozen_rate(crops: Path, schedule: Any) -> None:
    free, frozen = Rates(), Rates()
    for rates, freeze in ((free, FreezeBackbone()), (frozen, FreezeBackbone(1, 1e-6))):
        task = make_task(optimizer=sgd(), schedule=schedule)
        fit(task, crops, freeze, rates, max_epochs=3, batch_size=4, limit_val_batches=0)
    n_frozen = len(free.seen) // 3
    assert frozen.seen[:n_frozen] == [1e-6] * n_frozen
    assert frozen.seen[n_frozen:] == pytest.approx(free.seen[n_frozen:], rel=1e-9)
    assert len({*free.seen}) > 3


@pytest.mark.parametrize(
    ("epochs", "lr", "problem"),
    [
        pytest.param(-1, None, r"freeze\.epochs=-1; expected 0 or more", id="negative"),
        pytest.param(1, -0.1, r"freeze\.lr=-0\.1; expected 0 or more", id="ascent"),
        pytest.param(0, 0.1, r"freeze\.lr=0\.1 is for freeze\.epochs above 0", id="no-freeze"),
    ],
)
def test_refuses_what_does_not_fit(epochs: int, lr: float | None, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        FreezeBackbone(epochs, lr)
