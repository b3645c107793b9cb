"""The entry's objective: semi-hard triplet loss over every positive pair of the batch.

Distances are pytorch-metric-learning's; the choice of negatives is ours, dense and without a single
look from the host, so that a step can be compiled, captured and queued ahead. Knows no network.

References:
    Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015.
    TensorFlow Addons' ``triplet_semihard_loss``, whose exact selection rule this follows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor

from deepfake.learning.losses.objective import Metrics, Objective

# Distances that differ by less than this many units of rounding are equal: a matrix product may sum
# two identical columns in different orders.
_TIE_UNITS = 8
_COLLAPSED = 1e-3  # squared distance below which all embeddings are alike


class TripletOutcome(NamedTuple):
    """What a batch gave; scalars on its device, none of them read by the host yet.

    Args:
        loss: With graph.
        n_triplets: Ordered positive pairs, each with one negative; 0 where a batch holds no
            positive or no negative pair, and then everything else is 0 too.
        ap_mean: Mean squared distance from anchor to positive.
        an_mean: Mean squared distance from anchor to the chosen negative.
        active_share: Share of the triplets that cost something.
    """

    loss: Tensor
    n_triplets: Tensor
    ap_mean: Tensor
    an_mean: Tensor
    active_share: Tensor


class SemiHardTripletLoss(Objective):
    r"""Mean over all ordered positive pairs of ``max(0, m + D(a, p) - D(a, n(a, p)))``.

    ``D`` is the squared Euclidean distance of unit vectors, in [0, 4]. For each pair ``(a, p)``
    of one label, ``n(a, p)`` is the nearest negative that is strictly farther from ``a`` than
    ``p`` is; where there is none, the farthest negative. Pairs with zero loss count in the mean.
    Time ``O(B^2 (D + log B))``, memory ``O(B^2)``; computed in float32 at least, also under
    autocast.

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
        self.distance = LpDistance(normalize_embeddings=True, p=2, power=2)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of ``(B, D)`` unit embeddings with ``(B,)`` labels, a scalar."""
        return self.evaluate(embeddings, labels).loss

    def measure(self, embeddings: Tensor, labels: Tensor, epoch: int = 0) -> tuple[Tensor, Metrics]:
        """The loss and what the mining found; distances count by how many triplets there were."""
        outcome = self.evaluate(embeddings, labels)
        loss, n_triplets, ap_mean, an_mean, active_share = outcome
        one, number = torch.ones_like(loss), n_triplets.to(loss.dtype)
        # No pair differs any more, and the loss stands at its margin: the gradient is near zero.
        stuck = (an_mean < _COLLAPSED) & ((loss - self.margin).abs() < 0.02 * self.margin)
        return loss, {
            "triplet_loss": (loss, one),
            "triplets": (number, one),
            "ap_distance": (ap_mean, number),
            "an_distance": (an_mean, number),
            "active_share": (active_share, number),
            # A batch without a triplet says nothing.
            "collapsed": (stuck.to(loss.dtype), (number > 0).to(loss.dtype)),
        }

    def evaluate(self, embeddings: Tensor, labels: Tensor) -> TripletOutcome:
        """The loss with the metrics that tell whether it still teaches.

        Args:
            embeddings: ``(B, D)``, unit norm.
            labels: ``(B,)``.

        Returns:
            Scalars, all on the device of the embeddings.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            if embeddings.dtype != torch.float64:
                embeddings = embeddings.float()
            distances: Tensor = self.distance(embeddings)  # (B, B)
            with torch.no_grad():
                pairs, negatives = choose_negatives(distances, labels)
                an = distances.gather(1, negatives)
                active = pairs & (self.margin + distances - an > 0)
                n_triplets = pairs.sum()
                divisor = n_triplets.clamp_min(1)
                # The loss is linear in the distances once the negatives are chosen. Its weights
                # are whole numbers, so that the order in which a GPU adds them changes nothing.
                pulls = active.to(distances.dtype)
                slope = pulls.scatter_add(1, negatives, -pulls) / divisor
                n_active = pulls.sum()
                ap_mean = distances.where(pairs, 0).sum() / divisor
                an_mean = an.where(pairs, 0).sum() / divisor
            loss = (slope * distances).sum() + self.margin * n_active / divisor
        return TripletOutcome(loss, n_triplets, ap_mean, an_mean, n_active / divisor)


def choose_negatives(distances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One negative for each ordered positive pair, as ``SemiHardTripletLoss`` describes.

    Each anchor's negatives are sorted once, and every positive is looked up by bisection.

    Args:
        distances: ``(B, B)`` squared distances.
        labels: ``(B,)``.

    Returns:
        ``(B, B)`` mask of the pairs (anchor, positive) that form a triplet, and ``(B, B)`` column
        of the negative that belongs to each; columns outside of the mask mean nothing.
    """
    same = labels[:, None] == labels[None, :]
    n_negatives = (~same).sum(dim=1, keepdim=True)
    # Row a: distances to its negatives in rising order; everything else behind, at infinity.
    ordered, order = distances.masked_fill(same, torch.inf).sort(dim=1)
    tie = _TIE_UNITS * torch.finfo(distances.dtype).eps
    place = torch.searchsorted(ordered, distances + tie, right=True)
    # No negative is farther than the positive: take the farthest, the last of the finite ones.
    place = place.minimum(n_negatives - 1).clamp_min(0)
    oneself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~oneself & (n_negatives > 0), order.gather(1, place)
