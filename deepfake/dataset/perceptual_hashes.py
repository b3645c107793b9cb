"""Perceptual hashes of a crop folder: each crop read once, at a fraction of its size, and hashed.

Finds the near-duplicates in two splits, for the doctor and before a training. Knows no label, and
no group.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from deepfake.dataset.columns import COUNT, ColumnKind, PackedRows
from deepfake.dataset.crop_store import CropStore
from deepfake.dataset.duplicates import (
    MIN_CORRELATION,
    correlate,
    find_pairs,
    hash_thumbnail,
    shrink_for_hash,
)
from deepfake.dataset.manifest import Manifest
from deepfake.dataset.splits import number_splits
from deepfake.dataset.texts import Texts
from deepfake.progress import track

_CHUNK = 512
_PNG_MAGIC = b"\x89PNG"


@dataclass(frozen=True, slots=True)
class PerceptualHashes:
    """What reading the crops of a folder gave, a value per row of its manifest.

    Args:
        store: The crops.
        files: Their names.
        digests: SHA-1 of the file, ``(N,)`` bytes, empty where it is missing.
        hashes: Perceptual hash, ``(N,)``; of no meaning where there is no content.
        has_content: Whether the crop can be read and is not of one colour, ``(N,)``.
        sizes: Bytes of the file, ``(N,)``.
        problems: Why it cannot be read, by row.
        scale: Which reduced size it is decoded at, a flag of OpenCV.
    """

    store: CropStore
    files: Texts
    digests: NDArray[np.bytes_]
    hashes: NDArray[np.uint64]
    has_content: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    problems: dict[int, str]
    scale: int

    @classmethod
    def compute(
        cls, manifest: Manifest, threads: int | None = None, quiet: bool = True
    ) -> PerceptualHashes:
        """Read every crop once.

        Args:
            manifest: Which crops.
            threads: How many read; ``None`` takes a few more than there are CPUs.
            quiet: Show no progress.
        """
        rows, scale = manifest.rows, _choose_scale(manifest.spec.size)
        store = CropStore(manifest.root, rows.values("crop"), allow_damage=True)
        read = partial(_read_crop, store, scale, manifest.spec.size)
        problems: dict[int, str] = {}

        def note(results: Iterable[_ReadCrop]) -> Iterator[_ReadCrop]:
            for row, crop in enumerate(track(results, len(rows), unit="crop", quiet=quiet)):
                if crop.problem:
                    problems[row] = crop.problem
                yield crop

        with ThreadPoolExecutor(threads) as pool:
            # In chunks: a pool takes all the work that it is given into its queue at once.
            files = rows.values("crop")
            chunks = iter(lambda: [*islice(files, _CHUNK)], [])
            results = (crop for chunk in chunks for crop in pool.map(read, chunk))
            found = PackedRows.pack(_ReadCrop, _KINDS, note(results))
        return cls(
            store,
            rows.texts("crop"),
            found.kept("digest"),
            found.kept("hashed"),
            found.kept("has_content"),
            found.kept("n_bytes"),
            problems,
            scale,
        )

    def find_look_alikes(
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
        numbers = number_splits(splits)
        rows = np.flatnonzero(self.has_content)
        pairs, stopped = find_pairs(self.hashes[rows], numbers[rows], limit=limit)
        alike = []
        for one, other in rows[pairs].tolist():
            correlation = self._correlate(one, other)
            if correlation >= MIN_CORRELATION:
                alike.append((correlation, one, other))
        return sorted(alike, key=lambda pair: -pair[0]), stopped

    def _correlate(self, one: int, other: int) -> float:
        """How alike two crops are that were read before; 0 if one has gone since."""
        thumbnails = []
        for row in (one, other):
            try:
                crop = _decode(self.store.read_unchecked(self.files[row]), self.scale)
            except OSError:
                crop = None
            if crop is None:
                return 0.0
            thumbnails.append(shrink_for_hash(crop))
        return correlate(*thumbnails)


class _ReadCrop(NamedTuple):
    digest: bytes = b""
    n_bytes: int = 0
    hashed: int | None = None
    problem: str = ""

    @property
    def has_content(self) -> bool:
        return self.hashed is not None


_KINDS = {
    "digest": ColumnKind("S20"),
    "n_bytes": COUNT,
    "hashed": ColumnKind(np.uint64, encode=lambda hashed: hashed or 0),
    "has_content": ColumnKind(np.bool_),
}


def _read_crop(store: CropStore, scale: int, size: int, file: str) -> _ReadCrop:
    try:
        # Damage to a shard is the doctor's to find; what is looked for here is what a crop shows.
        data = store.read_unchecked(file)
    except OSError as error:
        return _ReadCrop(problem=error.strerror or str(error))
    crop = _decode(data, scale)
    digest = hashlib.sha1(data, usedforsecurity=False).digest()
    problem = "cannot be decoded" if crop is None else _find_wrong_size(data, size)
    hashed = None if crop is None else hash_thumbnail(shrink_for_hash(crop))
    return _ReadCrop(digest, len(data), hashed, problem)


def _find_wrong_size(data: bytes, size: int) -> str:
    """What is wrong with the size of a crop, which its header tells; may be empty."""
    try:
        if data.startswith(_PNG_MAGIC):
            width, height = struct.unpack(">II", data[16:24])
        else:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
    except (ValueError, struct.error):
        return "neither JPEG nor PNG"
    return "" if width == height == size else f"{width} x {height} pixels, expected {size} x {size}"


def _decode(data: bytes, scale: int) -> NDArray[np.uint8] | None:
    """A grey crop, ``(H, W)``, or ``None`` if it is damaged."""
    if not data:
        return None
    crop: Any = cv2.imdecode(np.frombuffer(data, np.uint8), scale)
    return None if crop is None else np.asarray(crop, np.uint8)


def _choose_scale(size: int) -> int:
    """Decode a JPEG at a fraction of its size, several times faster, with 64 px left at least."""
    if size >= 256:
        return cv2.IMREAD_REDUCED_GRAYSCALE_4
    return cv2.IMREAD_REDUCED_GRAYSCALE_2 if size >= 128 else cv2.IMREAD_GRAYSCALE
