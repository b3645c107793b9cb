"""Turns face crops into unit vectors: any timm backbone, dropout, one linear head.

Normalisation lives inside, so that a checkpoint cannot be fed with other statistics than it was
trained with. Shapes: B batch, S crop side, D embedding. Knows no loss, no label and no Trainer.
"""

from __future__ import annotations

import os
import socket
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor, nn

from deepfake.errors import UsageError

_EPSILON = 1e-5  # TensorFlow's l2_normalize clamps the squared norm at 1e-10


class EmbeddingModel(nn.Module):
    """Backbone -> dropout -> linear head -> unit norm.

    Args:
        backbone: Any timm model name, with or without a weights tag.
        image_size: Side S of the crops in pixels.
        embedding_dim: Width D of the embedding.
        dropout: Share of backbone features dropped before the head while training.
        pretrained: ``true`` asks timm for its weights (the only thing in this project that may
            reach the network), ``false`` starts from random, a path loads a local file in timm's
            naming (``.safetensors`` or ``.pth``), with or without its classifier.
        drop_path_rate: Stochastic depth; ``None`` keeps timm's default for the model.
        bn_momentum: Momentum of batch normalisation, in torch's sense (share of the new batch);
            ``None`` keeps timm's default.

    Attributes:
        resolved_backbone: Model name with the weights tag that timm resolved it to.
        memory_format: How images lie in memory on their way through; see ``use_memory_format``.

    Raises:
        UsageError: If timm does not know the backbone, or the weights cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "tf_efficientnet_b4.aa_in1k",
        image_size: int = 380,
        embedding_dim: int = 512,
        dropout: float = 0.4,
        pretrained: bool | str = False,
        drop_path_rate: float | None = None,
        bn_momentum: float | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.backbone = _make_backbone(backbone, pretrained, drop_path_rate)
        config: dict[str, Any] = self.backbone.pretrained_cfg  # type: ignore[assignment]
        tag = config.get("tag")
        name = str(config.get("architecture") or backbone.split(".")[0])
        self.resolved_backbone = f"{name}.{tag}" if tag else name
        if bn_momentum is not None:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = bn_momentum
        mean = config.get("mean") or (0.485, 0.456, 0.406)
        std = config.get("std") or (0.229, 0.224, 0.225)
        # Kept in the state: the normalisation travels with the weights.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(int(self.backbone.num_features), embedding_dim)  # type: ignore[arg-type]
        # The entry's head was a Keras Dense layer: Glorot uniform weights and a zero bias.
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.memory_format = torch.contiguous_format

    def use_memory_format(self, memory_format: torch.memory_format) -> None:
        """Lay filters and images out so; values stay, sums may be rounded otherwise."""
        self.to(memory_format=memory_format)
        self.memory_format = memory_format

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of crops.

        Args:
            images: ``(B, 3, S, S)`` RGB; float in [0, 1], or uint8 in [0, 255].

        Returns:
            ``(B, D)`` float32 of unit norm.

        Raises:
            ValueError: If the shape is another one.
        """
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}; this model expects (B, 3, {size}, "
                f"{size}): crop with --size {size}, or set image_size to the size of the crops"
            )
        images = images.contiguous(memory_format=self.memory_format)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        features = self.backbone((images - self.mean) / self.std)
        raw = self.projection(self.dropout(features))
        # Norms and distances in half precision lose the small differences that matter.
        return F.normalize(raw.float(), eps=_EPSILON)


def _make_backbone(name: str, pretrained: bool | str, drop_path_rate: float | None) -> nn.Module:
    base = name.split(".")[0]
    if not timm.is_model(name):
        close = get_close_matches(base, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"timm knows no backbone {name!r}{hint}")
    options: dict[str, Any] = {"num_classes": 0}
    if drop_path_rate is not None:
        options["drop_path_rate"] = drop_path_rate
    if pretrained is True:
        return _make_pretrained(name, options)
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        raise UsageError(f"backbone {name!r} does not take these settings: {error}") from error
    if pretrained is not False:
        _load_local(backbone, Path(pretrained), name)
    return backbone


def _make_pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    """With the weights that timm knows: from its cache, else from the hub if that answers."""
    cached = _find_cached(name)
    try:
        if cached is not None:
            options = options | {"pretrained_cfg_overlay": {"file": cached}}
        else:
            _require_hub()
        backbone: nn.Module = timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"timm could not get pretrained weights of {name!r} ({_first_line(error)}); give a "
            "local file with --model.pretrained PATH, start from random with --model.pretrained "
            "false, or run once with the hub in reach to fill its cache"
        ) from error
    return backbone


def _find_cached(name: str) -> str | None:
    config = timm.get_pretrained_cfg(name)
    repository = getattr(config, "hf_hub_id", None)
    for file in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(repository, file) if repository else None
        if isinstance(path, str):
            return path
    return None


def _require_hub() -> None:
    """Fail at once where the hub is out of reach; its own client would retry for a minute.

    Raises:
        OSError: If offline mode is set or nothing answers.
    """
    if constants.HF_HUB_OFFLINE:
        raise OSError("offline mode is set by HF_HUB_OFFLINE, and the cache does not hold them")
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return  # only the proxy knows
    host = urlsplit(constants.ENDPOINT)
    port = host.port or (443 if host.scheme == "https" else 80)
    socket.create_connection((host.hostname or "", port), timeout=4).close()


def _load_local(backbone: nn.Module, path: Path, name: str) -> None:
    """Load a file in timm's naming, strictly; only a classifier layer may be superfluous."""
    if not path.is_file():
        raise UsageError(f"pretrained={str(path)!r}: there is no such file")
    try:
        state: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
    except (
        *(OSError, RuntimeError, ValueError, LookupError, EOFError, AttributeError, TypeError),
        *(UnpicklingError, SafetensorError),
    ) as error:
        raise UsageError(
            f"pretrained={str(path)!r} holds no weights: {_first_line(error)}"
        ) from error
    classifier = backbone.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr,operator]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    wanted = backbone.state_dict()
    state = {
        key: value
        for key, value in state.items()
        if key in wanted or not key.startswith(tuple(f"{head}." for head in heads) or ("\0",))
    }
    try:
        backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UsageError(
            f"pretrained={str(path)!r} does not fit backbone {name!r}: {_first_line(error, 3)}"
        ) from error


def _first_line(error: Exception, lines: int = 1) -> str:
    text = " ".join(line.strip() for line in str(error).strip().splitlines()[:lines])
    return f"{type(error).__name__}: {text[:300]}"
