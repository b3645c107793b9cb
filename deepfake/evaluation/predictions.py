"""Labelled crops or media in, scored faces and files out.

Media is cropped first, by the checkpoint's own recipe and the very job that cuts training crops,
so there is one path from here on. Embeddings, and the sharpness of the crops that pass, are
computed once and kept: they depend on network and crops alone, not on head, threshold or
aggregation. Knows no figure and no picture of one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from deepfake.dataset.cropping import crop_media
from deepfake.dataset.layouts import InputOptions
from deepfake.dataset.manifest import (
    JOB_FILE,
    CropRow,
    Manifest,
    SourceRow,
    read_manifest,
    read_sources,
)
from deepfake.dataset.splits import SPLITS
from deepfake.errors import UsageError
from deepfake.faces.pipeline import check_detect_device
from deepfake.faces.tracking import link_tracks
from deepfake.inference.aggregation import aggregate
from deepfake.inference.backend import choose_devices
from deepfake.inference.scoring import CPU_FACES
from deepfake.learning.batches import SampleKey
from deepfake.learning.checkpoint import Checkpoint
from deepfake.learning.crops import CropDataset, Sample
from deepfake.learning.data import CropDataModule, SplitSettings
from deepfake.learning.tuning import keep_freed_memory
from deepfake.progress import track
from deepfake.records import MAX_PIXELS, Aggregation, CropSpec, Face, FaceScore, Workers
from deepfake.storage import write_atomic

logger = logging.getLogger(__name__)
ALL = "all"
Change = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


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
        remarks: What a reader of its figures must know.
    """

    name: str
    origin: str
    root: Path
    split: str
    faces: tuple[CropRow, ...]
    files: tuple[SourceRow, ...]
    manifest_sha256: str
    sha256: str
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What the network makes of crops, and how sharp they were.

    Args:
        vectors: ``(N, D)`` float32, the embeddings.
        sharpness: ``(N,)`` float32, as of ``measure_sharpness``.
    """

    vectors: NDArray[np.float32]
    sharpness: NDArray[np.float32]

    def where(self, mask: NDArray[np.bool_]) -> Embeddings:
        """The crops that a mask selects."""
        return Embeddings(self.vectors[mask], self.sharpness[mask])


@dataclass(frozen=True, slots=True)
class Predictions:
    """A data set with the answers of a checkpoint.

    Args:
        material: The data set.
        embedded: Its faces.
        p_fake: ``(N,)`` float64 score of each face.
        tracks: Track of each face within its file.
        file_p_fake: Score of each file, by id; files without an answer are not in it.
    """

    material: EvaluationSet
    embedded: Embeddings
    p_fake: NDArray[np.float64]
    tracks: tuple[int, ...]
    file_p_fake: dict[str, float]


def open_crops(
    data: str,
    checkpoint: Checkpoint,
    crops: Path,
    *,
    workers: int = 0,
    timeout_s: float = 60.0,
    max_pixels: int = MAX_PIXELS,
    detect_device: str = "cpu",
    quiet: bool = True,
) -> Path:
    """The crop folder of a data set; labelled media is cropped into one first.

    Args:
        data: Crop folder, or labelled media: a folder with ``real/`` and ``fake/``, or a CSV.
        checkpoint: Has the recipe.
        crops: New folder for the crops of media, or one that was begun by the same job.
        workers: Processes that decode and detect.
        timeout_s: Longest time for one file in seconds.
        max_pixels: Larger pictures are ``unreadable``.
        detect_device: Where faces are searched for: ``cpu``, ``cuda`` or ``cuda:N``.
        quiet: Show no progress.

    Raises:
        UsageError: If there are no labels, nothing is found, or there is no such device.
    """
    check_detect_device(detect_device)
    if (Path(data) / JOB_FILE).is_file():
        return Path(data)
    crop_media(
        data,
        crops,
        checkpoint.crop_spec,
        workers=Workers(workers, timeout_s, max_pixels, detect_device),
        sampling=checkpoint.sampling,
        inputs=InputOptions(require_labels=True),
        quiet=quiet,
    )
    return crops


def read_material(
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
            trained on are split as its training split them.
        preferred_split: What is taken without ``split`` where there are splits; else everything.

    Raises:
        UsageError: If the recipe is another one, labels are missing, or the split is empty.
    """
    manifest = read_manifest(root)
    require_same_recipe(manifest, checkpoint)
    unlabelled = sum(row.label is None for row in manifest.rows)
    if unlabelled:
        raise UsageError(
            f"{unlabelled} of {len(manifest.rows)} crops in {root} have no label; crop from "
            "real/ and fake/ folders or from a CSV with path,label"
        )
    seen = was_trained_on(checkpoint, manifest)
    split_of_crop = (
        divide(manifest, checkpoint) if seen else {row.crop: row.split for row in manifest.rows}
    )
    has_splits = any(split_of_crop.values())
    chosen = split or (preferred_split if has_splits else ALL)
    if chosen not in (*SPLITS, ALL):
        raise UsageError(f"no split {chosen!r}; there are {', '.join(SPLITS)} and {ALL}")
    faces = tuple(row for row in manifest.rows if chosen in (ALL, split_of_crop[row.crop]))
    if not faces:
        there = sorted({word for word in split_of_crop.values() if word})
        raise UsageError(
            f"{root} holds no crop of split {chosen!r}; "
            + (f"it has {', '.join(there)}" if there else "it has no splits: use --split all")
        )
    files, lost = _choose_files(root, manifest, split_of_crop, chosen)
    remarks = []
    if seen and chosen != "test":
        use = "chose its threshold on" if chosen == "validation" else "learnt from"
        remarks.append(
            f"LEAK: the checkpoint {use} these crops; figures on split {chosen!r} of its own "
            "training data say nothing about new files"
        )
    if lost:
        remarks.append(f"{lost} files without a face belong to no split and are not counted")
    digest = hashlib.sha256(f"{manifest.sha256}\n".encode())
    digest.update("\n".join(row.crop for row in faces).encode())
    return EvaluationSet(
        name=name or root.name,
        origin=origin or str(root),
        root=root,
        split=chosen,
        faces=faces,
        files=files,
        manifest_sha256=manifest.sha256,
        sha256=digest.hexdigest(),
        remarks=tuple(remarks),
    )


