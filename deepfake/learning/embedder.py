"""Turns face crops into unit vectors: any timm backbone, dropout, one linear projection.

Normalisation lives inside, so that a checkpoint cannot be fed with other statistics than it was
trained with. Shapes: B batch, S crop side, D embedding. Knows no loss, no label and no Trainer.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfake.errors import CheckpointError, UsageError, one_line
from deepfake.learning.backbone import keep_stages, make_backbone
from deepfake.learning.checkpoint_file import KEY, is_checkpoint, part_of, read_content
from deepfake.learning.checkpoint_names import find_checkpoint

logger = logging.getLogger(__name__)
_EPSILON = 1e-5  # TensorFlow's l2_normalize clamps the squared norm at 1e-10


class EmbeddingModel(nn.Module):
    """Backbone -> dropout -> linear projection -> unit norm.

    Args:
        backbone: Any timm model name, with or without a weights tag.
        image_size: Side S of the crops in pixels.
        embedding_dim: Width D of the embedding.
        dropout: Share of backbone features dropped before the projection while training.
        pretrained: ``true`` asks timm for its weights, ``false`` starts from random. A path loads
            a local file in timm's naming (``.safetensors`` or ``.pth``), with or without its
            classifier, or a checkpoint of this project with the same backbone, by file, name or
            address (see ``find_checkpoint``); its projection is taken too if it is as large.
            Position embeddings are resampled to the image size.
        drop_path_rate: Stochastic depth, for networks that know it; ``None`` keeps timm's default
            for the model.
        bn_momentum: Momentum of batch normalisation, in torch's sense (share of the new batch);
            ``None`` keeps timm's default.
        n_features: Of the backbone, where it was trained before; as of ``make_backbone``.
        levels: Look at the last so many stages of the backbone, instead of what it makes of them:
            the features are mean and standard deviation of every channel of their maps, each
            standardised by the statistics of the training. Their texture tells whole synthetic
            pictures where a network that was taught other forgeries has forgotten it.

    Attributes:
        initial_weights: What ``pretrained`` named; an address with the commit it led to.
        parent: Where ``pretrained`` is a checkpoint of ours: what that one was trained on, and its
            own parent. A network has seen what those saw that it began with.
        resolved_backbone: Model name with the weights tag that timm resolved it to.
        memory_format: How images lie in memory on their way through; see ``use_memory_format``.
        frozen: Modules that stay in evaluation mode while the others train; see ``freeze``.

    Raises:
        UsageError: If timm does not know the backbone, the backbone does not take the size or has
            no such stages, the embedding has no width, or the weights cannot be loaded.
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
        n_features: int | None = None,
        levels: int = 0,
    ) -> None:
        super().__init__()
        if embedding_dim < 1:
            raise UsageError(f"embedding_dim={embedding_dim}; expected 1 or more")
        self.image_size = image_size
        self.initial_weights = str(pretrained)
        if isinstance(pretrained, str):
            found = find_checkpoint(pretrained)
            pretrained, self.initial_weights = str(found.path), found.name
        own, own_levels, self.parent = _read_own(pretrained, backbone, levels)
        if self.parent is not None:
            self.parent["name"] = self.initial_weights
        state = part_of(own, "backbone") or None
        # A file of stages alone does not fill the network that they are cut out of.
        stages_alone = bool(own_levels and levels)
        start = False if stages_alone else pretrained
        self.backbone, n_features = make_backbone(
            backbone, image_size, start, drop_path_rate, state, n_features
        )
        self.levels = levels
        if levels:
            n_features = 2 * keep_stages(self.backbone, levels)
            self.standardise = nn.BatchNorm1d(n_features, affine=False)
        if state is not None and stages_alone:
            _load_stages(self.backbone, state, str(pretrained))
        config: dict[str, Any] = self.backbone.pretrained_cfg  # type: ignore[assignment]
        tag = config.get("tag")
        name = str(config.get("architecture") or backbone.split(".")[0])
        self.resolved_backbone = f"{name}.{tag}" if tag else name
        if bn_momentum is not None:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = bn_momentum
        mean = config.get("mean") or (0.485, 0.456, 0.406)
        std = config.get("std") or (0.229, 0.224, 0.225)
        # Kept in the state: the normalisation travels with the weights.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(n_features, embedding_dim)
        # The contest entry's layer was a Keras Dense layer: Glorot uniform weights and a zero bias.
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.memory_format = torch.contiguous_format
        self.frozen: list[nn.Module] = []
        if own:
            self._take_over(own, str(pretrained))

    def train(self, mode: bool = True) -> EmbeddingModel:
        """Set the mode of all modules but the frozen ones, which keep their statistics."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

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
        features = self._features((images - self.mean) / self.std)
        raw = self.projection(self.dropout(features))
        # Norms and distances in half precision lose the small differences that matter.
        return F.normalize(raw.float(), eps=_EPSILON)

    def _features(self, images: Tensor) -> Tensor:
        """``(B, 3, S, S)`` to ``(B, F)``."""
        if not self.levels:
            features: Tensor = self.backbone(images)
            return features
        look: Any = self.backbone.forward_intermediates
        maps = look(images, indices=self.levels, intermediates_only=True)  # (B, C, H, W) each
        # A deviation in half precision would be that of its rounding; a single place has none.
        places = [stage.float().flatten(2) for stage in maps]
        parts = [
            part
            for one in places
            for part in (one.mean(dim=2), (one.var(dim=2, correction=0) + _EPSILON**2).sqrt())
        ]
        standard: Tensor = self.standardise(torch.cat(parts, dim=1))
        return standard

    def _take_over(self, own: dict[str, Tensor], origin: str) -> None:
        """Normalisation and projection of a checkpoint of ours; the backbone has its weights."""
        projection, features_here = part_of(own, "projection"), self.projection.in_features
        try:
            self.mean.copy_(own["mean"])
            self.std.copy_(own["std"])
            standard = part_of(own, "standardise")
            if standard and self.levels and len(standard["running_mean"]) == features_here:
                self.standardise.load_state_dict(standard)
            width, features = len(projection["bias"]), projection["weight"].shape[1]
            if (width, features) == tuple(self.projection.weight.shape):
                self.projection.load_state_dict(projection)
                return
        except (LookupError, RuntimeError, TypeError) as error:
            problem = one_line(str(error))
            raise CheckpointError(f"pretrained={origin!r} is damaged: {problem}") from error
        told = "%s has a projection of %d features to %d: it is not taken, ours starts from random"
        logger.info(told, origin, features, width)


def are_unit(embeddings: Tensor) -> Tensor:
    """Which embeddings ``(N, D)`` are directions, ``(N,)`` bool.

    Those of a network whose numbers overflow hold NaN, infinite numbers, or nothing but zeros.
    """
    return embeddings.isfinite().all(dim=1) & embeddings.any(dim=1)


def _load_stages(backbone: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load a network that was cut off behind its stages, from one that was, too."""
    wanted = backbone.state_dict()
    try:
        backbone.load_state_dict({name: state[name] for name in wanted})
    except (LookupError, RuntimeError) as error:
        problem = one_line(str(error), 300)
        raise CheckpointError(f"pretrained={origin!r} does not fit: {problem}") from error


