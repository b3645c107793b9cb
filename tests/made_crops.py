"""Finished crop folders, drawn: fakes have a seam and a smoother inside than reals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.crop_folder import KIND
from deepfake.dataset.crop_store import StoreKind, name_crop, write_crops
from deepfake.dataset.manifest import JOB_FILE, MANIFEST_FILE, SOURCES_FILE, STORE, read_manifest
from deepfake.dataset.rows import CropRow, SourceRow, format_manifest, format_sources
from deepfake.faces.extraction import encode_crop
from deepfake.jobs.folder import JobFolder
from deepfake.records import CropSpec, Sampling
from deepfake.storage import write_atomic

Edit = Callable[[CropRow], CropRow]
COUNTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"train": (16, 16), "validation": (8, 8), "test": (8, 8)}
)
"""Real and fake crops of each split."""
LANDMARKS = (0.36, 0.42, 0.64, 0.42, 0.5, 0.55, 0.39, 0.68, 0.61, 0.68)
"""Eyes, nose and mouth of the oval, as shares of the side."""


def draw_crop(rng: np.random.Generator, size: int, fake: bool) -> NDArray[np.uint8]:
    """Soft shades, a lighter oval and grain; a fake's oval has a rim and another grain."""
    shades = cv2.resize(
        rng.uniform(60, 150, (3, 3, 3)), (size, size), interpolation=cv2.INTER_CUBIC
    )
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    distance = np.hypot(x / 0.32, y / 0.4)[..., None]
    face = shades + 30 * (distance < 1)
    grain = rng.normal(0, 6, (size, size, 3))
    if fake:
        checks = 14.0 * ((np.indices((size, size)).sum(axis=0) % 2) * 2 - 1)[..., None]
        grain = np.where(distance < 1, checks, grain)
        face = face + 25 * (np.abs(distance - 1) < 0.08)
    picture: NDArray[np.uint8] = np.clip(face + grain, 0, 255).astype(np.uint8)
    return picture


def write_crop_folder(
    root: Path,
    counts: Mapping[str, tuple[int, int]] = COUNTS,
    *,
    size: int = 64,
    jpeg_quality: int | None = 95,
    preset: str = "square",
    group_size: int = 1,
    originals: bool = False,
    seed: int = 0,
    edit: Edit = lambda row: row,
    store: StoreKind = "folder",
    n_shards: int = 0,
) -> Path:
    """Write a folder as ``crop.py`` leaves it.

    Args:
        root: New folder.
        counts: Real and fake crops of each split.
        size: Side of the crops.
        jpeg_quality: ``None`` stores PNG.
        preset: Name of the recipe, as the job remembers it.
        group_size: Reals (and as many fakes) that share a group.
        originals: The n-th fake of a split names its n-th real as its original.
        seed: Other seed, other pictures.
        edit: Changes rows before they are written, e.g. empties their split.
        store: How the crops lie there.
        n_shards: Among how many shards they are divided; 0 is one, which has no checksums, as from
            before there were some, unless it is a tar.
    """
    spec = CropSpec(preset=preset, size=size, jpeg_quality=jpeg_quality)
    rng = np.random.default_rng(seed)
    folder = JobFolder(root, KIND)
    folder.folder_of(0).parent.mkdir(parents=True)
    wanted = [
        (split, label, i)
        for split, numbers in counts.items()
        for label, number in enumerate(numbers)
        for i in range(number)
    ]
    rows = []
    per_shard = -(-len(wanted) // (n_shards or 1)) or 1
    for block, start in enumerate(range(0, len(wanted) or 1, per_shard)):
        shard = folder.open_block(block)
        with write_crops(shard, store) as writer:
            for split, label, i in wanted[start : start + per_shard]:
                source = _make_id(seed, split, label, i)
                crop = name_crop(block, f"{source}_0_0{spec.suffix}")
                picture = draw_crop(rng, size, fake=label == 1)
                group = f"{split}-{i // group_size}"
                row = _make_row(crop, source, label, group, split, size)
                if originals and label:
                    row = replace(row, original=_make_id(seed, split, 0, i))
                writer.add(row, encode_crop(picture, jpeg_quality))
                rows.append(edit(row))
        if n_shards or store == "tar":
            folder.seal(block, shard, {})
        else:
            shard.replace(folder.folder_of(block))
    write_tables(root, rows)
    job = {
        STORE: store,
        "crop_spec": spec.to_dict(),
        "sampling": Sampling().to_dict(),
        "versions": {"deepfake": "0"},
    }
    write_atomic(root / JOB_FILE, json.dumps(job))
    return root


def edited(root: Path, edit: Edit) -> Path:
    """The same folder, its rows changed and its tables written anew."""
    write_tables(root, [edit(row) for row in read_manifest(root).rows])
    return root


def write_tables(root: Path, rows: list[CropRow]) -> None:
    """Write ``manifest.csv`` and ``sources.csv``."""
    write_atomic(root / MANIFEST_FILE, "".join(format_manifest(rows)))
    write_atomic(root / SOURCES_FILE, "".join(format_sources(_source_row(row) for row in rows)))


def _make_id(seed: int, split: str, label: int, number: int) -> str:
    return hashlib.sha1(f"{seed}-{split}-{label}-{number}".encode()).hexdigest()[:16]


def _make_row(crop: str, source: str, label: int, group: str, split: str, size: int) -> CropRow:
    side = float(max(size, 64))  # of the face in its photo, where it is large enough
    return CropRow(
        crop=crop,
        source=source,
        frame=0,
        time_s=0.0,
        face=0,
        label=label,
        method="seam" if label else "",
        group=group,
        split=split,
        box_xyxy=(0.0, 0.0, side, side),
        confidence=0.99,
        landmarks=tuple(size * value for value in LANDMARKS),
        rotation=0,
        window=(0, 0, size, size),
    )


def _source_row(row: CropRow) -> SourceRow:
    name = f"{row.source}.jpg"
    return SourceRow(
        path=name,
        status="ok",
        reason="",
        faces=1,
        label=row.label,
        method=row.method,
        group=row.group,
        split=row.split,
        id=row.source,
        path_uri=name,
        original=row.original,
    )
