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
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from deepfake.learning.losses import CrossEntropyOnEmbedding, SemiHardTripletLoss, choose_negatives
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
        pytest.param(torch.float64, 1e-12, id="float64"),
        pytest.param(torch.float32, 1e-6, id="float32"),
    ],
)


def draw(batch: int, n_fake: int, seed: int = 0, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Raw vectors and shuffled labels with exactly ``n_fake`` fakes."""
    rng = np.random.default_rng((seed, batch, n_fake))
    labels = rng.permutation(np.arange(batch) < n_fake).astype(np.int64)
    return torch.from_numpy(rng.normal(size=(batch, dim))), torch.from_numpy(labels)


def mine(rows: Tensor, labels: Tensor) -> list[oracles.Triplet]:
    """The chosen triplets as the oracle lists them."""
    distances = SemiHardTripletLoss().distance(rows)
    pairs, negatives = choose_negatives(distances, labels)
    return [(a, p, int(negatives[a, p])) for a, p in pairs.nonzero().tolist()]


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
    assert mine(rows, labels) == oracles.choose_triplets(rows, labels.tolist())


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
    mined = mine(rows, labels)
    for (a, p, n), (oa, op, on) in zip(
        mined, oracles.choose_triplets(rows, labels.tolist()), strict=True
    ):
        assert (a, p, table[a][n]) == (oa, op, table[oa][on])
    if margin == 1.0:
        return  # distances are whole: pairs stand on the hinge's corner, where there is no slope
    _, gradient = value_and_gradient(lambda rows: SemiHardTripletLoss(margin)(rows, labels), rows)
    _, slope = value_and_gradient(
        lambda rows: oracles.loss_of_triplets(rows, mined, margin),
        rows.double(),
    )
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=tolerance)


def test_a_negative_as_far_as_the_positive_is_not_farther() -> None:
    # On the circle, in quarter turns: anchor at 0, positive at 1, negatives at 3 (a tie) and 2.
    turns = torch.tensor([0.0, 1.0, 3.0, 2.0])
    rows = torch.stack([torch.cos(turns * torch.pi / 2), torch.sin(turns * torch.pi / 2)], dim=1)
    rows = rows.round()
    assert (0, 1, 3) in mine(rows, torch.tensor([0, 0, 1, 1]))


def test_without_a_farther_negative_the_farthest_is_taken() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    assert (0, 1, 2) in mine(rows, torch.tensor([0, 0, 1, 1]))


@DTYPES
@pytest.mark.parametrize("seed", range(6))
def test_copies_with_the_other_label_are_ties(
    seed: int, dtype: torch.dtype, tolerance: float
) -> None:
    # A matrix product may sum equal columns in different orders; they are equally far for all that.
    rng = np.random.default_rng(seed)
    n_rows, dim = (6, 14, 15, 20, 28)[seed % 5], (6, 512)[seed % 2]
    raw, order = torch.from_numpy(rng.normal(size=(n_rows, dim))), rng.permutation(2 * n_rows)
    labels = torch.from_numpy(rng.integers(0, 2, 2 * n_rows))
    copies = torch.from_numpy(order % n_rows)
    expected, slope = value_and_gradient(
        lambda rows: oracles.triplet_loss(rows[copies], labels.tolist(), 1.0), raw
    )
    loss, gradient = value_and_gradient(
        lambda rows: SemiHardTripletLoss()(rows[copies], labels), raw.to(dtype)
    )
    assert loss == pytest.approx(expected, abs=tolerance)
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("batch", "n_fake"), BATCHES)
def test_one_triplet_per_ordered_positive_pair(batch: int, n_fake: int) -> None:
    raw, labels = draw(batch, n_fake)
    triplets = mine(F.normalize(raw), labels)
    truth = labels.tolist()
    wanted = {(a, p) for a in range(batch) for p in range(batch) if a != p and truth[a] == truth[p]}
    if not 0 < n_fake < batch:
        wanted = set()
    assert len(triplets) == len(wanted)
    assert {(a, p) for a, p, _ in triplets} == wanted
    assert all(truth[n] != truth[a] for a, _, n in triplets)


@pytest.mark.parametrize(("batch", "n_fake"), BATCHES)
@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_figures_are_those_of_the_oracles_triplets(batch: int, n_fake: int, margin: float) -> None:
    raw, labels = draw(batch, n_fake)
    rows = F.normalize(raw)
    triplets = oracles.choose_triplets(rows, labels.tolist())
    table = oracles.distance_table(rows)
    outcome = SemiHardTripletLoss(margin).evaluate(rows, labels)
    assert int(outcome.n_triplets) == len(triplets)
    ap, an = ([table[t[0]][t[column]] for t in triplets] or [0.0] for column in (1, 2))
    active = [margin + p - n > 0 for p, n in zip(ap, an, strict=True)] if triplets else [False]
    assert float(outcome.ap_mean) == pytest.approx(np.mean(ap), abs=1e-12)
    assert float(outcome.an_mean) == pytest.approx(np.mean(an), abs=1e-12)
    assert float(outcome.active_share) == pytest.approx(np.mean(active), abs=1e-12)
    assert not any(figure.requires_grad for figure in outcome[1:])


def step(rows: Tensor, labels: Tensor) -> list[Tensor]:
    """All that a training step does with the loss."""
    leaf = rows.detach().clone().requires_grad_()
    outcome = SemiHardTripletLoss().evaluate(F.normalize(leaf), labels)
    (gradient,) = torch.autograd.grad(outcome.loss, leaf)
    return [*outcome, gradient]


def test_the_step_never_asks_the_device() -> None:
    # Fake tensors have no values: whoever wants to look at one is told so.
    with FakeTensorMode():
        rows, labels = torch.randn(12, 8), torch.arange(12) % 2
        *figures, gradient = step(rows, labels)
        assert [tuple(figure.shape) for figure in figures] == [()] * 5
        assert gradient.shape == rows.shape
        with pytest.raises(DataDependentOutputException):
            bool(labels[0] == 1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_to_one_graph(backend: str) -> None:
    raw, labels = draw(16, 7)
    rows = F.normalize(raw).float().requires_grad_()
    loss = SemiHardTripletLoss()
    compiled = torch.compile(loss.evaluate, fullgraph=True, backend=backend)
    for seen, expected in zip(compiled(rows, labels), loss.evaluate(rows, labels), strict=True):
        torch.testing.assert_close(seen, expected)
    (slope,) = torch.autograd.grad(compiled(rows, labels).loss, rows)
    (expected,) = torch.autograd.grad(loss(rows, labels), rows)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    raw, labels = draw(28, 9, dim=64)
    rows, loss, head = F.normalize(raw).float(), SemiHardTripletLoss(), CrossEntropyOnEmbedding()
    head.build(64)
    expected = [*loss.evaluate(rows, labels), head(rows, labels)]
    with torch.autocast("cpu", dtype):
        found = [*loss.evaluate(rows, labels), head(rows, labels)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    # Embeddings that come in half precision are widened before anything is subtracted.
    half = rows.to(dtype)
    assert torch.equal(loss(half, labels), loss(half.float(), labels))


@pytest.mark.gpu
def test_on_a_gpu_the_step_waits_for_nothing() -> None:
    raw, labels = draw(48, 20, dim=512)
    expected = step(raw.float(), labels)
    rows, there = raw.float().cuda(), labels.cuda()
    step(rows, there)  # the first call may load kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = step(rows, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-6)


EDGES = [
    pytest.param([1, 1, 1, 1], id="one-class"),
    pytest.param([0, 0], id="one-class-of-two"),
    pytest.param([0, 1], id="no-positive-pair"),
    pytest.param([0], id="one-row"),
]


@pytest.mark.parametrize("labels", EDGES)
def test_without_triplets_the_loss_is_zero_with_a_graph(labels: list[int]) -> None:
    raw = torch.randn(len(labels), 4, requires_grad=True)
    outcome = SemiHardTripletLoss().evaluate(F.normalize(raw), torch.tensor(labels))
    assert [float(figure.detach()) for figure in outcome] == [0.0] * 5
    outcome.loss.backward()  # type: ignore[no-untyped-call]
    assert raw.grad is not None
    assert raw.grad.tolist() == torch.zeros_like(raw).tolist()


@MARGINS
def test_total_collapse_costs_the_margin(margin: float) -> None:
    labels = torch.tensor([0, 1] * 8)
    rows = torch.zeros(16, 4)
    rows[:, 0] = 1
    assert float(SemiHardTripletLoss(margin)(rows, labels)) == pytest.approx(margin, abs=1e-7)


@pytest.mark.parametrize(
    ("rows", "labels", "expected"),
    [
        pytest.param(torch.eye(4)[[0] * 8], [0, 1] * 4, (1.0, 1.0), id="on-one-point"),
        pytest.param(torch.eye(8), [0, 1] * 4, (0.0, 1.0), id="apart"),
        pytest.param(torch.eye(4)[[0] * 8], [0] * 8, (0.0, 0.0), id="no-triplet-says-nothing"),
    ],
)
def test_a_collapsed_step_says_so(
    rows: Tensor, labels: list[int], expected: tuple[float, float]
) -> None:
    _, metrics = SemiHardTripletLoss().measure(rows, torch.tensor(labels))
    value, weight = metrics["collapsed"]
    assert (float(value) * float(weight), float(weight)) == expected


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


def test_equals_the_librarys_own_loss() -> None:
    raw, labels = draw(28, 9)
    distance = LpDistance(normalize_embeddings=True, p=2, power=2)
    stock = TripletMarginLoss(margin=1.0, distance=distance, reducer=MeanReducer())
    triplets = oracles.choose_triplets(F.normalize(raw), labels.tolist())
    indices = tuple(torch.tensor(column) for column in zip(*triplets, strict=True))
    loss, gradient = value_and_gradient(lambda rows: SemiHardTripletLoss()(rows, labels), raw)
    expected, slope = value_and_gradient(lambda rows: stock(rows, labels, indices), raw)
    assert loss == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


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
