"""Depthwise convolutions whose gradients cost what their forward costs, on a CPU.

oneDNN has fast kernels for the gradients of a depthwise convolution of 3x3 with stride 1. Others
take a slow path, which is a large part of a training step of an EfficientNet. Here they are put
together from what is fast: the gradient of the input of a strided convolution is a plain
convolution of the gradient with gaps, that of a larger kernel's weights is taken in tiles of 3x3.
``benchmarks/train_step.py`` measures what it gains.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional

_TILE = 3


def speed_up_depthwise(network: nn.Module) -> int:
    """Let the depthwise convolutions of a network take the fast way back; in place.

    Names, weights and the forward stay as they are. On other devices nothing changes.

    Returns:
        How many convolutions it was.
    """
    found = [module for module in network.modules() if type(module) in _FAST and _is_slow(module)]
    for module in found:
        module.__class__ = _FAST[type(module)]
    return len(found)


def _is_slow(module: nn.Module) -> bool:
    """Whether oneDNN has no fast kernel for the gradients, and ours applies."""
    assert isinstance(module, nn.Conv2d)
    side, stride = module.kernel_size[0], module.stride[0]
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and module.kernel_size == (side, side)
        and module.stride == (stride, stride)
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and side >= _TILE
        and max(module.padding) < side
        and (side > _TILE or stride > 1)
    )


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d``, with our gradients where it is trained on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``."""
        return _convolve(self, input, (self.padding[0], self.padding[1]))  # type: ignore[arg-type]


class DepthwiseConv2dSame(Conv2dSame):  # type: ignore[misc]
    """The same for TensorFlow's padding, which timm's ``tf_`` networks have."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``."""
        return _convolve(self, pad_same(x, self.kernel_size, self.stride, self.dilation), (0, 0))


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: DepthwiseConv2d,
    Conv2dSame: DepthwiseConv2dSame,
}


def _convolve(module: nn.Conv2d, images: Tensor, padding: tuple[int, int]) -> Tensor:
    weight = module.weight
    ours = images.device.type == "cpu" and torch.is_grad_enabled() and weight.dtype != torch.float64
    if not ours or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return functional.conv2d(
            images, weight, module.bias, module.stride, padding, module.dilation, module.groups
        )
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        images, weight = images.to(dtype), weight.to(dtype)
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _Depthwise.apply(images, weight, module.stride[0], padding)
        return found if module.bias is None else found + module.bias.to(found.dtype)[:, None, None]


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of ``(B, C, H, W)`` by ``(C, 1, K, K)``."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(images, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_images = of_weight = None
        if wanted[0]:
            of_images = _images_gradient(gradient, images, weight, ctx.stride, ctx.padding)
        if wanted[1]:
            of_weight = _weight_gradient(gradient, images, weight, ctx.stride, ctx.padding)
        return of_images, of_weight, None, None


def _images_gradient(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]
) -> Tensor:
    if stride == 1:
        found = _native(gradient, images, weight, stride, padding, (True, False, False))[0]
        assert found is not None
        return found
    # The gradient with gaps of stride - 1 zeros, as far in as the kernel reaches over the edge.
    side = weight.shape[-1]
    shape = [size + side - 1 for size in images.shape[-2:]]
    spread = torch.empty(
        (*gradient.shape[:2], *shape), dtype=gradient.dtype, memory_format=_format_of(images)
    ).zero_()
    places = [
        slice(side - 1 - pad, side - 1 - pad + (size - 1) * stride + 1, stride)
        for pad, size in zip(padding, gradient.shape[-2:], strict=True)
    ]
    spread[:, :, places[0], places[1]] = gradient
    return functional.conv2d(spread, weight.flip(-1, -2), groups=len(weight))


def _weight_gradient(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]
) -> Tensor:
    side = weight.shape[-1]
    if side == _TILE:
        found = _native(gradient, images, weight, stride, padding, (False, True, False))[1]
        assert found is not None
        return found
    vertical, horizontal = padding
    padded = functional.pad(images, (horizontal, horizontal, vertical, vertical))
    reach = [(size - 1) * stride + _TILE for size in gradient.shape[-2:]]
    whole = torch.empty_like(weight)
    part = weight[:, :, :_TILE, :_TILE].contiguous()
    starts = [*range(0, side - _TILE, _TILE), side - _TILE]
    for top in starts:
        for left in starts:
            window = padded[:, :, top : top + reach[0], left : left + reach[1]]
            window = window.contiguous(memory_format=_format_of(images))
            tile = _native(gradient, window, part, stride, (0, 0), (False, True, False))[1]
            assert tile is not None
            whole[:, :, top : top + _TILE, left : left + _TILE] = tile
    return whole


def _native(
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    stride: int,
    padding: tuple[int, int],
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    found: tuple[Tensor | None, Tensor | None, Tensor | None]
    found = torch.ops.aten.convolution_backward(
        gradient,
        images,
        weight,
        None,
        [stride] * 2,
        list(padding),
        [1, 1],
        False,
        [0, 0],
        len(weight),
        list(wanted),
    )
    return found


def _format_of(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
