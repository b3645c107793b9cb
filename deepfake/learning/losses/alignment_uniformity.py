"""Alignment and uniformity of unit embeddings: classes drawn together, all of them spread out.

Neither teaches the classes apart; each is a term beside a cross-entropy in ``WeightedSum``.

References:
    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", ICML 2020: both terms, with power 2 and temperature 2.
    Yermakov, Cech and Matas, "Deepfake Detection that Generalizes Across Benchmarks", WACV 2026:
    alignment within labels, with weights of 0.1 and 0.5 beside a cross-entropy of weight 1.
"""

from __future__ import annotations

import math

import torch
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor

from deepfake.errors import UsageError
from deepfake.learning.losses.objective import Objective


class Alignment(Objective):
    """Mean squared distance of all pairs of one label: in [0, 4], 0 where each class is a point."""

    name = "alignment"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of ``(B, D)`` embeddings and ``(B,)`` labels; 0 without a pair."""
        distances, pairs = _measure_pairs(embeddings)
        pairs = pairs & (labels[:, None] == labels[None, :])
        return (distances * pairs).sum() / pairs.sum().clamp_min(1)


class Uniformity(Objective):
    """Log of the mean of ``exp(-temperature * squared distance)`` over all pairs, labels or not.

    It is 0 where all embeddings are one point, and falls as they spread over the sphere.

    Args:
        temperature: How soon two embeddings are far enough from each other.

    Raises:
        UsageError: If the temperature is not above 0.
    """

    name = "uniformity"

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise UsageError(f"temperature={temperature:g}; expected more than 0")
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of ``(B, D)`` embeddings; ``(B,)`` labels are not looked at. 0 for B < 2."""
        distances, pairs = _measure_pairs(embeddings)
        n_pairs = len(embeddings) * (len(embeddings) - 1) // 2
        if not n_pairs:
            return distances.sum()  # 0 with a graph: distributed training goes on
        potentials = (-self.temperature * distances).masked_fill(~pairs, -torch.inf)
        return potentials.flatten().logsumexp(0) - math.log(n_pairs)


def _measure_pairs(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances ``(B, B)``, in float32 at least, and a mask that names each pair once."""
    with torch.autocast(embeddings.device.type, enabled=False):
        if embeddings.dtype != torch.float64:
            embeddings = embeddings.float()
        distances: Tensor = LpDistance(normalize_embeddings=True, p=2, power=2)(embeddings)
    return distances, torch.ones_like(distances, dtype=torch.bool).triu(diagonal=1)
