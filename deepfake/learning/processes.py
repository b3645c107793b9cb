"""The batch of all processes: embeddings put together, statistics shared, gradients averaged.

Knows no loss and no data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepfake.errors import UsageError

_SYNCHRONISED: dict[type[nn.Module], type[nn.SyncBatchNorm]] = {
    nn.BatchNorm1d: nn.SyncBatchNorm,
    nn.BatchNorm2d: nn.SyncBatchNorm,
    nn.BatchNorm3d: nn.SyncBatchNorm,
    BatchNormAct2d: SyncBatchNormAct,
}


def gather(module: LightningModule, values: Tensor) -> Tensor:
    """Put the ``(B / N, ...)`` of N processes together to ``(B, ...)``, in the batch's order.

    Every process then computes the loss of the whole batch. Backwards, the gather adds up the
    gradients that all N of them have for a row: N times the true one. Distributed training divides
    by N when it averages, so that what the optimiser sees is exactly the gradient of one process
    with the whole batch, also of terms that are computed N times (the penalty, the objective's own
    weights).
    """
    if module.trainer.world_size == 1:
        return values
    gathered: Any = module.all_gather(values, sync_grads=values.requires_grad)
    n_processes, n_turns = gathered.shape[:2]  # (N, B / N, ...)
    turns = torch.arange(n_turns, device=gathered.device)[:, None]
    later = turns * (1 - n_processes % 2)  # as ``shard`` has dealt them
    ranks = (torch.arange(n_processes, device=gathered.device) - later) % n_processes
    together: Tensor = gathered[ranks, turns].flatten(0, 1)  # (B, ...)
    return together


class SyncBatchNorm(TorchSyncBatchNorm):
    """Batch normalisation by the statistics of the whole batch, for Lightning's Trainer.

    Lightning's own puts torch's layer in the place of every batch normalisation. timm's has the
    activation within (EfficientNet, MobileNet), which is lost so, and with it the network: it
    trains, and is another one once its weights are loaded. Here layers stay the objects that they
    are, so that whatever is known of them (frozen ones, optimisers' weights) stays true.
    """

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, type[nn.Module]]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Share the statistics of every batch normalisation.

        Raises:
            UsageError: If there is a kind of it that nobody has a shared form of.
        """
        for name, module in model.named_modules():
            kind = type(module)
            if not isinstance(module, _BatchNorm) or isinstance(module, nn.SyncBatchNorm):
                continue
            if kind not in _SYNCHRONISED:
                raise UsageError(
                    f"trainer.sync_batchnorm true: {name} is a {kind.__name__}, whose statistics "
                    "cannot be shared: set it to false"
                )
            self._before.append((module, kind))
            module.__dict__["process_group"] = None
            module.__class__ = _SYNCHRONISED[kind]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Every process by its own statistics again."""
        while self._before:
            module, kind = self._before.pop()
            module.__class__ = kind
            del module.__dict__["process_group"]
        return model


def count_inner_activations(model: nn.Module) -> int:
    """How many of its normalisations have the activation within."""
    kinds = (BatchNormAct2d, SyncBatchNormAct)
    return sum(isinstance(module, kinds) for module in model.modules())


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """What distributed training does in the background, once and for all weights together."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
