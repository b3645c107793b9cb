"""A sum of objectives: weights, beginnings, and what is never computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from deepfake.errors import UsageError
from deepfake.learning.losses import (
    CrossEntropyOnEmbedding,
    SemiHardTripletLoss,
    Term,
    WeightedSum,
    semi_hard_triplet,
)


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    return F.normalize(torch.randn(12, 6)), torch.arange(12) % 2


def test_it_is_the_weighted_sum_with_the_metrics_of_all() -> None:
    triplet, cross_entropy = SemiHardTripletLoss(0.7), CrossEntropyOnEmbedding()
    total = WeightedSum([Term(triplet, 2.0), Term(cross_entropy, 0.5)]).build(6)
    rows, labels = draw()
    expected = 2.0 * triplet(rows, labels) + 0.5 * cross_entropy(rows, labels)
    value, metrics = total.measure(rows, labels)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(total(rows, labels), expected, rtol=0, atol=0)
    assert {"triplet_loss", "triplets", "cross_entropy"} <= metrics.keys()


def test_nothing_is_mined_for_a_weight_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("mined")

    monkeypatch.setattr(semi_hard_triplet, "choose_negatives", refuse)
    total = WeightedSum([Term(SemiHardTripletLoss(), 0.0), Term(CrossEntropyOnEmbedding())])
    rows, labels = draw()
    _, metrics = total.build(6).measure(rows, labels)
    assert metrics.keys() == {"cross_entropy"}


def test_a_term_that_has_not_begun_is_not_computed_but_keeps_its_graph() -> None:
    late = Term(CrossEntropyOnEmbedding(), 1.0, from_epoch=2)
    total = WeightedSum([Term(SemiHardTripletLoss()), late]).build(6)
    rows, labels = draw()
    before, metrics = total.measure(rows, labels, epoch=1)
    assert "cross_entropy" not in metrics
    assert float(before) == float(SemiHardTripletLoss()(rows, labels))
    before.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in total.parameters()]
    assert len(gradients) == 2
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    assert "cross_entropy" in total.measure(rows, labels, epoch=2)[1]


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        pytest.param([Term(SemiHardTripletLoss(), 0.0)], "nothing to learn", id="no-weight"),
        pytest.param([Term(SemiHardTripletLoss(), 1.0, 1)], "nothing to learn", id="all-later"),
        pytest.param([], "nothing to learn", id="none"),
        pytest.param([Term(SemiHardTripletLoss(), -1.0)], "must be 0 or more", id="negative"),
        pytest.param([Term(SemiHardTripletLoss(), 1.0, -1)], "must be 0 or more", id="before"),
    ],
)
def test_refuses_a_sum_of_nothing(terms: list[Term], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        WeightedSum(terms)
