"""What every objective has in common: a loss of embeddings and labels, and metrics of it.

Knows no network and no Trainer. An objective is always given the whole batch of all processes.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

Metrics = dict[str, tuple[Tensor, Tensor]]
"""Name -> (value, weight in the mean of the epoch); 0-d tensors on their device, not read yet."""


class Objective(nn.Module):
    """Embeddings ``(B, D)`` of unit norm and labels ``(B,)`` -> a scalar.

    Attributes:
        name: Under which the loss is logged.
    """

    name = "objective"

    def build(self, embedding_dim: int) -> Self:
        """Make the parameters that depend on the width D of the embedding; called once."""
        return self

    def measure(self, embeddings: Tensor, labels: Tensor, epoch: int = 0) -> tuple[Tensor, Metrics]:
        """The loss with its graph, and what to log of it.

        Args:
            embeddings: ``(B, D)``, unit norm, float32.
            labels: ``(B,)``, 1 = fake, 0 = real.
            epoch: Number of the running epoch, for objectives that begin later.
        """
        loss = self(embeddings, labels)
        return loss, {self.name: (loss, torch.ones_like(loss))}
