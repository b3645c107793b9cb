"""From a crop folder to batches of tensors: data set, split, loader.

Everything random about a sample follows from its name (``batches.SampleKey``) and the seed: the
number of loader workers changes nothing. Knows no network and no loss.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from deepfake.augment.face_parts import POINT_COUNTS, Picture, Points, face_area
from deepfake.augment.recipes import EXTRAS, Augmentation, sample_seed
from deepfake.augment.self_blending import self_blend
from deepfake.dataset.audit import audit_look_alikes, audit_splits, raise_issues
from deepfake.dataset.manifest import CropRow, Manifest, read_manifest, require_labels
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.dataset.splits import SPLITS, assign_splits
from deepfake.errors import JobError, MediaError, UsageError
from deepfake.faces.extraction import decode_crop
from deepfake.faces.geometry import to_crop
from deepfake.learning.batches import EpochBatches, EpochOrder, SampleKey, deal
from deepfake.records import LABEL_NAMES

logger = logging.getLogger(__name__)
_MANY_CROPS = 20_000  # to look at them takes seconds, and shows how far it is
_BLEND_TRIES = 8
_SMALLEST_FACE = 0.05  # share of a crop that a face must fill to be blended


ExtraName = Literal["blind_face", "pattern", "face_parts", "half_face", "downscale"]
"""Single changes of ``augmentation.EXTRAS``, for the command line to check."""


class Sample(TypedDict):
    """One crop as tensors; the loader stacks them to ``(B, 3, S, S)``, ``(B,)``, ``(B,)``."""

    image: Tensor
    label: Tensor
    index: Tensor


class CropDataset(Dataset[Sample]):
    """Crops of a manifest.

    Args:
        root: The crop folder.
        rows: Labelled rows of its manifest.
        size: Side S of the crops in pixels.
        seed: Seed of the augmentation.
        augmentation: Name of its recipe.
        extra: Names of single changes before it.
        blend_share: Share of the augmented fakes that give way to a self-blended real.
    """

    def __init__(
        self,
        root: Path,
        rows: Sequence[CropRow],
        size: int,
        seed: int = 0,
        augmentation: str = "entry",
        extra: Sequence[str] = (),
        blend_share: float = 0.0,
    ) -> None:
        self.root, self.rows, self.size, self.seed = root, rows, size, seed
        self.augmentation, self.extra, self.blend_share = augmentation, extra, blend_share
        self._augmentation: Augmentation | None = None
        self._reals = [number for number, row in enumerate(rows) if row.label == 0]
        self._pairs: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """One crop, ``image`` as ``(3, S, S)`` uint8 RGB.

        Raises:
            JobError: If the file is missing, damaged or of another size.
        """
        epoch, index, augment = key if isinstance(key, tuple) else (0, key, False)
        row = self.rows[index]
        image = self._augment(epoch, index) if augment else self.read(row)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
            "label": torch.tensor(row.label),
            "index": torch.tensor(index),
        }

    def points(self, row: CropRow) -> Points | None:
        """Landmarks in pixels of the crop, ``(5, 2)`` or ``(68, 2)``; ``None`` without any."""
        if row.window is None or len(row.landmarks) not in [2 * count for count in POINT_COUNTS]:
            return None
        points = np.array(row.landmarks, dtype=np.float32).reshape(-1, 2)
        return to_crop(points, row.window, self.size)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """For every row, the row of the real picture that it was made from, or -1."""
        if self._pairs is None:
            self._pairs = find_originals(self.rows)
        return self._pairs

    def _augment(self, epoch: int, index: int) -> Picture:
        seed = sample_seed(self.seed, epoch, index)
        # Made where it is used: a pipeline does not survive the way into a worker process.
        self._augmentation = self._augmentation or Augmentation(self.augmentation, self.extra)
        row = self.rows[index]
        if row.label == 1 and self.blend_share:
            rng = np.random.default_rng((seed, 0))
            real = self._find_real(index, rng) if rng.random() < self.blend_share else None
            if real is not None:
                row, points = real
                blended = self_blend(self.read(row), points, rng)
                return self._augmentation(blended, seed, points)
        return self._augmentation(self.read(row), seed, self.points(row))

    def _find_real(self, index: int, rng: np.random.Generator) -> tuple[CropRow, Points] | None:
        """A real crop whose landmarks span a face: a fake's own original first, then any.

        ``None`` where none is found in a few tries; the fake then stays.
        """
        tries = rng.choice(self._reals, _BLEND_TRIES).tolist()
        for number in [self.pairs[index], *tries]:
            row = self.rows[number]
            points = self.points(row) if number >= 0 else None
            if points is not None and face_area(points) >= _SMALLEST_FACE * self.size**2:
                return row, points
        return None

    def read(self, row: CropRow) -> Picture:
        """The pixels of one crop, ``(S, S, 3)`` uint8 RGB.

        Raises:
            JobError: If the file is missing, damaged or of another size.
        """
        path = self.root / row.crop
        try:
            image = decode_crop(path.read_bytes(), str(path))
        except (OSError, MediaError) as error:
            raise JobError(
                f"crop {path} cannot be read ({error}); run the crop command again to mend it"
            ) from error
        if image.shape != (self.size, self.size, 3):
            raise JobError(
                f"crop {path} has shape {image.shape}; its job.json says {self.size} x {self.size}"
            )
        return image


def find_originals(rows: Sequence[CropRow]) -> NDArray[np.int64]:
    """For every fake, the row of the real crop that it was made from; -1 where there is none.

    Of several crops of the original, that of the nearest frame, and of the same face of it.
    """
    reals: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row.label == 0:
            reals.setdefault(row.source, []).append(number)

    def find(row: CropRow) -> int:
        candidates = reals.get(row.original, []) if row.label == 1 else []
        return min(
            candidates,
            key=lambda n: (abs(rows[n].frame - row.frame), rows[n].face != row.face),
            default=-1,
        )

    return np.array([find(row) for row in rows], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class DataDescription:
    """What a checkpoint remembers of its data.

    Args:
        manifest: The crop folder's tables.
        counts: Crops per split and class name.
    """

    manifest: Manifest
    counts: dict[str, dict[str, int]]


class CropDataModule(LightningDataModule):
    """A crop folder, split and batched.

    Args:
        root: Crop folder, as ``crop.py`` wrote it.
        batch_size: Crops per step, over all processes together.
        augmentation: ``entry`` is the contest entry's, ``light`` a gentler one, ``dfdc`` that of
            the DFDC winner.
        augment_share: Share of each batch that is augmented; the entry's code had 8 of 28.
        extra: Single changes before the augmentation, in this order: ``blind_face``, ``pattern``,
            ``face_parts``, ``half_face``, ``downscale``; in ``entry``, ``blind_face`` comes after
            the compression.
        self_blend: Share of the augmented fakes that give way to a real training crop blended
            with itself: the fake's own original where it is known.
        balance: Fill every batch half with real and half with fake.
        per_group: So many crops of a group come together (of each class, where classes
            alternate).
        paired: Fill every batch with pairs of a fake and its own original. A pass brings every
            crop: reals that no fake was made from come once, beside fakes whose original is not
            known, then beside fakes that come again. ``auto`` does so where most training fakes
            have their original among the training crops; ``balance`` decides elsewhere.
        steps_per_epoch: Steps of an epoch, which then ends in the middle of the data; the next one
            goes on there. ``null``: an epoch is a pass over the data.
        split: ``given`` takes the split column of the manifest, ``group`` divides by group, a
            fake's tied to that of its original, ``auto`` takes the column if it is filled.
        shares: Shares of train, validation and test for ``group``.
        crop_preset: Refuse crops of another preset; ``crop.py --config`` reads it too.
        num_workers: Loader processes.
        seed: Seed of order, augmentation and split.
        find_look_alikes: Look for near-duplicates in two splits before the first step of a run,
            which reads every crop once, at a fraction of its size.
        allow_leak: Go on, with a warning, where a group or a near-duplicate stands in two splits,
            or a fake apart from its original.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 28,
        augmentation: Literal["entry", "light", "dfdc"] = "entry",
        augment_share: float = 8 / 28,
        extra: Sequence[ExtraName] = (),
        self_blend: float = 0.0,
        balance: bool = False,
        per_group: int = 1,
        paired: bool | Literal["auto"] = False,
        steps_per_epoch: int | None = None,
        split: Literal["auto", "given", "group"] = "auto",
        shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
        crop_preset: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
        find_look_alikes: bool = True,
        allow_leak: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise UsageError(f"data.batch_size={batch_size}; triplets need 2 or more")
        if not 0 <= augment_share <= 1:
            raise UsageError(f"data.augment_share={augment_share}; expected 0 to 1")
        if not 0 <= self_blend <= 1:
            raise UsageError(f"data.self_blend={self_blend}; expected 0 to 1")
        if per_group < 1:
            raise UsageError(f"data.per_group={per_group}; expected 1 or more")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise UsageError(f"data.steps_per_epoch={steps_per_epoch}; expected 1 or more, or null")
        if paired is True and batch_size % 2:
            raise UsageError(f"data.batch_size={batch_size} is odd; data.paired needs pairs")
        self.root = Path(root)
        self.batch_size, self.augment_share, self.balance = batch_size, augment_share, balance
        self.augmentation, self.extra, self.self_blend = augmentation, tuple(extra), self_blend
        self.per_group, self.paired, self.steps_per_epoch = per_group, paired, steps_per_epoch
        self.split, self.shares, self.crop_preset = split, shares, crop_preset
        self.num_workers, self.seed = num_workers, seed
        self.find_look_alikes, self.allow_leak = find_look_alikes, allow_leak
        self.pairs_up = False
        self._resumed = (0, 0)
        self.datasets: dict[str, CropDataset] = {}
        self.description: DataDescription | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest and divide it.

        Raises:
            UsageError: If crops are unlabelled, train or validation is empty, a split holds one
                class only, something leaks from one split into another, the crops are of another
                preset, or they lack the landmarks or originals that a setting needs.
        """
        if self.description is not None:
            return
        manifest = read_manifest(self.root)
        spec = manifest.spec
        if self.crop_preset is not None and spec.preset != self.crop_preset:
            raise UsageError(
                f"{self.root} was cut with crop preset {spec.preset!r}, this configuration is for "
                f"{self.crop_preset!r}: crop with --preset {self.crop_preset}, or set "
                "data.crop_preset to null"
            )
        splits = self._assign_splits(manifest)
        counts: dict[str, dict[str, int]] = {}
        for split in SPLITS:
            rows = [row for row, name in zip(manifest.rows, splits, strict=True) if name == split]
            number = Counter(row.label for row in rows)
            counts[split] = {word: number[label] for label, word in enumerate(LABEL_NAMES)}
            self.datasets[split] = CropDataset(
                *(self.root, rows, spec.size, self.seed),
                *(self.augmentation, self.extra, self.self_blend),
            )
        self.pairs_up = self._choose_pairs()
        self._audit(manifest, splits)
        self._check_faces()
        if stage == "fit" and self.find_look_alikes:
            self._audit_look_alikes(manifest, splits)
        self.description = DataDescription(manifest, counts)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: the epoch and the batch that come next."""
        epoch, batch = _next_batch(self.trainer) if self.trainer else (0, 0)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint says."""
        self._resumed = (int(state_dict["epoch"]), int(state_dict.get("batch", 0)))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled, augmented batches of this process."""
        trainer = self.trainer
        dataset = self.datasets["train"]
        order = EpochOrder(
            require_labels(dataset.rows).tolist(),
            self.seed,
            self.balance,
            [row.group for row in dataset.rows],
            self.per_group,
            dataset.pairs if self.pairs_up else None,
        )
        if trainer is not None:
            # Lightning sets the epoch too, but on a resume only after a loader with workers has
            # fetched its first batches (Lightning issue 21938). Where a schedule asks for the
            # number of steps, this is even called before Lightning restores its own count.
            order.set_epoch(max(_next_batch(trainer)[0], self._resumed[0]))
        batches = EpochBatches(
            order, self.batch_size, self.augment_share, *self._place, self.steps_per_epoch
        )
        # Lightning counts on from the batch where it stopped, but starts the loader anew.
        batches.done = self._resumed
        # What is random about a sample comes with its key: workers may live as long as the run.
        persistent = self.num_workers > 0
        return self._loader(dataset, batch_sampler=batches, persistent_workers=persistent)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Plain batches of the validation split."""
        return self.plain_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Plain batches of the test split."""
        return self.plain_dataloader("test")

    def plain_dataloader(self, split: str) -> DataLoader[Sample]:
        """A split as ``load`` gives it."""
        return self.load(self.datasets[split])

    def load(self, dataset: CropDataset) -> DataLoader[Sample]:
        """This process's share of a data set, in order, without augmentation.

        All shares have one length, so that no process waits for another that is done: where the
        rows do not divide, the first ones come twice. ``each_once`` takes them out again.
        """
        rank, world_size = self._place
        padded = -(-len(dataset) // world_size) * world_size
        share = [place % len(dataset) for place in deal(padded, rank, world_size)]
        return self._loader(dataset, batch_size=min(self.batch_size, 64), sampler=share)

    @property
    def _place(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: CropDataset, **options: Any) -> DataLoader[Sample]:
        return make_loader(dataset, self.num_workers, torch.cuda.is_available(), **options)

    def _assign_splits(self, manifest: Manifest) -> list[str]:
        given = [row.split for row in manifest.rows]
        splits = assign_splits(manifest.rows, self.split, self.shares, self.seed)
        if any(given) and splits != given and self.split == "auto":
            logger.info("%s brings no validation split; one was drawn from train", self.root)
        return splits

    def _audit(self, manifest: Manifest, splits: Sequence[str]) -> None:
        """Refuse splits that make metrics worthless."""
        issues = audit_splits(manifest, splits)
        if self.balance or self.pairs_up:
            issues = [issue for issue in issues if issue.kind != "balance"]
        raise_issues(issues, allow_leak=self.allow_leak)

    def _audit_look_alikes(self, manifest: Manifest, splits: Sequence[str]) -> None:
        """Refuse near-duplicates in two splits; the first of several processes looks for all."""
        trainer = self.trainer
        if trainer is None or trainer.ckpt_path is not None:
            return  # a run that goes on was looked at when it began
        issues = []
        if trainer.is_global_zero:
            hashes = PerceptualHashes.compute(manifest, quiet=len(splits) < _MANY_CROPS)
            issues = [audit_look_alikes(manifest, splits, hashes)]
        raise_issues(trainer.strategy.broadcast(issues), allow_leak=self.allow_leak)

    def _check_faces(self) -> None:
        """Refuse settings that ask for what the training crops do not bring."""
        dataset = self.datasets["train"]
        wanted = [f"data.extra {name}" for name in self.extra if EXTRAS[name].needs_landmarks]
        wanted += ["data.self_blend"] if self.self_blend else []
        lacking = sum(dataset.points(row) is None for row in dataset.rows) if wanted else 0
        if lacking:
            raise UsageError(
                f"{wanted[0]} needs landmarks, but {lacking} of {len(dataset)} training crops in "
                f"{self.root} have none (or no window, as crops from before it was noted): crop "
                "again with this version"
            )

    def _choose_pairs(self) -> bool:
        """Whether batches are made of pairs."""
        if not self.paired:
            return False
        dataset = self.datasets["train"]
        n_fakes = sum(row.label == 1 for row in dataset.rows)
        n_pairs = int((dataset.pairs >= 0).sum())
        if self.paired == "auto" and (2 * n_pairs <= n_fakes or self.batch_size % 2):
            logger.info(
                "data.paired auto: no pairs, %d of %d training fakes have their original among the "
                "training crops, batches of %d",
                n_pairs,
                n_fakes,
                self.batch_size,
            )
            return False
        if not n_pairs:
            raise UsageError(
                f"data.paired needs the original of fakes, but no training fake in {self.root} "
                "names one that is there: fill the column original of the CSV, or leave it out"
            )
        if n_pairs < n_fakes:
            logger.warning(
                "data.paired: %d of %d training fakes have no original among the training crops; "
                "other reals stand in",
                n_fakes - n_pairs,
                n_fakes,
            )
        n_reals = len(dataset) - n_fakes
        n_lonely = n_reals - len(np.unique(dataset.pairs[dataset.pairs >= 0]))
        if n_lonely:
            logger.info(
                "data.paired: %d of %d training reals are no fake's original; each comes once in a "
                "pass, beside another's fake",
                n_lonely,
                n_reals,
            )
        return True


def _next_batch(trainer: Trainer) -> tuple[int, int]:
    """Epoch and batch that come next, also while a callback of the present batch runs."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    if progress.ready == progress.processed:
        return int(progress.processed), 0  # between two epochs
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(progress.processed), int(batches.processed)


def make_loader(
    dataset: CropDataset, num_workers: int, pin_memory: bool, **options: Any
) -> DataLoader[Sample]:
    """A loader whose workers have one thread each and are some batches ahead.

    Args:
        dataset: The crops.
        num_workers: Loader processes; 0 loads in this one.
        pin_memory: Lay batches where a GPU can fetch them by itself.
        options: Of ``DataLoader``: what to sample, and how.
    """
    return DataLoader(
        dataset,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_use_one_thread,
        collate_fn=stack_samples,
        **options,
    )


def stack_samples(samples: list[Sample]) -> Sample:
    """A batch of samples; images stay interleaved in memory, as decoders write them."""
    rows = [{**sample, "image": sample["image"].permute(1, 2, 0)} for sample in samples]
    batch: Sample = default_collate(rows)
    batch["image"] = batch["image"].permute(0, 3, 1, 2)
    return batch


def _use_one_thread(worker: int) -> None:
    # Each worker is a process of its own; more threads would only fight over the cores.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
