"""A copy of a network that only scores: on a CPU without batch normalisation, channels last.

In evaluation mode batch normalisation is a factor and an offset of each channel, which the filters
before it can hold as well: a pass over all activations less for every layer. Channels last, a
convolution need not reorder its input. ``benchmarks/precision.py`` measures what
both gain.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deepfake.learning.embedder import EmbeddingModel

Network = TypeVar("Network", bound=nn.Module)
_TOLERANCE = 1e-4
"""Of the largest feature; what is rounded otherwise is below a hundredth of it."""


def copy_for_scoring(network: Network, device: torch.device) -> Network:
    """Copy a network to a device, ready to score as fast as it can there.

    Args:
        network: An ``EmbeddingModel``, or what holds some; stays as it is.
        device: Where the copy goes; for others than a CPU nothing is changed.

    Returns:
        The copy, in evaluation mode. Its embeddings differ by rounding alone.
    """
    made = copy.deepcopy(network).to(device).eval()
    if device.type != "cpu":
        return made
    for model in made.modules():
        if isinstance(model, EmbeddingModel):
            model.backbone = fold_batch_norm(model.backbone, model.image_size, model.levels)
            model.use_memory_format(torch.channels_last)
    return made


@torch.inference_mode(False)
@torch.no_grad()
def fold_batch_norm(backbone: nn.Module, image_size: int, levels: int = 0) -> nn.Module:
    """Fold batch normalisation into the convolutions that it follows.

    Which follows which is seen in a forward, and the result compared with the original: a network
    that does more with an output than normalise it comes back as it was.

    Args:
        backbone: Takes ``(B, 3, S, S)``, in evaluation mode on a CPU; stays as it is.
        image_size: Side S in pixels.
        levels: The answer is the maps of so many last stages, as of ``EmbeddingModel``.

    Returns:
        A folded copy, or the network itself where nothing can be folded.
    """
    images = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", enabled=False):
        pairs, expected = _find_pairs(backbone, images, levels)
        if not pairs:
            return backbone
        folded = copy.deepcopy(backbone)
        for convolution, normalisation in pairs:
            conv: Any = folded.get_submodule(convolution)
            norm: Any = folded.get_submodule(normalisation)
            folded.set_submodule(convolution, fuse_conv_bn_eval(conv, norm))
            rest: nn.Module = nn.Identity()
            if isinstance(norm, BatchNormAct2d):  # timm's, which holds the activation, too
                rest = nn.Sequential(norm.drop, norm.act)
            folded.set_submodule(normalisation, rest)
        found = _answer(folded, images, levels)
    limit = _TOLERANCE * float(expected.abs().max())
    return folded if float((found - expected).abs().max()) <= limit else backbone


def _answer(backbone: nn.Module, images: Tensor, levels: int) -> Tensor:
    """Whatever of a network is used, as one vector."""
    if not levels:
        features: Tensor = backbone(images)
        return features.flatten()
    look: Any = backbone.forward_intermediates
    return torch.cat([m.flatten() for m in look(images, indices=levels, intermediates_only=True)])


def _find_pairs(
    backbone: nn.Module, images: Tensor, levels: int
) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of convolutions with those of what normalises their output; the network's answer."""
    made: dict[int, tuple[str, Tensor]] = {}  # holding a tensor keeps its id its own
    pairs: list[tuple[str, str]] = []
    n_calls: dict[str, int] = {}

    def listen(name: str, module: nn.Module) -> Any:
        def after(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            n_calls[name] = n_calls.get(name, 0) + 1
            if isinstance(module, nn.Conv2d):
                made[id(output)] = (name, output)
            elif id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return module.register_forward_hook(after)

    hooks = [
        listen(name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d)
        or (type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.track_running_stats)
    ]
    try:
        answer = _answer(backbone, images, levels)
    finally:
        for hook in hooks:
            hook.remove()
    once = [pair for pair in pairs if all(n_calls[name] == 1 for name in pair)]
    return [pair for pair in once if sum(pair[0] == other[0] for other in once) == 1], answer
