"""Crops in, embeddings and sharpness out, computed once and kept.

They depend on network and crops alone, not on head, threshold or aggregation. Knows no metric.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfake.dataset.manifest import CropRow
from deepfake.evaluation.sets import EvaluationSet
from deepfake.inference.backend import choose_devices
from deepfake.inference.scoring import CPU_FACES
from deepfake.learning.batches import SampleKey
from deepfake.learning.checkpoint import Checkpoint
from deepfake.learning.crops import CropDataset, Sample, require_unit
from deepfake.learning.loader import make_loader
from deepfake.learning.tuning import keep_freed_memory
from deepfake.progress import track
from deepfake.storage import write_atomic

logger = logging.getLogger(__name__)
Change = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


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
class EmbedOptions:
    """How crops pass the network; none of it changes an embedding by more than rounding.

    Args:
        device: As of ``Predictor``; of several the first one is used.
        batch_size: Crops per call of the network.
        processes: Processes that read crops for a GPU.
        quiet: Show no progress.
    """

    device: str = "auto"
    batch_size: int = 64
    processes: int = 0
    quiet: bool = True


def embed_crops(
    root: Path,
    rows: Sequence[CropRow],
    checkpoint: Checkpoint,
    options: EmbedOptions = EmbedOptions(),
    change: Change | None = None,
) -> Embeddings:
    """Embed crops of a folder, once each and in order.

    Args:
        root: The crop folder.
        rows: Rows of its manifest.
        checkpoint: Has the network.
        options: How.
        change: Is given every crop and a number of its own, and what it returns is embedded.

    Raises:
        JobError: If a crop is missing or damaged, or its embedding holds no numbers.
        UsageError: If the device does not exist.
    """
    device = choose_devices(options.device)[0]
    keep_freed_memory(device)
    embedder = checkpoint.embedder.to(device)
    dataset = _ChangedCrops(root, rows, checkpoint.recipe.crop.size, change)
    batch_size, processes = options.batch_size, options.processes
    if device.type == "cpu":  # the network needs the cores itself
        batch_size, processes = min(batch_size, CPU_FACES), 0
    batches = make_loader(dataset, processes, batch_size=batch_size)
    parts = [(torch.zeros(0, embedder.projection.out_features), torch.zeros(0))]
    with torch.inference_mode():
        for batch in track(batches, total=len(batches), unit="batch", quiet=options.quiet):
            images = batch["image"].to(device)
            parts.append((embedder(images).cpu(), measure_sharpness(images).cpu()))
    vectors, sharpness = (torch.cat(column) for column in zip(*parts, strict=True))
    require_unit(vectors, rows)
    return Embeddings(vectors.numpy(), sharpness.numpy())


def measure_sharpness(images: Tensor) -> Tensor:
    """How much fine detail crops hold: the variance of the Laplacian of their grey.

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
    dataset: EvaluationSet,
    checkpoint: Checkpoint,
    cache: Path | None,
    options: EmbedOptions = EmbedOptions(),
    change: Change | None = None,
    change_name: str = "",
) -> Embeddings:
    """Embed a data set, or read what an earlier call has kept.

    Args:
        dataset: The data set.
        checkpoint: Has the network; another head or threshold changes nothing here.
        cache: Folder of kept embeddings, ``None`` keeps nothing.
        options: As of ``embed_crops``.
        change: As of ``embed_crops``.
        change_name: Of the change, for the name of the file.
    """
    if cache is None:
        return embed_crops(dataset.root, dataset.faces, checkpoint, options, change)
    name = f"{hash_network(checkpoint)[:16]}-{dataset.sha256[:16]}"
    path = cache / f"{name}{change_name and f'-{change_name}'}.npz"
    wanted = (len(dataset.faces), checkpoint.embedder.projection.out_features)
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                known = Embeddings(file["vectors"], file["sharpness"])
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            logger.warning("%s is damaged (%s); computing the embeddings again", path, error)
        else:
            same_rows = known.vectors.shape == wanted and known.sharpness.shape == wanted[:1]
            is_number = known.vectors.dtype == np.float32 and np.isfinite(known.vectors).all()
            if same_rows and is_number:
                return known
            logger.warning(
                "%s holds other rows, or no numbers; computing the embeddings again", path
            )
    embeddings = embed_crops(dataset.root, dataset.faces, checkpoint, options, change)
    cache.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, vectors=embeddings.vectors, sharpness=embeddings.sharpness)
    write_atomic(path, buffer.getvalue())
    return embeddings


def hash_network(checkpoint: Checkpoint) -> str:
    """SHA-256 of the network's weights alone: a new head leaves it as it is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.embedder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
