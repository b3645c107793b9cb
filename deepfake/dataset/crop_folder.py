"""A crop folder on the disk: its plan, its shards, its tables, each whole or not there at all.

A shard is written aside, synced and renamed. The tables of all shards are put together last and
mean: complete. Knows neither how crops are made nor who makes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfake.dataset.manifest import (
    JOB_FILE,
    MANIFEST_COLUMNS,
    MANIFEST_FILE,
    SOURCE_COLUMNS,
    SOURCES_FILE,
    read_job,
)
from deepfake.errors import UsageError
from deepfake.jobs.folder import find_difference
from deepfake.records import Status
from deepfake.storage import (
    LOCK_NAMES,
    TEMPORARY_PREFIX,
    exclusive,
    no_space_is_an_error,
    sync_file,
    sync_folder,
    write_atomic,
    write_stream,
)
from deepfake.tables import read_csv

PLAN_FILE = "plan.csv"
SHARDS_FOLDER = "shards"
CROPS_FOLDER = "crops"


@dataclass(frozen=True, slots=True)
class CropReport:
    """What a crop job came to; ``str()`` is its last line, whose counts add up.

    Args:
        output: The crop folder.
        statuses: Number of inputs per status.
        crops: Number of crops.
        skipped: Files of other kinds that a folder held, by suffix.
        duplicates: Lines of a CSV that named the same file again.
    """

    output: Path
    statuses: Counter[str]
    crops: int
    skipped: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0

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


class CropFolder:
    """One crop folder.

    Args:
        root: Where it lies, or will lie.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, plan: str, description: dict[str, Any]) -> None:
        """Write plan and description into an empty folder, or check that they are the old ones.

        Raises:
            UsageError: If the folder holds anything else.
        """
        plan_path, job_path = self.root / PLAN_FILE, self.root / JOB_FILE
        begun = job_path.exists()
        if begun:
            self._check_same_job(plan, description)
        else:
            self._check_own()
        # Only now is it certain that nothing here is anybody else's.
        for leftover in [*self.root.glob(f"{TEMPORARY_PREFIX}*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not begun:
            write_atomic(plan_path, plan)
            write_atomic(job_path, json.dumps(description, indent=2, sort_keys=True) + "\n")
        (self.root / SHARDS_FOLDER).mkdir(exist_ok=True)

    def _check_own(self) -> None:
        """A folder without ``job.json`` may only hold what a killed run leaves before it."""
        foreign = sorted(
            path.name
            for path in self.root.iterdir()
            if path.name not in (*LOCK_NAMES, PLAN_FILE)
            and (path.is_dir() or not path.name.startswith(TEMPORARY_PREFIX))
        )
        if foreign:
            raise UsageError(
                f"{self.root} is not empty and holds no crop job ({foreign[0]!r} is in it); name "
                "a new folder"
            )

    def _check_same_job(self, plan: str, description: dict[str, Any]) -> None:
        difference = compare_jobs(read_job(self.root), description)
        if difference is not None:
            name, before, now = difference
            raise UsageError(
                f"{self.root} was begun with {name}={before!r}, now it is {now!r}; name a new "
                "folder, or run the command that began it"
            )
        change = compare_plans(self.read_plan(), plan)
        if change:
            raise UsageError(
                f"the inputs of {self.root} have changed since it was begun: {change}; name a new "
                "folder"
            )

    def read_plan(self) -> str:
        """The list of all inputs of the job, those of other parts too.

        Raises:
            UsageError: If it is not what ``job.json`` says.
        """
        path = self.root / PLAN_FILE
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != read_job(self.root).get("plan_sha256"):
            raise UsageError(f"{path} is not the plan that {JOB_FILE} tells of; was it edited?")
        return data.decode("utf-8")

    def folder_of(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.root / SHARDS_FOLDER / f"{shard:05d}"

    def name_of_crop(self, shard: int, name: str) -> str:
        """A crop of a shard, as the manifest calls it."""
        return (self.folder_of(shard) / CROPS_FOLDER / name).relative_to(self.root).as_posix()

    def read_ids(self, shard: int) -> list[str] | None:
        """The sources of a shard that stands whole; ``None`` if it is absent or damaged."""
        folder = self.folder_of(shard)
        try:
            rows = read_csv(folder / SOURCES_FILE, SOURCE_COLUMNS)
            crops = [row["crop"] for row in read_csv(folder / MANIFEST_FILE, MANIFEST_COLUMNS)]
            whole = sum(int(row["faces"]) for row in rows) == len(crops) and all(
                (self.root / crop).is_file() for crop in crops
            )
        except (ValueError, OSError):  # a UsageError is a ValueError
            return None
        return [row["id"] for row in rows] if whole else None

    def remove(self, shard: int) -> None:
        """Remove a shard, if it is there."""
        if self.folder_of(shard).exists():
            shutil.rmtree(self.folder_of(shard))

    @contextmanager
    def make_shard(self, shard: int) -> Iterator[Path]:
        """A folder to write a shard's files into; it moves into place when all went well."""
        aside = self.root / f"{TEMPORARY_PREFIX}{shard:05d}"
        (aside / CROPS_FOLDER).mkdir(parents=True)
        yield aside
        for path in sorted(aside.rglob("*")):
            sync_folder(path) if path.is_dir() else sync_file(path)
        sync_folder(aside)
        aside.replace(self.folder_of(shard))
        sync_folder(self.folder_of(shard).parent)

    def take_shard(self, shard: int, other: CropFolder) -> None:
        """Have a shard of another folder, without taking up the space twice where possible."""
        source = other.folder_of(shard)
        with self.make_shard(shard) as aside:
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    _link_or_copy(path, aside / path.relative_to(source))

    def write_tables(self, shards: Sequence[int]) -> tuple[Counter[str], int]:
        """Put the tables of the shards together.

        Returns:
            Number of inputs per status, and number of crops.
        """
        statuses: Counter[str] = Counter()
        crops = 0
        for shard in shards:
            for row in read_csv(self.folder_of(shard) / SOURCES_FILE, SOURCE_COLUMNS):
                statuses[row["status"]] += 1
                crops += int(row["faces"])
        for name, columns in ((SOURCES_FILE, SOURCE_COLUMNS), (MANIFEST_FILE, MANIFEST_COLUMNS)):
            write_stream(self.root / name, self._join(name, columns, shards))
        return statuses, crops

    def _join(self, name: str, columns: Sequence[str], shards: Iterable[int]) -> Iterator[bytes]:
        yield (",".join(columns) + "\n").encode()
        for shard in shards:
            yield (self.folder_of(shard) / name).read_bytes().split(b"\n", 1)[1]

    def is_finished(self) -> bool:
        """Whether the tables stand."""
        return all((self.root / name).is_file() for name in (SOURCES_FILE, MANIFEST_FILE))


@contextmanager
def open_crop_folder(root: Path) -> Iterator[CropFolder]:
    """A folder for crops, made where it is not there, that belongs to this run alone.

    Raises:
        UsageError: If it is a file, or in use by another run.
        JobError: If the disk is full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{root} is a file; name a folder for the crops") from None
    with no_space_is_an_error(root), exclusive(root):
        yield CropFolder(root)


def compare_jobs(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, object, object] | None:
    """The first setting that two descriptions do not share, inputs aside."""
    inputs = ("plan_sha256", "inputs")
    return find_difference(
        {key: value for key, value in old.items() if key not in inputs},
        {key: value for key, value in new.items() if key not in inputs},
    )


def compare_plans(old: str, new: str) -> str:
    """How the inputs have changed from one plan to another, in words; empty if they have not."""
    if old == new:
        return ""
    before, now = set(old.splitlines()), set(new.splitlines())
    paths_before, paths_now = ({line.split(",")[0] for line in lines} for lines in (before, now))
    modified = len(now - before) - len(paths_now - paths_before)
    return (
        f"{len(paths_now - paths_before)} added, {len(paths_before - paths_now)} removed, "
        f"{modified} modified"
    )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
