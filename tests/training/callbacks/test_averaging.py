"""The average against its definition, and the way there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from deepfake.augment.recipes import AugmentationSettings
from deepfake.errors import UsageError
from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks.averaging import AverageWeights, WeightAverage
from tests.made_crops import write_crop_folder
from tests.made_task import make_task
from tests.made_trainer import make_trainer


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (8, 8), "validation": (4, 4), "test": (4, 4)}
    return write_crop_folder(tmp_path_factory.mktemp("callback") / "crops", counts, size=32)


def fit(
    task: LightningModule, crops: Path, *callbacks: Callback, batch_size: int = 16, **options: Any
) -> Trainer:
    trainer = make_trainer(crops, *callbacks, **options)
    data = CropDataModule(str(crops), batch_size, AugmentationSettings(share=0.0))
    trainer.fit(task, datamodule=data)
    return trainer


def make() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def shake(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor).abs())
            else:
                tensor.add_(1)


def test_it_is_the_recursion_that_it_says() -> None:
    module = make()
    average = WeightAverage(module, 0.6)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    for n in range(20):
        shake(module)
        average.update(module)
        decay = min(0.6, (1 + n) / (10 + n))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    found = average.state_dict()
    assert set(found) == set(module.state_dict())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)
    assert decay == 0.6
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_swapping_twice_changes_nothing() -> None:
    module = make()
    average = WeightAverage(module, 0.9)
    shake(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    other = {name: value.clone() for name, value in average.state_dict().items()}
    average.swap(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other[name])
    average.swap(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_it_goes_on_from_its_state() -> None:
    module = make()
    first, second = WeightAverage(module, 0.9), WeightAverage(make(), 0.9)
    shake(module)
    first.update(module)
    second.load_state_dict(first.state_dict(), first.n_updates)
    second.to(module.to(memory_format=torch.contiguous_format))
    shake(module)
    for average in (first, second):
        average.update(module)
    for one, two in zip(first.tensors(), second.tensors(), strict=True):
        assert torch.equal(one, two)


def test_before_the_first_update_it_is_the_network() -> None:
    module = make()
    average = WeightAverage(module, 0.9)
    shake(module)  # weights that were loaded after the average was made
    average.to(module)
    for name, value in module.state_dict().items():
        assert torch.equal(average.state_dict()[name], value)


@pytest.mark.parametrize("decay", [1.0, -0.5, 2.0])
def test_refuses_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(UsageError, match=r"average\.decay="):
        AverageWeights(decay)


class _Validated(Callback):
    """The projection that every validation saw."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        self.seen.append(pl_module.embedder.projection.weight.detach().clone())  # type: ignore[union-attr,operator]


class _Save(Callback):
    """Writes a checkpoint after one step, before other callbacks have had their turn."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_the_average_is_validated_and_kept_and_the_network_goes_on(
    crops: Path, tmp_path: Path
) -> None:
    validated, task, plain = _Validated(), make_task(dropout=0.0), make_task(dropout=0.0)
    kept = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(plain, crops, batch_size=4, max_epochs=2)
    fit(task, crops, AverageWeights(0.9), validated, kept, batch_size=4, max_epochs=2)
    content = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    # The network itself went its way as without an average; what is validated and kept is that.
    for name, value in plain.state_dict().items():
        assert torch.equal(content["current_model_state"][name], value), name
    average = content["state_dict"]["embedder.projection.weight"]
    assert torch.equal(validated.seen[-1], average)
    assert not torch.equal(average, plain.embedder.projection.weight)
    assert torch.equal(task.embedder.projection.weight, average)  # for good, buffers too
    for name, value in task.state_dict().items():
        assert torch.equal(value, content["state_dict"][name]), name


def test_it_goes_on_from_a_checkpoint_in_mid_epoch(crops: Path, tmp_path: Path) -> None:
    whole, resumed = make_task(dropout=0.0), make_task(dropout=0.0)
    data = {"batch_size": 4, "max_epochs": 2}
    path = tmp_path / "mid.ckpt"
    fit(whole, crops, _Save(path, 3), AverageWeights(0.9), **data)
    assert torch.load(path, weights_only=True)["averaging_state"]["n_updates"] == 3
    trainer = make_trainer(crops, AverageWeights(0.9), max_epochs=2)
    module = CropDataModule(str(crops), 4, AugmentationSettings(share=0.0))
    trainer.fit(resumed, datamodule=module, ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.0), (0.0, 0.9), (0.9, 0.8)])
def test_refuses_to_go_on_with_another_decay(
    crops: Path, tmp_path: Path, before: float, after: float
) -> None:
    fit(make_task(), crops, AverageWeights(before)).save_checkpoint(tmp_path / "x.ckpt")
    fit(make_task(), crops, AverageWeights(before), _Save(tmp_path / "x.ckpt", 1), max_epochs=2)
    trainer = make_trainer(crops, AverageWeights(after), max_epochs=2)
    with pytest.raises(UsageError, match=rf"begun with average\.decay={before}, now it is {after}"):
        trainer.fit(
            make_task(), datamodule=CropDataModule(str(crops), 16), ckpt_path=tmp_path / "x.ckpt"
        )
