"""What a checkpoint has seen of some crops, and how it divided them, by what its file remembers.

A network has seen what it was trained on, and what the network saw that it began with, a head what
it was fitted on, limits what they were chosen on; of several networks in one file, or named
together, each has. Reads no crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from deepfake.dataset.audit import audit_splits, raise_issues
from deepfake.dataset.manifest import Manifest
from deepfake.dataset.splits import assign_splits
from deepfake.errors import UsageError
from deepfake.learning.checkpoint import Checkpoint
from deepfake.learning.data import SplitSettings

ALL = "all"
"""In place of a split: every row."""


def find_use(checkpoint: Checkpoint, manifest: Manifest, split: str) -> str:
    """What a split of some crops was for a checkpoint, in words; empty if it has not seen it.

    Args:
        checkpoint: One, or several as one.
        manifest: Of the crops.
        split: ``train``, ``validation``, ``test`` or ``all``.
    """
    taught = was_trained_on(checkpoint, manifest)
    if taught and split in ("train", ALL):
        return "learnt from"
    chosen = {
        event.get("split")
        for _, info in _list_files(checkpoint)
        for event in info.get("history", ())
        if event["what"] == "calibrate" and event.get("manifest_sha256") == manifest.sha256
    }
    if taught:
        chosen.add("validation")
    met = bool(chosen) if split == ALL else bool(chosen & {split, ALL})
    return "chose its limits on" if met else ""


def was_trained_on(checkpoint: Checkpoint, manifest: Manifest) -> bool:
    """Whether a checkpoint, or one of several that it is the mean of, has learnt from these crops.

    Its network, that is, or its head.
    """
    return any(manifest.sha256 == info["manifest_sha256"] for _, info in _list_teachers(checkpoint))


def divide_as_trained(manifest: Manifest, checkpoint: Checkpoint) -> list[str]:
    """Split of each row: as the manifest says, else by group, as training divides.

    Crops that the checkpoint was trained on are divided as its own training did it.

    Raises:
        UsageError: If they cannot be divided so that every split has both classes, something leaks
            from one into another, or several that make one have divided them otherwise.
    """
    origins = [
        (name, info)
        for name, info in _list_teachers(checkpoint)
        if info["manifest_sha256"] == manifest.sha256
    ]
    if not origins:
        return _divide(manifest, SplitSettings(), 0)
    first, *others = [_divide_again(manifest, info) for _, info in origins]
    if any(other != first for other in others):
        names = " and ".join(name for name, _ in origins)
        raise UsageError(
            f"{names} divided the crops in {manifest.root} otherwise: what is a test for one "
            "has taught another; evaluate them on other crops"
        )
    return first


def list_roots(checkpoint: Checkpoint) -> list[str]:
    """What each network was trained on, as it was named then; every name once."""
    roots = (read_data_settings(info).get("root") for _, info in _list_networks(checkpoint))
    return [*dict.fromkeys(str(root) for root in roots if root)]


def list_changes(checkpoint: Checkpoint) -> list[str]:
    """What was done to a checkpoint, and to those that it holds, since they were trained."""
    infos = (info for _, info in _list_files(checkpoint))
    return [event["what"] for info in infos for event in info.get("history", ())]


def read_data_settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """Section ``data`` of the configuration that a checkpoint was trained with; may be empty.

    Args:
        info: What it remembers.
    """
    try:
        content = yaml.safe_load(info.get("configuration") or "")
    except (yaml.YAMLError, RecursionError):
        content = None
    section = content.get("data") if isinstance(content, dict) else None
    return section if isinstance(section, dict) else {}


def _list_files(checkpoint: Checkpoint) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and memory of each file that makes a checkpoint; what it holds comes behind it."""
    open_: list[tuple[str, Mapping[str, Any]]] = [
        (one.name, one.info) for one in checkpoint.members or (checkpoint,)
    ]
    found = []
    while open_:
        name, info = open_.pop(0)
        found.append((name, info))
        open_ += [(str(one["name"]), one) for one in info.get("members", ())]
    return found


def _list_networks(checkpoint: Checkpoint) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, info) for name, info in _list_files(checkpoint) if not info.get("members")]


def _list_teachers(checkpoint: Checkpoint) -> list[tuple[str, Mapping[str, Any]]]:
    """Networks with what they were trained on, and heads that were fitted on something else.

    Behind each network come those that it began with.
    """
    found = []
    for one in checkpoint.members or (checkpoint,):
        networks = [
            ancestor for network in _list_networks(one) for ancestor in _list_ancestors(*network)
        ]
        known = {info["manifest_sha256"] for _, info in networks}
        heads = [
            (name, {"manifest_sha256": event.get("manifest_sha256")})
            for name, info in _list_files(one)
            for event in info.get("history", ())
            # Crops that taught its network were divided for the head as for that.
            if event["what"] == "fit-head" and event.get("manifest_sha256") not in known
        ]
        found += [*networks, *heads]
    return found


def _list_ancestors(name: str, info: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = [(name, info)]
    while (parent := info.get("parent")) is not None:
        info = parent
        found.append((str(info["name"]), info))
    return found


def _divide_again(manifest: Manifest, info: Mapping[str, Any]) -> list[str]:
    told, split = read_data_settings(info).get("split"), SplitSettings()
    if isinstance(told, dict):
        known = ("by", "shares", "allow_leak")
        split = SplitSettings(**{key: told[key] for key in known if key in told})
    return _divide(manifest, split, int(info.get("seed") or 0))


def _divide(manifest: Manifest, split: SplitSettings, seed: int) -> list[str]:
    splits: Sequence[str] = assign_splits(manifest.rows, split.by, split.shares, seed)
    raise_issues(audit_splits(manifest, splits), allow_leak=split.allow_leak)
    return [*splits]
