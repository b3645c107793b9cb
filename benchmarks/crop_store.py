"""Crops at random and in order from a tar a shard, against a file each.

    python benchmarks/crop_store.py [--crops 20000] [--size 224] [--rounds 3] [--folder DISK]

Copies of a few drawn faces, stored in both ways by the crop job's own writers, in shards as large
as a job of so many photos has. Rates are crops a second of one thread: the bytes of a crop read and
checked against its checksum, and the samples that training takes (the same, decoded), each in a
random order and in that of the manifest, which all sides share. Gated on the same bytes of every
crop, and on the same manifest. A line of each store tells how many files it has on the disk, what
they take, and how long it took to write and to open it. What was just written is read from memory
where it fits: ``--folder`` names a place on the disk in question, and only more ``--crops`` than
memory holds ask it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from deepfake.dataset.crop_folder import KIND, write_tables
from deepfake.dataset.crop_store import CropStore, StoreKind, name_crop, write_crops
from deepfake.dataset.manifest import (
    STORE,
    CropRows,
    make_crop_row,
    make_source_row,
    read_manifest,
    write_rows,
)
from deepfake.faces.extraction import encode_crop
from deepfake.jobs.folder import JobFolder
from deepfake.jobs.parts import choose_block_size
from deepfake.learning.crops import CropDataset
from deepfake.records import CropSpec, Face, FaceCrop, Sampling, Source, Status

_DRAWN = 64
_KINDS: tuple[StoreKind, ...] = ("folder", "tar")
_OPEN = Path("/proc/self/fd")
"""What this process has open, on Linux."""


def main() -> None:
    """Print the rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=20_000)
    parser.add_argument("--reads", type=int, default=10_000, help="crops of a round, at most")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the crops go for the while")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        roots = {kind: Path(name) / kind for kind in _KINDS}
        encoded = draw(options.size)
        for kind, root in roots.items():
            began_s = time.perf_counter()
            write(root, kind, options.crops, options.size, encoded)
            wrote_s = time.perf_counter() - began_s
            began_s = time.perf_counter()
            CropStore(root, [row.crop for row in read_manifest(root).rows])
            print(describe(root, kind, wrote_s, time.perf_counter() - began_s), flush=True)
        rows = check_equal(roots)
        compare(roots, rows, options)


