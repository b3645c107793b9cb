"""A checkpoint as ``.safetensors``, for passing on.

No pickle is involved, nothing that only training needs, and no folder of who made it. Knows no
network.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from deepfake.errors import CheckpointError, one_line
from deepfake.learning.checkpoint_file import KEY, compute_digest, read_content

_PARTS = ("embedder", "head", "quality")
_HALVED = re.compile(r"embedder\.(members\.\d+\.)*(backbone|projection)\.")


def to_safetensors(path: Path, half: bool = False) -> bytes:
    """The same checkpoint as the bytes of a ``.safetensors`` file.

    It holds the network, the head and all that the checkpoint remembers, but nothing that
    only training needs, and of absolute paths the last name alone: who gets the file learns what
    it was made of, and not in whose folders. The header carries a digest of all of it, because
    this format, unlike the archive of a ``.ckpt``, has no checksums of its own.

    Args:
        path: The file.
        half: Keep the network's matrices and filters in half precision, half the bytes. They are
            float32 again when they are loaded, rounded to 11 bits; head, biases, normalisation and
            statistics stay as they are.

    Raises:
        CheckpointError: If the file is missing, damaged, not ours, or tries to run code, or a
            number is too large for half precision.
    """
    content = read_content(path)
    if half:
        content["state_dict"] = _halve(path, content["state_dict"])
    return encode_safetensors(content)


def _halve(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    halved = dict(state)
    for name, value in state.items():
        if _HALVED.match(name) and value.is_floating_point() and value.ndim >= 2:
            halved[name] = value.half()
            if not bool(torch.isfinite(halved[name]).all()):
                raise CheckpointError(f"{path}: {name} does not fit into half precision")
    return halved


def encode_safetensors(content: dict[str, Any]) -> bytes:
    """What ``read_content`` gave, as the bytes of a ``.safetensors`` file."""
    state = {
        key: value.contiguous()
        for key, value in content["state_dict"].items()
        if key.startswith(tuple(f"{part}." for part in _PARTS))
    }
    ours = {name: value for name, value in content[KEY].items() if name != "sha256"}
    kept = {key: content.get(key) for key in ("hyper_parameters", "epoch", "global_step")}
    text = json.dumps(_strip_folders({KEY: ours} | kept))
    header = json.dumps({"sha256": compute_digest(text, state), "content": text})
    data: bytes = safetensors.torch.save(state, metadata={KEY: header})
    return data


def _strip_folders(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Plain values with absolute paths cut to their last name, the configuration's included.

    Args:
        value: A tree of them.
        known: What was made of the lists and tables of this tree: by the aliases of YAML a few
            lines stand for any number of them.
    """
    known = {} if known is None else known
    if isinstance(value, dict | list | tuple):
        if id(value) not in known:
            known[id(value)] = _strip_all(value, known)
        return known[id(value)]
    kinds = (PurePosixPath, PureWindowsPath)
    if isinstance(value, str) and any(kind(value).is_absolute() for kind in kinds):
        # Not their .name: that of a share, \\host\share, is empty.
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] or value
    return value


def _strip_all(value: dict[str, Any] | list[Any] | tuple[Any, ...], known: dict[int, Any]) -> Any:
    if not isinstance(value, dict):
        return [_strip_folders(one, known) for one in value]
    stripped = {name: _strip_folders(one, known) for name, one in value.items()}
    if isinstance(text := value.get("configuration"), str):
        try:
            settings = _strip_folders(yaml.safe_load(text))
        except (yaml.YAMLError, RecursionError) as error:
            raise CheckpointError(
                f"the configuration in the checkpoint is no YAML: {one_line(str(error))}"
            ) from error
        stripped["configuration"] = yaml.safe_dump(settings, sort_keys=False)
    return stripped
