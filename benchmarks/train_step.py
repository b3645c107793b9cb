"""A training step, against a timm-style one: AMP, channels-last, AdamW, the same objective.

    python benchmarks/train_step.py [--batches 12 48 96] [--backbone NAME --size S] [--data CROPS]

Ours is the whole of it: Lightning's loop, the logged figures, the guards. Theirs is a bare loop on
the same weights, images and device: timm's network under autocast, triplets picked with masks and
``nonzero``, pytorch-metric-learning's loss. Both take turns in one process on one thread, a block
of steps each. Gated on an equal loss in the first step, on float32 to 1e-4 and on bfloat16 to 2e-2.

On a CPU with a small network; on a GPU with EfficientNet-B4 at 380 px, eager, compiled and with
CUDA graphs, and the share of the speed that the memory's bandwidth allows. ``--data`` adds to each
row what real input leaves of its speed: crops of that folder, or of portraits that are drawn first
(``--data drawn``), decoded and augmented while the network runs. ``--trained norm`` trains only a
part of the network on our side, all of it on theirs, and says what each keeps of a face in memory
from the forward to the backward pass.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from deepfake.augment.recipes import AugmentationSettings
from deepfake.dataset.cropping import crop_media
from deepfake.demo.portraits import write_dataset
from deepfake.learning.crops import Sample
from deepfake.learning.data import BatchSettings, CropDataModule
from deepfake.learning.depthwise import DepthwiseConv2d, DepthwiseConv2dSame
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.task import EmbeddingTask, NetworkSettings, TrainingSettings
from deepfake.learning.trained import freeze
from deepfake.learning.tuning import choose_precision
from deepfake.records import CropSpec, Workers
from deepfake.training.callbacks.compilation import CompileForward
from deepfake.training.callbacks.finite import RefuseNonFinite
from deepfake.training.callbacks.memory import MemoryFormat

# Bytes that a training step of B4@380 moves per image, every operation by itself in bfloat16 and
# with all that can be fused: counted from the network's layers.
_EAGER_BYTES, _FUSED_BYTES = 2.15e9, 0.89e9


class Plain:
    """What a careful user of timm writes."""

    def __init__(self, embedder: EmbeddingModel, device: torch.device, precision: str) -> None:
        embedder = copy.deepcopy(embedder)
        for module in embedder.modules():
            if isinstance(module, DepthwiseConv2d | DepthwiseConv2dSame):  # back to timm's own
                module.__class__ = type(module).__mro__[1]
        self.backbone = embedder.backbone.to(device).to(memory_format=torch.channels_last).train()
        self.backbone.requires_grad_(True)  # theirs trains all, whatever ours does
        self.head = embedder.projection.to(device)
        self.mean, self.std = embedder.mean.to(device), embedder.std.to(device)
        self.device = device
        self.dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
        self.half = precision != "32-true"
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
        weights = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)
        self.criterion = TripletMarginLoss(
            margin=1.0,
            distance=LpDistance(normalize_embeddings=True, p=2, power=2),
            reducer=MeanReducer(),
        )

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step; returns its loss."""
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        images = images.to(memory_format=torch.channels_last).float() / 255
        images = (images - self.mean) / self.std
        with torch.autocast(self.device.type, self.dtype, enabled=self.half):
            raw = self.head(self.backbone(images))
        embeddings = F.normalize(raw.float())
        loss: Tensor = self.criterion(embeddings, labels, semi_hard(embeddings, labels))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()


