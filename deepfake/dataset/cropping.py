"""The crop job: media in, a folder of face crops with tables out, safe to kill at any instant.

The job is one of ``deepfake.jobs``; what is made of a block here are crops and two tables. Nothing
in the folder depends on time, host, or number of workers. Knows no network that scores.
"""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake import __version__
from deepfake.dataset.class_counts import ClassCounts
from deepfake.dataset.crop_folder import (
    CropReport,
    MeshFiles,
    open_crop_folder,
    write_meshes,
    write_tables,
)
from deepfake.dataset.crop_store import CropWriter, StoreKind, name_crop, write_crops
from deepfake.dataset.layouts.labelling import InputOptions, Labelled, label_sources
from deepfake.dataset.manifest import JOB_FILE, STORE, iter_source_rows, read_crop_rows, write_rows
from deepfake.dataset.rows import (
    CropRow,
    SourceRow,
    is_current,
    make_crop_row,
    make_source_row,
    renew_row,
)
from deepfake.errors import JobError, UsageError
from deepfake.faces.pipeline import check_detect_device, iter_extractions
from deepfake.jobs.engine import Block, Executor, Job, count_bytes, run_here
from deepfake.jobs.folder import (
    RESULTS,
    Shard,
    find_wrong_results,
    read_job,
)
from deepfake.jobs.parts import Division, choose_block_size
from deepfake.media.discovery import display_name, path_uri
from deepfake.progress import Progress
from deepfake.records import (
    LABEL_NAMES,
    MAX_PIXELS,
    CropSpec,
    Extraction,
    Landmarks,
    Sampling,
    Source,
    Workers,
)
from deepfake.stores.objects import may_come_back
from deepfake.tables import format_lines

_PACKAGES = (
    "facenet-pytorch", "torch", "torchvision", "numpy", "pillow", "av", "opencv-python-headless",
)  # fmt: skip
logger = logging.getLogger(__name__)
_PLAN_COLUMNS = ("path_uri", "bytes", "label", "method", "group", "split", "original")


def crop_media(
    input_path: str,
    output: Path,
    spec: CropSpec,
    *,
    inputs: InputOptions = InputOptions(),  # noqa: B008 - frozen
    workers: Workers = Workers(),  # noqa: B008 - frozen
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    division: Division = Division(),  # noqa: B008 - frozen
    landmarks: Landmarks = "five",
    store: StoreKind = "folder",
    quiet: bool = False,
    execute: Executor = run_here,
) -> CropReport:
    """Run or resume a crop job.

    Args:
        input_path: Folder, photo, glob, list file or CSV (see ``dataset.layouts``), or the address
            of one in a store.
        output: The crop folder; new, empty, or begun with the same recipe: what has changed of
            the inputs since is done again.
        spec: The crop recipe.
        inputs: What the input may be, and whether it must have labels.
        workers: How many processes do it; the bytes written do not depend on that.
        sampling: Which frames of a video or animation are cropped.
        division: Which part of the job is done, and how many inputs make a shard.
        landmarks: ``mesh`` writes the points of the face mesh beside the detector's five.
        store: ``tar`` puts the crops of a shard into one file, which WebDataset reads.
        quiet: Show no progress.
        execute: Who does the work.

    Raises:
        UsageError: If the input or output is not usable, or the output was begun by another job.
        JobError: If the disk is full or workers do not start.
    """
    if execute is run_here:  # elsewhere there may be one that is not here
        check_detect_device(workers.detect_device)
    _refuse_nesting(Path(input_path), output)
    labelled = label_sources(
        input_path,
        layout=inputs.layout,
        follow_links=inputs.follow_links,
        require_labels=inputs.require_labels,
        other_stores=workers.other_stores,
    )
    _announce(labelled)
    sources = labelled.sources
    with open_crop_folder(output) as folder:
        before = _read_finished(output)
        block_size = division.block_size or choose_block_size(len(sources))
        job = Job(folder, sources, block_size, division.part)
        plan = format_lines(_PLAN_COLUMNS, map(_plan_cells, sources), ("method", "group"))
        job.begin(plan, _describe(spec, sampling, landmarks, store, workers.max_pixels))
        todo = job.find_todo(_stands)
        done = job.count_inputs() - job.count_inputs(todo)
        with Progress(job.count_inputs(), done, quiet) as progress:
            work = CropBlocks(spec, sampling, workers, landmarks, store)
            for block in job.run(todo, work, execute):
                progress.advance(job.count_inputs([block]))
        report = write_tables(folder, job.blocks)
        was_finished = not todo and before == _read_finished(output)
    return replace(
        report,
        skipped=dict(labelled.skipped),
        duplicates=labelled.duplicates,
        was_finished=was_finished,
    )


