"""Networks and heads as the file of a checkpoint describes them: checked, built, filled.

Classes are built by name, never from what the file says; what it says may be anybody's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deepfake.errors import CheckpointError, UsageError, one_line
from deepfake.heads import Head, MeanHead, make_empty_head
from deepfake.learning.checkpoint_file import part_of
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.joined import EnsembleEmbedder

_MODEL_KINDS = {"backbone": str, "image_size": int, "embedding_dim": int, "dropout": float}


def check_description(hyper: dict[str, Any], info: dict[str, Any], side: int) -> None:
    """Refuse a file whose networks are none, or which does not tell where they come from.

    Args:
        hyper: Its ``hyper_parameters``, of one network or several.
        info: What it remembers.
        side: Of its crops in pixels.

    Raises:
        UsageError: If a setting is out of range or does not fit another one.
        LookupError, TypeError, ValueError, AttributeError: If something is missing or of another
            kind.
    """
    _check_network(hyper, side)
    _check_history(info)
    _check_parents(info)
    _check_members(hyper, info)
    _check_counts(info["counts"])


def _check_network(hyper: dict[str, Any], side: int) -> None:
    """Refuse settings of a network that are none, or not for crops of this side in pixels."""
    if "members" in hyper:
        if not hyper["members"]:
            raise UsageError("it holds no network")
        for one in hyper["members"]:
            _check_network(one, side)
        return
    levels = hyper.get("levels", 0)
    if type(levels) is not int or levels < 0:
        raise UsageError(f"levels={levels!r:.80}; expected a number of stages")
    for key, kind in _MODEL_KINDS.items():
        if type(hyper[key]) is not kind:
            raise UsageError(f"{key}={hyper[key]!r:.80}; expected {kind.__name__}")
    if not 0 <= hyper["dropout"] < 1:  # false for NaN, too
        raise UsageError(f"dropout={hyper['dropout']}; expected a share from 0 to below 1")
    if not 1 <= hyper["embedding_dim"] <= 65536:
        raise UsageError(f"embedding_dim={hyper['embedding_dim']} is out of range")
    if hyper["image_size"] != side:
        raise UsageError(f"its network takes {hyper['image_size']} px, its crops have {side} px")


def _check_members(hyper: dict[str, Any], info: dict[str, Any]) -> None:
    """Refuse a file that does not tell of each of its networks where it comes from."""
    networks, told = hyper.get("members", []), info.get("members", [])
    if not isinstance(told, list) or len(told) != len(networks):
        raise UsageError(f"it holds {len(networks)} networks and does not tell of as many")
    for network, one in zip(networks, told, strict=True):
        if not all(type(one[name]) is str for name in ("name", "manifest_sha256")):
            raise UsageError("it does not tell what one of its networks was trained on")
        _check_history(one)
        _check_parents(one)
        _check_members(network, one)


def _check_history(info: dict[str, Any]) -> None:
    events = info.get("history", [])
    if not isinstance(events, list) or any(type(event["what"]) is not str for event in events):
        raise UsageError("its history does not tell what was done")


def _check_parents(info: dict[str, Any]) -> None:
    """Refuse a network that began with another and does not tell what that was trained on."""
    parent: Any = info
    while (parent := parent.get("parent")) is not None:
        if not isinstance(parent, dict) or not all(
            type(parent.get(name)) is str for name in ("name", "manifest_sha256")
        ):
            raise UsageError("it does not tell what the network that it began with was trained on")


def _check_counts(counts: Any) -> None:
    numbers = [number for split in counts.values() for number in split.values()]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise UsageError(f"its counts of crops {counts} are none")
    if not sum(counts["train"].values()):
        raise UsageError("it was trained on no crops")


def build_embedder(hyper: dict[str, Any], state: dict[str, Any]) -> Any:
    """The network of some settings, or the networks of several, without their weights."""
    if "members" in hyper:
        parts = [part_of(state, f"members.{number}") for number in range(len(hyper["members"]))]
        if not all(parts):  # before memory is taken for networks that the file does not hold
            raise UsageError(f"it holds no weights of one of its {len(parts)} networks")
        both = zip(hyper["members"], parts, strict=True)
        return EnsembleEmbedder([build_embedder(one, part) for one, part in both])
    settings = {key: hyper[key] for key in _MODEL_KINDS}
    levels = hyper.get("levels", 0)
    n_features = None
    weight = state.get("projection.weight")
    if not levels and isinstance(weight, Tensor) and weight.ndim == 2:
        n_features = weight.shape[1]
    return EmbeddingModel(**settings, pretrained=False, n_features=n_features, levels=levels)


def build_head(hyper: dict[str, Any], state: dict[str, Any]) -> Head:
    """The head of a network, or of several the mean of theirs, without its numbers."""
    if "members" not in hyper:
        return make_empty_head(state, hyper["embedding_dim"])
    if not part_of(state, "heads"):  # fitted anew, on the embeddings of all
        return make_empty_head(state, _count_dimensions(hyper))
    heads = [
        build_head(one, part_of(state, f"heads.{number}"))
        for number, one in enumerate(hyper["members"])
    ]
    return MeanHead(heads)


def _count_dimensions(hyper: dict[str, Any]) -> int:
    if "members" in hyper:
        return sum(map(_count_dimensions, hyper["members"]))
    return int(hyper["embedding_dim"])


def load_part(path: Path, state: dict[str, Any], name: str, module: nn.Module) -> None:
    """Load one of our parts into a module.

    Raises:
        CheckpointError: If the two do not fit.
    """
    try:
        module.load_state_dict(part_of(state, name), strict=True)
    except (RuntimeError, TypeError) as error:
        text = one_line(str(error), 400)
        raise CheckpointError(f"{path}: the {name} does not fit its description: {text}") from error
