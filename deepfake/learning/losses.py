"""The entry's objective: semi-hard triplet loss over every positive pair of the batch.

The mining is ours, the loss, distance and reducer are pytorch-metric-learning's. Knows no
network.

References:
    Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015.
    TensorFlow Addons' ``triplet_semihard_loss``, whose exact selection rule this follows.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn

Triplets = tuple[Tensor, Tensor, Tensor]


class SemiHardTripletLoss(nn.Module):
    r"""Mean over all ordered positive pairs of ``max(0, m + D(a, p) - D(a, n(a, p)))``.

    ``D`` is the squared Euclidean distance of unit vectors, in [0, 4]. For each pair ``(a, p)``
    of one label, ``n(a, p)`` is the nearest negative that is strictly farther from ``a`` than
    ``p`` is; where there is none, the farthest negative. Pairs with zero loss count in the mean.

    Two edges are ours: a batch without a positive pair, or without a negative, has loss 0 (with a
    graph, so that distributed training goes on), where the original gives NaN and
    ``m + D(a, p)``.

    Args:
        margin: The margin ``m``.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin={margin} is negative")
        self.margin = margin
        self.loss = TripletMarginLoss(
            margin=margin,
            swap=False,
            smooth_loss=False,
            distance=LpDistance(normalize_embeddings=True, p=2, power=2),
            # The library's default reducer would divide by the active pairs only.
            reducer=MeanReducer(),
        )

    def forward(
        self, embeddings: Tensor, labels: Tensor, triplets: Triplets | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: ``(B, D)``, unit norm.
            labels: ``(B,)``.
            triplets: As ``mine_triplets`` gave them; mined here if absent.

        Returns:
            Scalar.
        """
        if triplets is None:
            triplets = mine_triplets(embeddings, labels)
        if not len(triplets[0]):
            return embeddings.sum() * 0
        value: Tensor = self.loss(embeddings, labels, triplets)
        return value


@torch.no_grad()
def mine_triplets(embeddings: Tensor, labels: Tensor) -> Triplets:
    """Choose one negative for each ordered positive pair, as ``SemiHardTripletLoss`` describes.

    Sorting each anchor's negatives once and looking every positive up by bisection costs
    ``O(B^2 log B)`` time and ``O(B^2)`` memory.

    Args:
        embeddings: ``(B, D)``, unit norm.
        labels: ``(B,)``.

    Returns:
        Indices of anchors, positives and negatives, one entry per ordered positive pair; empty if
        the batch holds no positive or no negative pair.
    """
    distances = squared_distances(embeddings)
    same = labels[:, None] == labels[None, :]
    negative = ~same
    anchors, positives = (
        same & ~torch.eye(len(labels), dtype=torch.bool, device=same.device)
    ).nonzero(as_tuple=True)
    if not len(anchors) or not bool(negative.any()):
        empty = anchors[:0]
        return empty, empty, empty
    # Row a: distances to its negatives in rising order; everything else behind, at infinity.
    ordered, order = distances.masked_fill(same, torch.inf).sort(dim=1)
    count = negative.sum(dim=1)
    place = torch.searchsorted(ordered, distances, right=True)[anchors, positives]
    has_farther = place < count[anchors]
    # No negative is farther than the positive: take the farthest, the last of the finite ones.
    place = torch.where(has_farther, place, count[anchors] - 1)
    return anchors, positives, order[anchors, place]


def squared_distances(embeddings: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs, ``(B, D) -> (B, B)``, with an exact diagonal."""
    norms = embeddings.pow(2).sum(dim=1)
    squared = norms[:, None] + norms[None, :] - 2 * embeddings @ embeddings.T
    return squared.clamp_min(0).fill_diagonal_(0)


class AuxiliaryCrossEntropy(nn.Module):
    """Cross-entropy of a linear classifier on the unit embedding, as a companion of the triplets.

    It is only a teacher: nothing scores with it, the checkpoint's SVM is fitted afterwards.

    Args:
        embedding_dim: Width D of the embedding.
        scale: Factor on the logit; a unit vector alone could never be sure of anything.
    """

    def __init__(self, embedding_dim: int = 512, scale: float = 8.0) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, 1)
        self.scale = scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of ``(B, D)`` embeddings and ``(B,)`` labels, a scalar."""
        logits = self.linear(embeddings * self.scale).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
