"""The parts of a job, made by machines that do not know each other, as one.

Parts are only read. Whatever is wrong with one is found, and named, before anything is written.
Knows nothing of what a shard holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfake.errors import UsageError
from deepfake.jobs.folder import (
    JOB_FILE,
    PLAN_FILE,
    RESULTS,
    JobFolder,
    find_difference,
    hash_file,
    read_job,
)
from deepfake.jobs.parts import JobPart, sort_parts
from deepfake.storage import Confinement

_OF_A_PART = ("part", "plan_sha256", "inputs", RESULTS)


@dataclass(frozen=True, slots=True)
class JoinedParts:
    """The parts of one finished job.

    Args:
        settings: Of the job, as if it had not been divided.
        plan: File that lists all inputs.
        shards: Where each block's shard lies, in order: folder of the part, number of the block.
    """

    settings: Mapping[str, Any]
    plan: Path
    shards: tuple[tuple[JobFolder, int], ...]

    def folders(self) -> Iterator[Path]:
        """The folders of all shards, in order."""
        return (part.folder_of(block) for part, block in self.shards)


def join_parts(roots: Sequence[Path], kind: str, results: Sequence[str] = ()) -> JoinedParts:
    """Check that parts make up one finished job.

    Args:
        roots: The job folders of all parts, in any order.
        kind: What made them: ``crop``, ``predict``.
        results: Files that a finished part holds.

    Raises:
        UsageError: If they do not, or one is unfinished or damaged.
    """
    settings = {root: _read_settings(root) for root in roots}
    numbers = {root: JobPart.parse(str(one["part"])) for root, one in settings.items()}
    ordered = sort_parts((root, numbers[root]) for root in roots)
    first = ordered[0]
    for root in ordered[1:]:
        _check_same_job(first, root, settings)
    n_blocks = -(-int(settings[first]["inputs"]) // int(settings[first]["block_size"]))
    shards = []
    for root in ordered:
        folder, part = JobFolder(root, kind), numbers[root]
        again = f"deepfake {kind} with --shard {part} and the options that it had"
        blocks = part.blocks(n_blocks)
        told = settings[root].get(RESULTS, {})
        standing = all(folder.folder_of(block).exists() for block in blocks)
        if not (set(results) <= set(told) if results else standing):
            raise UsageError(
                f"part {part} in {root} is unfinished; go on with its own command: {again}"
            )
        wrong = [folder.folder_of(n).name for n in blocks if folder.read_shard(n) is None]
        wrong += [name for name in results if hash_file(root / name) != told[name]]
        if wrong:
            raise UsageError(
                f"part {part} in {root} is damaged ({wrong[0]}); mend it with its own command: "
                f"{again}"
            )
        shards += [(folder, block) for block in blocks]
    whole = {key: value for key, value in settings[first].items() if key != RESULTS}
    whole["part"] = None
    return JoinedParts(whole, first / PLAN_FILE, tuple(shards))


def _read_settings(root: Path) -> dict[str, Any]:
    if not (root / JOB_FILE).is_file():
        raise UsageError(f"{root} is no part of a job: it holds no {JOB_FILE}")
    settings = read_job(root)
    missing = {"part", "inputs", "block_size", "plan_sha256"} - set(settings)
    if missing:
        raise UsageError(f"{root / JOB_FILE} lacks {sorted(missing)[0]!r}; was it edited?")
    if settings["part"] is None:
        raise UsageError(
            f"{root} is a whole job, not a part of one; parts are made with --shard I/N"
        )
    if hash_file(Confinement(root).path_of(PLAN_FILE)) != settings["plan_sha256"]:
        raise UsageError(
            f"{root / PLAN_FILE} is not the plan that {JOB_FILE} tells of; was it edited?"
        )
    return settings


def _check_same_job(first: Path, other: Path, settings: Mapping[Path, dict[str, Any]]) -> None:
    advice = "parts of one job have the same inputs, recipe and versions"
    shared = [
        {key: value for key, value in settings[root].items() if key not in _OF_A_PART}
        for root in (first, other)
    ]
    difference = find_difference(*shared)
    if difference is not None:
        name, one, two = difference
        raise UsageError(
            f"{first} and {other} are of different jobs: {name}={one!r} and {two!r}; {advice}"
        )
    if settings[first]["plan_sha256"] != settings[other]["plan_sha256"]:
        plans = [(root / PLAN_FILE).read_text(encoding="utf-8") for root in (first, other)]
        raise UsageError(
            f"{first} and {other} are of different jobs: from one to the other, inputs were "
            f"{compare_plans(*plans)}; {advice}"
        )


def compare_plans(old: str, new: str) -> str:
    """How the inputs have changed from one plan to another, in words."""
    before, now = set(old.splitlines()), set(new.splitlines())
    paths_before, paths_now = ({line.split(",")[0] for line in lines} for lines in (before, now))
    modified = len(now - before) - len(paths_now - paths_before)
    return (
        f"{len(paths_now - paths_before)} added, {len(paths_before - paths_now)} removed, "
        f"{modified} modified"
    )
