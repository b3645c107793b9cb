"""Any loss of pytorch-metric-learning, with any of its miners."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepfake.learning.losses.objective import Objective


class MetricLearningLoss(Objective):
    """A loss of pytorch-metric-learning over the batch of all processes.

    What it learns itself (the proxies of ``ProxyAnchorLoss``) is trained by the same optimiser and
    kept in the checkpoints of the run.

    Args:
        loss: Class of ``pytorch_metric_learning.losses``.
        miner: Class of ``pytorch_metric_learning.miners``; ``null`` takes all pairs.
    """

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss, self.miner, self.name = loss, miner, type(loss).__name__

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of ``(B, D)`` embeddings and ``(B,)`` labels, a scalar."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.float()
            mined = [] if self.miner is None else [self.miner(embeddings, labels)]
            loss: Tensor = self.loss(embeddings, labels, *mined)
            # A batch without a pair gives a plain 0; distributed training needs its graph.
            unused = sum(parameter.sum() for parameter in self.parameters())
            return loss + 0.0 * (embeddings.sum() + unused)
