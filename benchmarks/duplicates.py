"""Near-duplicates among many hashes, against comparing all pairs.

    python benchmarks/duplicates.py [--sizes 100000 1000000] [--crops CROPS]

Random 64-bit hashes in three splits, with 1,000 planted twins of 0 to 4 changed bits. Gated on the
same pairs as brute force at 20,000 hashes; beyond that, on all planted twins being found. Of a crop
folder also what it takes to read and hash it, as training does before its first step.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.duplicates import MAX_DISTANCE, find_pairs
from deepfake.dataset.looks import Looks
from deepfake.dataset.manifest import read_manifest

_TWINS = 1000
_GATED = 20_000
Hashes = NDArray[np.uint64]


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--crops", type=Path, help="folder that crop.py wrote")
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
        looks = Looks.take(manifest)
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        count = len(manifest.rows)
        print(
            f"{count:>9,} crops of {manifest.spec.size} px: {wall_s:.1f} s, "
            f"{1e3 * cpu_s / count:.2f} ms of processor time each; {looks.seen.sum():,} hashed"
        )


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
