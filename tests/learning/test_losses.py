"""The loss against a triple loop: value, gradient, ties and every edge."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from deepfake.learning.losses import (
    AuxiliaryCrossEntropy,
    SemiHardTripletLoss,
    mine_triplets,
    squared_distances,
)
from tests import oracles

BATCHES = [
    pytest.param(2, 2, id="B2"),
    pytest.param(3, 1, id="B3"),
    pytest.param(5, 1, id="B5"),
    pytest.param(8, 3, id="B8"),
    pytest.param(13, 12, id="B13"),
    pytest.param(28, 9, id="B28"),
    pytest.param(56, 30, id="B56"),
]
MARGINS = pytest.mark.parametrize("margin", [0.2, 0.5, 1.0, 1.5], ids="m{}".format)
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float64, 1e-6, id="float64"),
        pytest.param(torch.float32, 1e-5, id="float32"),
    ],
)


def draw(batch: int, n_fake: int, seed: int = 0, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Raw vectors and shuffled labels with exactly ``n_fake`` fakes."""
    rng = np.random.default_rng((seed, batch, n_fake))
    labels = rng.permutation(np.arange(batch) < n_fake).astype(np.int64)
    return torch.from_numpy(rng.normal(size=(batch, dim))), torch.from_numpy(labels)


def value_and_gradient(function, raw: Tensor) -> tuple[float, Tensor]:
    """Loss of the normalised rows, and its gradient on the raw ones."""
    leaf = raw.clone().requires_grad_()
    loss = function(F.normalize(leaf))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.item(), gradient


@DTYPES
@MARGINS
@pytest.mark.parametrize(("batch", "n_fake"), BATCHES)
def test_value_and_gradient_equal_the_oracle(
    batch: int, n_fake: int, margin: float, dtype: torch.dtype, tolerance: float
) -> None:
    raw, labels = draw(batch, n_fake)
    if n_fake == batch:
        labels[0] = 0
    expected, slope = value_and_gradient(
        lambda rows: oracles.triplet_loss(rows, labels.tolist(), margin), raw
    )
    loss, gradient = value_and_gradient(
        lambda rows: SemiHardTripletLoss(margin)(rows, labels), raw.to(dtype)
    )
    assert loss == pytest.approx(expected, abs=tolerance)
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", range(8))
def test_same_negatives_as_the_oracle(seed: int) -> None:
    raw, labels = draw(5 + 4 * seed, 2 + seed, seed)
    rows = F.normalize(raw)
    chosen = torch.stack(mine_triplets(rows, labels), dim=1).tolist()
    assert [tuple(triplet) for triplet in chosen] == oracles.choose_triplets(rows, labels.tolist())


def exact_rows(kind: str) -> Tensor:
    """Unit vectors whose distances are exact in floating point, so that ties are ties."""
    if kind == "one-hot":
        return torch.eye(4).repeat(4, 1)
    signs = torch.tensor([[(i >> bit) & 1 for bit in range(4)] for i in range(16)])
    return signs.float() - 0.5