def _describe(
    spec: CropSpec,
    sampling: Sampling,
    landmarks: Landmarks,
    store: StoreKind,
    max_pixels: int,
) -> dict[str, Any]:
    """All that decides what is made of an input, and how it is stored."""
    versions = {"deepfake": __version__} | {name: version(name) for name in _PACKAGES}
    return {
        "crop_spec": spec.to_dict(),
        "sampling": sampling.to_dict(),
        "landmarks": landmarks,
        "versions": versions,
        # Folders from before there was a choice go on.
        **({STORE: store} if store != "folder" else {}),
        # What is larger is unreadable, or decoded at half its size.
        **({"max_pixels": max_pixels} if max_pixels != MAX_PIXELS else {}),
    }


def _read_finished(root: Path) -> dict[str, Any]:
    """What a job that is finished, and whose tables stand, says of itself; else nothing."""
    if not (root / JOB_FILE).exists():
        return {}
    job = read_job(root)
    return job if RESULTS in job and not find_wrong_results(root, job) else {}


def _announce(labelled: Labelled) -> None:
    """Say aloud how the input was read: a wrong label is found here or never."""
    if labelled.layout == "none":
        logger.info("layout none: no labels for %s inputs", f"{len(labelled.sources):,}")
    else:
        sources = labelled.sources
        groups = np.empty(len(sources), np.int64)  # by hash: there may be as many as inputs

        def list_rows() -> Iterator[tuple[int | None, str, str]]:
            for place, one in enumerate(sources):
                groups[place] = hash(one.group or one.id)
                yield one.label, one.method or "", one.split or ""

        counts = ClassCounts.count(list_rows())
        seen = f"{len(sources):,} inputs in {len(np.unique(groups)):,} groups"
        logger.info("layout %s: %s\n%s", labelled.layout, seen, counts)
    for note in labelled.notes:
        logger.warning("%s", note)


@dataclass(frozen=True, slots=True)
class CropBlocks:
    """The work of a crop job: fills blocks with crops and their tables.

    Args:
        spec: The crop recipe.
        sampling: Which frames of a video or animation are cropped.
        workers: How many processes do it.
        landmarks: ``mesh`` writes the points of the face mesh beside the detector's five.
        store: As of ``crop_media``.
    """

    spec: CropSpec
    sampling: Sampling
    workers: Workers
    landmarks: Landmarks = "five"
    store: StoreKind = "folder"

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """See ``deepfake.jobs.engine.Work``."""
        flying: deque[Block] = deque()

        def find_fresh() -> Iterator[Source]:
            for block in blocks:
                flying.append(block)
                yield from (source for source in block.inputs if source.id not in block.kept)

        results = iter_extractions(
            find_fresh(), self.spec, self.workers, self.sampling, self.landmarks
        )
        with closing(results) as extractions:
            # To ask for the next result is what lets the next blocks in.
            ahead = list(islice(extractions, 1))
            while flying:
                block = flying.popleft()
                _check_space(block, self.spec)
                fresh = len(block.inputs) - len(block.kept)
                found = islice(chain(ahead[:fresh], extractions), fresh)
                _fill(block, self.spec.suffix, found, self.landmarks, self.store)
                ahead = ahead[fresh:]
                yield block
                if not flying:
                    ahead = ahead or list(islice(extractions, 1))


