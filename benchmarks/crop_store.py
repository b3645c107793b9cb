"""Crops at random and in order from a tar a shard, against a file each.

    python benchmarks/crop_store.py [--crops 20000] [--size 224] [--rounds 3] [--folder DISK]
    python benchmarks/crop_store.py --crops 1000000 --size 112 --no-sync        19 GB of disk

Copies of a few drawn faces, stored in both ways by the crop job's own writers, in shards as large
as a job of so many photos has. Rates are crops a second of one thread: the bytes of a crop read and
checked against its checksum, and the samples that training takes (the same, decoded), each in a
random order and in that of the manifest, which all sides share; ``--reads`` of them, drawn by
chance, in each round. Gated on the same manifest, the same checksum of every crop, and the same
bytes of those that are read. A line of each store tells how many files it has on the disk, what
they take, and how long it took to write and to open it. What was just written is read from memory
where it fits: ``--folder`` names a place on the disk in question, and only more ``--crops`` than
memory holds ask it. ``--no-sync`` writes without waiting for the disk: a million files that are
each waited for take most of an hour, and are read no faster.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from deepfake.dataset.crop_folder import KIND, write_tables
from deepfake.dataset.crop_store import CropStore, StoreKind, name_crop, write_crops
from deepfake.dataset.manifest import STORE, read_manifest, write_rows
from deepfake.dataset.rows import make_crop_row, make_source_row
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
    parser.add_argument("--no-sync", action="store_true", help="write without waiting for the disk")
    parser.add_argument("--folder", type=Path, help="where the crops go for the while")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    if options.no_sync:
        os.fsync = lambda fd: None
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        encoded = draw(options.size)
        opened = {}
        for kind in _KINDS:
            root, began_s = Path(name).resolve() / kind, time.perf_counter()
            write(root, kind, options.crops, options.size, encoded)
            wrote_s, began_s = time.perf_counter() - began_s, time.perf_counter()
            opened[kind] = Opened(root, options.size)
            opened_s = time.perf_counter() - began_s
            print(describe(root, kind, wrote_s, opened_s), flush=True)
        orders = choose_orders(options.crops, options.reads)
        check_equal(opened, orders)
        compare(opened, orders, options.rounds)


class Opened:
    """A store of crops, open for reading.

    Args:
        root: Its folder.
        size: Side of the crops in pixels.
    """

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.manifest = root, read_manifest(root)
        self.rows = self.manifest.rows
        self.store = CropStore(root, self.rows.values("crop"))
        self.samples = CropDataset(root, self.rows, size, store=self.store)

    def read(self, index: int) -> bytes:
        """The bytes of a crop."""
        return self.store.read(self.rows[index].crop)

    def count_open(self) -> int:
        """Files of it that this process has open; 0 where the system does not list them."""
        if not _OPEN.exists():
            return 0
        links = (path.readlink() for path in _OPEN.iterdir() if path.is_symlink())
        return sum(link.is_relative_to(self.root) for link in links)


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


def choose_orders(n_crops: int, n_reads: int) -> dict[str, list[int]]:
    """Which crops are read, at random and in a row."""
    number = min(n_reads, n_crops)
    start = random.Random(1).randrange(n_crops - number + 1)
    return {
        "random": random.Random(0).sample(range(n_crops), number),
        "in order": [*range(start, start + number)],
    }


def check_equal(opened: Mapping[StoreKind, Opened], orders: Mapping[str, Sequence[int]]) -> None:
    """End the program unless both hold the same."""
    one, other = opened.values()
    if one.manifest.sha256 != other.manifest.sha256:
        raise SystemExit("not equal: the manifests differ")
    for crop in one.rows.values("crop"):
        if one.store.digest(crop) != other.store.digest(crop):
            raise SystemExit(f"not equal: {crop} has another checksum")
    for index in chain(*orders.values()):
        if one.read(index) != other.read(index):
            raise SystemExit(f"not equal: {one.rows[index].crop} has other bytes")


def compare(
    opened: Mapping[StoreKind, Opened], orders: Mapping[str, Sequence[int]], n_rounds: int
) -> None:
    """A line for each order and each thing that is read."""
    for what in ("bytes", "samples"):
        for order, indices in orders.items():
            rates: dict[StoreKind, list[float]] = {kind: [] for kind in _KINDS}
            for _ in range(n_rounds):
                for kind, one in opened.items():
                    read = one.read if what == "bytes" else one.samples.__getitem__
                    rates[kind].append(measure(read, indices))
            ratios = sorted(
                tar / folder for folder, tar in zip(rates["folder"], rates["tar"], strict=True)
            )
            shown = "  ".join(
                f"{kind} {statistics.median(rates[kind]):8,.0f}/s ({one.count_open()} files open)"
                for kind, one in opened.items()
            )
            median = statistics.median(ratios)
            print(
                f"{what:<7} {order:<8}  {shown}  x{median:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
                flush=True,
            )


def measure(read: Callable[[int], object], indices: Sequence[int]) -> float:
    """Crops a second."""
    began_s = time.perf_counter()
    for index in indices:
        read(index)
    return len(indices) / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
