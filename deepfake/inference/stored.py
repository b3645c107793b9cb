"""A crop folder as the input of a prediction: its crops are scored as they are.

Nobody searches them for faces again. Which frame of which file each is from, at which time, and
where in it the face lies, the manifest knows. Knows no network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal
from urllib.parse import unquote_to_bytes

import numpy as np

from deepfake.dataset.columns import MadeRows
from deepfake.dataset.crop_store import CropStore
from deepfake.dataset.manifest import JOB_FILE, TABLES, Manifest, read_manifest, read_sources
from deepfake.dataset.rows import CropRow
from deepfake.dataset.texts import TextIndex, number_texts
from deepfake.errors import UsageError
from deepfake.learning.checkpoint import Checkpoint
from deepfake.media.discovery import is_called_video
from deepfake.records import (
    OF_FRAMES,
    CropSpec,
    Extraction,
    Face,
    FaceCrop,
    FacesPerFrame,
    Source,
    Status,
    list_differences,
)

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class StoredCrops:
    """The files whose faces were cropped into a folder already, and these crops.

    Args:
        root: The crop folder.
        checkpoint: Must have been trained on crops of the same recipe.
        faces_per_frame: Faces that shall be scored; where fewer were cropped, the answers say so.

    Raises:
        UsageError: If it is no finished crop folder, or was cut by another recipe.

    Attributes:
        root: As given.
        sampling: Which frames of videos were cropped.
    """

    def __init__(
        self, root: Path, checkpoint: Checkpoint, faces_per_frame: FacesPerFrame = "largest"
    ) -> None:
        manifest = read_manifest(root)
        require_same_recipe(manifest, checkpoint)
        self.root, self.sampling = root, manifest.sampling
        searched = manifest.spec.search != "none"
        fewer = searched and manifest.spec.faces == "largest" != faces_per_frame
        self._note = "only the largest face of each frame was cropped" if fewer else ""
        self._rows, self._files = manifest.rows, read_sources(root)
        self._store = CropStore(root, self._rows.values("crop"))
        ids = self._files.texts("id")
        self._index = TextIndex(ids)
        of_crop, of_file = number_texts(self._rows.texts("source"), ids)
        # The crops of each file: ten million need a few bytes each.
        self._by_file = np.argsort(of_crop, kind="stable").astype(np.int32)
        numbers = of_crop[self._by_file]
        self._starts, self._ends = (np.searchsorted(numbers, of_file, s) for s in _SIDES)

    @property
    def sources(self) -> Sequence[Source]:
        """One per input of the crop job, in its order; ``path`` holds its first crop."""
        return MadeRows(range(len(self._files)), self._make_source)

    @property
    def files(self) -> Iterator[Path]:
        """All files that are read; those that follow each other differ."""
        yield from (self.root / name for name in (JOB_FILE, *TABLES))
        for path, _ in groupby(map(self._store.file_of, self._rows.values("crop"))):
            yield path

    @property
    def n_crops(self) -> int:
        """How many crops there are."""
        return len(self._rows)

    def digest(self, sources: Sequence[Source]) -> dict[str, str]:
        """What the folder holds of each file, as ``deepfake.jobs.engine.Digest``."""
        told = {}
        for source in sources:
            place = self._index.find(source.id)
            rows = self._crops_of(place)
            content = (self._files[place], rows, [self._store.digest(r.crop) for r in rows])
            told[source.id] = hashlib.sha256(repr(content).encode()).hexdigest()
        return told

    def iter_extractions(self, sources: Iterable[Source]) -> Generator[tuple[Source, Extraction]]:
        """The crops of files, lazily and in order, as if they had just been cut.

        Raises:
            JobError: If a crop is missing or damaged.
        """
        for source in sources:
            place = self._index.find(source.id)
            row, crops = self._files[place], tuple(map(self._read, self._crops_of(place)))
            reason = "; ".join(filter(None, (row.reason, self._note if crops else "")))
            found = Extraction(Status(row.status), reason, crops, len(crops))
            # An animation, or pages, may be called as a photo is.
            is_clip = is_called_video(source.name) or row.reason.startswith(OF_FRAMES)
            yield source, replace(found, is_clip=is_clip)

    def _crops_of(self, place: int) -> list[CropRow]:
        return [*self._rows.choose(self._by_file[self._starts[place] : self._ends[place]])]

    def _make_source(self, place: int) -> Source:
        row, crops = self._files[place], self._crops_of(place)
        name = os.fsdecode(unquote_to_bytes(row.path_uri))
        path = self._store.file_of(crops[0].crop) if crops else self.root / TABLES[-1]
        return Source(row.id, path, name)

    def _read(self, row: CropRow) -> FaceCrop:
        landmarks = np.array(row.landmarks, np.float32).reshape(-1, 2)
        return FaceCrop(
            frame_index=row.frame,
            time_s=row.time_s,
            face_index=row.face,
            face=Face(np.array(row.box_xyxy, np.float32), row.confidence, landmarks),
            rotation=row.rotation,
            encoded=self._store.read(row.crop),
            window=row.window,
        )


def require_same_recipe(manifest: Manifest, checkpoint: Checkpoint) -> None:
    """Refuse crops that were cut otherwise than those that a checkpoint was trained on.

    Raises:
        UsageError: If a setting differs; it names all of them.
    """
    # Which faces of a frame are there is no matter of how a face was cut.
    crop = checkpoint.recipe.crop.for_scoring("all")
    other = list_differences(replace(manifest.spec.for_scoring("all"), preset=crop.preset), crop)
    if other:
        shown = ", ".join(other)
        raise UsageError(
            f"the crops in {manifest.root} were cut by another recipe than {checkpoint.path} was "
            f"trained on ({shown}): crop again with {_crop_options(checkpoint.recipe.crop)}, or "
            "give the photos and videos themselves"
        )


def _crop_options(spec: CropSpec) -> str:
    return f"deepfake crop ... --preset {spec.preset} --size {spec.size} (deepfake info shows all)"