def require_same_recipe(manifest: Manifest, checkpoint: Checkpoint) -> None:
    """Refuse crops that were cut otherwise than those that a checkpoint was trained on.

    Raises:
        UsageError: If a setting differs; it names all of them.
    """
    theirs, ours = manifest.spec.to_dict(), checkpoint.crop_spec.to_dict()
    other = [key for key in ours if key != "preset" and ours[key] != theirs[key]]
    if other:
        shown = ", ".join(f"{key} {theirs[key]} instead of {ours[key]}" for key in other)
        raise UsageError(
            f"the crops in {manifest.root} were cut by another recipe than {checkpoint.path} was "
            f"trained on ({shown}): crop again with {_crop_options(checkpoint.crop_spec)}, or "
            "give the photos and videos themselves as --data"
        )


def _crop_options(spec: CropSpec) -> str:
    return f"deepfake crop ... --preset {spec.preset} --size {spec.size} (deepfake info shows all)"


def was_trained_on(checkpoint: Checkpoint, manifest: Manifest) -> bool:
    """Whether a checkpoint comes from these very crops."""
    return bool(manifest.sha256 == checkpoint.info["manifest_sha256"])


def divide(manifest: Manifest, checkpoint: Checkpoint) -> dict[str, str]:
    """Split of each crop: as the manifest says, else by group, as training divides.

    Crops that the checkpoint was trained on are divided as its own training did it.

    Raises:
        UsageError: If they cannot be divided so that every split has both classes.
    """
    settings: dict[str, Any] = {}
    if was_trained_on(checkpoint, manifest):
        try:
            content = yaml.safe_load(checkpoint.info.get("configuration") or "")
        except yaml.YAMLError:
            content = None
        section = content.get("data") if isinstance(content, dict) else None
        if isinstance(section, dict):
            split = section.get("split") or {}
            kept = {key: split[key] for key in ("by", "shares") if key in split}
            settings["split"] = SplitSettings(**kept)
        settings["seed"] = int(checkpoint.info.get("seed", 0))
    data = CropDataModule(str(manifest.root), **settings)
    data.setup()
    return {row.crop: split for split in SPLITS for row in data.datasets[split].rows}


