"""A crop folder as the input of a prediction: its crops are scored as they are.

Nobody searches them for faces again. Which frame of which file each is from, at which time, and
where in it the face lies, the manifest knows. Knows no network.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np

from deepfake.dataset.crop_store import CropStore
from deepfake.dataset.manifest import (
    JOB_FILE,
    TABLES,
    CropRow,
    Manifest,
    SourceRow,
    read_manifest,
    read_sources,
)
from deepfake.errors import UsageError
from deepfake.learning.checkpoint import Checkpoint
from deepfake.records import (
    CropSpec,
    Extraction,
    Face,
    FaceCrop,
    FacesPerFrame,
    Source,
    Status,
    list_differences,
)


class StoredCrops:
    """The files whose faces were cropped into a folder already, and these crops.

    Args:
        root: The crop folder.
        checkpoint: Must have been trained on crops of the same recipe.
        faces_per_frame: Faces that shall be scored; where fewer were cropped, the answers say so.

    Raises:
        UsageError: If it is no finished crop folder, or was cut by another recipe.

    Attributes:
        sources: One per input of the crop job, in its order; ``path`` holds its first crop.
        sampling: Which frames of videos were cropped.
        files: All files that are read.
    """

    def __init__(
        self, root: Path, checkpoint: Checkpoint, faces_per_frame: FacesPerFrame = "largest"
    ) -> None:
        manifest = read_manifest(root)
        require_same_recipe(manifest, checkpoint)
        self.root, self.sampling = root, manifest.sampling
        fewer = manifest.spec.faces == "largest" != faces_per_frame
        self._note = "only the largest face of each frame was cropped" if fewer else ""
        crops = [row.crop for row in manifest.rows]
        self._store = CropStore(root, crops)
        self._sources = {row.id: row for row in read_sources(root)}
        self._crops: dict[str, list[CropRow]] = defaultdict(list)
        for row in manifest.rows:
            self._crops[row.source].append(row)
        self.sources = tuple(map(self._make_source, self._sources.values()))
        tables = (root / name for name in (JOB_FILE, *TABLES))
        self.files = (*tables, *dict.fromkeys(map(self._store.file_of, crops)))

    @property
    def n_crops(self) -> int:
        """How many crops there are."""
        return sum(map(len, self._crops.values()))

    def digest(self, sources: Sequence[Source]) -> dict[str, str]:
        """What the folder holds of each file, as ``deepfake.jobs.engine.Digest``."""
        told = {}
        for source in sources:
            rows = self._crops[source.id]
            content = (self._sources[source.id], rows, [self._store.digest(r.crop) for r in rows])
            told[source.id] = hashlib.sha256(repr(content).encode()).hexdigest()
        return told

    def iter_extractions(self, sources: Iterable[Source]) -> Generator[tuple[Source, Extraction]]:
        """The crops of files, lazily and in order, as if they had just been cut.

        Raises:
            JobError: If a crop is missing or damaged.
        """
        for source in sources:
            row = self._sources[source.id]
            crops = tuple(self._read(crop) for crop in self._crops[source.id])
            reason = "; ".join(filter(None, (row.reason, self._note if crops else "")))
            yield source, Extraction(Status(row.status), reason, crops, len(crops))

    def _make_source(self, row: SourceRow) -> Source:
        name = os.fsdecode(unquote_to_bytes(row.path_uri))
        crops = self._crops[row.id]
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
