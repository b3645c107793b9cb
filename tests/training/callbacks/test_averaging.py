"""The average against its definition, and the way there and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepfake.errors import UsageError
from deepfake.training.callbacks.averaging import WeightAverage


def make() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def shake(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor).abs())
            else:
                tensor.add_(1)


def test_it_is_the_recursion_that_it_says() -> None:
    module = make()
    average = WeightAverage(module, 0.6)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    for n in range(20):
        shake(module)
        average.update(module)
        decay = min(0.6, (1 + n) / (10 + n))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    found = average.state_dict()
    assert set(found) == set(module.state_dict())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)
    assert decay == 0.6
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_swapping_twice_changes_nothing() -> None:
    module = make()
    average = WeightAverage(module, 0.9)
    shake(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    other = {name: value.clone() for name, value in average.state_dict().items()}
    average.swap(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other[name])
    average.swap(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_it_goes_on_from_its_state() -> None:
    module = make()
    first, second = WeightAverage(module, 0.9), WeightAverage(make(), 0.9)
    shake(module)
    first.update(module)
    second.load_state_dict(first.state_dict(), first.n_updates)
    second.to(module.to(memory_format=torch.contiguous_format))
    shake(module)
    for average in (first, second):
        average.update(module)
    for one, two in zip(first.tensors(), second.tensors(), strict=True):
        assert torch.equal(one, two)


def test_before_the_first_update_it_is_the_network() -> None:
    module = make()
    average = WeightAverage(module, 0.9)
    shake(module)  # weights that were loaded after the average was made
    average.to(module)
    for name, value in module.state_dict().items():
        assert torch.equal(average.state_dict()[name], value)


@pytest.mark.parametrize("decay", [1.0, -0.5, 2.0])
def test_refuses_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(UsageError, match=r"model\.ema_decay="):
        WeightAverage(make(), decay)