def _choose_files(
    root: Path, manifest: Manifest, split_of_crop: dict[str, str], chosen: str
) -> tuple[tuple[SourceRow, ...], int]:
    """The files of a split, and how many belong to none because nothing says to which."""
    files = read_sources(root)
    if chosen == ALL:
        return files, 0
    by_source = {row.source: split_of_crop[row.crop] for row in manifest.rows}
    by_group = {row.group: split_of_crop[row.crop] for row in manifest.rows}
    splits = [
        by_source.get(file.id) or file.split or by_group.get(file.group, "") for file in files
    ]
    return (
        tuple(file for file, split in zip(files, splits, strict=True) if split == chosen),
        sum(not split for split in splits),
    )


def embed_crops(
    root: Path,
    rows: Sequence[CropRow],
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    quiet: bool = True,
    change: Change | None = None,
) -> Embeddings:
    """Embed crops of a folder, once each and in order.

    Args:
        root: The crop folder.
        rows: Rows of its manifest.
        checkpoint: Has the network.
        device: As of ``Predictor``; of several the first one is used.
        batch_size: Crops per call of the network.
        workers: Processes that read crops for a GPU.
        quiet: Show no progress.
        change: Is given every crop and a number of its own, and what it returns is embedded.

    Raises:
        JobError: If a crop is missing or damaged.
        UsageError: If the device does not exist.
    """
    place = choose_devices(device)[0]
    keep_freed_memory(place)
    embedder = checkpoint.embedder.to(place)
    dataset = _ChangedCrops(root, rows, checkpoint.crop_spec.size, change)
    # On a CPU the network needs the cores itself.
    if place.type == "cpu":
        batch_size, workers = min(batch_size, CPU_FACES), 0
    loading = CropDataModule(str(root), batch_size=batch_size, num_workers=workers)
    batches = loading.load(dataset)
    parts = [(torch.zeros(0, embedder.projection.out_features), torch.zeros(0))]
    with torch.inference_mode():
        for batch in track(batches, total=len(batches), unit="batch", quiet=quiet):
            images = batch["image"].to(place)
            parts.append((embedder(images).cpu(), measure_sharpness(images).cpu()))
    vectors, sharpness = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return Embeddings(vectors, sharpness)


