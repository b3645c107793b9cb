"""Labelled crops or media in, the faces and files that are evaluated out.

Media is cropped first, by the checkpoint's own recipe and the very job that cuts training crops,
so there is one path from here on. Knows no metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from deepfake.dataset.audit import audit_splits, raise_issues
from deepfake.dataset.crop_mirror import find_crops
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.layouts.labelling import InputOptions
from deepfake.dataset.manifest import Manifest, read_manifest, read_sources
from deepfake.dataset.rows import CropRows, SourceRows, require_labels
from deepfake.dataset.splits import SPLITS, assign_splits
from deepfake.dataset.texts import Texts, number_texts
from deepfake.errors import UsageError
from deepfake.faces.pipeline import check_detect_device
from deepfake.inference.stored import require_same_recipe
from deepfake.jobs.engine import Executor, run_here
from deepfake.learning.checkpoint import Checkpoint
from deepfake.learning.data import SplitSettings
from deepfake.records import Workers
from deepfake.stores.address import hide_secrets

ALL = "all"


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The labelled faces and files of one data set.

    Args:
        name: What tables call it.
        origin: What the user named: crop folder, media folder or table.
        root: Crop folder.
        split: ``train``, ``validation``, ``test`` or ``all``.
        faces: Rows of its manifest.
        files: Rows of its source table, with or without faces.
        manifest_sha256: Of the whole manifest.
        sha256: Of the manifest and the choice of rows.
        remarks: What a reader of its metrics must know.
    """

    name: str
    origin: str
    root: Path
    split: str
    faces: CropRows
    files: SourceRows
    manifest_sha256: str
    sha256: str
    remarks: tuple[str, ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of its faces, ``(N,)``, 1 = fake."""
        return require_labels(self.faces)


def open_crops(
    data: str,
    checkpoint: Checkpoint,
    crops: Path,
    workers: Workers = Workers(processes=0),  # noqa: B008 - frozen
    quiet: bool = True,
    execute: Executor = run_here,
) -> Path:
    """The crop folder of a data set; labelled media is cropped into one first.

    Args:
        data: Crop folder, or labelled media: a folder with ``real/`` and ``fake/``, or a CSV.
        checkpoint: Has the recipe.
        crops: New folder for the crops of media, or one that was begun by the same job.
        workers: How media are read.
        quiet: Show no progress.
        execute: Who crops.

    Raises:
        UsageError: If there are no labels, nothing is found, or there is no such device.
    """
    if execute is run_here:  # elsewhere there may be one that is not here
        check_detect_device(workers.detect_device)
    folder = find_crops(data)
    if folder is not None:
        return folder
    crop_media(
        data,
        crops,
        checkpoint.recipe.crop.for_scoring(checkpoint.recipe.aggregation.faces_per_frame),
        workers=workers,
        sampling=checkpoint.recipe.sampling,
        inputs=InputOptions(require_labels=True),
        quiet=quiet,
        execute=execute,
    )
    return crops


def read_evaluation_set(
    root: Path,
    checkpoint: Checkpoint,
    name: str = "",
    origin: str = "",
    split: str | None = None,
    preferred_split: str = "test",
) -> EvaluationSet:
    """Read a crop folder and choose what is evaluated.

    Args:
        root: The crop folder.
        checkpoint: Must have been trained on crops of the same recipe.
        name: What tables call it.
        origin: What the user named.
        split: ``train``, ``validation``, ``test`` or ``all``. Crops that the checkpoint was
            trained on are split as its training split them; of others without splits, a split that
            is asked for is the one that a training makes unless it is told otherwise.
        preferred_split: What is taken without ``split`` where there are splits; else everything.

    Raises:
        UsageError: If the recipe is another one, labels are missing, or the split is empty.
    """
    manifest = read_manifest(root)
    require_same_recipe(manifest, checkpoint)
    require_labels(manifest.rows)
    seen = was_trained_on(checkpoint, manifest)
    splits = [*manifest.rows.values("split")]
    undivided = split in SPLITS and not any(splits)
    if seen:
        splits = divide_as_trained(manifest, checkpoint)
    elif undivided:
        try:
            splits = divide_as_trained(manifest, checkpoint)
        except UsageError as error:
            raise UsageError(f"{root} has no splits, and {error}: use --split all") from error
    chosen = split or (preferred_split if any(splits) else ALL)
    faces = _choose_faces(manifest, splits, chosen)
    files, lost = _choose_files(root, manifest, splits, chosen)
    remarks = []
    if seen and chosen != "test":
        use = "chose its limits on" if chosen == "validation" else "learnt from"
        remarks.append(
            f"LEAK: the checkpoint {use} these crops; metrics on split {chosen!r} of its own "
            "training data say nothing about new files"
        )
    elif undivided:
        remarks.append("the crops bring no split; divided as a training by default divides them")
    if lost:
        remarks.append(f"{lost} files without a face belong to no split and are not counted")
    digest = hashlib.sha256(f"{manifest.sha256}\n".encode())
    for place, crop in enumerate(faces.values("crop")):
        digest.update(f"\n{crop}".encode() if place else crop.encode())
    return EvaluationSet(
        name=name or root.name,
        origin=hide_secrets(origin) or str(root),
        root=root,
        split=chosen,
        faces=faces,
        files=files,
        manifest_sha256=manifest.sha256,
        sha256=digest.hexdigest(),
        remarks=tuple(remarks),
    )


def _choose_faces(manifest: Manifest, splits: Sequence[str], chosen: str) -> CropRows:
    if chosen not in (*SPLITS, ALL):
        raise UsageError(f"no split {chosen!r}; there are {', '.join(SPLITS)} and {ALL}")
    if chosen == ALL:
        faces = manifest.rows
    else:
        faces = manifest.rows.choose(np.flatnonzero([split == chosen for split in splits]))
    if not len(faces):
        there = sorted({word for word in splits if word})
        raise UsageError(
            f"{manifest.root} holds no crop of split {chosen!r}; it has {', '.join(there)}"
        )
    return faces


def _choose_files(
    root: Path, manifest: Manifest, splits: Sequence[str], chosen: str
) -> tuple[SourceRows, int]:
    """The files of a split, and how many belong to none because nothing says to which."""
    files = read_sources(root)
    if chosen == ALL:
        return files, 0
    # By their crops, by what the data say, or by others of their group.
    by_source = _carry(manifest.rows.texts("source"), splits, files.texts("id"))
    by_group = _carry(manifest.rows.texts("group"), splits, files.texts("group"))
    found = [
        own or given or beside
        for own, given, beside in zip(by_source, files.values("split"), by_group, strict=True)
    ]
    return (
        files.choose(np.flatnonzero([split == chosen for split in found])),
        sum(not split for split in found),
    )


def _carry(names: Texts, values: Sequence[str], wanted: Texts) -> list[str]:
    """For each wanted name the value of the last row of that name, empty where there is none."""
    number, asked = number_texts(names, wanted)
    last = np.full(max(number.max(initial=0), asked.max(initial=0)) + 1, -1, np.int64)
    last[number] = np.arange(len(number))
    return [values[row] if row >= 0 else "" for row in last[asked].tolist()]


def was_trained_on(checkpoint: Checkpoint, manifest: Manifest) -> bool:
    """Whether a checkpoint, or one of several that it is the mean of, comes from these crops."""
    origins = _list_origins(checkpoint)
    return any(manifest.sha256 == info["manifest_sha256"] for _, info in origins)


def _list_origins(checkpoint: Checkpoint) -> list[tuple[str, dict[str, Any]]]:
    """Name of each network of a checkpoint, and what its file remembers of its making."""
    open_ = [(one.name, one.info) for one in checkpoint.members or (checkpoint,)]
    found: list[tuple[str, dict[str, Any]]] = []
    while open_:
        name, info = open_.pop(0)
        kept = [(str(one["name"]), one) for one in info.get("members", ())]
        if kept:  # a file that holds several
            open_ += kept
        else:
            found.append((name, info))
    return found


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


def divide_as_trained(manifest: Manifest, checkpoint: Checkpoint) -> list[str]:
    """Split of each row: as the manifest says, else by group, as training divides.

    Crops that the checkpoint was trained on are divided as its own training did it.

    Raises:
        UsageError: If they cannot be divided so that every split has both classes, something leaks
            from one into another, or several that make one have divided them otherwise.
    """
    origins = [
        (name, info)
        for name, info in _list_origins(checkpoint)
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


def _divide_again(manifest: Manifest, info: Mapping[str, Any]) -> list[str]:
    told, split = read_data_settings(info).get("split"), SplitSettings()
    if isinstance(told, dict):
        split = SplitSettings(**{key: told[key] for key in ("by", "shares") if key in told})
    return _divide(manifest, split, int(info.get("seed", 0)))


def _divide(manifest: Manifest, split: SplitSettings, seed: int) -> list[str]:
    splits = assign_splits(manifest.rows, split.by, split.shares, seed)
    raise_issues(audit_splits(manifest, splits))
    return splits