def draw(size: int) -> list[bytes]:
    """Soft pictures with grain, as JPEG of the crop job's own quality."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(_DRAWN):
        shades = cv2.resize(
            rng.uniform(40, 200, (12, 12, 3)), (size, size), interpolation=cv2.INTER_CUBIC
        )
        grained = np.clip(shades + rng.normal(0, 6, shades.shape), 0, 255).astype(np.uint8)
        pictures.append(encode_crop(grained, CropSpec().jpeg_quality))
    return pictures


def write(root: Path, kind: StoreKind, number: int, size: int, encoded: Sequence[bytes]) -> None:
    """A finished crop folder: a photo, and so a row, a crop, as the job would leave it."""
    root.mkdir()
    folder, block_size = JobFolder(root, KIND), choose_block_size(number)
    settings = {
        "crop_spec": CropSpec(size=size).to_dict(),
        "sampling": Sampling().to_dict(),
        "versions": {},
        "inputs": number,
        "block_size": block_size,
        "part": None,
        STORE: kind,
    }
    folder.begin([], settings)
    blocks = range(-(-number // block_size))
    for block in blocks:
        aside = folder.open_block(block)
        places = range(block * block_size, min((block + 1) * block_size, number))
        sources = [Source(f"{n:016x}", Path(f"{n}.png"), f"{n}.png", label=n % 2) for n in places]
        rows = []
        with write_crops(aside, kind) as writer:
            for n, source in zip(places, sources, strict=True):
                crop = make_crop(encoded[n % len(encoded)], size)
                row = make_crop_row(source, crop, name_crop(block, f"{source.id}_0_0.jpg"))
                writer.add(row, crop.encoded)
                rows.append(row)
        write_rows(aside, rows, [make_source_row(one, Status.OK, "", 1) for one in sources])
        folder.seal(block, aside, {source.id: "" for source in sources})
    write_tables(folder, blocks)


def make_crop(encoded: bytes, size: int) -> FaceCrop:
    """A crop that shows a whole photo."""
    box, landmarks = np.array([0, 0, size, size], np.float32), np.zeros((5, 2), np.float32)
    face = Face(box, 1.0, landmarks)
    return FaceCrop(
        frame_index=0,
        time_s=0.0,
        face_index=0,
        face=face,
        rotation=0,
        encoded=encoded,
        window=(0, 0, size, size),
    )


def describe(root: Path, kind: StoreKind, wrote_s: float, opened_s: float) -> str:
    """A line about what lies on the disk."""
    sizes = [path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file()]
    return (
        f"{kind:<6}  {len(sizes):>9,} files  {sum(sizes) / 1e6:9,.0f} MB on the disk  "
        f"written in {wrote_s:.1f} s  opened in {opened_s:.2f} s"
    )


def check_equal(roots: dict[StoreKind, Path]) -> CropRows:
    """The rows that both stores have, and the bytes of whose crops are the same."""
    manifests = [read_manifest(root) for root in roots.values()]
    if len({manifest.sha256 for manifest in manifests}) > 1:
        raise SystemExit("not equal: the manifests differ")
    rows = manifests[0].rows
    one, other = (CropStore(root, [row.crop for row in rows]) for root in roots.values())
    for row in rows:
        if one.read(row.crop) != other.read(row.crop):
            raise SystemExit(f"not equal: {row.crop} has other bytes")
    return rows


def compare(roots: dict[StoreKind, Path], rows: CropRows, options: argparse.Namespace) -> None:
    """A line for each order and each thing that is read."""
    number = min(options.reads, len(rows))
    shuffled = random.Random(0).sample(range(len(rows)), number)
    start = random.Random(1).randrange(len(rows) - number + 1)
    orders = {"random": shuffled, "in order": list(range(start, start + number))}
    for what in ("bytes", "samples"):
        for order, indices in orders.items():
            readers = {
                kind: make_reader(what, root, rows, options.size) for kind, root in roots.items()
            }
            rates: dict[StoreKind, list[float]] = {kind: [] for kind in _KINDS}
            n_open = dict.fromkeys(_KINDS, 0)
            for _ in range(options.rounds):
                for kind, read in readers.items():
                    before = count_open()
                    rates[kind].append(measure(read, indices))
                    n_open[kind] += count_open() - before
            ratios = sorted(
                tar / folder for folder, tar in zip(rates["folder"], rates["tar"], strict=True)
            )
            shown = "  ".join(
                f"{kind} {statistics.median(rates[kind]):8,.0f}/s ({n_open[kind]} files open)"
                for kind in _KINDS
            )
            median = statistics.median(ratios)
            print(
                f"{what:<7} {order:<8}  {shown}  x{median:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
                flush=True,
            )


def make_reader(what: str, root: Path, rows: CropRows, size: int) -> Callable[[int], object]:
    """Reads a crop of a store, by its row."""
    if what == "samples":
        return CropDataset(root, rows, size).__getitem__
    store = CropStore(root, [row.crop for row in rows])
    return lambda index: store.read(rows[index].crop)


def measure(read: Callable[[int], object], indices: Sequence[int]) -> float:
    """Crops a second."""
    began_s = time.perf_counter()
    for index in indices:
        read(index)
    return len(indices) / (time.perf_counter() - began_s)


def count_open() -> int:
    """Files that this process has open; 0 where the system does not list them."""
    return len([*_OPEN.iterdir()]) if _OPEN.exists() else 0


if __name__ == "__main__":
    main()
