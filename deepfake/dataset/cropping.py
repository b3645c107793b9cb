"""The crop job: media in, a folder of face crops with tables out, safe to kill at any instant.

The job is divided into shards of a fixed number of inputs, which exist whole or not at all; the
tables of the whole job are put together last. Nothing in the folder depends on time, host, or
number of workers. Knows no network that scores.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path

from deepfake import __version__
from deepfake.dataset.class_counts import ClassCounts
from deepfake.dataset.crop_folder import CROPS_FOLDER, CropFolder, CropReport, open_crop_folder
from deepfake.dataset.layouts import InputOptions, Labelled, label_sources
from deepfake.dataset.manifest import (
    JOB_FILE,
    MANIFEST_FILE,
    SOURCES_FILE,
    CropRow,
    SourceRow,
    format_manifest,
    format_sources,
    format_table,
    make_crop_row,
    make_source_row,
)
from deepfake.errors import JobError, UsageError
from deepfake.faces.pipeline import check_detect_device, iter_extractions
from deepfake.jobs.parts import WHOLE, Division, choose_block_size
from deepfake.media.discovery import display_name, path_uri
from deepfake.progress import track
from deepfake.records import LABEL_NAMES, CropSpec, Extraction, Sampling, Source, Workers

_PACKAGES = (
    "facenet-pytorch",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "av",
    "opencv-python-headless",
)
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
    quiet: bool = False,
) -> CropReport:
    """Run or resume a crop job.

    Args:
        input_path: Folder, photo, glob, list file or CSV (see ``dataset.layouts``).
        output: The crop folder; new, empty, or begun by the same job.
        spec: The crop recipe.
        inputs: What the input may be, and whether it must have labels.
        workers: How many processes do it; the bytes written do not depend on that.
        sampling: Which frames of a video or animation are cropped.
        division: Which part of the job is done, and how many inputs make a shard.
        quiet: Show no progress.

    Raises:
        UsageError: If the input or output is not usable, or the output was begun by another job.
        JobError: If the disk is full or workers do not start.
    """
    check_detect_device(workers.detect_device)
    _refuse_nesting(Path(input_path), output)
    labelled = label_sources(
        input_path,
        layout=inputs.layout,
        follow_links=inputs.follow_links,
        require_labels=inputs.require_labels,
    )
    _announce(labelled)
    with open_crop_folder(output) as folder:
        job = _Job(folder, labelled.sources, division)
        job.begin(spec, sampling)
        todo = [shard for shard in job.shards() if not job.is_done(shard)]
        remaining = list(chain.from_iterable(job.sources_of(shard) for shard in todo))
        total = sum(len(job.sources_of(shard)) for shard in job.shards())
        extractions = track(
            # A worker takes seconds to start; there is no use in more of them than inputs.
            iter_extractions(
                remaining,
                spec,
                replace(workers, processes=min(workers.processes, len(remaining))),
                sampling,
            ),
            total=total,
            initial=total - len(remaining),
            quiet=quiet,
        )
        for shard in todo:
            job.check_space(shard, spec)
            job.write_shard(shard, spec.suffix, islice(extractions, len(job.sources_of(shard))))
        statuses, crops = folder.write_tables(job.shards())
    return CropReport(output, statuses, crops, dict(labelled.skipped), labelled.duplicates)


def _announce(labelled: Labelled) -> None:
    """Say aloud how the input was read: a wrong label is found here or never."""
    if labelled.layout == "none":
        logger.info("layout none: no labels for %s inputs", f"{len(labelled.sources):,}")
    else:
        rows = [(one.label, one.method or "", one.split or "") for one in labelled.sources]
        groups = {one.group or one.id for one in labelled.sources}
        logger.info(
            "layout %s: %s inputs in %s groups\n%s",
            labelled.layout,
            f"{len(rows):,}",
            f"{len(groups):,}",
            ClassCounts.count(rows),
        )
    for note in labelled.notes:
        logger.warning("%s", note)


class _Job:
    """The sources of one crop job, or of one part of it, and their shards."""

    def __init__(self, folder: CropFolder, sources: Sequence[Source], division: Division) -> None:
        self.folder, self.sources, self.part = folder, sources, division.part
        self.shard_size = division.block_size or choose_block_size(len(sources))

    def shards(self) -> range:
        return (self.part or WHOLE).blocks(-(-len(self.sources) // self.shard_size))

    def sources_of(self, shard: int) -> Sequence[Source]:
        return self.sources[shard * self.shard_size : (shard + 1) * self.shard_size]

    def begin(self, spec: CropSpec, sampling: Sampling) -> None:
        """Write the plan into a new folder, or check that an old one is of this very job."""
        # The plan is of all inputs, so that parts can be told to belong together.
        plan = format_table(_PLAN_COLUMNS, (_plan_cells(source) for source in self.sources))
        description = {
            "crop_spec": spec.to_dict(),
            "sampling": sampling.to_dict(),
            "plan_sha256": hashlib.sha256(plan.encode()).hexdigest(),
            "inputs": len(self.sources),
            "shard_size": self.shard_size,
            "versions": {"deepfake": __version__} | {name: version(name) for name in _PACKAGES},
        }
        if self.part is not None:
            description["part"] = str(self.part)
        self.folder.begin(plan, description)

    def is_done(self, shard: int) -> bool:
        """Whether a shard stands complete; a damaged one is removed and made again."""
        ids = self.folder.read_ids(shard)
        if ids == [source.id for source in self.sources_of(shard)]:
            return True
        self.folder.remove(shard)
        return False

    def write_shard(
        self, shard: int, suffix: str, results: Iterable[tuple[Source, Extraction]]
    ) -> None:
        """Write one shard aside and move it into place whole."""
        source_rows: list[SourceRow] = []
        with self.folder.make_shard(shard) as aside:
            # The rows of a shard of long videos are many; they are written as they come.
            with (aside / MANIFEST_FILE).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(
                    format_manifest(self._write_crops(shard, aside, suffix, results, source_rows))
                )
            with (aside / SOURCES_FILE).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(format_sources(source_rows))

    def _write_crops(
        self,
        shard: int,
        aside: Path,
        suffix: str,
        results: Iterable[tuple[Source, Extraction]],
        source_rows: list[SourceRow],
    ) -> Iterator[CropRow]:
        for source, extraction in results:
            for crop in extraction.crops:
                name = f"{source.id}_{crop.frame_index}_{crop.face_index}{suffix}"
                (aside / CROPS_FOLDER / name).write_bytes(crop.encoded)
                yield make_crop_row(source, crop, self.folder.name_of_crop(shard, name))
            source_rows.append(
                make_source_row(source, extraction.status, extraction.reason, len(extraction.crops))
            )

    def check_space(self, shard: int, spec: CropSpec) -> None:
        # A crop of 380 px takes about 45 kB as JPEG 95 and 250 kB as PNG.
        bytes_per_pixel = 0.35 if spec.jpeg_quality else 1.8
        need = int(len(self.sources_of(shard)) * spec.size**2 * bytes_per_pixel)
        free = shutil.disk_usage(self.folder.root).free
        if free < need:
            raise JobError(
                f"no space left in {self.folder.root}: the next shard needs about "
                f"{need / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; what was finished is safe: "
                "free some space and run the same command again to go on"
            )


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
