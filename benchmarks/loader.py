"""Crops from disk to batches, against a plain Pillow + albumentations + ``ToTensor`` loop.

    python benchmarks/loader.py [--sizes 224 380] [--workers 0 1 2] [--rounds 3]

Both sides read the same JPEG crops, apply the same recipe with the same random numbers and stack
batches. Ours hands over bytes, which the network normalises on its device; theirs normalises here,
as the usual tutorial does. Gated on pixels that differ by at most 2 of 255 after decoding (Pillow
and OpenCV bring decoders of their own) and by nothing between workers. Rates are samples a second
on one thread, and with worker processes in all; where a GPU is at hand, with pinned memory too.
The last line of a size is ours alone: recipe ``degraded`` where every fourth crop is a real blended
with itself by a mesh of 468 points, as in batches half of which are reals and their blends, against
the same recipe without blends; and the CPU time of each extra, in milliseconds a crop.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepfake.augment.recipes import (
    EXTRAS,
    RECIPES,
    AugmentationSettings,
    apply_extra,
    sample_seed,
)
from deepfake.dataset.rows import CropRow, require_label
from deepfake.faces.extraction import encode_crop
from deepfake.learning.batches import SampleKey
from deepfake.learning.crops import CropDataset
from deepfake.learning.loader import make_loader
from deepfake.records import CropSpec

import albumentations as A  # isort: skip # after our own import, which keeps it off the network

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """Open, convert, augment, normalise, transpose."""

    def __init__(self, root: Path, rows: list[CropRow], recipe: str | None) -> None:
        self.root, self.rows = root, rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pipeline = A.Compose(RECIPES[recipe]() if recipe else [])
        self.normalise = A.Normalize(_MEAN, _STD)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = np.asarray(Image.open(self.root / self.rows[index].crop).convert("RGB"))
        seed = sample_seed(0, 0, index)
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        image = self.normalise(image=self.pipeline(image=image)["image"])["image"]
        return torch.from_numpy(image.transpose(2, 0, 1)).contiguous(), require_label(
            self.rows[index]
        )


def main() -> None:
    """Print the rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 380])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crops", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows = write_crops(Path(folder), size, options.crops)
            difference = compare_pixels(Path(folder), rows, size)
            print(f"{size} px, decoded pixels differ by at most {difference}")
            for recipe in (None, *RECIPES):
                for workers in options.workers:
                    print(compare(Path(folder), rows, size, recipe, workers, options), flush=True)
            for workers in options.workers:
                print(compare_blends(Path(folder), rows, size, workers, options), flush=True)
            print(time_extras(Path(folder), rows, size), flush=True)


