"""Several objectives on one embedding, each with a weight and a first epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from deepfake.errors import UsageError
from deepfake.learning.losses.objective import Metrics, Objective


@dataclass(frozen=True)
class Term:
    """One objective of a sum.

    Args:
        loss: The objective.
        weight: Its factor; with 0 it is left out and nothing of it is computed.
        from_epoch: Epoch in which it joins in.
    """

    loss: Objective
    weight: float = 1.0
    from_epoch: int = 0


class WeightedSum(Objective):
    """``sum(weight * loss)`` over the terms that have begun.

    Args:
        terms: What is summed.

    Raises:
        UsageError: If no term has a weight in the first epoch, or a number is negative.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        if any(term.weight < 0 or term.from_epoch < 0 for term in terms):
            raise UsageError("model.objective: weight and from_epoch must be 0 or more")
        self.terms = [term for term in terms if term.weight > 0]
        if not any(term.from_epoch == 0 for term in self.terms):
            raise UsageError(
                "model.objective: no term has a weight above 0 and from_epoch 0; nothing to learn"
            )
        self.losses = nn.ModuleList([term.loss for term in self.terms])

    def build(self, embedding_dim: int) -> Self:
        """Build every term."""
        for term in self.terms:
            term.loss.build(embedding_dim)
        return self

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The sum of all terms, as after the last of them has begun."""
        return self.measure(embeddings, labels, max(term.from_epoch for term in self.terms))[0]

    def measure(self, embeddings: Tensor, labels: Tensor, epoch: int = 0) -> tuple[Tensor, Metrics]:
        """The sum of the terms that have begun by ``epoch``, and the metrics of each."""
        total = torch.zeros((), device=embeddings.device)
        metrics: Metrics = {}
        for term in self.terms:
            if epoch < term.from_epoch:
                # Distributed training waits for a gradient of every weight.
                for parameter in term.loss.parameters():
                    total = total + 0.0 * parameter.sum()
                continue
            value, own = term.loss.measure(embeddings, labels, epoch)
            total = total + term.weight * value
            metrics |= own
        return total, metrics
