"""Gradients of depthwise convolutions: ours against torch's."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from deepfake.learning.depthwise import speed_up_depthwise


def gradients(module: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    images = images.detach().clone().requires_grad_()
    out = module(images)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert images.grad is not None
    found = [
        out.detach(),
        images.grad,
        *(p.grad for p in module.parameters() if p.grad is not None),
    ]
    module.zero_grad()
    return [one.float() for one in found]


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("side", "stride", "padding", "size"),
    [
        (3, 2, 1, (9, 12)),
        (3, 2, 0, (9, 12)),
        (3, 3, 2, (10, 8)),
        (5, 1, 2, (7, 9)),
        (5, 1, 0, (7, 9)),
        (5, 2, 2, (10, 9)),
        (5, 2, 1, (8, 8)),
        (7, 1, 3, (9, 7)),
        (7, 2, 3, (11, 12)),
        (4, 2, 1, (9, 8)),
    ],
)
def test_equals_torch(
    kind: type[nn.Conv2d],
    last: bool,
    bias: bool,
    side: int,
    stride: int,
    padding: int,
    size: tuple[int, int],
) -> None:
    torch.manual_seed(side)
    padded = {} if kind is Conv2dSame else {"padding": padding}
    plain = kind(6, 6, side, stride=stride, groups=6, bias=bias, **padded)  # type: ignore[arg-type]
    images = torch.randn(2, 6, *size)
    if last:
        plain = plain.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    assert speed_up_depthwise(fast) == 1
    for ours, theirs in zip(gradients(fast, images), gradients(plain, images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_equals_torch_in_bfloat16() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8)
    fast = copy.deepcopy(plain)
    assert speed_up_depthwise(fast) == 1
    images = torch.randn(4, 8, 16, 16)
    exact = gradients(plain, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(images).dtype == torch.bfloat16
        found = gradients(fast, images)
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(6, 6, 3, groups=6),  # has a fast kernel
        nn.Conv2d(6, 12, 5, groups=6),
        nn.Conv2d(6, 6, 5, groups=3),
        nn.Conv2d(6, 6, 5, groups=6, dilation=2),
        nn.Conv2d(6, 6, (3, 5), groups=6),
        nn.Conv2d(6, 6, 5, stride=(1, 2), groups=6),
        nn.Conv2d(6, 6, 5, groups=6, padding="same"),
        nn.Conv2d(6, 6, 5, groups=6, padding=2, padding_mode="reflect"),
        nn.Conv2d(6, 6, 2, stride=2, groups=6),
    ],
)
def test_leaves_others_alone(module: nn.Module) -> None:
    before = type(module)
    assert speed_up_depthwise(module) == 0
    assert type(module) is before


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv2_100"])
def test_a_network_learns_the_same(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0).train()
    fast = copy.deepcopy(plain)
    assert speed_up_depthwise(fast) > 3
    assert list(fast.state_dict()) == list(plain.state_dict())
    images = torch.randn(4, 3, 64, 64)
    sums = []
    for network in (plain, fast):
        network(images).square().mean().backward()
        sums.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert (sums[0] - sums[1]).norm() < 1e-3 * sums[0].norm()
