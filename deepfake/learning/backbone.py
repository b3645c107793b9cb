"""Builds a timm network for a crop size, and fills it with weights that somebody has.

Every network is first built without memory, on torch's ``meta`` device, and asked for the size:
that costs a fraction of a second and tells what the network takes, before any weight is drawn.
Knows no normalisation, no embedding and no checkpoint.
"""

from __future__ import annotations

import inspect
import logging
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from deepfake.errors import UsageError, one_line
from deepfake.learning import hub
from deepfake.learning.depthwise import speed_up_depthwise

logger = logging.getLogger(__name__)
_REFUSALS = (AssertionError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)


def make_backbone(
    name: str,
    image_size: int,
    pretrained: bool | str = False,
    drop_path_rate: float | None = None,
    state: dict[str, Tensor] | None = None,
    n_features: int | None = None,
) -> tuple[nn.Module, int]:
    """Build a timm network that takes crops of a size and answers with a vector of features.

    Args:
        name: Any timm model name, with or without a weights tag.
        image_size: Side S of the crops in pixels. Networks that are built for one size are built
            for this one; position embeddings of pretrained weights are resampled to it.
        pretrained: As of ``EmbeddingModel``, without checkpoints of ours.
        drop_path_rate: Stochastic depth, for networks that know it; ``None`` keeps timm's default.
        state: Weights in timm's naming, instead of a file; ``pretrained`` names their origin.
        n_features: As many it gave when it was trained on crops of this size, which is then not
            tried again.

    Returns:
        The network, and the number of its features.

    Raises:
        UsageError: If timm does not know the name, the network does not take the size, or the
            weights do not fit.
    """
    if not timm.is_model(name):
        close = get_close_matches(name.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"timm knows no backbone {name!r}{hint}")
    sketch = _sketch(name, {})
    settings = _settings_of(sketch)
    options: dict[str, Any] = {}
    is_other = n_features != getattr(sketch, "head_hidden_size", None)
    if n_features is None or is_other or "img_size" in settings:
        options, n_features = _choose_options(name, image_size, settings)
    if "drop_path_rate" in settings and drop_path_rate is not None:
        options["drop_path_rate"] = drop_path_rate
    elif drop_path_rate:
        logger.warning("%s has no stochastic depth: drop_path_rate is left out", name)
    backbone: nn.Module
    if pretrained is True:
        backbone = _make_pretrained(name, options)
    else:
        backbone = timm.create_model(name, num_classes=0, **options)
    if isinstance(pretrained, str):
        state = _read_weights(Path(pretrained)) if state is None else state
        backbone = _load(backbone, name, options, state, origin=pretrained)
    speed_up_depthwise(backbone)
    return backbone, n_features


def keep_stages(backbone: nn.Module, levels: int) -> int:
    """Cut off what follows the last stages, whose maps ``forward_intermediates`` gives.

    Args:
        backbone: Changed in place.
        levels: How many stages will be asked for.

    Returns:
        The number of their channels.

    Raises:
        UsageError: If the network does not give its stages, or has not so many.
    """
    stages: Any = getattr(backbone, "feature_info", None)
    if not stages or not hasattr(backbone, "prune_intermediate_layers"):
        raise UsageError(f"network.levels={levels}: {type(backbone).__name__} gives no stages")
    channels = [stage["num_chs"] for stage in stages]
    if not 1 <= levels <= len(channels):
        raise UsageError(f"network.levels={levels}; expected 1 to {len(channels)}, or 0 for none")
    backbone.prune_intermediate_layers(levels, prune_norm=True, prune_head=True)  # type: ignore[operator]
    return sum(channels[-levels:])


