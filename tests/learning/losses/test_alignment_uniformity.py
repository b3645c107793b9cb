"""Alignment and uniformity against loops over pairs, and where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepfake.errors import UsageError
from deepfake.learning.losses import Alignment, Objective, Uniformity
from tests import oracles


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("loss", "oracle"),
    [
        pytest.param(Alignment(), oracles.alignment, id="alignment"),
        pytest.param(Uniformity(), lambda x, _: oracles.uniformity(x, 2.0), id="uniformity"),
        pytest.param(Uniformity(0.5), lambda x, _: oracles.uniformity(x, 0.5), id="other"),
    ],
)
def test_value_and_gradient_are_those_of_the_loops(
    loss: Objective, oracle: Callable[[Tensor, list[int]], Tensor], dtype: torch.dtype
) -> None:
    for seed, size in enumerate((2, 3, 8, 24)):
        torch.manual_seed(seed)
        raw = torch.randn(size, 6, dtype=torch.float64)
        labels = torch.randint(0, 2, (size,))
        labels[:2] = 1
        ours, slow = (raw.clone().to(kind).requires_grad_() for kind in (dtype, raw.dtype))
        value = loss(F.normalize(ours), labels)
        expected = oracle(F.normalize(slow), labels.tolist())
        assert float(value) == pytest.approx(float(expected), abs=1e-6)
        value.backward()
        expected.backward()  # type: ignore[no-untyped-call]
        assert ours.grad is not None
        assert slow.grad is not None
        torch.testing.assert_close(ours.grad.double(), slow.grad, rtol=0, atol=1e-6)


def test_where_the_answer_is_known() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    one_point = torch.eye(4)[:1].repeat(4, 1)
    assert float(Alignment()(one_point, labels)) == 0
    assert float(Uniformity()(one_point, labels)) == pytest.approx(0, abs=1e-6)
    # Four axes: every squared distance is 2.
    assert float(Alignment()(torch.eye(4), labels)) == pytest.approx(2)
    assert float(Uniformity()(torch.eye(4), labels)) == pytest.approx(-4)
    # Two opposite points, a class each: two pairs at 0, four at a squared distance of 4.
    poles = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    assert float(Alignment()(poles, labels)) == 0
    expected = math.log((2 + 4 * math.exp(-8)) / 6)
    assert float(Uniformity()(poles, labels)) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [Alignment(), Uniformity()])
@pytest.mark.parametrize("size", [1, 2], ids=["one", "one-of-each-class"])
def test_without_a_pair_there_is_0_with_a_graph(loss: Objective, size: int) -> None:
    rows = F.normalize(torch.randn(size, 6)).requires_grad_()
    value = loss(rows, torch.arange(size))
    value.backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()
    if size == 1 or loss.name == "alignment":
        assert float(value) == 0
        assert not rows.grad.any()


@pytest.mark.parametrize("loss", [Alignment(), Uniformity()])
def test_equal_rows_have_a_finite_gradient_also_under_autocast(loss: Objective) -> None:
    rows = F.normalize(torch.randn(3, 6)).repeat(2, 1).requires_grad_()
    labels = torch.arange(6) % 2
    with torch.autocast("cpu", torch.bfloat16):
        value, metrics = loss.measure(rows, labels)
    assert value.dtype == torch.float32
    assert float(metrics[loss.name][0]) == float(value) == float(loss(rows, labels))
    value.backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()


def test_refuses_a_temperature_that_is_none() -> None:
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=r"temperature=.*; expected more than 0"):
            Uniformity(temperature)
