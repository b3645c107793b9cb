"""The tables beside the crops: the only tie between the crop job and everything after it.

``manifest.csv`` has a row per crop, ``sources.csv`` a row per input, ``job.json`` the recipe and
the versions. Knows no image and no network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfake.dataset.rows import (
    MANIFEST_COLUMNS,
    SOURCE_COLUMNS,
    CropRow,
    CropRows,
    Row,
    SourceRow,
    SourceRows,
    format_manifest,
    format_sources,
    pack_crops,
    pack_sources,
    parse_crop_row,
    parse_source_row,
)
from deepfake.errors import UsageError
from deepfake.jobs import folder as job_folder
from deepfake.jobs.folder import JOB_FILE as JOB_FILE
from deepfake.jobs.folder import RESULTS, find_wrong_results, hash_file
from deepfake.records import CropSpec, Sampling
from deepfake.storage import Confinement
from deepfake.tables import CsvRow, iter_csv

MANIFEST_FILE = "manifest.csv"
SOURCES_FILE = "sources.csv"
TABLES = (MANIFEST_FILE, SOURCES_FILE)
STORE = "store"
"""Setting of a crop job: ``folder`` or ``tar``; one without it is of files."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A crop folder that was read and checked.

    Args:
        root: The folder.
        rows: One per crop.
        spec: The recipe that they were cut by.
        sampling: Which frames of videos they come from.
        versions: Packages that cut them.
        sha256: Of ``manifest.csv``.
    """

    root: Path
    rows: CropRows
    spec: CropSpec
    sampling: Sampling
    versions: dict[str, str]
    sha256: str


def write_rows(
    folder: Path, crop_rows: Iterable[CropRow], source_rows: Iterable[SourceRow]
) -> None:
    """Write both tables, first that of the crops, row by row as they come."""
    tables = zip(TABLES, (format_manifest(crop_rows), format_sources(source_rows)), strict=True)
    for name, lines in tables:
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)


def is_crop_folder(path: str | os.PathLike[str]) -> bool:
    """Whether an input is the folder of a job: no photos, but what was made of them."""
    return (Path(path) / JOB_FILE).is_file()


def read_manifest(root: Path) -> Manifest:
    """Read and check the tables of a crop folder.

    Raises:
        UsageError: If the folder holds no finished crop job, or a table is damaged.
    """
    job = read_job(root)
    if job.get("part") is not None:
        raise UsageError(
            f"{root} holds part {job['part']} of a crop job; put all parts together with: "
            "deepfake merge PART... --output CROPS"
        )
    _check_tables(root, job, MANIFEST_FILE)
    rows = read_crop_rows(root)
    confinement = Confinement(root)
    for crop in rows.values("crop"):
        confinement.path_of(crop)
    digest = hash_file(root / MANIFEST_FILE)
    spec, sampling = CropSpec.from_dict(job["crop_spec"]), Sampling.from_dict(job["sampling"])
    return Manifest(root, rows, spec, sampling, job["versions"], digest)


def read_sources(root: Path) -> SourceRows:
    """Read and check ``sources.csv`` of a finished crop folder.

    Raises:
        UsageError: If the table is missing or damaged.
    """
    _check_tables(root, read_job(root), SOURCES_FILE)
    return read_source_rows(root)


def _check_tables(root: Path, job: Mapping[str, Any], wanted: str) -> None:
    # A job without blocks is from before checksums were noted.
    Confinement(root).path_of(wanted)
    if ("block_size" in job and RESULTS not in job) or not (root / wanted).exists():
        lack = "" if (root / wanted).exists() else f" (no {wanted})"
        raise UsageError(
            f"{root} holds an unfinished crop job{lack}; run the same crop command again to "
            "finish it"
        )
    if wrong := find_wrong_results(root, job):
        raise UsageError(
            f"{root / wrong[0]} is not as it was written (its checksum is another); run the same "
            "crop command again to mend it"
        )


def read_crop_rows(folder: Path) -> CropRows:
    """The rows of the manifest in a crop folder or shard.

    Raises:
        UsageError: If the table is missing or damaged.
    """
    # Without window: an old table.
    return pack_crops(_iter_rows(folder / MANIFEST_FILE, MANIFEST_COLUMNS[:-1], parse_crop_row))


def read_source_rows(folder: Path) -> SourceRows:
    """The rows of ``sources.csv`` in a crop folder or shard; raises as ``read_crop_rows``."""
    return pack_sources(iter_source_rows(folder))


def iter_source_rows(folder: Path) -> Iterator[SourceRow]:
    """The same one by one, in the memory of one."""
    return _iter_rows(folder / SOURCES_FILE, SOURCE_COLUMNS, parse_source_row)


def name_crops(rows: CropRows, sources: SourceRows, places: Sequence[int]) -> dict[int, str]:
    """What a person knows some crops by: the path of their input, and their frame."""
    ids = {rows[place].source for place in places}
    paths: dict[str, str] = {
        id: path
        for id, path in zip(sources.values("id"), sources.values("path"), strict=True)
        if id in ids
    }
    frames: dict[str, set[int]] = {id: set() for id in ids}
    for id, frame in zip(rows.values("source"), rows.values("frame"), strict=True):
        if id in ids:
            frames[id].add(frame)

    def name(row: CropRow) -> str:
        numbered = len(frames[row.source]) > 1 or row.frame
        return paths.get(row.source, row.crop) + (f" frame {row.frame}" if numbered else "")

    return {place: name(rows[place]) for place in places}


def read_job(root: Path) -> dict[str, Any]:
    """Read ``job.json`` of a crop folder.

    Raises:
        UsageError: If there is none, or it is damaged.
    """
    path = root / JOB_FILE
    if not path.exists():
        make = f"deepfake crop {root} --output CROPS" if root.exists() else "deepfake crop"
        raise UsageError(f"{root} is not a crop folder (no {JOB_FILE}); make one with: {make}")
    job = job_folder.read_job(root)
    if not {"crop_spec", "sampling", "versions"} <= set(job):
        raise UsageError(f"{path} lacks 'crop_spec', 'sampling' or 'versions'; was it edited?")
    return job


def _iter_rows(path: Path, columns: Sequence[str], parse: Callable[[CsvRow], Row]) -> Iterator[Row]:
    for row in iter_csv(path, columns):
        try:
            yield parse(row)
        except ValueError as error:
            raise UsageError(f"{path}:{row.line}: {error}; was the table edited?") from error
