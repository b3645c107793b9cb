"""A finished crop folder: the tables of its shards as one, their damage, and the face meshes.

Knows neither how crops are made nor who makes them, nor how they lie on disk (``crop_store``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from deepfake.dataset.crop_mirror import CropMirror, find_mirror
from deepfake.dataset.manifest import MANIFEST_FILE, SOURCES_FILE, TABLES, read_job
from deepfake.dataset.rows import MANIFEST_COLUMNS, SOURCE_COLUMNS
from deepfake.errors import JobError, UsageError
from deepfake.jobs.folder import RESULTS, JobFolder, hash_file, read_seal
from deepfake.records import Status
from deepfake.storage import exclusive, no_space_is_an_error, write_stream
from deepfake.tables import iter_csv

KIND = "crop"
MESH_FILE = "mesh.safetensors"
"""Of a shard: the face mesh of each crop that has one, by the name of the crop's file."""


@dataclass(frozen=True, slots=True)
class CropReport:
    """What a crop job came to; ``str()`` is its last line, whose counts add up.

    Args:
        output: The crop folder.
        statuses: Number of inputs per status.
        crops: Number of crops.
        skipped: Files of other kinds that a folder held, by suffix.
        duplicates: Lines of a CSV that named the same file again.
        was_finished: Whether nothing was left to do.
    """

    output: Path
    statuses: Counter[str]
    crops: int
    skipped: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    was_finished: bool = False

    @property
    def inputs(self) -> int:
        """Number of inputs: the sum of all statuses."""
        return sum(self.statuses.values())

    def __str__(self) -> str:
        parts = " + ".join(f"{self.statuses[status.value]:,} {status.value}" for status in Status)
        line = f"{self.inputs:,} inputs = {parts} -> {self.crops:,} crops in {self.output}"
        if self.skipped:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.skipped.items()))
            line += f"; {sum(self.skipped.values()):,} files of other kinds skipped ({kinds})"
        if self.duplicates:
            line += f"; {self.duplicates:,} repeated lines left out"
        return line


@contextmanager
def open_crop_folder(root: Path) -> Iterator[JobFolder]:
    """A folder for crops, made where it is not there, that belongs to this run alone.

    Raises:
        UsageError: If it is a file, or in use by another run.
        JobError: If the disk is full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        found = next((path for path in (root, *root.parents) if path.is_file()), root)
        raise UsageError(f"{found} is a file; name a folder for the crops") from None
    with no_space_is_an_error(root), exclusive(root):
        yield JobFolder(root, KIND)


def write_tables(folder: JobFolder, blocks: Sequence[int]) -> CropReport:
    """Put the tables of all shards together: the job is finished.

    Args:
        folder: Of the job.
        blocks: All blocks of the job, or of its part.
    """
    shards = [folder.folder_of(block) for block in blocks]
    statuses: Counter[str] = Counter()
    crops = 0
    for shard in shards:
        for row in iter_csv(shard / SOURCES_FILE, SOURCE_COLUMNS):
            statuses[row["status"]] += 1
            crops += int(row["faces"])
    for name, columns in ((SOURCES_FILE, SOURCE_COLUMNS), (MANIFEST_FILE, MANIFEST_COLUMNS)):
        write_stream(folder.root / name, _join(columns, (shard / name for shard in shards)))
    folder.conclude(TABLES)
    return CropReport(folder.root, statuses, crops)


def _join(columns: Sequence[str], tables: Iterable[Path]) -> Iterator[bytes]:
    yield (",".join(columns) + "\n").encode()
    for table in tables:
        yield table.read_bytes().split(b"\n", 1)[1]


def find_damaged_shards(root: Path) -> list[str]:
    """Shards of a finished crop folder that are not as they were written.

    Of one in a store none is known to be: its files come, and are compared, when they are read.
    """
    job, folder = read_job(root), JobFolder(root, KIND)
    if RESULTS not in job or find_mirror(root) is not None:
        return []
    blocks = range(-(-job.get("inputs", 0) // job.get("block_size", 1)))
    with ThreadPoolExecutor() as pool:
        whole = pool.map(lambda block: folder.read_shard(block) is not None, blocks)
        return [folder.folder_of(n).name for n, stands in enumerate(whole) if not stands]


def write_meshes(shard: Path, meshes: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the face meshes of a shard, each ``(468, 2)`` in pixels of its crop.

    Args:
        shard: The folder.
        meshes: By the name of the crop's file.
    """
    (shard / MESH_FILE).write_bytes(save(dict(meshes)))


class MeshFiles:
    """Face meshes of crops, read from their shards when they are asked for.

    Args:
        mirror: Of their folder, if it lies in a store.
    """

    def __init__(self, mirror: CropMirror | None = None) -> None:
        self._mirror = mirror
        self._opened: dict[Path, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For loader processes, which open the files themselves."""
        return {"_mirror": self._mirror, "_opened": {}}

    def read(self, crop: Path) -> NDArray[np.float32] | None:
        """The mesh of one crop, ``(468, 2)`` in its pixels; ``None`` where none is stored.

        Args:
            crop: The crop's file in its shard.

        Raises:
            JobError: If the shard's meshes are not as they were written.
        """
        shard = crop.parent.parent
        if shard not in self._opened:
            self._opened[shard] = _open_meshes(shard, self._mirror)
        meshes = self._opened[shard]
        if meshes is None or crop.name not in meshes.keys():  # noqa: SIM118 - no mapping
            return None
        return np.asarray(meshes.get_tensor(crop.name), np.float32)


def _open_meshes(shard: Path, mirror: CropMirror | None) -> Any:
    """A shard's meshes, checked; ``None`` if it was written without."""
    seal, path = read_seal(shard), shard / MESH_FILE
    written = None if seal is None else seal.files.get(MESH_FILE)
    if written is None:
        return None
    if mirror is not None:
        mirror.bring(path.relative_to(mirror.root).as_posix(), written)
    if path.is_symlink() or hash_file(path) != written:  # no shard of ours has links
        raise JobError(
            f"{path} is not as it was written (its checksum is another); run the crop command "
            "again to mend it"
        )
    return safe_open(path, framework="numpy")
