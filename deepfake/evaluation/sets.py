"""Labelled crops or media in, the faces and files that are evaluated out.

Media is cropped first, by the checkpoint's own recipe and the very job that cuts training crops,
so there is one path from here on. Knows no metric.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.crop_mirror import find_crops
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.layouts.labelling import InputOptions
from deepfake.dataset.manifest import Manifest, read_manifest, read_sources
from deepfake.dataset.rows import CropRows, SourceRows, require_labels
from deepfake.dataset.splits import SPLITS
from deepfake.dataset.texts import Texts, number_texts
from deepfake.errors import UsageError
from deepfake.evaluation.origins import ALL, divide_as_trained, find_use, was_trained_on
from deepfake.faces.pipeline import check_detect_device
from deepfake.inference.stored import require_same_recipe
from deepfake.jobs.engine import Executor, run_here
from deepfake.learning.checkpoint import Checkpoint
from deepfake.records import Sampling, Workers
from deepfake.stores.address import hide_secrets


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
        sampling: Which frames of clips they are from.
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
    sampling: Sampling
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
    if chosen in SPLITS and (n_without := sum(not word for word in splits)):
        raise UsageError(
            f"{n_without:,} of {len(splits):,} crops in {root} have no split: fill the split "
            f"column, or use --split {ALL}"
        )
    faces = _choose_faces(manifest, splits, chosen)
    files, lost = _choose_files(root, manifest, splits, chosen)
    remarks = []
    if use := find_use(checkpoint, manifest, chosen):
        remarks.append(
            f"LEAK: the checkpoint {use} these crops; its metrics on split {chosen!r} of them say "
            "nothing about new files"
        )
    if undivided and not seen:
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
        sampling=manifest.sampling,
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
    # By their crops, by others of their group, or by what the data say, unless a training has
    # divided what they say is one.
    by_source = _carry(manifest.rows.texts("source"), splits, files.texts("id"))
    by_group = _carry(manifest.rows.texts("group"), splits, files.texts("group"))
    became: dict[str, set[str]] = defaultdict(set)
    for word, split in zip(manifest.rows.values("split"), splits, strict=True):
        became[word].add(split)
    told = (word if became.get(word, {word}) == {word} else "" for word in files.values("split"))
    found = [
        own or beside or given for own, beside, given in zip(by_source, by_group, told, strict=True)
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
