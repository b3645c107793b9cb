"""Crops of a manifest as samples, plain or augmented.

Everything random about a sample follows from its name (``batches.SampleKey``) and the seed: the
number of loader workers changes nothing. Knows no split, no batch and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from deepfake.augment.face_parts import POINT_COUNTS, Crop, Points, face_area
from deepfake.augment.recipes import Augmentation, AugmentationSettings, sample_seed
from deepfake.augment.self_blending import self_blend
from deepfake.augment.sheet import Example
from deepfake.dataset.crop_folder import MeshFiles
from deepfake.dataset.crop_mirror import find_mirror
from deepfake.dataset.crop_store import CropStore
from deepfake.dataset.rows import CropRow, pack_crops, require_labels
from deepfake.errors import JobError, MediaError
from deepfake.faces.extraction import decode_crop
from deepfake.faces.geometry import to_crop
from deepfake.faces.quality import TrainingFaces
from deepfake.learning.batches import SampleKey
from deepfake.learning.embedder import are_unit
from deepfake.learning.pairs import find_originals, find_strangers
from deepfake.storage import Confinement

_SMALLEST_FACE = 0.05  # share of a crop that a face must fill to be blended

_MOST_MEASURED = 4096  # crops that tell what faces were trained on: a few seconds


class Sample(TypedDict):
    """One crop as tensors; the loader stacks them to ``(B, 3, S, S)``, ``(B,)``, ``(B,)``.

    ``label`` is 1 for fake, 0 for real, -1 where it is not known.
    """

    image: Tensor
    label: Tensor
    index: Tensor


class CropDataset(Dataset[Sample]):
    """Crops of a manifest.

    Args:
        root: The crop folder.
        rows: Rows of its manifest.
        size: Side S of the crops in pixels.
        seed: Seed of the augmentation.
        augmentation: What happens to a crop whose key asks for it.
        store: Where the crops are read, if it is there already.
    """

    def __init__(
        self,
        root: Path,
        rows: Sequence[CropRow],
        size: int,
        seed: int = 0,
        augmentation: AugmentationSettings = AugmentationSettings(),  # noqa: B008 - frozen
        store: CropStore | None = None,
    ) -> None:
        self.root, self.rows, self.size, self.seed = root, pack_crops(rows), size, seed
        self.augmentation = augmentation
        self._inside = Confinement(root)
        self._store = store or CropStore(root, self.rows.values("crop"))
        self._pipeline: Augmentation | None = None
        self._meshes = MeshFiles(find_mirror(root))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """One crop, ``image`` as ``(3, S, S)`` uint8 RGB.

        Raises:
            JobError: If the file is missing, damaged or of another size.
        """
        key = key if isinstance(key, SampleKey) else SampleKey(0, key, augment=False)
        row = self.rows[key.row]
        label = 1 if key.blend else row.label
        image = self._make(key)
        return {
            # (S, S, 3) -> (3, S, S)
            "image": torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
            "label": torch.tensor(-1 if label is None else label),
            "index": torch.tensor(key.row),
        }

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Ground truth of every row, ``(N,)``: 1 = fake, 0 = real; none may lack it."""
        return require_labels(self.rows)

    @cached_property
    def originals(self) -> NDArray[np.int64]:
        """For every row, the row of the real crop that it was made from, or -1."""
        return find_originals(self.rows)

    @cached_property
    def strangers(self) -> NDArray[np.int64]:
        """Rows of the reals that no fake was made from."""
        return find_strangers(self.rows, self.originals)

    def read(self, row: CropRow) -> Crop:
        """The pixels of one crop, ``(S, S, 3)`` uint8 RGB.

        Raises:
            JobError: If it is missing, damaged or of another size.
        """
        path, data = self.root / row.crop, self._store.read(row.crop)
        try:
            image = decode_crop(data, str(path))
        except MediaError as error:
            raise JobError(
                f"crop {path} cannot be read ({error}); run the crop command again to mend it"
            ) from error
        if image.shape != (self.size, self.size, 3):
            raise JobError(
                f"crop {path} has shape {image.shape}; its job.json says {self.size} x {self.size}"
            )
        return image

    def points(self, row: CropRow) -> Points | None:
        """Landmarks in pixels of the crop; ``None`` without any.

        Those of the mesh, ``(468, 2)``, where one is stored, else those of the manifest,
        ``(5, 2)`` or ``(68, 2)``.

        Raises:
            JobError: If the mesh is not as it was written.
        """
        mesh = self._meshes.read(self._inside.path_of(row.crop))
        return self._manifest_points(row) if mesh is None else mesh

    def _manifest_points(self, row: CropRow) -> Points | None:
        if row.window is None or len(row.landmarks) not in [2 * count for count in POINT_COUNTS]:
            return None
        points = np.array(row.landmarks, dtype=np.float32).reshape(-1, 2)
        return to_crop(points, row.window, self.size)

    def example(self, index: int) -> Example:
        """One crop for the contact sheet: as it is, and as the first pass would augment it."""
        row = self.rows[index]
        return Example(
            crop=self.read(row),
            points=self.points(row),
            label=row.label,
            seed=sample_seed(self.seed, 0, index),
            augmented=self._make(SampleKey(0, index, augment=True)),
        )

    @cached_property
    def blend_sources(self) -> NDArray[np.int64]:
        """Rows of the reals whose landmarks span a face, ``(N,)``: those that can be blended."""
        found = []
        for number in np.flatnonzero(self.rows.kept("label") == 0).tolist():
            row = self.rows[number]
            points = self._manifest_points(row)
            if points is None:  # a face that was not searched for has a mesh alone
                points = self.points(row)
            if points is not None and face_area(points) >= _SMALLEST_FACE * self.size**2:
                found.append(number)
        return np.array(found, np.int64)

    def _make(self, key: SampleKey) -> Crop:
        """The crop that a key names. A real and its blend get the same augmentation."""
        row, settings = self.rows[key.row], self.augmentation
        image = self.read(row)
        if not (key.augment or key.blend):
            return image
        seed = sample_seed(self.seed, key.epoch, key.row, key.repeat)
        points = self.points(row)
        if key.blend:
            if points is None:
                raise ValueError(f"crop {row.crop} has no landmarks to blend it by")
            image = self_blend(image, points, np.random.default_rng((seed, 0)))
        if not key.augment:
            return image
        # Made where it is used: a pipeline does not survive the way into a worker process.
        self._pipeline = self._pipeline or Augmentation(settings.recipe, settings.extra)
        return self._pipeline(image, seed, points)


def measure_training_faces(dataset: CropDataset) -> TrainingFaces:
    """Measure the crops of a data set, as they are stored; of many, some evenly over its rows.

    Raises:
        JobError: If a crop is missing or damaged.
        UsageError: If there are fewer than two.
    """
    rows = dataset.rows[:: -(-len(dataset.rows) // _MOST_MEASURED) or 1]
    return TrainingFaces.fit(
        (dataset.read(row) for row in rows),
        [*rows.values("box_xyxy")],
        [*rows.values("group")],
    )


def require_unit(embeddings: Tensor, rows: Sequence[CropRow]) -> None:
    """Refuse embeddings ``(N, D)`` of crops that are no directions.

    Raises:
        JobError: If one holds NaN, infinite numbers or only zeros; it names the first crop.
    """
    wrong = (~are_unit(embeddings)).nonzero().flatten().tolist()
    if wrong:
        raise JobError(
            f"the embeddings of {len(wrong):,} of {len(rows):,} crops hold NaN, infinite numbers "
            f"or only zeros, such as that of {rows[wrong[0]].crop}: the weights are damaged, or "
            "too large"
        )