@DTYPES
@MARGINS
@pytest.mark.parametrize("kind", ["one-hot", "half"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_ties(
    kind: str, seed: int, margin: float, dtype: torch.dtype, tolerance: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = exact_rows(kind)[torch.from_numpy(rng.permutation(16))].to(dtype)
    labels = torch.from_numpy(rng.permutation(np.arange(16) < 5).astype(np.int64))
    expected = oracles.triplet_loss(rows.double(), labels.tolist(), margin)
    loss = SemiHardTripletLoss(margin)(rows, labels)
    assert float(loss) == pytest.approx(float(expected), abs=tolerance)
    # Which of several equal negatives is taken is free; its distance is not.
    table = oracles.distance_table(rows)
    mined = torch.stack(mine_triplets(rows, labels), dim=1).tolist()
    for (a, p, n), (oa, op, on) in zip(
        mined, oracles.choose_triplets(rows, labels.tolist()), strict=True
    ):
        assert (a, p, table[a][n]) == (oa, op, table[oa][on])
    if margin == 1.0:
        return  # distances are whole: pairs stand on the hinge's corner, where there is no slope
    _, gradient = value_and_gradient(lambda rows: SemiHardTripletLoss(margin)(rows, labels), rows)
    _, slope = value_and_gradient(
        lambda rows: oracles.loss_of_triplets(rows, [(a, p, n) for a, p, n in mined], margin),
        rows.double(),
    )
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=tolerance)


def test_a_negative_as_far_as_the_positive_is_not_farther() -> None:
    # On the circle, in quarter turns: anchor at 0, positive at 1, negatives at 3 (a tie) and 2.
    turns = torch.tensor([0.0, 1.0, 3.0, 2.0])
    rows = torch.stack([torch.cos(turns * torch.pi / 2), torch.sin(turns * torch.pi / 2)], dim=1)
    rows = rows.round()
    anchors, positives, negatives = mine_triplets(rows, torch.tensor([0, 0, 1, 1]))
    first = (anchors == 0) & (positives == 1)
    assert negatives[first].tolist() == [3]


def test_without_a_farther_negative_the_farthest_is_taken() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    anchors, positives, negatives = mine_triplets(rows, torch.tensor([0, 0, 1, 1]))
    first = (anchors == 0) & (positives == 1)
    assert negatives[first].tolist() == [2]


@pytest.mark.parametrize(("batch", "n_fake"), BATCHES)
def test_one_triplet_per_ordered_positive_pair(batch: int, n_fake: int) -> None:
    raw, labels = draw(batch, n_fake)
    anchors, positives, negatives = mine_triplets(F.normalize(raw), labels)
    pairs = list(zip(anchors.tolist(), positives.tolist(), strict=True))
    truth = labels.tolist()
    wanted = {(a, p) for a in range(batch) for p in range(batch) if a != p and truth[a] == truth[p]}
    if not 0 < n_fake < batch:
        wanted = set()
    assert len(pairs) == len(wanted)
    assert set(pairs) == wanted
    assert bool((labels[negatives] != labels[anchors]).all())


EDGES = [
    pytest.param([1, 1, 1, 1], id="one-class"),
    pytest.param([0, 0], id="one-class-of-two"),
    pytest.param([0, 1], id="no-positive-pair"),
    pytest.param([0], id="one-row"),
]


@pytest.mark.parametrize("labels", EDGES)
def test_without_triplets_the_loss_is_zero_with_a_graph(labels: list[int]) -> None:
    raw = torch.randn(len(labels), 4, requires_grad=True)
    loss = SemiHardTripletLoss()(F.normalize(raw), torch.tensor(labels))
    assert loss.item() == 0
    loss.backward()
    assert raw.grad is not None
    assert raw.grad.tolist() == torch.zeros_like(raw).tolist()
    assert [len(part) for part in mine_triplets(raw.detach(), torch.tensor(labels))] == [0, 0, 0]


@MARGINS
def test_total_collapse_costs_the_margin(margin: float) -> None:
    labels = torch.tensor([0, 1] * 8)
    rows = torch.zeros(16, 4)
    rows[:, 0] = 1
    assert float(SemiHardTripletLoss(margin)(rows, labels)) == pytest.approx(margin, abs=1e-7)


def test_a_tidy_embedding_costs_nothing() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert float(SemiHardTripletLoss()(rows, torch.tensor([0, 0, 1, 1]))) == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_batch_does_not_matter(seed: int) -> None:
    raw, labels = draw(28, 11, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(28))
    loss, gradient = value_and_gradient(lambda rows: SemiHardTripletLoss()(rows, labels), raw)
    shuffled, turned = value_and_gradient(
        lambda rows: SemiHardTripletLoss()(rows, labels[order]), raw[order]
    )
    assert shuffled == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(turned, gradient[order], rtol=0, atol=1e-12)


def test_swapping_the_classes_does_not_matter() -> None:
    raw, labels = draw(20, 8)
    rows, loss = F.normalize(raw), SemiHardTripletLoss()
    assert float(loss(rows, 1 - labels)) == pytest.approx(float(loss(rows, labels)), abs=1e-12)


def test_random_embeddings_cost_about_098() -> None:
    losses = []
    for seed in range(20):
        raw, labels = draw(28, 14, seed, dim=512)
        losses.append(float(SemiHardTripletLoss()(F.normalize(raw), labels)))
    assert np.mean(losses) == pytest.approx(0.98, abs=0.015)


def test_given_triplets_are_used_as_they_are() -> None:
    raw, labels = draw(12, 5)
    rows, loss = F.normalize(raw), SemiHardTripletLoss()
    assert float(loss(rows, labels, mine_triplets(rows, labels))) == float(loss(rows, labels))


def test_equals_the_librarys_own_pieces() -> None:
    raw, labels = draw(28, 9)
    rows = F.normalize(raw)
    distance = LpDistance(normalize_embeddings=True, p=2, power=2)
    torch.testing.assert_close(squared_distances(rows), distance(rows), rtol=0, atol=1e-12)
    stock = TripletMarginLoss(margin=1.0, distance=distance, reducer=MeanReducer())
    triplets = oracles.choose_triplets(rows, labels.tolist())
    indices = tuple(torch.tensor(column) for column in zip(*triplets, strict=True))
    assert float(SemiHardTripletLoss()(rows, labels)) == pytest.approx(
        float(stock(rows, labels, indices)), abs=1e-12
    )


def test_distances_are_never_negative_and_zero_to_oneself() -> None:
    rows = F.normalize(torch.randn(40, 3)).repeat(2, 1)
    distances = squared_distances(rows)
    assert float(distances.min()) >= 0
    assert distances.diagonal().tolist() == [0.0] * 80
    table = torch.tensor(oracles.distance_table(rows), dtype=torch.float64)
    torch.testing.assert_close(distances.double(), table, rtol=0, atol=1e-6)


def test_one_step_against_the_gradient_lowers_the_loss() -> None:
    raw, labels = draw(28, 14)
    loss = SemiHardTripletLoss()
    values = []
    for _ in range(5):
        value, gradient = value_and_gradient(lambda rows: loss(rows, labels), raw)
        values.append(value)
        raw = raw - 2 * gradient
    assert all(later < earlier for earlier, later in pairwise(values))


def test_refuses_a_negative_margin() -> None:
    with pytest.raises(ValueError, match=r"margin=-0\.1 is negative"):
        SemiHardTripletLoss(margin=-0.1)


def test_cross_entropy_is_torchs_on_scaled_rows() -> None:
    head = AuxiliaryCrossEntropy(embedding_dim=6, scale=8.0)
    raw, labels = draw(10, 4)
    rows = F.normalize(raw).float()
    logits = (rows * 8) @ head.linear.weight[0] + head.linear.bias
    truth = labels.float()
    expected = -(truth * F.logsigmoid(logits) + (1 - truth) * F.logsigmoid(-logits)).mean()
    assert float(head(rows, labels)) == pytest.approx(float(expected), abs=1e-6)
