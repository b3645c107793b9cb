"""Reads the file of a checkpoint without trusting it: tensors and plain values, never code.

Knows no network: what the tensors are for is said in ``learning.checkpoint``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepfake import __version__
from deepfake.errors import CheckpointError

KEY = "deepfake"
"""Where our part of a Lightning checkpoint lives."""
_MOST_VALUES = 1_000_000
_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
FORMAT = 4  # 3 had one threshold, and its sigmoid from training rows
SAFETENSORS_SUFFIX = ".safetensors"


def is_checkpoint(path: Path) -> bool:
    """Whether a file claims to be a checkpoint of ours, and not bare weights."""
    if path.suffix.lower() != SAFETENSORS_SUFFIX:
        return path.suffix.lower() == ".ckpt"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_content(path: Path) -> dict[str, Any]:
    """Read a ``.ckpt`` or its ``.safetensors`` copy.

    Raises:
        CheckpointError: If the file is missing, damaged, not ours, or tries to run code.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: there is no such file")
    read = _read_safetensors if path.suffix.lower() == SAFETENSORS_SUFFIX else _read_lightning
    try:
        content = read(path)
        if problem := _find_odd(content):
            raise CheckpointError(f"checkpoint {path} is damaged: {problem}")
    except RecursionError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: it is nested too deeply") from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict):
        raise CheckpointError(
            f"checkpoint {path} was not written by deepfake (it has no {KEY!r} part)"
        )
    if content[KEY].get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {content[KEY].get('format')!r}, this version of "
            f"deepfake ({__version__}) reads {FORMAT}"
        )
    for part in ("state_dict", "hyper_parameters"):
        if not isinstance(content.get(part), dict):
            raise CheckpointError(f"checkpoint {path} is damaged: it has no {part}")
    for part in ("hyper_parameters", KEY):
        if not _are_members(content[part].get("members", [])):
            raise CheckpointError(f"checkpoint {path} is damaged: its {part} have odd members")
    if read is _read_lightning and content[KEY].get("sha256") != _hash_content(content):
        raise CheckpointError(f"checkpoint {path} is damaged: its checksum is another one")
    for name, value in content["state_dict"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is no tensor")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"checkpoint {path}: {name} holds NaN or infinite numbers")
    return content


def _find_odd(content: Any) -> str:
    """What makes a content one that no checkpoint has, before it is looked at further.

    A few lines of a pickle stand for any number of values where lists hold themselves or one
    another, and a few bytes for a tensor of any size.
    """
    open_, n_values = [content], 0
    while open_:
        value = open_.pop()
        n_values += 1
        if n_values > _MOST_VALUES:
            return f"it holds more than {_MOST_VALUES:,} values, or itself"
        if isinstance(value, dict):
            open_ += [*value, *value.values()]
        elif isinstance(value, list | tuple | deque):
            open_ += value
        elif isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu":
                return f"it holds a tensor that is {value.layout} on {value.device}"
            if value.dtype not in _DTYPES:
                return f"it holds a tensor of {value.dtype}"
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                return f"it holds a tensor of shape {tuple(value.shape)} without its numbers"
    return ""


def _are_members(several: Any) -> bool:
    """Whether what a file says of the networks that it holds is a list of tables, at any depth."""
    open_ = [several]
    while open_:
        level = open_.pop()
        if not isinstance(level, list) or not all(isinstance(one, dict) for one in level):
            return False
        open_ += [one.get("members", []) for one in level]
    return True


def seal(content: dict[str, Any]) -> None:
    """Put a checksum over all that a checkpoint holds into it, every tensor included.

    The archive's own checksums are not looked at when it is loaded.
    """
    content[KEY] = {**content[KEY], "sha256": _hash_content(content)}


def _hash_content(content: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    unsealed = {name: value for name, value in content[KEY].items() if name != "sha256"}
    _feed(digest, content | {KEY: unsealed})
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Hash plain values and tensors, whatever they are nested in, in an order of their own."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        digest.update(f"{len(value)} entries".encode())
        for key in sorted(value, key=repr):
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple | deque):
        digest.update(f"{len(value)} items".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


def part_of(state: dict[str, Any], name: str) -> dict[str, Any]:
    """The tensors of one of our parts, by their names within it."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def compute_digest(text: str, state: dict[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's text and tensors, for a format without checksums of its own."""
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The content of the ``.ckpt`` that a ``.safetensors`` file was made from."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header is None:
            return {}
        sealed = json.loads(header)
        text = sealed["content"]
        if sealed["sha256"] != compute_digest(text, state):
            raise ValueError("its digest is another one")
        content: dict[str, Any] = json.loads(text)
        _number_labels(content[KEY])
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    return content | {"state_dict": state}


def _number_labels(ours: dict[str, Any]) -> None:
    """Give labels the keys that they had: JSON has no whole numbers for keys."""
    ours["labels"] = {int(key): value for key, value in ours["labels"].items()}
    for member in ours.get("members", ()):
        _number_labels(member)


def _read_lightning(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {path} holds more than tensors and plain values, or is no checkpoint; it "
            "was not opened, because it could run code"
        ) from error
    except (
        *(RuntimeError, OSError, EOFError, ValueError, zipfile.BadZipFile),
        # What torch's reader stumbles over in a damaged pickle.
        *(LookupError, TypeError, AttributeError, AssertionError),
    ) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
