"""The crop job: media in, a folder of face crops with tables out, safe to kill at any instant.

The job is divided into shards of a fixed number of inputs. A shard is written aside, synced and
renamed, so it exists whole or not at all; the tables of the whole job are put together last.
Nothing in the folder depends on time, host, or number of workers. Knows no network that scores.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from deepfake import __version__
from deepfake.dataset.census import Census
from deepfake.dataset.layouts import Labelled, label_sources
from deepfake.dataset.manifest import (
    JOB_FILE,
    MANIFEST_COLUMNS,
    MANIFEST_FILE,
    SOURCE_COLUMNS,
    SOURCES_FILE,
    CropRow,
    SourceRow,
    format_manifest,
    format_sources,
    format_table,
    make_crop_row,
    make_source_row,
    read_job,
)
from deepfake.errors import JobError, UsageError
from deepfake.faces.pipeline import iter_extractions
from deepfake.media.discovery import display_name, path_uri
from deepfake.media.images import MAX_PIXELS
from deepfake.media.tables import read_csv
from deepfake.progress import track
from deepfake.records import LABEL_NAMES, CropSpec, Extraction, Sampling, Source, Status
from deepfake.storage import (
    LOCK_NAMES,
    TEMPORARY_PREFIX,
    exclusive,
    no_space_is_an_error,
    sync_file,
    sync_folder,
    write_atomic,
)

logger = logging.getLogger(__name__)
PLAN_FILE = "plan.csv"
SHARDS_FOLDER = "shards"
CROPS_FOLDER = "crops"
_PACKAGES = ("facenet-pytorch", "torch", "torchvision", "numpy", "pillow", "opencv-python-headless")
_PLAN_COLUMNS = ("path_uri", "bytes", "label", "method", "group", "split", "original")


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


def crop_media(
    input_path: str,
    output: Path,
    spec: CropSpec,
    *,
    layout: str = "auto",
    workers: int = 1,
    timeout_s: float = 60.0,
    max_pixels: int = MAX_PIXELS,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    shard_size: int = 256,
    follow_links: bool = False,
    require_labels: bool = False,
    quiet: bool = False,
) -> CropReport:
    """Run or resume a crop job.

    Args:
        input_path: Folder, photo, glob, list file or CSV (see ``dataset.layouts``).
        output: The crop folder; new, empty, or begun by the same job.
        spec: The crop recipe.
        layout: Kind of folder tree, see ``layouts.label_sources``.
        workers: Worker processes; the bytes written do not depend on it. 0 works in this process.
        timeout_s: Longest time for one input in seconds.
        max_pixels: Larger pictures are ``unreadable``.
        sampling: Which frames of a video or animation are cropped.
        shard_size: Inputs per shard.
        follow_links: Follow symbolic links inside the input folder.
        require_labels: Refuse unlabelled input.
        quiet: Show no progress.

    Raises:
        UsageError: If the input or output is not usable, or the output was begun by another job.
        JobError: If the disk is full or workers do not start.
    """
    _refuse_nesting(Path(input_path), output)
    labelled = label_sources(
        input_path, layout=layout, follow_links=follow_links, require_labels=require_labels
    )
    _announce(labelled)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{output} is a file; name a folder for the crops") from None
    with no_space_is_an_error(output), exclusive(output):
        job = _Job(output, labelled.sources, spec, sampling, shard_size)
        job.begin()
        todo = [shard for shard in job.shards() if not job.is_done(shard)]
        remaining = list(chain.from_iterable(job.sources_of(shard) for shard in todo))
        extractions = track(
            # A worker takes seconds to start; there is no use in more of them than inputs.
            iter_extractions(
                remaining, spec, min(workers, len(remaining)), timeout_s, max_pixels, sampling
            ),
            total=len(job.sources),
            initial=len(job.sources) - len(remaining),
            quiet=quiet,
        )
        numbers = chain.from_iterable(_repeat(shard, job) for shard in todo)
        numbered = zip(numbers, extractions, strict=True)
        for shard, group in groupby(numbered, key=lambda pair: pair[0]):
            job.write_shard(shard, (extraction for _, extraction in group))
        statuses, crops = job.finish()
    return CropReport(output, statuses, crops, dict(labelled.skipped), labelled.duplicates)


def _announce(labelled: Labelled) -> None:
    """Say aloud how the input was read: a wrong label is found here or never."""
    if labelled.layout != "none":
        rows = [(one.label, one.method or "", one.split or "") for one in labelled.sources]
        groups = {one.group or one.id for one in labelled.sources}
        logger.info(
            "layout %s: %s inputs in %s groups\n%s",
            labelled.layout,
            f"{len(rows):,}",
            f"{len(groups):,}",
            Census.take(rows),
        )
    for note in labelled.notes:
        logger.warning("%s", note)


def _repeat(shard: int, job: _Job) -> Iterator[int]:
    return (shard for _ in job.sources_of(shard))


class _Job:
    """One crop folder: its plan, its shards, its final tables."""

    def __init__(
        self,
        root: Path,
        sources: Sequence[Source],
        spec: CropSpec,
        sampling: Sampling,
        shard_size: int,
    ) -> None:
        if shard_size < 1:
            raise UsageError(f"shard_size={shard_size}; expected 1 or more inputs per shard")
        self.root, self.sources, self.spec = root, sources, spec
        self.sampling, self.shard_size = sampling, shard_size

    def shards(self) -> range:
        return range(-(-len(self.sources) // self.shard_size))

    def sources_of(self, shard: int) -> Sequence[Source]:
        return self.sources[shard * self.shard_size : (shard + 1) * self.shard_size]

    def begin(self) -> None:
        """Write the plan into a new folder, or check that an old one is of this very job."""
        plan = format_table(_PLAN_COLUMNS, (_plan_cells(source) for source in self.sources))
        description = {
            "crop_spec": self.spec.to_dict(),
            "sampling": self.sampling.to_dict(),
            "plan_sha256": hashlib.sha256(plan.encode()).hexdigest(),
            "inputs": len(self.sources),
            "shard_size": self.shard_size,
            "versions": {"deepfake": __version__} | {name: version(name) for name in _PACKAGES},
        }
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
        old = read_job(self.root)
        if old == description:
            return
        advice = "name a new folder, or run the command that began it"
        for key in ("crop_spec", "sampling", "versions"):
            for name, value in description[key].items():
                if old[key].get(name) != value:
                    raise UsageError(
                        f"{self.root} was begun with {name}={old[key].get(name)!r}, now it is "
                        f"{value!r}; {advice}"
                    )
        if old.get("shard_size") != self.shard_size:
            raise UsageError(
                f"{self.root} was begun with --shard-size {old.get('shard_size')}; {advice}"
            )
        before = set((self.root / PLAN_FILE).read_text(encoding="utf-8").splitlines())
        now = set(plan.splitlines())
        paths_before, paths_now = (
            {line.split(",")[0] for line in lines} for lines in (before, now)
        )
        modified = len(now - before) - len(paths_now - paths_before)
        raise UsageError(
            f"the inputs of {self.root} have changed since it was begun: "
            f"{len(paths_now - paths_before)} added, {len(paths_before - paths_now)} removed, "
            f"{modified} modified; name a new folder"
        )

    def folder_of(self, shard: int) -> Path:
        return self.root / SHARDS_FOLDER / f"{shard:05d}"

    def is_done(self, shard: int) -> bool:
        """Whether a shard stands complete; a damaged one is removed and made again."""
        folder = self.folder_of(shard)
        if not folder.exists():
            return False
        try:
            rows = read_csv(folder / SOURCES_FILE, SOURCE_COLUMNS)
            crops = [row["crop"] for row in read_csv(folder / MANIFEST_FILE, MANIFEST_COLUMNS)]
            whole = (
                [row["id"] for row in rows] == [source.id for source in self.sources_of(shard)]
                and sum(int(row["faces"]) for row in rows) == len(crops)
                and all((self.root / crop).is_file() for crop in crops)
            )
        except (ValueError, OSError):  # a UsageError is a ValueError
            whole = False
        if not whole:
            shutil.rmtree(folder)
        return whole

    def write_shard(self, shard: int, results: Iterator[tuple[Source, Extraction]]) -> None:
        """Write one shard aside, sync it and rename it into place."""
        self._check_space(shard)
        temporary = self.root / f"{TEMPORARY_PREFIX}{shard:05d}"
        (temporary / CROPS_FOLDER).mkdir(parents=True)
        final = self.folder_of(shard)
        crop_rows: list[CropRow] = []
        source_rows: list[SourceRow] = []
        for source, extraction in results:
            for crop in extraction.crops:
                name = f"{source.id}_{crop.frame_index}_{crop.face_index}{self.spec.suffix}"
                (temporary / CROPS_FOLDER / name).write_bytes(crop.encoded)
                file = (final / CROPS_FOLDER / name).relative_to(self.root).as_posix()
                crop_rows.append(make_crop_row(source, crop, file))
            source_rows.append(
                make_source_row(source, extraction.status, extraction.reason, len(extraction.crops))
            )
        (temporary / MANIFEST_FILE).write_text(format_manifest(crop_rows), "utf-8", newline="\n")
        (temporary / SOURCES_FILE).write_text(format_sources(source_rows), "utf-8", newline="\n")
        for path in sorted(temporary.rglob("*")):
            sync_folder(path) if path.is_dir() else sync_file(path)
        sync_folder(temporary)
        temporary.replace(final)
        sync_folder(final.parent)

    def _check_space(self, shard: int) -> None:
        # A crop of 380 px takes about 45 kB as JPEG 95 and 250 kB as PNG.
        bytes_per_pixel = 0.35 if self.spec.jpeg_quality else 1.8
        need = int(len(self.sources_of(shard)) * self.spec.size**2 * bytes_per_pixel)
        free = shutil.disk_usage(self.root).free
        if free < need:
            raise JobError(
                f"no space left in {self.root}: the next shard needs about {need / 1e6:,.0f} MB, "
                f"{free / 1e6:,.0f} MB are free; what was finished is safe: free some space and "
                "run the same command again to go on"
            )

    def finish(self) -> tuple[Counter[str], int]:
        """Put the tables of all shards together; they are written last and mean: complete."""
        statuses: Counter[str] = Counter()
        crops = 0
        tables = {SOURCES_FILE: [",".join(SOURCE_COLUMNS) + "\n"]}
        tables[MANIFEST_FILE] = [",".join(MANIFEST_COLUMNS) + "\n"]
        for shard in self.shards():
            folder = self.folder_of(shard)
            for name, parts in tables.items():
                parts.append((folder / name).read_text(encoding="utf-8").split("\n", 1)[1])
            for row in read_csv(folder / SOURCES_FILE, SOURCE_COLUMNS):
                statuses[row["status"]] += 1
                crops += int(row["faces"])
        for name, parts in tables.items():
            write_atomic(self.root / name, "".join(parts))
        return statuses, crops


def _plan_cells(source: Source) -> list[object]:
    try:
        size: object = source.path.stat().st_size
    except OSError:
        size = ""
    label = "" if source.label is None else LABEL_NAMES[source.label]
    words = [display_name(word or "") for word in (source.method, source.group, source.split)]
    return [path_uri(source.name), size, label, *words, source.original or ""]


def _refuse_nesting(source: Path, output: Path) -> None:
    inner, outer = output.resolve(), source.resolve()
    if source.is_dir() and (inner == outer or outer in inner.parents):
        raise UsageError(
            f"the output {output} lies inside the input {source}; crops must not become inputs: "
            "name a folder elsewhere"
        )
    if source.exists() and inner in outer.parents and (inner / JOB_FILE).exists():
        raise UsageError(f"the input {source} lies inside the crop folder {output}")
