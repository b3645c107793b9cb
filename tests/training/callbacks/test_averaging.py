"""The average against its definition, and the way there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from deepfake.errors import UsageError
from deepfake.training.callbacks.averaging import AverageWeights
from tests.made_task import fit, make_task


class _Module(LightningModule):
    """A layer and its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def begin(module: LightningModule, decay: float) -> AverageWeights:
    average = AverageWeights(decay)
    average.on_fit_start(Trainer(logger=False, accelerator="cpu"), module)
    return average


def shake(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor).abs())
            else:
                tensor.add_(1)


def test_it_is_the_recursion_that_it_says() -> None:
    module = _Module()
    average = begin(module, 0.6)
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
    found = average.average
    assert set(found) == set(module.state_dict())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)
    assert decay == 0.6
    assert found["layers.1.num_batches_tracked"].dtype == torch.int64


def test_what_no_checkpoint_holds_is_not_averaged() -> None:
    module = _Module()
    module.layers.register_buffer("periods", torch.ones(3), persistent=False)
    average = begin(module, 0.9)
    shake(module)
    average.update(module)
    average.swap(module)
    assert set(average.average) == set(module.state_dict())
    assert not torch.equal(module.layers.periods, torch.ones(3))  # type: ignore[arg-type]


def test_swapping_twice_changes_nothing() -> None:
    module = _Module()
    average = begin(module, 0.9)
    shake(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    other = {name: value.clone() for name, value in average.average.items()}
    average.swap(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other[name])
    average.swap(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_it_goes_on_from_its_state() -> None:
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.state.fn = TrainerFn.FITTING
    module, other = _Module(), _Module()
    first, second = begin(module, 0.9), AverageWeights(0.9)
    shake(module)
    first.update(module)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    first.on_save_checkpoint(trainer, module, checkpoint)
    second.on_load_checkpoint(trainer, other, checkpoint)
    second.on_fit_start(trainer, other)
    shake(module)
    other.load_state_dict(module.state_dict())
    first.update(module)
    second.update(other)
    assert first.n_updates == second.n_updates == 2
    for name, value in first.average.items():
        assert torch.equal(second.average[name], value), name


def test_before_the_first_update_it_is_the_network() -> None:
    module = _Module()
    shake(module)  # weights that were loaded before the training begins
    average = begin(module, 0.9).average
    for name, value in module.state_dict().items():
        assert torch.equal(average[name], value)
        assert average[name] is not value


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
    data: dict[str, Any] = {"batch_size": 4, "max_epochs": 2}
    path = tmp_path / "mid.ckpt"
    fit(whole, crops, _Save(path, 3), AverageWeights(0.9), **data)
    assert torch.load(path, weights_only=True)["averaging_state"]["n_updates"] == 3
    fit(resumed, crops, AverageWeights(0.9), ckpt_path=path, **data)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.0), (0.0, 0.9), (0.9, 0.8)])
def test_refuses_to_go_on_with_another_decay(
    crops: Path, tmp_path: Path, before: float, after: float
) -> None:
    fit(make_task(), crops, AverageWeights(before)).save_checkpoint(tmp_path / "x.ckpt")
    fit(make_task(), crops, AverageWeights(before), _Save(tmp_path / "x.ckpt", 1), max_epochs=2)
    path = tmp_path / "x.ckpt"
    with pytest.raises(UsageError, match=rf"begun with average\.decay={before}, now it is {after}"):
        fit(make_task(), crops, AverageWeights(after), ckpt_path=path, max_epochs=2)