def _read_own(
    pretrained: bool | str, backbone: str, levels: int
) -> tuple[dict[str, Tensor], int, dict[str, Any] | None]:
    """The embedder's part of a checkpoint of ours, its levels, and what it was trained on.

    Empty where it is none. Of a file that holds several networks, the first with this backbone and
    so many levels, or with this backbone.

    Raises:
        CheckpointError: If it has another backbone.
    """
    if isinstance(pretrained, bool) or not is_checkpoint(Path(pretrained)):
        return {}, 0, None
    content = read_content(Path(pretrained))
    networks = _list_networks(
        content["hyper_parameters"], content[KEY], part_of(content["state_dict"], "embedder")
    )
    names = [str(hyper.get("backbone")) for hyper, _, _ in networks]
    fitting = [
        (own, hyper.get("levels", 0), info)
        for name, (hyper, info, own) in zip(names, networks, strict=True)
        if name.split(".")[0] == backbone.split(".")[0]
    ]
    if not fitting:
        raise CheckpointError(
            f"pretrained={pretrained!r} has backbone {' and '.join(map(repr, names))}, not "
            f"{backbone!r}: set model.backbone to it"
        )
    own, own_levels, info = next((one for one in fitting if one[1] == levels), fitting[0])
    parent = {name: info.get(name) for name in ("configuration", "seed", "parent")}
    # Who trains without a crop folder of ours leaves none to compare with.
    return own, own_levels, parent | {"manifest_sha256": str(info.get("manifest_sha256") or "")}


def _list_networks(
    hyper: dict[str, Any], info: dict[str, Any], state: dict[str, Tensor]
) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]]:
    """Settings, memory and weights of each network of a file of one, several, or such files."""
    if "members" not in hyper:
        return [(hyper, info, state)]
    told = info.get("members") or [{}] * len(hyper["members"])
    return [
        network
        for number, (one, known) in enumerate(zip(hyper["members"], told, strict=False))
        for network in _list_networks(one, known, part_of(state, f"members.{number}"))
    ]
