"""The batch of all processes in its order; real processes are in tests/test_processes.py."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers.norm_act import SyncBatchNormAct
from torch import nn

from deepfake.errors import UsageError
from deepfake.learning.batches import shard
from deepfake.learning.data import CropDataModule
from deepfake.learning.processes import SyncBatchNorm, average_gradients, gather
from deepfake.learning.task import EmbeddingTask
from tests.made_crops import write_crop_folder
from tests.training.made_runs import train


@pytest.mark.parametrize("n_processes", [1, 2, 3, 4])
def test_rows_come_back_in_the_order_of_the_batch(n_processes: int) -> None:
    batch = torch.arange(12.0).reshape(12, 1)
    parts = [batch[shard(12, rank, n_processes)] for rank in range(n_processes)]
    module: Any = SimpleNamespace(
        trainer=SimpleNamespace(world_size=n_processes),
        all_gather=lambda values, sync_grads: torch.stack(parts),
    )
    assert torch.equal(gather(module, parts[0]), batch)


def test_gradients_are_averaged_in_place(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    layer(torch.ones(1, 3)).sum().backward()
    layer.bias.grad = None
    assert layer.weight.grad is not None
    before = layer.weight.grad.clone()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        average_gradients(layer.parameters())
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(layer.weight.grad, before)
    assert layer.bias.grad is None


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet", "mobilenetv2_100"])
def test_shared_statistics_leave_the_network_what_it_is(backbone: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(backbone, num_classes=0)
    network.train()(torch.rand(4, 3, 64, 64))  # statistics that are none of the first
    kinds = [type(module) for module in network.modules()]
    frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    images, network = torch.rand(2, 3, 64, 64), network.eval()
    before, names = network(images), [*network.state_dict()]
    plugin = SyncBatchNorm()
    assert plugin.apply(network) is network
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not norms
    assert isinstance(frozen, nn.SyncBatchNorm)  # the very object, for whoever knows it
    assert torch.equal(network(images), before)
    assert [*network.state_dict()] == names
    plugin.revert(network)
    assert [type(module) for module in network.modules()] == kinds
    assert torch.equal(network(images), before)
    # Lightning's own is what this is for: it drops what is within timm's layers.
    others = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    assert torch.equal(others(images), before) == (backbone == "test_resnet")


def test_a_normalisation_of_its_own_kind_is_not_shared_blindly() -> None:
    class Odd(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match=r"sync_batchnorm true: 1 is a Odd, whose statistics"):
        SyncBatchNorm().apply(nn.Sequential(nn.Conv2d(3, 4, 1), Odd(4)))


def test_a_training_without_its_activations_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CPUs share no statistics, and distributed training says so before the first step; what
    # Lightning does to the network of a GPU is done by hand at that place.
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", nn.BatchNorm2d.forward)
    crops = write_crop_folder(tmp_path / "crops")

    def fit(plugin: TorchSyncBatchNorm) -> None:
        class Convert(Callback):
            def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
                plugin.apply(pl_module)

        trainer = Trainer(
            accelerator="cpu",
            callbacks=[Convert()],
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        data = CropDataModule(str(crops), batch_size=8)
        trainer.fit(EmbeddingTask("test_efficientnet", image_size=64), datamodule=data)

    with pytest.raises(UsageError, match="drops the activations of this backbone: give it plugin"):
        fit(TorchSyncBatchNorm())
    fit(SyncBatchNorm())


def test_the_command_shares_statistics_in_this_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DDP's own refusal comes once the layers were exchanged; the error is its.
    crops = write_crop_folder(tmp_path / "crops")
    seen: list[type[nn.Module]] = []

    class See(SyncBatchNorm):
        def apply(self, model: nn.Module) -> nn.Module:
            applied = super().apply(model)
            seen.extend({type(module) for module in applied.modules()})
            return applied

    monkeypatch.setattr("deepfake.training.lightning_cli.SyncBatchNorm", See)
    words = ["--trainer.strategy", "ddp", "--trainer.sync_batchnorm", "true"]
    before = dict(os.environ)
    try:
        with pytest.raises(ValueError, match="SyncBatchNorm layers only work with GPU modules"):
            train(crops, tmp_path / "run", *words)
        torch.distributed.destroy_process_group()
    finally:  # what distributed training tells the processes that it starts
        for name in os.environ.keys() - before:
            del os.environ[name]
    assert SyncBatchNormAct in seen
    assert nn.SyncBatchNorm not in seen