def _fill(
    block: Block,
    suffix: str,
    results: Iterator[tuple[Source, Extraction]],
    landmarks: Landmarks,
    store: StoreKind,
) -> None:
    """Write crops and tables of a block, those of unchanged inputs from the shard of old."""
    kept = _read_kept(block)
    old_meshes = MeshFiles()
    source_rows: list[SourceRow] = []
    meshes: dict[str, NDArray[np.float32]] = {}

    def make_rows(writer: CropWriter) -> Iterator[CropRow]:
        for source in block.inputs:
            if source.id in kept:
                source_row, crop_rows = kept[source.id]
                old = block.kept[source.id]
                for row in crop_rows:
                    place = PurePosixPath(row.crop)
                    name = place.name
                    kept_row = renew_row(replace(row, crop=name_crop(block.number, name)), source)
                    writer.keep(kept_row, old)
                    mesh = old_meshes.read(old / place.parent.name / name)
                    if mesh is not None:
                        meshes[name] = mesh
                    yield kept_row
                source_rows.append(renew_row(source_row, source))
                continue
            _, found = next(results)
            if may_come_back(source, found.reason):
                block.lose(source)
            for crop in found.crops:
                name = f"{source.id}_{crop.frame_index}_{crop.face_index}{suffix}"
                row = make_crop_row(source, crop, name_crop(block.number, name))
                writer.add(row, crop.encoded)
                if crop.mesh is not None:
                    meshes[name] = crop.mesh
                yield row
            source_rows.append(
                make_source_row(source, found.status, found.reason, len(found.crops))
            )

    with write_crops(block.folder, store) as writer:
        write_rows(block.folder, make_rows(writer), source_rows)
    if landmarks == "mesh":
        write_meshes(block.folder, meshes)


def _read_kept(block: Block) -> dict[str, tuple[SourceRow, list[CropRow]]]:
    """Rows of the inputs of a block that have not changed since they were cropped."""
    kept: dict[str, tuple[SourceRow, list[CropRow]]] = {}
    for folder in set(block.kept.values()):
        for row in iter_source_rows(folder):
            if block.kept.get(row.id) == folder:
                kept[row.id] = (row, [])
        for crop in read_crop_rows(folder):
            if block.kept.get(crop.source) == folder:
                kept[crop.source][1].append(crop)
    return kept


def _stands(inputs: Sequence[Source], shard: Shard) -> bool:
    """Whether labels, groups and splits are what they were."""
    rows = iter_source_rows(shard.folder)
    return all(is_current(row, source) for row, source in zip(rows, inputs, strict=True))


def _check_space(block: Block, spec: CropSpec) -> None:
    # A crop of 380 px takes about 45 kB as JPEG 95 and 250 kB as PNG.
    bytes_per_pixel = 0.35 if spec.jpeg_quality else 1.8
    need = int(len(block.inputs) * spec.size**2 * bytes_per_pixel)
    free = shutil.disk_usage(block.folder).free
    if free < need:
        raise JobError(
            f"no space left in {block.folder.parent}: the next shard needs about "
            f"{need / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; what was finished is safe: "
            "free some space and run the same command again to go on"
        )


def _plan_cells(source: Source) -> list[object]:
    label = "" if source.label is None else LABEL_NAMES[source.label]
    words = [display_name(word or "") for word in (source.method, source.group, source.split)]
    return [path_uri(source.name), count_bytes(source), label, *words, source.original or ""]


def _refuse_nesting(source: Path, output: Path) -> None:
    inner, outer = output.resolve(), source.resolve()
    if source.is_dir() and (inner == outer or outer in inner.parents):
        raise UsageError(
            f"the output {output} lies inside the input {source}; crops must not become inputs: "
            "name a folder elsewhere"
        )
    if source.exists() and inner in outer.parents and (inner / JOB_FILE).exists():
        raise UsageError(f"the input {source} lies inside the crop folder {output}")