def compare(
    root: Path,
    rows: list[CropRow],
    size: int,
    recipe: str | None,
    workers: int,
    options: argparse.Namespace,
) -> str:
    """One row: a recipe and a number of workers."""
    chosen: Any = recipe or "light"
    settings = AugmentationSettings(chosen)
    ours = CropDataset(root, rows, size, 0, settings)
    theirs = PlainDataset(root, rows, recipe)
    keys = [SampleKey(0, index, recipe is not None) for index in range(len(rows))]
    batches = [keys[at : at + options.batch_size] for at in range(0, len(keys), options.batch_size)]
    rates: tuple[list[float], list[float]] = ([], [])
    pinned = [False, True] if torch.cuda.is_available() else [False]
    line = f"  {recipe or 'none':<6} {workers} workers"
    for pin in pinned:
        for _ in range(options.rounds):
            sides: tuple[DataLoader[Any], DataLoader[Any]] = (
                make_loader(ours, workers, pin, batches=batches),
                DataLoader(theirs, options.batch_size, num_workers=workers, pin_memory=pin),
            )
            for side, loader in enumerate(sides):
                rates[side].append(len(rows) / drain(loader))
        ratios = sorted(o / t for o, t in zip(*rates, strict=True))
        line += (
            f"{'  pinned' if pin else ''}  {statistics.median(rates[0]):6.0f}/s  "
            f"x{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        )
    return line


def compare_blends(
    root: Path, rows: list[CropRow], size: int, workers: int, options: argparse.Namespace
) -> str:
    """One row: ours with every fourth crop self-blended, against ours without."""
    dataset = CropDataset(root, rows, size, 0, AugmentationSettings("degraded"))
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(options.rounds):
        for with_blends, found in rates.items():
            keys = [
                SampleKey(0, index - index % 2, True, with_blends and index % 4 == 1)
                for index in range(len(rows))
            ]
            step = options.batch_size
            batches = [keys[at : at + step] for at in range(0, len(keys), step)]
            found.append(len(rows) / drain(make_loader(dataset, workers, False, batches=batches)))
    ratios = sorted(o / t for o, t in zip(rates[True], rates[False], strict=True))
    return (
        f"  blends {workers} workers  {statistics.median(rates[True]):6.0f}/s  "
        f"x{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) of no blends"
    )


def time_extras(root: Path, rows: list[CropRow], size: int) -> str:
    """One row: what each extra costs where it is a crop's turn."""
    dataset = CropDataset(root, rows, size)
    crops = [(dataset.read(row), dataset.points(row)) for row in rows]
    costs = []
    for name in EXTRAS:
        rng = np.random.default_rng(0)
        began_s = time.process_time()
        for crop, points in crops:
            apply_extra(name, crop, points, rng)
        costs.append(f"{name} {1000 * (time.process_time() - began_s) / len(crops):.1f} ms")
    return f"  {', '.join(costs)}"


def drain(loader: DataLoader[Any]) -> float:
    """Seconds from the first batch to the last, per batch times their number.

    The start of the workers is left out: a training pays for it once an epoch.
    """
    iterator = iter(loader)
    started_s = time.perf_counter()
    if loader.num_workers:
        next(iterator)
        began_s = time.perf_counter()
        n_batches = sum(1 for _ in iterator)
        return (time.perf_counter() - began_s) * (n_batches + 1) / max(n_batches, 1)
    for _ in iterator:
        pass
    return time.perf_counter() - started_s


def compare_pixels(root: Path, rows: list[CropRow], size: int) -> int:
    """The largest difference between the two decoders; between workers there must be none."""
    ours = CropDataset(root, rows, size)
    worst = 0
    for index, row in enumerate(rows):
        theirs = np.asarray(Image.open(root / row.crop).convert("RGB")).astype(int)
        found = ours[index]["image"].numpy().transpose(1, 2, 0)
        worst = max(worst, int(np.abs(found - theirs).max()))
    if worst > 2:
        raise SystemExit(f"not equal: decoded pixels differ by {worst}")
    keys = [[SampleKey(1, index, True) for index in range(len(rows))]]
    alone, shared = (
        next(iter(make_loader(ours, workers, False, batches=keys)))["image"] for workers in (0, 2)
    )
    if not torch.equal(alone, shared):
        raise SystemExit("not equal: workers change the pixels")
    return worst


def write_crops(root: Path, size: int, number: int) -> list[CropRow]:
    """A folder of soft pictures with grain, as JPEG of the crop job's own quality."""
    rng = np.random.default_rng(0)
    quality = CropSpec().jpeg_quality
    # Without results, as from before there were checksums: neither side looks at any.
    (root / "job.json").write_text('{"crop_spec": {}, "sampling": {}, "versions": {}}')
    rows = []
    for index in range(number):
        shades = rng.uniform(40, 200, (12, 12, 3))
        picture = cv2.resize(shades, (size, size), interpolation=cv2.INTER_CUBIC)
        picture = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        (root / f"{index}.jpg").write_bytes(encode_crop(picture, quality))
        rows.append(make_row(f"{index}.jpg", index % 2, size))
    return rows


def make_row(file: str, label: int, size: int) -> CropRow:
    """A row of a manifest that names a file and a label."""
    return CropRow(
        crop=file,
        source=file,
        frame=0,
        time_s=0.0,
        face=0,
        label=label,
        method="",
        group=file,
        split="train",
        box_xyxy=(0.0, 0.0, float(size), float(size)),
        confidence=1.0,
        landmarks=tuple(float(value) for value in (draw_mesh() * size).ravel()),
        rotation=0,
        window=(0, 0, size, size),
    )


def draw_mesh() -> NDArray[np.float64]:
    """468 points within an ellipse, ``(468, 2)`` in shares of a crop."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, 468), np.sqrt(rng.uniform(0, 1, 468))
    return 0.5 + np.stack([0.3 * radius * np.cos(angle), 0.4 * radius * np.sin(angle)], axis=1)


if __name__ == "__main__":
    main()
