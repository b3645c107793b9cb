"""Where in the tar of its shard each crop lies: the table beside the tar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deepfake.errors import UsageError
from deepfake.tables import CsvRow, format_lines, read_csv

CROPS_FOLDER, TAR_FILE, INDEX_FILE = "crops", "crops.tar", "crops.csv"
"""Of a shard: its crops as files or in a tar, and the index of that."""
_COLUMNS = ("crop", "offset", "bytes", "sha256")


class Place(NamedTuple):
    """Where in its tar the bytes of a crop lie, and their checksum."""

    offset: int
    n_bytes: int
    sha256: str


def shard_of(crop: str) -> str:
    """The folder of the shard of a crop, by the name that the manifest has for it."""
    return PurePosixPath(crop).parent.parent.as_posix()


def tar_of(crop: str) -> str:
    """The tar of a crop."""
    return f"{shard_of(crop)}/{TAR_FILE}"


def format_index(places: Iterable[tuple[str, Place]]) -> Iterator[str]:
    """Lines of ``crops.csv``: each crop by the name of its file, in the order of the tar."""
    return format_lines(_COLUMNS, ((name, *place) for name, place in places))


def read_index(shard: Path) -> dict[str, Place]:
    """Read the index of a shard.

    Raises:
        UsageError: If it is missing or damaged.
    """
    path = shard / INDEX_FILE
    return {row["crop"]: _parse(path, row) for row in read_csv(path, _COLUMNS)}


def _parse(path: Path, row: CsvRow) -> Place:
    try:
        place = Place(int(row["offset"]), int(row["bytes"]), row["sha256"])
        if min(place.offset, place.n_bytes) < 0:
            raise ValueError(f"offset {place.offset}, bytes {place.n_bytes}; expected counts")
    except ValueError as error:
        raise UsageError(f"{path}:{row.line}: {error}; was the table edited?") from error
    return place
