"""Near-duplicates: a 64-bit perceptual hash of an image, and all pairs of hashes that are close.

The hash is the sign pattern of the lowest frequencies of a 32 px thumbnail (a "pHash"): another
JPEG quality, size or brightness changes at most a few of its bits, another crop of the same photo
soon many (``benchmarks/duplicates.py`` measures how many copies are found again).
Pairs are found through buckets of equal bits, in close to linear time, and are then confirmed on
the thumbnails. Knows no file, label or group.

References:
    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010 (the hash);
    Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.large_arrays import find_changes

Hashes = NDArray[np.uint64]
Indices = NDArray[np.integer[Any]]

THUMBNAIL_PX = 32
MAX_DISTANCE = 4
"""Bits. Another JPEG quality, blur, noise, half the size and brightness stay within it nearly
always, a trim of a hundredth nine times in ten, one of two hundredths once in three; of faces of
different people, hardly one pair in 50 million does."""
MIN_CORRELATION = 0.95
"""Of the two thumbnails. The changes above leave 0.95 or more, faces of different people 0.7."""
_FLAT = 2.0  # grey levels: what is left of an image then is noise
_BUCKET = 256
_AT_ONCE = 1 << 16  # rows that are compared with those after them
_BITS = 64


def shrink_for_hash(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Shrink a grey image of any size to ``(32, 32)``."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small: NDArray[np.float32] = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    return small


def hash_thumbnail(thumbnail: NDArray[np.float32]) -> int | None:
    """64 bits of how a ``(32, 32)`` thumbnail looks, or ``None`` if it shows nothing.

    A flat image has no frequencies but noise; all flat images would be each other's twins.
    """
    if float(thumbnail.std()) < _FLAT:
        return None
    frequencies = cv2.dct(thumbnail)
    # The first one is the brightness.
    lowest = np.append(frequencies[:8, :8].ravel()[1:], frequencies[8, 0])
    bits = lowest > np.median(lowest)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def correlate(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Correlation of two thumbnails that are not flat, in [-1, 1]."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def find_pairs(
    hashes: Hashes, parts: Indices, max_distance: int = MAX_DISTANCE, limit: int = 10_000
) -> tuple[Indices, bool]:
    """Find the hashes that are close to one of another part (of another split).

    Two hashes that differ in at most ``d`` of 64 bits, divided into ``d + 2`` bands, agree in two
    bands at least. So for each two bands the hashes are sorted by the bits of both, and only equal
    ones compared: 15 sorts for ``d = 4``. A bucket that is too full, as many alike images make
    it, is divided again by the bits that are left; one of a single part is not looked at.

    Args:
        hashes: ``(N,)`` 64-bit hashes.
        parts: ``(N,)`` number of the part that each belongs to.
        max_distance: Largest number of bits that differ.
        limit: Stop when so many pairs were found.

    Returns:
        ``(M, 2)`` indices of the pairs, sorted, the smaller index first; and whether the search
        was stopped. Of rows with the same hash in the same part only the first is named.
    """
    codes = hashes.view(np.int64) if hashes.dtype == np.uint64 else hashes.astype(np.int64)
    # lexsort is stable: the first row of each (hash, part) stays first.
    order = np.lexsort((parts, codes))
    rows = order[find_changes(codes[order]) | find_changes(parts[order])]
    del order
    found: list[Indices] = []
    total = 0
    search = _Search(hashes[rows], parts[rows], max_distance)
    for pairs in search.run(np.arange(len(rows), dtype=np.int32), list(range(_BITS))):
        found.append(np.sort(rows[pairs], axis=1))
        total += len(pairs)
        if total >= 8 * limit:  # a pair is found through several bands
            unique = np.unique(np.concatenate(found), axis=0)
            if len(unique) >= limit:
                return unique[:limit], True
            found, total = [unique], len(unique)
    if not found:
        return np.empty((0, 2), np.int64), False
    unique = np.unique(np.concatenate(found), axis=0)
    return unique[:limit], len(unique) > limit


class _Search:
    """One search; ``run`` yields pairs of row numbers, some of them several times."""

    def __init__(self, hashes: Hashes, parts: Indices, max_distance: int) -> None:
        self.hashes, self.parts, self.max_distance = hashes, parts, max_distance

    def run(self, rows: Indices, bits: list[int]) -> Iterator[Indices]:
        """Pairs among rows that agree in all bits but these."""
        if len(rows) < 2:
            return
        n_bands = self.max_distance + 2
        if len(bits) < n_bands:
            yield from self._compare(rows, np.full(len(rows), len(rows)))
            return
        bands = [[int(bit) for bit in band] for band in np.array_split(bits, n_bands)]
        for one, other in combinations(bands, 2):
            mask = np.uint64(sum(1 << bit for bit in (*one, *other)))
            keys = self.hashes[rows] & mask
            order = np.argsort(keys, kind="stable")
            ordered, keys = rows[order], keys[order]
            starts = np.flatnonzero(find_changes(keys))
            sizes = np.diff(np.append(starts, len(keys)))
            del keys, order
            parts = self.parts[ordered]
            mixed = np.minimum.reduceat(parts, starts) < np.maximum.reduceat(parts, starts)
            del parts
            small = mixed & (sizes <= _BUCKET)
            yield from self._compare(
                ordered[np.repeat(small, sizes)],
                np.repeat(np.cumsum(sizes[small], dtype=np.int32), sizes[small]),
            )
            left = [bit for bit in bits if bit not in one and bit not in other]
            for bucket in np.flatnonzero(mixed & ~small):
                start = starts[bucket]
                yield from self.run(ordered[start : start + sizes[bucket]], left)

    def _compare(self, rows: Indices, ends: Indices) -> Iterator[Indices]:
        """Compare each row with those after it, up to the end of its bucket."""
        for start in range(0, len(rows), _AT_ONCE):
            active = np.arange(start, min(start + _AT_ONCE, len(rows)))
            step = 1
            while len(active := active[active + step < ends[active]]):
                one, other = rows[active], rows[active + step]
                close = self.parts[one] != self.parts[other]
                one, other = one[close], other[close]
                distance = np.bitwise_count(self.hashes[one] ^ self.hashes[other])
                near = distance <= self.max_distance
                if near.any():
                    yield np.stack([one[near], other[near]], axis=1)
                step += 1
