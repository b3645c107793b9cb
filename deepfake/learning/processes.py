"""The batch of all processes: its embeddings put together, its gradients averaged.

Knows no loss and no data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn


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
    ranks = (torch.arange(n_processes, device=gathered.device) - turns) % n_processes
    together: Tensor = gathered[ranks, turns].flatten(0, 1)  # (B, ...)
    return together


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
