"""Chooses which weights of an embedder are trained, and groups them for an optimiser.

Knows no Trainer: a task calls ``freeze`` once, before anything is distributed, and hands
``parameter_groups`` to its optimiser.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from timm.models import group_parameters
from torch import nn
from torch.optim import Optimizer

from deepfake.errors import UsageError
from deepfake.learning.embedder import EmbeddingModel

Trained = Literal["all", "head", "norm"] | int
_WITH_PREVIOUS = (99999,)  # timm's mark of a layer that counts with the one before it


def freeze(embedder: EmbeddingModel, trained: Trained = "all") -> None:
    """Let only a part of an embedder learn.

    What does not learn has ``requires_grad`` off, and stays in evaluation mode: frozen batch
    normalisation keeps its statistics, and frozen blocks drop nothing.

    Args:
        embedder: Changed in place. Its projection learns always.
        trained: ``all``; ``head``, the projection alone; ``norm``, normalisation layers and
            projection; a number N, the last N blocks of the backbone and projection.

    Raises:
        UsageError: If the backbone has no such part.
    """
    backbone = embedder.backbone
    chosen = _choose_parameters(backbone, trained)
    for parameter in backbone.parameters():
        parameter.requires_grad = id(parameter) in chosen
    embedder.frozen = [
        module
        for module in backbone.modules()
        if (own := list(module.parameters())) and not any(p.requires_grad for p in own)
    ]
    embedder.train(embedder.training)


def parameter_groups(
    embedder: EmbeddingModel,
    extra_parameters: Iterable[nn.Parameter] = (),
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Group all that is trained, complete from the start.

    Matrices and filters decay as the optimiser says. The projection, biases, normalisation and what
    timm spares (position embeddings, tokens) do not.

    Args:
        embedder: Frozen already, if need be.
        extra_parameters: What the losses own; they learn at the full rate.
        layer_decay: Factor of the learning rate from each block of the backbone to the one before
            it, in (0, 1]. ``None`` gives all the same rate.

    Returns:
        Groups for an optimiser of torch or timm. With ``layer_decay`` they hold an ``lr_scale``,
        which ``scale_rates`` turns into rates.

    Raises:
        UsageError: If the decay is out of range, or the backbone does not say what its blocks are.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise UsageError(f"layer_decay={layer_decay:g}; expected more than 0 and at most 1")
    spared = {f"backbone.{name}" for name in getattr(embedder.backbone, "no_weight_decay", set)()}
    spared.add("projection.weight")
    depths: dict[str, int] = {}
    if layer_decay is not None:
        blocks = _number_blocks(embedder.backbone)
        depth = max(blocks.values()) + 1
        depths = {f"backbone.{name}": depth - block for name, block in blocks.items()}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    named = [*embedder.named_parameters(), *(("", extra) for extra in extra_parameters)]
    for name, parameter in named:
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and name not in spared
            groups.setdefault((depths.get(name, 0), not decays), []).append(parameter)
    result: list[dict[str, Any]] = []
    for (depth, spares), parameters in sorted(groups.items(), key=lambda group: group[0]):
        group = {"params": parameters} | ({"weight_decay": 0.0} if spares else {})
        result.append(group | ({"lr_scale": layer_decay**depth} if layer_decay else {}))
    return result


def scale_rates(optimizer: Optimizer) -> None:
    """Give each group of a new optimiser its own rate; before a schedule reads the rates."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_scale", 1.0)


def _choose_parameters(backbone: nn.Module, trained: Trained) -> set[int]:
    """Identities of the backbone's parameters that learn."""
    if trained == "all":
        return {id(parameter) for parameter in backbone.parameters()}
    if trained == "head":
        return set()
    if trained == "norm":
        # By name: timm has many classes of them, and no common one.
        norms = [m for m in backbone.modules() if "norm" in type(m).__name__.lower()]
        chosen = {id(p) for norm in norms for p in norm.parameters(recurse=False)}
        if not chosen:
            raise UsageError("trained='norm', but the backbone has no normalisation layers")
        return chosen
    if isinstance(trained, bool) or not isinstance(trained, int) or trained < 1:
        raise UsageError(f"trained={trained!r}; expected all, head, norm, or a number from 1 on")
    blocks = _number_blocks(backbone)
    n_blocks = max(blocks.values()) + 1
    if trained > n_blocks:
        raise UsageError(f"trained={trained}, but the backbone has {n_blocks} blocks; take all")
    parameters = dict(backbone.named_parameters())
    return {id(parameters[name]) for name, block in blocks.items() if block >= n_blocks - trained}


def _number_blocks(backbone: nn.Module) -> dict[str, int]:
    """Number of the block of each parameter: 0 is the stem, the last norm counts with its block."""
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise UsageError(
            f"{type(backbone).__name__} does not say what its blocks are; take all, head or norm, "
            "and no layer_decay"
        )
    blocks = matcher(coarse=False)
    if isinstance(blocks, dict):
        # Else what timm does not name would be a last block by itself.
        blocks |= {"rest": [("", _WITH_PREVIOUS)]}
    numbered: dict[str, int] = group_parameters(backbone, blocks, reverse=True)
    return numbered
