"""Near-duplicates among many hashes, against comparing all pairs.

    python benchmarks/duplicates.py [--sizes 100000 1000000] [--crops CROPS]

Random 64-bit hashes in three splits, with 1,000 planted twins of 0 to 4 changed bits. Gated on the
same pairs as brute force at 20,000 hashes; beyond that, on all planted twins being found. Of a crop
folder also what it takes to read and hash it, as training does before its first step; and of some
of its crops, drawn by a seed, how many are found again after a change, by the change: with a hash
within the distance and a thumbnail that correlates, as the doctor wants both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.duplicates import (
    MAX_DISTANCE,
    MIN_CORRELATION,
    correlate,
    find_pairs,
    hash_thumbnail,
    shrink_for_hash,
)
from deepfake.dataset.manifest import Manifest, read_manifest
from deepfake.dataset.perceptual_hashes import PerceptualHashes

_TWINS = 1000
_GATED = 20_000
Hashes = NDArray[np.uint64]
Grey = NDArray[np.uint8]


def _recompress(quality: int) -> Callable[[Grey], Grey]:
    def change(grey: Grey) -> Grey:
        data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)

    return change


def _trim(share: float) -> Callable[[Grey], Grey]:
    """Cut a share of the side off every border, and enlarge to the old size."""
    return _transform(scale=1 / (1 - 2 * share))


def _transform(
    scale: float = 1.0, shift: float = 0.0, degrees: float = 0.0
) -> Callable[[Grey], Grey]:
    def change(grey: Grey) -> Grey:
        size = len(grey)
        middle = (size - 1) / 2
        affine = cv2.getRotationMatrix2D((middle, middle), degrees, scale)
        affine[0, 2] += shift * size
        mirrored = cv2.BORDER_REFLECT_101
        return np.asarray(cv2.warpAffine(grey, affine, (size, size), borderMode=mirrored), np.uint8)

    return change


def _halve(grey: Grey) -> Grey:
    half = (len(grey) // 2, len(grey) // 2)
    return np.asarray(cv2.resize(grey, half, interpolation=cv2.INTER_AREA), np.uint8)


def _add_noise(grey: Grey) -> Grey:
    noise = np.random.default_rng(0).normal(0, 0.05 * 255, grey.shape)
    return np.asarray(np.clip(np.rint(grey + noise), 0, 255), np.uint8)


CHANGES = MappingProxyType[str, Callable[[Grey], Grey]](
    {
        "JPEG 50": _recompress(50),
        "JPEG 10": _recompress(10),
        "half the size": _halve,
        "blur of 1 px": lambda grey: np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0), np.uint8),
        "noise of 5 %": _add_noise,
        "20 % brighter": lambda grey: np.asarray(cv2.convertScaleAbs(grey, None, 1.2), np.uint8),
        "trimmed by 1 %": _trim(0.01),
        "trimmed by 2 %": _trim(0.02),
        "trimmed by 3 %": _trim(0.03),
        "shifted by 1 %": _transform(shift=0.01),
        "shifted by 2 %": _transform(shift=0.02),
        "turned by 1 degree": _transform(degrees=1.0),
        "turned by 3 degrees": _transform(degrees=3.0),
        "mirrored": lambda grey: np.asarray(cv2.flip(grey, 1), np.uint8),
    }
)
"""Names to what may be done to a copy."""


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--crops", type=Path, help="folder that crop.py wrote")
    parser.add_argument("--changed", type=int, default=1000, help="crops of it to change")
    options = parser.parse_args()

    hashes, parts = _make(_GATED)
    start = time.perf_counter()
    expected = _compare_all(hashes, parts)
    brute_s = time.perf_counter() - start
    start = time.perf_counter()
    found = {tuple(pair) for pair in find_pairs(hashes, parts)[0].tolist()}
    ours_s = time.perf_counter() - start
    if found != expected:
        raise SystemExit(f"other pairs than brute force: {len(found)} and {len(expected)}")
    print(f"{_GATED:>9,} hashes: {ours_s:.2f} s, all pairs {brute_s:.2f} s; same pairs")
    for size in options.sizes:
        hashes, parts = _make(size)
        start = time.perf_counter()
        pairs, _ = find_pairs(hashes, parts)
        ours_s = time.perf_counter() - start
        missing = {(i, size - _TWINS + i) for i in range(_TWINS)} - {
            tuple(pair) for pair in pairs.tolist()
        }
        if missing:
            raise SystemExit(f"{len(missing)} twins were not found")
        per_million = ours_s / size * 1e6
        print(
            f"{size:>9,} hashes: {ours_s:.2f} s, {per_million:.1f} s per million; all twins found"
        )
    if options.crops:
        manifest = read_manifest(options.crops)
        start, start_cpu = time.perf_counter(), time.process_time()
        read = PerceptualHashes.compute(manifest)
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        count = len(manifest.rows)
        print(
            f"{count:>9,} crops of {manifest.spec.size} px: {wall_s:.1f} s, "
            f"{1e3 * cpu_s / count:.2f} ms of CPU time each; {read.has_content.sum():,} hashed"
        )
        _print_recall(manifest, options.changed)


def _print_recall(manifest: Manifest, number: int) -> None:
    """How many of some crops are found again after each change."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(manifest.rows))[:number]
    found = dict.fromkeys(CHANGES, 0)
    seen = 0
    for row in rows:
        path = manifest.root / manifest.rows[row].crop
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise SystemExit(f"{path} cannot be read")
        picture = np.asarray(grey, np.uint8)
        if hash_thumbnail(shrink_for_hash(picture)) is None:
            continue
        seen += 1
        for name, change in CHANGES.items():
            found[name] += _is_found(picture, change(picture))
    print(f"{seen:>9,} of them changed, found again:")
    for name, hits in found.items():
        print(f"{name:>22}: {hits / max(seen, 1):.1%}")


def _is_found(picture: Grey, changed: Grey) -> bool:
    one, other = shrink_for_hash(picture), shrink_for_hash(changed)
    first, second = hash_thumbnail(one), hash_thumbnail(other)
    if first is None or second is None:
        return False
    near = (first ^ second).bit_count() <= MAX_DISTANCE
    return near and correlate(one, other) >= MIN_CORRELATION


def _make(size: int) -> tuple[Hashes, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, size, dtype=np.uint64)
    parts = rng.integers(0, 3, size)
    twins = hashes[:_TWINS].copy()
    for row in range(_TWINS):
        for bit in rng.choice(64, row % (MAX_DISTANCE + 1), replace=False):
            twins[row] ^= np.uint64(1 << int(bit))
    hashes[-_TWINS:] = twins
    parts[-_TWINS:] = (parts[:_TWINS] + 1) % 3
    return hashes, parts


def _compare_all(hashes: Hashes, parts: NDArray[np.int64]) -> set[tuple[int, ...]]:
    pairs: set[tuple[int, ...]] = set()
    for row in range(len(hashes)):
        near = np.bitwise_count(hashes[row + 1 :] ^ hashes[row]) <= MAX_DISTANCE
        others = np.flatnonzero(near & (parts[row + 1 :] != parts[row])) + row + 1
        pairs.update((row, int(other)) for other in others)
    return pairs


if __name__ == "__main__":
    main()
