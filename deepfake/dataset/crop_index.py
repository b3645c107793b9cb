"""What a shard says of its crops: where in its tar each lies, and its checksum."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deepfake.dataset.columns import COUNT, TEXT, ColumnKind, PackedRows
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


class _KnownRow(NamedTuple):
    name: str
    offset: int
    n_bytes: int
    sha256: bytes


_KINDS = {
    "name": TEXT, "offset": COUNT, "n_bytes": COUNT, "sha256": ColumnKind(f"V{_DIGEST_BYTES}"),
}  # fmt: skip


class KnownCrops:
    """What shards say of their crops.

    Args:
        shards: Their folders, as the manifest names them, and the crops of each by the names of
            their files.
    """

    def __init__(self, shards: Iterable[tuple[str, Mapping[str, Place]]]) -> None:
        self._bounds: dict[str, tuple[int, int]] = {}

        def list_crops() -> Iterator[_KnownRow]:
            end = 0
            for shard, places in shards:
                start, end = end, end + len(places)
                self._bounds[shard] = start, end
                yield from (_KnownRow(name, *places[name]) for name in sorted(places))

        self._rows = PackedRows.pack(_KnownRow, _KINDS, list_crops())
        self._names = self._rows.texts("name")

    def find(self, crop: str) -> Place | None:
        """Where a crop lies, as the manifest calls it; ``None`` if it is not known."""
        start, end = self._bounds.get(shard_of(crop), (0, 0))
        name = PurePosixPath(crop).name
        place = bisect_left(self._names, name, start, end)
        if place == end:
            return None
        known = self._rows[place]
        return Place(known.offset, known.n_bytes, known.sha256) if known.name == name else None


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
