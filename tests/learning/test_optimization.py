"""Groups of weights, fused steps, and schedules whose length the training fills in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from deepfake.learning.data import CropDataModule
from deepfake.learning.optimization import OneCycle, make_optimizer, make_schedule
from deepfake.learning.task import EmbeddingTask
from tests.made_crops import write_crop_folder
from tests.made_task import adamw, both, make_task, sgd
from tests.made_trainer import make_trainer


@pytest.mark.parametrize(
    "optimizer", [pytest.param(sgd(weight_decay=0.3), id="sgd"), adamw(weight_decay=0.3)]
)
def test_weight_decay_spares_vectors_and_the_projection(optimizer: Any) -> None:
    task = make_task(optimizer=optimizer, objective=both())
    groups = task.configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    decayed, spared = ({id(p) for p in group["params"]} for group in groups)
    for name, parameter in task.named_parameters():
        is_decayed = parameter.ndim >= 2 and name != "embedder.projection.weight"
        assert (id(parameter) in decayed) == is_decayed, name
        assert (id(parameter) in spared) == (not is_decayed), name
    assert len(decayed) + len(spared) == len(list(task.parameters()))


def groups() -> list[dict[str, Any]]:
    weight, bias = (nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,)))
    return [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_fused_optimiser_keeps_its_settings(kind: Any) -> None:
    make = partial(kind, lr=0.02, weight_decay=0.1)
    plain, fused = (make_optimizer(make, groups, fused=choice) for choice in (False, True))
    assert type(fused) is kind
    assert not plain.defaults["fused"]
    assert fused.defaults == plain.defaults | {"fused": True}
    assert [group["weight_decay"] for group in fused.param_groups] == [0.1, 0.0]


def length_of(schedule: Any) -> int:
    return int(getattr(schedule, "total_steps", None) or schedule.T_max)


@pytest.mark.parametrize(
    ("make", "length"),
    [
        pytest.param(OneCycle, 40, id="ours"),
        pytest.param(partial(OneCycleLR, max_lr=0.1), 40, id="one-cycle"),
        pytest.param(partial(OneCycleLR, max_lr=0.1, total_steps=70), None, id="given"),
        pytest.param(
            partial(OneCycleLR, max_lr=0.1, epochs=7, steps_per_epoch=10), None, id="in-epochs"
        ),
        pytest.param(partial(CosineAnnealingLR, T_max=0), 40, id="cosine"),
        pytest.param(partial(CosineAnnealingLR, T_max=7), None, id="given-cosine"),
        pytest.param(partial(StepLR, step_size=3), None, id="without-end"),
        pytest.param(lambda optimizer: StepLR(optimizer, 3), None, id="function"),
    ],
)
def test_a_length_that_is_left_open_is_that_of_the_training(make: Any, length: int | None) -> None:
    schedule, filled = make_schedule(make, SGD(groups(), lr=0.1), 40)
    assert filled == length
    if length is not None:
        assert length == length_of(schedule)


@pytest.mark.parametrize("n_steps", range(1, 12))
@pytest.mark.parametrize("make", [OneCycle, partial(OneCycleLR, max_lr=0.1, pct_start=0.2)])
def test_one_cycle_has_a_rate_for_every_step(make: Any, n_steps: int) -> None:
    # A fifth of five steps is one: torch's own divides by zero there.
    optimizer = SGD(groups(), lr=0.1)
    schedule: Any = make_schedule(make, optimizer, n_steps)[0]
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert len(rates) == n_steps
    assert all(0 <= rate <= 0.1 for rate in rates)


def test_five_steps_of_one_cycle_train(tmp_path: Path) -> None:
    crops = write_crop_folder(
        tmp_path / "crops", {"train": (10, 10), "validation": (4, 4)}, size=32
    )
    trainer = make_trainer(tmp_path)
    trainer.fit(make_task(schedule=OneCycle), datamodule=CropDataModule(str(crops), 4))
    assert trainer.global_step == 5


@pytest.mark.parametrize(
    ("words", "kind", "lr"),
    [
        ([], SGD, 0.01),
        (["--model.optimizer.lr", "0.1"], SGD, 0.1),
        (["--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "1e-3"], AdamW, 1e-3),
        (["--model.optimizer", "timm.optim.Lamb", "--model.optimizer.lr", "1e-3"], None, 1e-3),
    ],
    ids=["plain", "rate", "torch", "timm"],
)
def test_optimisers_come_by_their_class_path(words: list[str], kind: Any, lr: float) -> None:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(EmbeddingTask, "model")
    small = ["--model.backbone", "test_efficientnet", "--model.image_size", "32"]
    words = [*words, "--model.schedule", "torch.optim.lr_scheduler.CosineAnnealingLR"]
    task = parser.instantiate(parser.parse_args([*small, *words, "--model.schedule.T_max", "0"]))
    optimizer = make_optimizer(task.model.make_optimizer, groups, fused=False)
    assert optimizer.param_groups[0]["lr"] == lr
    assert type(optimizer) is kind or (kind is None and type(optimizer).__name__ == "Lamb")
    schedule, filled = make_schedule(task.model.make_schedule, optimizer, 9)
    assert (length_of(schedule), filled) == (9, 9)
