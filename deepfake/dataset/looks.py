"""How the crops of a folder look: each one read once, at a fraction of its size, and hashed.

Finds the near-duplicates in two splits, for the doctor and before a training. Knows no label, and
no group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.duplicates import (
    MIN_CORRELATION,
    correlate,
    find_pairs,
    hash_thumbnail,
    make_thumbnail,
)
from deepfake.dataset.manifest import Manifest
from deepfake.progress import track

_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Looks:
    """What reading the crops gave, a value per row.

    Args:
        root: The crop folder.
        digests: Digest of the file, empty where it is missing.
        hashes: Hash of how it looks; of no meaning where not ``seen``.
        seen: Whether it shows something.
        sizes: Bytes of the file.
        problems: Why it cannot be read, by row.
        files: Name of the file.
        scale: Which reduced size it is decoded at.
    """

    root: Path
    digests: list[bytes]
    hashes: NDArray[np.uint64]
    seen: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    problems: dict[int, str]
    files: list[str]
    scale: int

    @classmethod
    def take(cls, manifest: Manifest, workers: int | None = None, quiet: bool = True) -> Looks:
        """Read every crop once.

        Args:
            manifest: Which crops.
            workers: Threads; ``None`` takes a few more than there are processors.
            quiet: Show no progress.
        """
        files = [row.crop for row in manifest.rows]
        looks = cls(
            manifest.root,
            [],
            np.zeros(len(files), np.uint64),
            np.zeros(len(files), bool),
            np.zeros(len(files), np.int64),
            {},
            files,
            _choose_scale(manifest.spec.size),
        )
        with ThreadPoolExecutor(workers) as pool:
            for row, look in track(
                enumerate(looks._read_all(pool)), len(files), unit="crop", quiet=quiet
            ):
                digest, size, hashed, problem = look
                looks.digests.append(digest)
                looks.sizes[row] = size
                if hashed is not None:
                    looks.hashes[row], looks.seen[row] = hashed, True
                if problem:
                    looks.problems[row] = problem
        return looks

    def _read_all(self, pool: ThreadPoolExecutor) -> Iterator[tuple[bytes, int, int | None, str]]:
        # In chunks: a pool takes all the work that it is given into its queue at once.
        for start in range(0, len(self.files), _CHUNK):
            yield from pool.map(self._read, self.files[start : start + _CHUNK])

    def _read(self, file: str) -> tuple[bytes, int, int | None, str]:
        try:
            data = (self.root / file).read_bytes()
        except OSError as error:
            return b"", 0, None, error.strerror or str(error)
        picture = self._decode(data)
        digest = hashlib.sha1(data, usedforsecurity=False).digest()
        if picture is None:
            return digest, len(data), None, "cannot be decoded"
        return digest, len(data), hash_thumbnail(make_thumbnail(picture)), ""

    def _decode(self, data: bytes) -> NDArray[np.uint8] | None:
        if not data:
            return None
        picture: Any = cv2.imdecode(np.frombuffer(data, np.uint8), self.scale)
        return None if picture is None else np.asarray(picture, np.uint8)

    def find_alike(
        self, splits: Sequence[str], limit: int = 10_000
    ) -> tuple[list[tuple[float, int, int]], bool]:
        """Crops of different splits that look alike.

        Args:
            splits: Of each row.
            limit: Stop after so many pairs whose hashes are close.

        Returns:
            Correlation and the two rows of each pair, the most alike first; and whether the search
            was stopped.
        """
        numbers = {split: number for number, split in enumerate(sorted(set(splits)))}
        parts = np.array([numbers[split] for split in splits], np.int64)
        where = np.flatnonzero(self.seen)
        pairs, stopped = find_pairs(self.hashes[where], parts[where], limit=limit)
        alike = []
        for one, other in where[pairs].tolist():
            correlation = self._correlate(one, other)
            if correlation >= MIN_CORRELATION:
                alike.append((correlation, one, other))
        return sorted(alike, key=lambda pair: -pair[0]), stopped

    def _correlate(self, one: int, other: int) -> float:
        """How alike two crops are that were read before; 0 if one has gone since."""
        thumbnails = []
        for row in (one, other):
            path = self.root / self.files[row]
            picture = self._decode(path.read_bytes()) if path.is_file() else None
            if picture is None:
                return 0.0
            thumbnails.append(make_thumbnail(picture))
        return correlate(*thumbnails)


def _choose_scale(size: int) -> int:
    """Decode a JPEG at a fraction of its size, several times faster, with 64 px left at least."""
    if size >= 256:
        return cv2.IMREAD_REDUCED_GRAYSCALE_4
    return cv2.IMREAD_REDUCED_GRAYSCALE_2 if size >= 128 else cv2.IMREAD_GRAYSCALE
