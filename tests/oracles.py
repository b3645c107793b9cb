"""Slow, obvious references: loops and definitions that the fast code must equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Triplet = tuple[int, int, int]


def squared_distance(first: Tensor, second: Tensor) -> float:
    """Step 1: from norms and dot product, never below zero."""
    return max(float(first @ first + second @ second - 2 * first @ second), 0.0)


def distance_table(embeddings: Tensor) -> list[list[float]]:
    rows = embeddings.detach().double()
    size = len(rows)
    return [
        [0.0 if i == j else squared_distance(rows[i], rows[j]) for j in range(size)]
        for i in range(size)
    ]


def choose_triplets(embeddings: Tensor, labels: Sequence[int]) -> list[Triplet]:
    """Steps 2 and 3: one negative per ordered positive pair; none if there is no negative."""
    distances = distance_table(embeddings)
    chosen = []
    for a in range(len(labels)):
        for p in range(len(labels)):
            if a == p or labels[a] != labels[p]:
                continue
            nearest: int | None = None
            farthest: int | None = None
            for n in range(len(labels)):
                if labels[n] == labels[a]:
                    continue
                if farthest is None or distances[a][n] > distances[a][farthest]:
                    farthest = n
                outside = distances[a][n] > distances[a][p]
                if outside and (nearest is None or distances[a][n] < distances[a][nearest]):
                    nearest = n
            negative = nearest if nearest is not None else farthest
            if negative is not None:
                chosen.append((a, p, negative))
    return chosen


def loss_of_triplets(embeddings: Tensor, triplets: Sequence[Triplet], margin: float) -> Tensor:
    """Step 4: mean over all pairs, zeros included; both distances carry gradient."""
    total = embeddings.sum() * 0
    for a, p, n in triplets:
        positive = (embeddings[a] - embeddings[p]).pow(2).sum()
        negative = (embeddings[a] - embeddings[n]).pow(2).sum()
        # relu, not clamp: a pair that is exactly satisfied has no gradient.
        total = total + torch.relu(margin + positive - negative)
    return total / max(len(triplets), 1)


def triplet_loss(embeddings: Tensor, labels: Sequence[int], margin: float) -> Tensor:
    return loss_of_triplets(embeddings, choose_triplets(embeddings, labels), margin)


def alignment(embeddings: Tensor, labels: Sequence[int]) -> Tensor:
    """Mean squared distance over the unordered pairs of one label."""
    found = [
        (embeddings[i] - embeddings[j]).pow(2).sum()
        for i in range(len(labels))
        for j in range(i)
        if labels[i] == labels[j]
    ]
    return torch.stack(found).mean()


def uniformity(embeddings: Tensor, temperature: float) -> Tensor:
    """Logarithm of the mean Gaussian potential over all unordered pairs."""
    found = [
        torch.exp(-temperature * (embeddings[i] - embeddings[j]).pow(2).sum())
        for i in range(len(embeddings))
        for j in range(i)
    ]
    return torch.stack(found).mean().log()


def area_under_curve(labels: Sequence[int], scores: Sequence[float]) -> float:
    """Share of (fake, real) pairs in the right order; a tie counts half."""
    fakes = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    reals = [s for s, y in zip(scores, labels, strict=True) if y == 0]
    wins = sum((f > r) + 0.5 * (f == r) for f in fakes for r in reals)
    return wins / (len(fakes) * len(reals))


def equal_error_rate(labels: Sequence[int], scores: Sequence[float]) -> float:
    """Walk over every threshold; where accused reals overtake missed fakes, draw a line."""
    n_fake, n_real = sum(labels), len(labels) - sum(labels)
    accused, missed = 0.0, 1.0
    for threshold in sorted(set(scores), reverse=True):
        pairs = list(zip(labels, scores, strict=True))
        now_accused = sum(y == 0 and s >= threshold for y, s in pairs) / n_real
        now_missed = sum(y == 1 and s < threshold for y, s in pairs) / n_fake
        if now_accused >= now_missed:
            before, after = missed - accused, now_accused - now_missed
            way = before / (before + after) if before + after else 0.0
            return accused + way * (now_accused - accused)
        accused, missed = now_accused, now_missed
    raise AssertionError("the lowest threshold accuses everybody")


def balanced_accuracy(labels: Sequence[int], scores: Sequence[float], threshold: float) -> float:
    pairs = list(zip(labels, scores, strict=True))
    found = [s >= threshold for y, s in pairs if y == 1]
    spared = [s < threshold for y, s in pairs if y == 0]
    return (sum(found) / len(found) + sum(spared) / len(spared)) / 2


def best_balanced_accuracy(labels: Sequence[int], scores: Sequence[float]) -> float:
    candidates = [*scores, float(np.max(scores)) + 1.0]
    return max(balanced_accuracy(labels, scores, threshold) for threshold in candidates)


def calibration_error(labels: Sequence[int], scores: Sequence[float], n_bins: int) -> float:
    """Bin by bin: distance between mean score and share of fakes, weighted by rows."""
    total = 0.0
    for number in range(n_bins):
        low, high = number / n_bins, (number + 1) / n_bins
        inside = [
            (y, s)
            for y, s in zip(labels, scores, strict=True)
            if low <= s < high or (s == 1 and number == n_bins - 1)
        ]
        if inside:
            share = sum(y for y, _ in inside) / len(inside)
            mean = sum(s for _, s in inside) / len(inside)
            total += len(inside) / len(labels) * abs(share - mean)
    return total