@torch.no_grad()
def semi_hard(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest negative beyond each positive, else the farthest, a row per pair."""
    distances = torch.cdist(embeddings, embeddings).pow(2)
    same = labels[:, None] == labels[None, :]
    anchors, positives = (same & ~torch.eye(len(labels), device=same.device).bool()).nonzero(
        as_tuple=True
    )
    rows = distances[anchors].masked_fill(same[anchors], torch.inf)
    beyond = rows > distances[anchors, positives][:, None] + 1e-6
    nearest = rows.masked_fill(~beyond, torch.inf)
    farthest = distances[anchors].masked_fill(same[anchors], -1).argmax(dim=1)
    found = nearest.isfinite().any(dim=1)
    return anchors, positives, torch.where(found, nearest.argmin(dim=1), farthest)


class Synthetic:
    """The same batch over and over, already in memory."""

    def __init__(self, batch: Sample, length: int) -> None:
        self.batch, self.length = batch, length

    def __iter__(self) -> Iterator[Sample]:
        for _ in range(self.length):
            yield self.batch

    def __len__(self) -> int:
        return self.length


@dataclass
class Turns(Callback):
    """After every block of our steps, as many of theirs; both are timed.

    Args:
        plain: The other side; ``None`` times ours alone.
        block: Steps of a block.
    """

    plain: Plain | None
    block: int
    ours_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    _since_s: float = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Sample, batch_idx: int
    ) -> None:
        """Before weights change: the loss that the other side has on the same batch."""
        if batch_idx == 0 and self.plain is not None:
            self.first.append(float(self.plain.step(batch["image"], batch["label"])))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a block: theirs, and the clock."""
        if batch_idx == 0:
            self.first.append(float(outputs["loss"]))
        if (batch_idx + 1) % self.block:
            return
        wait_for(pl_module.device)
        now = time.perf_counter()
        if batch_idx + 1 > self.block:  # the first block warms up
            self.ours_s.append((now - self._since_s) / self.block)
        if self.plain is not None:
            for _ in range(self.block):
                self.plain.step(batch["image"], batch["label"])
            wait_for(pl_module.device)
            if batch_idx + 1 > self.block:
                self.theirs_s.append((time.perf_counter() - now) / self.block)
        self._since_s = time.perf_counter()


def main() -> None:
    """Print the ratios."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[12, 48, 96])
    parser.add_argument("--backbone", default="tf_efficientnet_b4" if cuda else "mobilenetv2_100")
    parser.add_argument("--size", type=int, default=380 if cuda else 96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=10 if cuda else 1, help="steps in a row")
    formats = ["32-true", "16-mixed", "bf16-mixed"]
    parser.add_argument("--precision", choices=formats, default=choose_precision("auto"))
    parser.add_argument("--data", type=Path, help="crop folder of --size, or the word drawn")
    parser.add_argument("--workers", type=int, default=4 if cuda else 0)
    parser.add_argument("--trained", choices=["all", "head", "norm"], default="all")
    options = parser.parse_args()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    device = torch.device("cuda" if cuda else "cpu")
    bandwidth = measure_bandwidth(device) if cuda else None
    where = torch.cuda.get_device_name() if cuda else "one CPU thread"
    print(f"{options.backbone} at {options.size} px, {options.precision}, {where}")
    with tempfile.TemporaryDirectory() as folder:
        if options.data == Path("drawn"):
            options.data = draw_crops(Path(folder), options.size, max(options.batches))
        for batch_size in options.batches:
            for mode in (False, "default", "reduce-overhead") if cuda else (False,):
                compare(batch_size, mode, options, device, bandwidth)


def draw_crops(folder: Path, size: int, batch_size: int) -> Path:
    """A crop folder of drawn portraits, real and fake, of which a training part fills a batch."""
    identities = max(8, 2 * -(-batch_size // 8))
    write_dataset(folder / "portraits", identities, shots=4, size=size)
    workers = Workers(os.cpu_count() or 1)
    table = str(folder / "portraits" / "labels.csv")
    crop_media(table, folder / "crops", CropSpec(size=size), workers=workers, quiet=True)
    return folder / "crops"


def compare(
    batch_size: int,
    mode: Any,
    options: argparse.Namespace,
    device: torch.device,
    bandwidth: float | None,
) -> None:
    """One row: a batch size, eager or compiled."""
    turns = run(batch_size, mode, options, device, None)
    theirs, ours = turns.first
    tolerance = 1e-4 if options.precision == "32-true" else 2e-2
    if abs(theirs - ours) > tolerance:
        raise SystemExit(f"not equal: a loss of {ours:.6f} here, of {theirs:.6f} there")
    ratios = sorted(t / o for t, o in zip(turns.theirs_s, turns.ours_s, strict=True))
    speed = batch_size / statistics.median(turns.ours_s)
    line = (
        f"batch {batch_size:>3} {mode or 'eager':<16} x{statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f}-{ratios[-1]:.2f})  {speed:7.1f} img/s  loss equal to "
        f"{abs(theirs - ours):.0e}"
    )
    if bandwidth is not None and (options.backbone, options.size) == ("tf_efficientnet_b4", 380):
        limit = bandwidth / (_FUSED_BYTES if mode else _EAGER_BYTES)
        line += f"  {speed / limit:.0%} of the {limit:.0f} img/s that memory allows"
    if options.data is not None:
        real = run(batch_size, mode, options, device, options.data)
        share = statistics.median(turns.ours_s) / statistics.median(real.ours_s)
        line += f"  real input {share:.0%} of synthetic"
    if options.trained != "all":
        embedder = EmbeddingModel(options.backbone, options.size)
        whole = count_kept_bytes(embedder, options.precision)
        freeze(embedder, options.trained)
        part = count_kept_bytes(embedder, options.precision)
        line += f"  {options.trained} keeps {part / 1e6:.1f} of {whole / 1e6:.1f} MB a face"
    print(line, flush=True)


def count_kept_bytes(embedder: EmbeddingModel, precision: str) -> float:
    """Bytes of each face more that autograd keeps for the backward pass; counted on the CPU."""
    totals = []
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
    for faces in (1, 2):
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()  # noqa: B023
            return tensor

        images = torch.zeros(faces, 3, embedder.image_size, embedder.image_size)
        saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with saving, torch.autocast("cpu", dtype, enabled=precision != "32-true"):
            embeddings = embedder(images)  # alive until all is counted, so that no place is reused
        totals.append(sum(kept.values()))
        del embeddings
    return float(totals[1] - totals[0])


def run(
    batch_size: int, mode: Any, options: argparse.Namespace, device: torch.device, data: Path | None
) -> Turns:
    """Train for a while."""
    torch.manual_seed(0)
    drop_path_rate = 0.0 if "efficientnet" in options.backbone else None
    task = EmbeddingTask(
        options.backbone,
        options.size,
        network=NetworkSettings(dropout=0.0, drop_path_rate=drop_path_rate),
        optimizer=partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.0),
        training=TrainingSettings(projection_l2=0.0, trained=options.trained),
    )
    plain = None if data is not None else Plain(task.embedder, device, options.precision)
    turns = Turns(plain, options.block)
    steps = (options.rounds + 1) * options.block
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=options.precision,
        benchmark=True,
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[turns, MemoryFormat(), CompileForward(mode), RefuseNonFinite()],
    )
    if data is None:
        generator = torch.Generator().manual_seed(1)
        shape = (batch_size, 3, options.size, options.size)
        batch: Sample = {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            "label": torch.arange(batch_size) % 2,
            "index": torch.arange(batch_size),
        }
        if device.type == "cuda":
            batch["image"] = batch["image"].pin_memory()
        trainer.fit(task, Synthetic(batch, steps))
    else:
        crops = CropDataModule(
            str(data),
            batch_size,
            AugmentationSettings("light", share=1.0),
            BatchSettings(balance=True, steps_per_epoch=steps),
            num_workers=options.workers,
        )
        trainer.fit(task, datamodule=crops)
    return turns


def measure_bandwidth(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        wait_for(device)
        started_s = time.perf_counter()
        for _ in range(10):
            target.copy_(source)
        wait_for(device)
        best = max(best, 20 * source.numel() / (time.perf_counter() - started_s))
    return best


def wait_for(device: torch.device) -> None:
    """On a GPU, until all that was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