def measure_sharpness(images: Tensor) -> Tensor:
    """How much fine detail pictures hold: the variance of the Laplacian of their grey.

    Grey is 0.299 R + 0.587 G + 0.114 B in levels of 0 to 255; the Laplacian is a pixel's four
    neighbours less four times itself, wherever it has four. Blur and enlarging lower it, noise and
    hard compression raise it; it says how fine the grain is, not whether there is a face in it.
    The numbers of crops of different sides cannot be compared.

    Args:
        images: ``(B, 3, H, W)`` uint8 RGB, at least 3 x 3.

    Returns:
        ``(B,)`` float32 in squared grey levels; 0 of a plain surface.

    References:
        Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study",
        ICPR 2000.
        Pertuz, Puig and Garcia, "Analysis of focus measure operators for shape-from-focus",
        Pattern Recognition 2013 (where it is called LAP4).
    """
    red, green, blue = images.float().unbind(1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    across = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    along = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    laplacian = across + along - 4 * grey[:, 1:-1, 1:-1]
    return laplacian.flatten(1).var(dim=1, correction=0)


class _ChangedCrops(CropDataset):
    def __init__(
        self, root: Path, rows: Sequence[CropRow], size: int, change: Change | None
    ) -> None:
        super().__init__(root, rows, size)
        self._change = change

    def __getitem__(self, key: SampleKey | int) -> Sample:
        sample = super().__getitem__(key)
        if self._change is not None:
            row = self.rows[int(sample["index"])]
            crop = sample["image"].permute(1, 2, 0).numpy()
            changed = self._change(np.ascontiguousarray(crop), zlib.crc32(row.crop.encode()))
            sample["image"] = torch.from_numpy(changed).permute(2, 0, 1)
        return sample


def embed_once(
    material: EvaluationSet,
    checkpoint: Checkpoint,
    kept: Path | None,
    kind: str = "",
    **options: Any,
) -> Embeddings:
    """Embed a data set, or read what an earlier call has kept.

    Args:
        material: The data set.
        checkpoint: Has the network; another head or threshold changes nothing here.
        kept: Folder of kept embeddings, ``None`` keeps nothing.
        kind: Name of the ``change`` among the options, if there is one.
        **options: As of ``embed_crops``.
    """
    if kept is None:
        return embed_crops(material.root, material.faces, checkpoint, **options)
    path = kept / f"{hash_network(checkpoint)[:16]}-{material.sha256[:16]}{kind and f'-{kind}'}.npz"
    wanted = (len(material.faces), checkpoint.embedder.projection.out_features)
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                known = Embeddings(file["vectors"], file["sharpness"])
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            logger.warning("%s is damaged (%s); computing the embeddings again", path, error)
        else:
            if known.vectors.shape == wanted and known.sharpness.shape == wanted[:1]:
                return known
            logger.warning("%s holds other rows; computing the embeddings again", path)
    embedded = embed_crops(material.root, material.faces, checkpoint, **options)
    kept.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, vectors=embedded.vectors, sharpness=embedded.sharpness)
    write_atomic(path, buffer.getvalue())
    return embedded


def hash_network(checkpoint: Checkpoint) -> str:
    """SHA-256 of the network's weights alone: a new head leaves it as it is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.embedder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def score_material(
    material: EvaluationSet,
    embedded: Embeddings,
    checkpoint: Checkpoint,
    aggregation: Aggregation,
) -> Predictions:
    """Turn embeddings into scores of faces and files, as ``Predictor`` does.

    Args:
        material: The data set.
        embedded: Its faces.
        checkpoint: Has the head.
        aggregation: How the faces of a file make its score.
    """
    with torch.inference_mode():
        p_fake = checkpoint.head(torch.from_numpy(embedded.vectors)).numpy()
    by_file: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(material.faces):
        by_file[row.source].append(place)
    tracks = [0] * len(material.faces)
    answers: dict[str, float] = {}
    for source, places in by_file.items():
        rows = [material.faces[place] for place in places]
        numbers = link_tracks([row.frame for row in rows], [_face_of(row) for row in rows])
        faces = []
        for place, row, number in zip(places, rows, numbers, strict=True):
            tracks[place] = number
            faces.append(
                FaceScore(
                    *(row.frame, row.time_s, row.face, row.box_xyxy, row.confidence),
                    p_fake=float(p_fake[place]),
                    track=number,
                )
            )
        answer = aggregate(faces, aggregation)
        if answer is not None:
            answers[source] = answer
    return Predictions(material, embedded, p_fake, tuple(tracks), answers)


def _face_of(row: CropRow) -> Face:
    landmarks = np.array(row.landmarks, np.float32).reshape(5, 2)
    return Face(np.array(row.box_xyxy, np.float32), row.confidence, landmarks)
