"""Crops in, embeddings and sharpness out, computed once and kept: a job of ``deepfake.jobs``.

They depend on network and crops alone, not on head, limits or aggregation. Knows no metric.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from deepfake.dataset.columns import MadeRows
from deepfake.dataset.crop_store import CropStore
from deepfake.dataset.rows import CropRow, CropRows
from deepfake.evaluation.sets import EvaluationSet
from deepfake.inference.backend import choose_devices
from deepfake.inference.scoring import CPU_FACES
from deepfake.jobs.engine import Block, Executor, Job, run_here
from deepfake.jobs.folder import JobFolder, read_shard
from deepfake.learning.batches import SampleKey
from deepfake.learning.checkpoint import Checkpoint, describe_versions
from deepfake.learning.crops import CropDataset, Sample, require_unit
from deepfake.learning.folding import copy_for_scoring
from deepfake.learning.loader import make_loader
from deepfake.learning.tuning import keep_freed_memory
from deepfake.progress import Progress
from deepfake.records import Source
from deepfake.storage import exclusive, no_space_is_an_error

KIND = "embedding"
_BLOCK_SIZE = 1024  # crops; a killed job has lost no more
_VECTORS_FILE, _SHARPNESS_FILE = "vectors.npy", "sharpness.npy"
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

    @classmethod
    def join(cls, parts: Iterable[Embeddings], n_rows: int, width: int) -> Embeddings:
        """Parts of so many rows together, ``(n_rows, width)``, which are held once.

        Raises:
            ValueError: If there are fewer or more.
        """
        vectors = np.empty((n_rows, width), np.float32)
        sharpness = np.empty(n_rows, np.float32)
        start = 0
        for part in parts:
            end = start + len(part.sharpness)
            vectors[start:end], sharpness[start:end] = part.vectors, part.sharpness
            start = end
        if start != n_rows:
            raise ValueError(f"{start} embeddings of {n_rows} crops")
        return cls(vectors, sharpness)

    def where(self, rows: NDArray[np.bool_] | slice) -> Embeddings:
        """Those of some crops."""
        return Embeddings(self.vectors[rows], self.sharpness[rows])


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
    """Embed crops of a folder, once each and in order, and hold all of it.

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
    parts = _embed_in_parts(root, rows, checkpoint, options, change)
    return Embeddings.join(parts, len(rows), checkpoint.head.embedding_dim)


def _embed_in_parts(
    root: Path,
    rows: Sequence[CropRow],
    checkpoint: Checkpoint,
    options: EmbedOptions,
    change: Change | None,
) -> Iterator[Embeddings]:
    dataset = _ChangedCrops(root, rows, checkpoint.recipe.crop.size, change)
    with Progress(len(rows), quiet=options.quiet, unit="crop") as progress:
        for part in _iter_embeddings(dataset, [range(len(rows))], checkpoint, options):
            yield part
            progress.advance(len(part.sharpness))


def _iter_embeddings(
    dataset: CropDataset,
    blocks: Iterable[Sequence[int]],
    checkpoint: Checkpoint,
    options: EmbedOptions,
) -> Iterator[Embeddings]:
    """Embed rows of a data set, lazily: batch by batch, and none reaches beyond a block."""
    device = choose_devices(options.device)[0]
    keep_freed_memory(device)
    embedder = copy_for_scoring(checkpoint.embedder, device)
    batch_size, processes = options.batch_size, options.processes
    if device.type == "cpu":  # the network needs the cores itself
        batch_size, processes = min(batch_size, CPU_FACES), 0

    def divide() -> Iterator[list[SampleKey]]:
        for block in blocks:
            for start in range(0, len(block), batch_size):
                yield [SampleKey(0, row, False) for row in block[start : start + batch_size]]

    for batch in make_loader(dataset, processes, batches=_Once(divide())):
        images = batch["image"].to(device)
        with torch.inference_mode():  # not where the generator waits: it would hold there, too
            vectors, sharpness = embedder(images).cpu(), measure_sharpness(images).cpu()
        require_unit(vectors, [dataset.rows[row] for row in batch["index"].tolist()])
        yield Embeddings(vectors.numpy(), sharpness.numpy())