def _choose_options(name: str, size: int, settings: set[str]) -> tuple[dict[str, Any], int]:
    """What timm is to be asked for, so that the network takes the size; and its features."""
    found = _try_size(name, size, settings)
    if not isinstance(found, str):
        return found
    own = timm.get_pretrained_cfg(name).input_size[-1]
    patch = _patch_of(_sketch(name, {})) or 16
    near = {max(size + rest, 0) // step * step for step in (patch, 32, 64) for rest in (0, step)}
    candidates = sorted(({own} | near) - {0, size}, key=lambda other: abs(other - size))
    works = [c for c in candidates if not isinstance(_try_size(name, c, settings), str)]
    sizes = f"; sizes that work: {', '.join(map(str, sorted(works[:4])))}" if works else ""
    raise UsageError(f"backbone {name!r} does not take crops of {size} px ({found}){sizes}")


def _try_size(name: str, size: int, settings: set[str]) -> tuple[dict[str, Any], int] | str:
    """Options and number of features, or why the network does not take the size."""
    problem = ""
    for options in ({}, {"img_size": size}) if "img_size" in settings else ({},):
        try:
            network = _sketch(name, options)
            patch = _patch_of(network) or 1
            if size % patch:
                problem = f"its patches of {patch} px do not divide it"
                continue
            with torch.device("meta"), torch.no_grad():
                features = network(torch.zeros(1, 3, size, size))
        except _REFUSALS as error:
            problem = one_line(str(error))
            continue
        if features.ndim == 2:
            return options, int(features.shape[1])
        problem = f"it answers with {tuple(features.shape)}, not with a vector for each crop"
    return problem


def _sketch(name: str, options: dict[str, Any]) -> nn.Module:
    """The network without memory for its weights; draws no random number."""
    with torch.device("meta"):
        network: nn.Module = timm.create_model(name, num_classes=0, **options).eval()
    return network


def _settings_of(network: nn.Module) -> set[str]:
    # Some constructors swallow whatever they do not know: only what they name counts.
    return {
        setting
        for base in type(network).__mro__
        for setting in inspect.signature(base.__init__).parameters  # type: ignore[misc]
    }


def _patch_of(network: nn.Module) -> int | None:
    """Side of the patches that the network cuts the image into; what is left over is lost."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            side = module.stride[0]
            return side if side > 1 and module.kernel_size == module.stride else None
    return None


def _make_pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    """With the weights that timm knows: from its cache, else from the hub if that answers."""
    cached = _find_cached(name)
    try:
        if cached is not None:
            options = options | {"pretrained_cfg_overlay": {"file": cached}}
        else:
            hub.require_hub()
        backbone: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"timm could not get pretrained weights of {name!r} ({one_line(str(error))}); give a "
            "local file with --model.pretrained PATH, start from random with --model.pretrained "
            "false, or run once with the hub in reach to fill its cache"
        ) from error
    return backbone


def _find_cached(name: str) -> str | None:
    config = timm.get_pretrained_cfg(name)
    repository = getattr(config, "hf_hub_id", None)
    for file in ("model.safetensors", "pytorch_model.bin"):
        path = hub.find_cached(repository, file) if repository else None
        if path is not None:
            return path
    return None


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights; nothing in it is run.

    Raises:
        UsageError: If it is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise UsageError(f"pretrained={str(path)!r}: there is no such file")
    try:
        state: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
    except (
        *(OSError, RuntimeError, ValueError, LookupError, EOFError, AttributeError, TypeError),
        *(UnpicklingError, SafetensorError),
    ) as error:
        raise UsageError(
            f"pretrained={str(path)!r} holds no weights: {one_line(str(error))}"
        ) from error
    return state


def _load(
    backbone: nn.Module, name: str, options: dict[str, Any], state: dict[str, Tensor], origin: str
) -> nn.Module:
    """Load weights strictly; only a classifier may be too much, only a resampled size differ."""
    classifier = backbone.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr,operator]
    layers = [classifier] if isinstance(classifier, str) else classifier
    wanted = backbone.state_dict()
    state = {
        # Half precision would round what is resampled.
        key: value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key in wanted or not any(key.startswith(f"{layer}.") for layer in layers)
    }
    same_names = state.keys() == wanted.keys()
    try:
        if same_names and any(state[key].shape != wanted[key].shape for key in wanted):
            return _resample(backbone, name, options, state)
        backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UsageError(
            f"pretrained={origin!r} does not fit backbone {name!r}: {one_line(str(error), 300)}"
        ) from error
    return backbone


def _resample(
    backbone: nn.Module, name: str, options: dict[str, Any], state: dict[str, Tensor]
) -> nn.Module:
    """Let timm load weights of another image size: it resamples positions, and is strict too."""
    overlay = {"state_dict": state, "num_classes": 0, "classifier": None}
    with torch.random.fork_rng(devices=[]):
        filled: nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options
        )
    # Without a second copy of all weights in it.
    filled.pretrained_cfg = filled.default_cfg = backbone.pretrained_cfg
    return filled
