"""The triplet loss: this package beside pytorch-metric-learning, forward and backward.

Two baselines. ``stock`` is the library as people use it: ``TripletMarginMiner`` with every
semi-hard triplet and ``TripletMarginLoss``, which is another objective over other triplets, timed
because it is the alternative. ``same`` is our objective out of the library's own pieces: a miner
that writes the formula down over all B x B x B triples, ``TripletMarginLoss`` and ``MeanReducer``;
its value and gradient must equal ours, or the run fails. All ways run in one process on one
thread, in turn.

    python benchmarks/mining.py [--rounds 15] [--large 4096] [--device cuda]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BaseMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from deepfake.learning.losses import SemiHardTripletLoss

EMBEDDING_DIM = 512
GOALS = {48: 2.0, 128: None, 256: 25.0}  # against the library as it is, by batch size

Loss = Callable[[Tensor, Tensor], Tensor]


class WrittenDownMiner(BaseMiner):  # type: ignore[misc]
    """One negative per ordered positive pair: nearest of the farther ones, else the farthest."""

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All ``(a, p, n)`` of the batch at once, as the formula has them."""
        distances = self.distance(embeddings, ref_emb)
        same = labels[:, None] == ref_labels[None, :]
        anchors, positives = (
            same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        ).nonzero(as_tuple=True)
        to_negative = distances[anchors]
        allowed = ~same[anchors] & (to_negative > distances[anchors, positives][:, None])
        nearest = to_negative.masked_fill(~allowed, torch.inf).argmin(dim=1)
        farthest = to_negative.masked_fill(same[anchors], -torch.inf).argmax(dim=1)
        return anchors, positives, torch.where(allowed.any(dim=1), nearest, farthest)


def make_ways(margin: float) -> dict[str, Loss]:
    """Ours, the library as it is, and the library made to compute what ours does."""
    distance = LpDistance(normalize_embeddings=True, p=2, power=2)
    stock_miner = TripletMarginMiner(margin, type_of_triplets="semihard", distance=distance)
    stock_loss = TripletMarginLoss(margin, distance=distance)
    same_miner = WrittenDownMiner(distance=distance)
    same_loss = TripletMarginLoss(margin, distance=distance, reducer=MeanReducer())
    return {
        "ours": SemiHardTripletLoss(margin),
        "stock": lambda rows, labels: stock_loss(rows, labels, stock_miner(rows, labels)),
        "same": lambda rows, labels: same_loss(rows, labels, same_miner(rows, labels)),
    }


def draw(batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Two classes that have begun to part, half and half."""
    generator = torch.Generator().manual_seed(batch)
    labels = torch.arange(batch) % 2
    raw = torch.randn(batch, EMBEDDING_DIM, generator=generator)
    raw[:, 0] += 6.0 * (labels * 2 - 1)
    return raw.to(device), labels.to(device)


def run(loss: Loss, raw: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Forward and backward; the value is read at the end, as by a progress bar."""
    leaf = raw.clone().requires_grad_()
    value = loss(F.normalize(leaf), labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


def seconds(loss: Loss, raw: Tensor, labels: Tensor) -> float:
    """Time of one forward and backward."""
    begin = time.perf_counter()
    run(loss, raw, labels)
    return time.perf_counter() - begin


def compare(batch: int, rounds: int, margin: float, device: str) -> bool:
    """Print one row per baseline; returns whether ours computes what it should."""
    raw, labels = draw(batch, device)
    ways = make_ways(margin)
    # In float64, so that no choice between two all but equal negatives hangs on rounding.
    value, gradient = run(ways["ours"], raw.double(), labels)
    expected, slope = run(ways["same"], raw.double(), labels)
    apart = max(abs(value - expected), float((gradient - slope).abs().max()))
    print(f"batch {batch:>5}  loss {value:.6f}, value and gradient off `same` by {apart:.0e}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, loss in ways.items():
            times[name].append(seconds(loss, raw, labels))
    ours = statistics.median(times.pop("ours"))
    print(f"batch {batch:>5}  ours            {ours * 1e3:9.2f} ms")
    for name, spent in times.items():
        low, _, high = statistics.quantiles([t / ours for t in spent], n=4)
        median = statistics.median(spent)
        goal = f"  goal x{GOALS[batch]:g}" if GOALS[batch] and name == "stock" else ""
        words = "other triplets" if name == "stock" else "same objective"
        print(
            f"batch {batch:>5}  {name} ({words}) {median * 1e3:9.2f} ms  x{median / ours:.2f} "
            f"({low:.2f}-{high:.2f}){goal}"
        )
    return apart <= 1e-9


def measure_large(batch: int, margin: float, device: str) -> None:
    """Time and peak memory of one large batch."""
    raw, labels = draw(batch, device)
    loss = make_ways(margin)["ours"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent = min(seconds(loss, raw, labels) for _ in range(3))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if device == "cuda":
        grown = torch.cuda.max_memory_allocated() / 2**20
    print(f"batch {batch:>5}  ours            {spent * 1e3:9.2f} ms  peak memory +{grown:.0f} MiB")


def main() -> int:
    """Compare at each size, then show that a large batch fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--large", type=int, default=4096, metavar="BATCH")
    parser.add_argument("--margin", type=float, default=1.0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {options.device}, 1 thread, {EMBEDDING_DIM} wide")
    right = [compare(batch, options.rounds, options.margin, options.device) for batch in GOALS]
    measure_large(options.large, options.margin, options.device)
    if not all(right):
        print("FAILED: the same objective has another value")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
