"""The parts of a crop job, cropped by machines that do not know each other, become one folder.

Merging is a crop job that finds its shards made: the folder is begun, each shard is taken over
whole, the tables are written last. So it may be killed at any instant, too, and ends up with the
very bytes of a job that was never divided. Knows no photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepfake.dataset.crop_folder import KIND, CropReport, open_crop_folder, write_tables
from deepfake.dataset.manifest import TABLES, read_job
from deepfake.jobs.folder import SEAL_FILE
from deepfake.jobs.merging import join_parts


def merge_crops(output: Path, parts: Sequence[Path]) -> CropReport:
    """Put the parts of a crop job together.

    Args:
        output: The crop folder; new, empty, or begun by a merge of the same recipe.
        parts: The folders of all parts, in any order. They are only read; the merged folder
            shares their files where the file system has hard links.

    Raises:
        UsageError: If the parts do not make up one job, or one is unfinished or damaged.
        JobError: If the disk is full.
    """
    for part in parts:
        read_job(part)
    joined = join_parts(parts, KIND, TABLES)
    with open_crop_folder(output) as merged:
        with joined.plan.open(encoding="utf-8", newline="") as plan:
            merged.begin(plan, joined.settings)
        merged.drop_beyond(len(joined.shards))
        for theirs, block in joined.shards:
            seals = [folder.folder_of(block) / SEAL_FILE for folder in (merged, theirs)]
            if merged.read_shard(block) is None or len({seal.read_bytes() for seal in seals}) > 1:
                merged.set_aside(block)
                merged.take_shard(block, theirs)
        merged.forget_old()
        return write_tables(merged, range(len(joined.shards)))
