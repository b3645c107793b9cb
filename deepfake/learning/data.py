"""From a crop folder to batches of tensors: read, divide, batch.

Knows no network, no loss and no pixel.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, DistributedSampler

from deepfake.augment.recipes import EXTRAS, AugmentationSettings
from deepfake.dataset.audit import audit_look_alikes, audit_splits, raise_issues
from deepfake.dataset.crop_mirror import CACHE_GB, open_crops
from deepfake.dataset.crop_store import CropStore
from deepfake.dataset.manifest import Manifest, read_manifest
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.dataset.rows import CropRow, CropRows
from deepfake.dataset.splits import SPLITS, assign_splits
from deepfake.errors import UsageError
from deepfake.learning.batches import EpochBatches, EpochOrder
from deepfake.learning.crops import CropDataset, Sample
from deepfake.learning.loader import make_loader
from deepfake.learning.pairs import choose_pairs
from deepfake.records import LABEL_NAMES

logger = logging.getLogger(__name__)
_MANY_CROPS = 20_000  # to hash them takes seconds, and shows how far it is


@dataclass(frozen=True)  # without slots: jsonargparse reads defaults by vars()
class BatchSettings:
    """How training batches are put together.

    Args:
        balance: Fill every batch half with real and half with fake.
        per_group: So many crops of a group come together (of each class, where classes
            alternate).
        paired: Fill every batch with pairs of a fake and its own original. A pass brings every
            crop: reals that no fake was made from come once, beside fakes whose original is not
            known, then beside fakes that come again. ``auto`` does so where most training fakes
            have their original among the training crops; ``balance`` decides elsewhere.
        steps_per_epoch: Steps of an epoch, which then ends in the middle of the data; the next one
            goes on there. ``null``: an epoch is a pass over the data.
        self_blend: Share of the pairs of every batch that are a real training crop and the fake
            made of it by blending it with itself, both augmented alike. Any real may come,
            also one of no fake. The others are pairs of ``paired`` or ``balance``.
        repeat: How often a pass brings every training crop of a method, real or fake, by the
            method's name; the others come once. For a small set beside a large one. The head and
            what is known of the training faces count them as often.

    Raises:
        UsageError: If a number is out of range.
    """

    balance: bool = False
    per_group: int = 1
    paired: bool | Literal["auto"] = False
    steps_per_epoch: int | None = None
    self_blend: float = 0.0
    repeat: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(times < 1 for times in self.repeat.values()):
            raise UsageError(f"data.batches.repeat={self.repeat}; expected 1 or more of each")
        if self.per_group < 1:
            raise UsageError(f"data.batches.per_group={self.per_group}; expected 1 or more")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UsageError(
                f"data.batches.steps_per_epoch={self.steps_per_epoch}; expected 1 or more, or null"
            )
        if not 0 <= self.self_blend <= 1:
            raise UsageError(f"data.batches.self_blend={self.self_blend}; expected 0 to 1")
        if 0 < self.self_blend < 1 and not (self.balance or self.paired):
            raise UsageError(
                f"data.batches.self_blend={self.self_blend} puts pairs among pairs: set "
                "data.batches.paired or data.batches.balance"
            )


@dataclass(frozen=True)  # without slots: jsonargparse reads defaults by vars()
class SplitSettings:
    """How crops are divided into train, validation and test, and what is refused.

    Args:
        by: ``given`` takes the split column of the manifest, ``group`` divides by group, a fake's
            tied to that of its original, ``auto`` takes the column if it is filled.
        shares: Shares of train, validation and test where something is divided.
        find_look_alikes: Look for near-duplicates in two splits before the first step of a run,
            which reads every crop once, at a fraction of its size.
        allow_leak: Go on, with a warning, where a group or a near-duplicate stands in two splits,
            or a fake apart from its original.
    """

    by: Literal["auto", "given", "group"] = "auto"
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    find_look_alikes: bool = True
    allow_leak: bool = False


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
        root: Crop folder, as ``crop.py`` wrote it, also in a store.
        batch_size: Crops per step, over all processes together.
        augmentation: What happens to training crops, and to how many of a batch.
        batches: Which crops come together in a training batch.
        split: How crops are divided, and what is refused.
        crop_preset: Refuse crops of another preset; ``crop.py --config`` reads it too.
        num_workers: Loader processes.
        seed: Seed of order, augmentation and split.
        cache: Folder for copies of crops that lie in a store.
        cache_gb: Billions of bytes of crops that it may hold.

    Attributes:
        datasets: The crops of each split, once it is set up; ``predict`` holds all of them.
        description: What a checkpoint remembers of the data.
        is_paired: Whether training batches are made of pairs.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 28,
        augmentation: AugmentationSettings = AugmentationSettings(),  # noqa: B008 - frozen
        batches: BatchSettings = BatchSettings(),
        split: SplitSettings = SplitSettings(),
        crop_preset: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache: str | None = None,
        cache_gb: float = CACHE_GB,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise UsageError(
                f"data.batch_size={batch_size}; expected 2 or more, for triplets and for batch "
                "normalisation"
            )
        if num_workers < 0:
            raise UsageError(f"data.num_workers={num_workers}; expected 0 or more")
        if (batches.paired is True or batches.self_blend) and batch_size % 2:
            name = "paired" if batches.paired is True else "self_blend"
            raise UsageError(
                f"data.batch_size={batch_size} is odd; data.batches.{name} needs pairs"
            )
        self.root, self.batch_size = open_crops(root, cache, cache_gb), batch_size
        self.augmentation, self.batches, self.split = augmentation, batches, split
        self.crop_preset, self.num_workers, self.seed = crop_preset, num_workers, seed
        self.is_paired = False
        self._resumed = (0, 0)
        self.datasets: dict[str, CropDataset] = {}
        self.description: DataDescription | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest and divide it; to predict, neither labels nor splits are needed.

        Raises:
            UsageError: If crops are unlabelled, train or validation is empty, a split holds one
                class only, something leaks from one split into another, the crops are of another
                preset, or they lack the landmarks or originals that a setting needs.
        """
        if stage == "predict":
            manifest = self._read_manifest()
            self.datasets["predict"] = self._make_dataset(manifest, manifest.rows)
            return
        if self.description is None:
            self._divide(self._read_manifest(), look=stage == "fit" and self.split.find_look_alikes)
        if stage == "test" and not len(self.datasets["test"]):
            raise UsageError(f"{self.root} has no test split; deepfake evaluate takes any crops")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: the epoch and the batch that come next."""
        epoch, batch = _next_batch(self.trainer) if self.trainer else (0, 0)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint says."""
        self._resumed = (int(state_dict["epoch"]), int(state_dict.get("batch", 0)))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled, augmented batches of this process."""
        dataset = self.datasets["train"]
        order = EpochOrder(
            dataset.labels,
            self.seed,
            self.batches.balance,
            [*dataset.rows.values("group")] if self.batches.per_group > 1 else None,
            self.batches.per_group,
            dataset.originals if self.is_paired else None,
            dataset.strangers if self.is_paired else None,
            self.batches.self_blend,
            dataset.blend_sources if self.batches.self_blend else None,
        )
        rank, world_size = self._place
        batches = EpochBatches(
            order,
            self.batch_size,
            self.augmentation.share,
            rank,
            world_size,
            self.batches.steps_per_epoch,
        )
        if self.trainer is not None:
            # Lightning sets the epoch too, but on a resume only after a loader with workers has
            # fetched its first batches (Lightning issue 21938). Where a schedule asks for the
            # number of steps, this is even called before Lightning restores its own count.
            batches.set_epoch(max(_next_batch(self.trainer)[0], self._resumed[0]))
        # Lightning counts on from the batch where it stopped, but starts the loader anew.
        batches.done = self._resumed
        # What is random about a sample comes with its key: workers may live as long as the run.
        options: dict[str, Any] = {"persistent_workers": self.num_workers > 0}
        if getattr(self.trainer, "overfit_batches", 0):
            # Of a batch sampler Lightning sets no epoch: the same batches come again.
            return make_loader(dataset, self.num_workers, batch_sampler=batches, **options)
        return make_loader(dataset, self.num_workers, batches=batches, **options)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Plain batches of the validation split."""
        return self.load(self.datasets["validation"])

    def test_dataloader(self) -> DataLoader[Sample]:
        """Plain batches of the test split."""
        return self.load(self.datasets["test"])

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Plain batches of all crops of the folder, each once.

        Processes have shares of different lengths: predicting must not wait for the others.

        Raises:
            UsageError: If there are fewer crops than processes.
        """
        dataset, world_size = self.datasets["predict"], self._place[1]
        if len(dataset) < world_size:
            raise UsageError(
                f"{len(dataset)} crops in {self.root} cannot be divided among {world_size} "
                "processes"
            )
        return self._load_plain(dataset, UnrepeatedDistributedSampler)

    def load(self, dataset: CropDataset) -> DataLoader[Sample]:
        """This process's share of a data set, in order, without augmentation.

        All shares have one length, so that no process waits for another that is done: where the
        rows do not divide, the first ones come twice. ``deduplicate`` takes them out again.
        """
        return self._load_plain(dataset, DistributedSampler)

    @property
    def _place(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _load_plain(
        self, dataset: CropDataset, sampler_class: type[DistributedSampler[int]]
    ) -> DataLoader[Sample]:
        rank, world_size = self._place
        sampler = sampler_class(dataset, world_size, rank, shuffle=False)
        return make_loader(
            dataset, self.num_workers, batch_size=min(self.batch_size, 64), sampler=sampler
        )

    def _read_manifest(self) -> Manifest:
        manifest = read_manifest(self.root)
        preset = manifest.spec.preset
        if self.crop_preset is not None and preset != self.crop_preset:
            raise UsageError(
                f"{self.root} was cut with crop preset {preset!r}, this configuration is for "
                f"{self.crop_preset!r}: crop with --preset {self.crop_preset}, or set "
                "data.crop_preset to null"
            )
        return manifest

    def _make_dataset(
        self, manifest: Manifest, rows: Sequence[CropRow], store: CropStore | None = None
    ) -> CropDataset:
        size = manifest.spec.size
        return CropDataset(self.root, rows, size, self.seed, self.augmentation, store)

    def _divide(self, manifest: Manifest, look: bool) -> None:
        """Fill the data sets of the splits, and refuse what nothing can be learnt from."""
        splits = assign_splits(manifest.rows, self.split.by, self.split.shares, self.seed)
        given = [*manifest.rows.values("split")]
        if any(given) and splits != given and self.split.by == "auto":
            logger.info("%s brings no validation split; one was drawn from train", self.root)
        counts: dict[str, dict[str, int]] = {}
        store = CropStore(self.root, manifest.rows.values("crop"))
        for split in SPLITS:
            rows = manifest.rows.choose(np.flatnonzero([own == split for own in splits]))
            number = Counter(rows.values("label"))
            counts[split] = {word: number[label] for label, word in enumerate(LABEL_NAMES)}
            if split == "train":
                rows = self._repeat(rows)
            self.datasets[split] = self._make_dataset(manifest, rows, store)
        train, paired = self.datasets["train"], self.batches.paired
        if paired:
            self.is_paired = choose_pairs(
                train.labels,
                train.originals,
                len(train.strangers),
                paired,
                self.batch_size,
                self.batches.self_blend,
            )
        half_fake = self.batches.balance or self.is_paired
        if 0 < self.batches.self_blend < 1 and not half_fake:
            raise UsageError(
                f"data.batches.self_blend={self.batches.self_blend} puts pairs among pairs, but "
                "too few training fakes have their original among the training crops for "
                "data.batches.paired auto: set data.batches.balance"
            )
        issues = audit_splits(manifest, splits)
        raise_issues(
            (issue for issue in issues if not (half_fake and issue.kind == "balance")),
            allow_leak=self.split.allow_leak,
        )
        self._check_landmarks()
        if look:
            self._audit_look_alikes(manifest, splits)
        self.description = DataDescription(manifest, counts)

    def _repeat(self, rows: CropRows) -> CropRows:
        times = self.batches.repeat
        if not times:
            return rows
        methods = [*rows.values("method")]
        unknown = times.keys() - set(methods)
        if unknown:
            there = sorted(set(methods) - {""})
            raise UsageError(
                f"data.batches.repeat names {', '.join(sorted(unknown))}, but the training crops "
                f"in {self.root} are of {', '.join(there) or 'no method'}"
            )
        each = np.array([times.get(method, 1) for method in methods], np.int64)
        return rows.choose(np.repeat(np.arange(len(rows)), each))

    def _check_landmarks(self) -> None:
        """Refuse settings that ask for what the training crops do not bring."""
        dataset = self.datasets["train"]
        wanted = [
            f"data.augmentation.extra {name}"
            for name in self.augmentation.extra
            if EXTRAS[name].needs_landmarks
        ]
        wanted += ["data.batches.self_blend"] if self.batches.self_blend else []
        lacking = sum(dataset.points(row) is None for row in dataset.rows) if wanted else 0
        if self.batches.self_blend and not lacking and not len(dataset.blend_sources):
            raise UsageError(
                f"data.batches.self_blend needs reals to blend, but no training real in "
                f"{self.root} has a face that fills enough of its crop"
            )
        if lacking:
            raise UsageError(
                f"{wanted[0]} needs landmarks, but {lacking} of {len(dataset)} training crops in "
                f"{self.root} have none (or no window, as crops from before it was noted): crop "
                "again with this version"
            )

    def _audit_look_alikes(self, manifest: Manifest, splits: Sequence[str]) -> None:
        """Refuse near-duplicates in two splits; the first of several processes looks for all."""
        trainer = self.trainer
        if trainer is None or trainer.ckpt_path is not None:
            return  # a run that goes on was looked at when it began
        issues = []
        if trainer.is_global_zero:
            hashes = PerceptualHashes.compute(manifest, quiet=len(splits) < _MANY_CROPS)
            issues = [audit_look_alikes(manifest, splits, hashes)]
        raise_issues(trainer.strategy.broadcast(issues), allow_leak=self.split.allow_leak)


def _next_batch(trainer: Trainer) -> tuple[int, int]:
    """Epoch and batch that come next, also while a callback of the present batch runs."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    if progress.ready == progress.processed:
        return int(progress.processed), 0  # between two epochs
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(progress.processed), int(batches.processed)
