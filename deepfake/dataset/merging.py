"""The parts of a crop job, cropped by machines that do not know each other, become one folder.

Merging is a crop job that finds its shards made: the folder is begun, each shard is taken over
whole, the tables are written last. So it may be killed at any instant, too, and ends up with the
very bytes of a job that was never divided. Knows no photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepfake.dataset.crop_folder import (
    CropFolder,
    CropReport,
    compare_jobs,
    compare_plans,
    open_crop_folder,
)
from deepfake.dataset.manifest import JOB_FILE, read_job
from deepfake.errors import UsageError
from deepfake.jobs.parts import JobPart, sort_parts


def merge_crops(output: Path, parts: Sequence[Path]) -> CropReport:
    """Put the parts of a crop job together.

    Args:
        output: The crop folder; new, empty, or begun by the same merge.
        parts: The folders of all parts, in any order. They are only read; the merged folder
            shares their files where the file system has hard links.

    Raises:
        UsageError: If the parts do not make up one job, or one is unfinished or damaged.
        JobError: If the disk is full.
    """
    numbers = {path: _read_part(path) for path in parts}
    ordered = sort_parts((path, numbers[path]) for path in parts)
    first = CropFolder(ordered[0])
    description, plan = _describe(first), first.read_plan()
    for path in ordered[1:]:
        _check_same_job(first, CropFolder(path))
    shard_size = int(description["shard_size"])
    n_shards = -(-int(description["inputs"]) // shard_size)
    for path in ordered:
        _check_whole(CropFolder(path), numbers[path], n_shards)
    with open_crop_folder(output) as merged:
        merged.begin(plan, description)
        for path in ordered:
            part = CropFolder(path)
            for shard in numbers[path].blocks(n_shards):
                ids = merged.read_ids(shard)
                if ids is None or ids != part.read_ids(shard):
                    merged.remove(shard)
                    merged.take_shard(shard, part)
        statuses, crops = merged.write_tables(range(n_shards))
    return CropReport(output, statuses, crops)


def _read_part(path: Path) -> JobPart:
    word = read_job(path).get("part")
    if word is None:
        raise UsageError(
            f"{path} is a whole crop job, not a part of one; parts are made with --shard I/N"
        )
    return JobPart.parse(str(word))


def _describe(folder: CropFolder) -> dict[str, Any]:
    """What ``job.json`` would say had the job not been divided."""
    job = read_job(folder.root)
    missing = {"plan_sha256", "inputs", "shard_size"} - set(job)
    if missing:
        raise UsageError(f"{folder.root / JOB_FILE} lacks {sorted(missing)[0]!r}; was it edited?")
    return {key: value for key, value in job.items() if key != "part"}


def _check_same_job(first: CropFolder, other: CropFolder) -> None:
    advice = "parts of one job have the same inputs, recipe and versions"
    difference = compare_jobs(_describe(first), _describe(other))
    if difference is not None:
        name, before, now = difference
        raise UsageError(
            f"{first.root} and {other.root} are of different jobs: {name}={before!r} and {now!r}; "
            f"{advice}"
        )
    change = compare_plans(first.read_plan(), other.read_plan())
    if change:
        raise UsageError(
            f"{first.root} and {other.root} are of different jobs: from one to the other, inputs "
            f"were {change}; {advice}"
        )


def _check_whole(folder: CropFolder, part: JobPart, n_shards: int) -> None:
    command = f"deepfake crop INPUT {folder.root} --shard {part}"
    if not folder.is_finished():
        raise UsageError(
            f"part {part} in {folder.root} is unfinished; go on with its own command: {command} "
            "and the options that it had"
        )
    for shard in part.blocks(n_shards):
        if folder.read_ids(shard) is None:
            raise UsageError(
                f"part {part} in {folder.root} is damaged ({folder.folder_of(shard).name}); mend "
                f"it with its own command: {command} and the options that it had"
            )
