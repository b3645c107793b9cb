"""What a shard says of its crops: where in its tar each lies, and its checksum."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepfake.errors import UsageError
from deepfake.tables import CsvRow, format_lines, iter_csv

CROPS_FOLDER, TAR_FILE, INDEX_FILE = "crops", "crops.tar", "crops.csv"
"""Of a shard: its crops as files or in a tar, and the index of that."""
_COLUMNS = ("crop", "offset", "bytes", "sha256")
_DIGEST_BYTES = 32


class Place(NamedTuple):
    """Where in its tar the bytes of a crop lie, and their checksum."""

    offset: int
    n_bytes: int
    sha256: bytes


class KnownCrops:
    """What a shard says of its crops, in some 80 bytes each: there may be ten million.

    Args:
        places: By the names of their files.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        names = sorted(places, key=os.fsencode)
        self._names = np.array([os.fsencode(name) for name in names] or [b""])
        kept = [places[name] for name in names]
        self._offsets = np.array([place.offset for place in kept], np.int64)
        self._sizes = np.array([place.n_bytes for place in kept], np.int64)
        self._digests = b"".join(place.sha256 for place in kept)

    def find(self, name: str) -> Place | None:
        """Where a crop lies, by the name of its file; ``None`` if it is not known."""
        encoded = os.fsencode(name)
        place = bisect_left(self._names, encoded)  # faster than numpy's, for one of some hundreds
        if place >= len(self._offsets) or self._names[place] != encoded:
            return None
        digest = self._digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES]
        return Place(int(self._offsets[place]), int(self._sizes[place]), digest)


def shard_of(crop: str) -> str:
    """The folder of the shard of a crop, by the name that the manifest has for it."""
    return crop.rpartition("/")[0].rpartition("/")[0] or "."


def tar_of(crop: str) -> str:
    """The tar of a crop."""
    return f"{shard_of(crop)}/{TAR_FILE}"


def format_index(places: Iterable[tuple[str, Place]]) -> Iterator[str]:
    """Lines of ``crops.csv``: each crop by the name of its file, in the order of the tar."""
    rows = ((name, one.offset, one.n_bytes, one.sha256.hex()) for name, one in places)
    return format_lines(_COLUMNS, rows)


def read_index(shard: Path) -> dict[str, Place]:
    """Read the index of a shard.

    Raises:
        UsageError: If it is missing or damaged.
    """
    path = shard / INDEX_FILE
    return {row["crop"]: _parse(path, row) for row in iter_csv(path, _COLUMNS)}


def parse_digest(word: str) -> bytes:
    """A SHA-256 of 64 hexadecimal digits.

    Raises:
        ValueError: If it is none.
    """
    if not re.fullmatch("[0-9a-f]{64}", word):
        raise ValueError(f"sha256 {word!r:.80}; expected 64 hexadecimal digits")
    return bytes.fromhex(word)


def _parse(path: Path, row: CsvRow) -> Place:
    try:
        place = Place(int(row["offset"]), int(row["bytes"]), parse_digest(row["sha256"]))
        if not (0 <= place.offset < 2**63 and 0 <= place.n_bytes < 2**63):
            raise ValueError(f"offset {place.offset}, bytes {place.n_bytes}; expected counts")
    except ValueError as error:
        raise UsageError(f"{path}:{row.line}: {error}; was the table edited?") from error
    return place