class _Once(Sampler[list[SampleKey]]):
    """Batches that come from somewhere else, as a loader wants them."""

    def __init__(self, batches: Iterator[list[SampleKey]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return self._batches


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


@dataclass(frozen=True, slots=True)
class EmbedBlocks:
    """The work of an embedding job: fills blocks with what the network makes of crops.

    Args:
        root: The crop folder.
        rows: Rows of its manifest, one an input.
        checkpoint: Has the network.
        options: As of ``embed_crops``.
        change: As of ``embed_crops``.
    """

    root: Path
    rows: CropRows
    checkpoint: Checkpoint
    options: EmbedOptions
    change: Change | None

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """See ``deepfake.jobs.engine.Work``."""
        size = self.checkpoint.recipe.crop.size
        dataset = _ChangedCrops(self.root, self.rows, size, self.change)
        flying: deque[tuple[Block, list[int]]] = deque()

        def find_fresh() -> Iterator[list[int]]:
            for block in blocks:
                numbered = enumerate(block.inputs, start=block.first)
                fresh = [place for place, source in numbered if source.id not in block.kept]
                flying.append((block, fresh))
                yield flying[-1][1]

        waiting: list[Embeddings] = []
        for part in _iter_embeddings(dataset, find_fresh(), self.checkpoint, self.options):
            while not flying[0][1]:  # nothing of it was left to embed
                yield self._fill(flying.popleft()[0], [])
            waiting.append(part)
            if sum(len(one.sharpness) for one in waiting) == len(flying[0][1]):
                yield self._fill(flying.popleft()[0], waiting)
                waiting = []
        for done, _ in flying:
            yield self._fill(done, [])

    def _fill(self, block: Block, fresh: Sequence[Embeddings]) -> Block:
        """Write the arrays of a block, those of unchanged crops from the shards of old."""
        n_fresh = sum(len(one.sharpness) for one in fresh)
        computed = Embeddings.join(fresh, n_fresh, self.checkpoint.head.embedding_dim)
        new = zip(computed.vectors, computed.sharpness, strict=True)
        kept: dict[str, tuple[NDArray[np.float32], np.float32]] = {}
        for folder in set(block.kept.values()):
            shard = read_shard(folder)
            if shard is not None:
                known = _read_shard(folder)
                pairs = zip(known.vectors, known.sharpness, strict=True)
                # Of several shards that hold a crop, one holds it as it is now.
                kept |= {
                    id: pair
                    for id, pair in zip(shard.inputs, pairs, strict=True)
                    if block.kept.get(id) == folder
                }
        rows = [
            kept[source.id] if source.id in block.kept else next(new) for source in block.inputs
        ]
        np.save(block.folder / _VECTORS_FILE, np.stack([vector for vector, _ in rows]))
        np.save(block.folder / _SHARPNESS_FILE, np.stack([value for _, value in rows]))
        return block


def _make_source(store: CropStore, crop: str) -> Source:
    """A crop as the input of a job; its name is its id."""
    return Source(crop, store.file_of(crop), crop)


def _read_shard(folder: Path) -> Embeddings:
    arrays = [
        np.load(folder / name, allow_pickle=False) for name in (_VECTORS_FILE, _SHARPNESS_FILE)
    ]
    return Embeddings(*arrays)


def embed_once(
    dataset: EvaluationSet,
    checkpoint: Checkpoint,
    cache: Path | None,
    options: EmbedOptions = EmbedOptions(),
    change: Change | None = None,
    change_name: str = "",
    execute: Executor = run_here,
) -> Iterator[Embeddings]:
    """Embed a data set, as far as no earlier call has done it and kept it.

    Killed at any instant, it goes on where it stopped; of crops that have changed, and shards that
    are damaged, it does what they concern and no more.

    Nothing is done before the first part is asked for, and only one is held at a time: ten million
    embeddings are 20 GB.

    Args:
        dataset: The data set.
        checkpoint: Has the network; another head changes nothing here.
        cache: Folder of such jobs, ``None`` keeps nothing.
        options: As of ``embed_crops``.
        change: As of ``embed_crops``.
        change_name: Of the change, for the name of the job's folder.
        execute: Who does the work of a job that is kept.

    Yields:
        Embeddings of some faces, in order, until it was all of them.

    Raises:
        UsageError: If another process works on the same job, or its folder holds anything else.
        JobError: If a crop is missing or damaged, or the disk is full.
    """
    if cache is None:
        yield from _embed_in_parts(dataset.root, dataset.faces, checkpoint, options, change)
        return
    network = hash_network(checkpoint)
    name = hashlib.sha256(f"{dataset.name}/{dataset.split}".encode()).hexdigest()
    root = cache / f"{network[:16]}-{name[:16]}{change_name and f'-{change_name}'}"
    rows = dataset.faces
    store = CropStore(dataset.root, rows.values("crop"))
    sources = MadeRows(rows.texts("crop"), partial(_make_source, store))

    def digest(inputs: Sequence[Source]) -> dict[str, str]:
        # As they were written; a crop that is not so any more is an error where it is read.
        return {one.id: store.digest(one.id) for one in inputs}

    with no_space_is_an_error(root):
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root):
            job = Job(JobFolder(root, KIND), sources, _BLOCK_SIZE, digest=digest)
            job.begin(
                (f"{crop}\n" for crop in rows.values("crop")),
                {
                    "network_sha256": network,
                    "change": change_name,
                    "size": checkpoint.recipe.crop.size,
                    "versions": describe_versions(),
                },
                anew=True,  # it is kept to save time, and nobody asks for what is in it
            )
            todo = job.find_todo()
            left = job.count_inputs(todo)
            work = EmbedBlocks(dataset.root, rows, checkpoint, options, change)
            with Progress(len(rows), len(rows) - left, options.quiet, "crop") as progress:
                for block in job.run(todo, work, execute):
                    progress.advance(job.count_inputs([block]))
            for block in job.blocks:
                yield _read_shard(job.folder.folder_of(block))


def hash_network(checkpoint: Checkpoint) -> str:
    """SHA-256 of the network's weights alone: a new head leaves it as it is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.embedder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
