"""Binary cross-entropy of a linear layer on the unit embedding."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from deepfake.learning.losses.objective import Objective


class CrossEntropyOnEmbedding(Objective):
    """Cross-entropy of a linear layer on the unit embedding.

    It is only a teacher: nothing scores with it, the checkpoint's head is fitted afterwards.

    Args:
        scale: Factor on the embedding; without it the logits of unit vectors stay near 0.
    """

    name = "cross_entropy"

    def __init__(self, scale: float = 8.0) -> None:
        super().__init__()
        self.scale = scale

    def build(self, embedding_dim: int) -> Self:
        """Make the linear layer."""
        self.linear = nn.Linear(embedding_dim, 1)
        return self

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of ``(B, D)`` embeddings and ``(B,)`` labels, a scalar."""
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = self.linear(embeddings * self.scale).squeeze(1)  # (B,)
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
