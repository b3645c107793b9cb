"""The training of the embedder, as a LightningModule: what a step, an epoch and a checkpoint are.

Knows no file format of crops and no command line; ``callbacks.FitHead`` adds the head.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from deepfake.augment.recipes import sample_seed
from deepfake.errors import JobError, UsageError
from deepfake.heads import Head, HeadName, LinearSVM, make_head
from deepfake.learning.batches import deduplicate
from deepfake.learning.checkpoint import KEY, make_info
from deepfake.learning.crops import Sample
from deepfake.learning.data import CropDataModule
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.losses import CrossEntropyOnEmbedding, SemiHardTripletLoss, TripletOutcome
from deepfake.learning.replay import Replay, count_chunks
from deepfake.learning.tuning import (
    CompileMode,
    can_fuse,
    compile_forward,
    keep_freed_memory,
    time_memory_formats,
)
from deepfake.learning.watch import EpochMeans, LossWatch, Step
from deepfake.metrics import compute_accuracy, compute_auc, compute_eer
from deepfake.training.callbacks.averaging import WeightAverage

logger = logging.getLogger(__name__)
RUN_KEY = "deepfake_run"
"""Where a checkpoint keeps what only its own run needs, to go on."""
_HEAD_PREFIX = "head."
_FIXED = ("backbone", "image_size", "embedding_dim", "optimizer", "schedule", "ema_decay")
_RECENT_ROWS = 4096  # embeddings of the running epoch that the validation figures are fitted on


def without_head(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's ``state_dict`` that Lightning knows."""
    return {key: v for key, v in state.items() if not key.startswith(_HEAD_PREFIX)}


class EmbeddingTask(LightningModule):
    """Train an embedding with semi-hard triplets.

    Args:
        backbone: Any timm model name.
        image_size: Side of the crops in pixels; must equal that of the crop folder.
        embedding_dim: Width of the embedding.
        dropout: Share of backbone features dropped before the head.
        pretrained: ``true`` asks timm for weights, ``false`` starts from random, a path loads a
            local file.
        drop_path_rate: Stochastic depth of the backbone; ``null`` keeps timm's default.
        bn_momentum: Momentum of batch normalisation in torch's sense; ``null`` keeps timm's.
        margin: Margin of the triplet loss.
        triplet_weight: Factor of the triplet loss.
        cross_entropy_weight: Factor of a cross-entropy on the embedding; 0 leaves it out.
        triplet_after_epoch: The triplet loss joins in after so many epochs of cross-entropy alone.
        freeze_epochs: The backbone stands still for so many epochs, its batch normalisation too,
            while the head learns.
        freeze_lr: Learning rate of those epochs; after them the schedule goes on as if it had
            ruled from the start. ``null`` leaves them to the schedule too.
        head_l2: Strength of the L2 penalty ``head_l2 / 2 * sum(w^2)`` on the head's weight alone.
        optimizer: ``sgd`` or ``adamw``.
        lr: Learning rate (the peak, for ``one_cycle``).
        momentum: Of SGD.
        weight_decay: Of the optimiser, on matrices and filters except the head's.
        schedule: ``constant``, or ``one_cycle`` over the whole training.
        svm_c: Inverse regularisation of the head; of ``gbm``, ``lambda_l2 = 1 / svm_c``.
        head: Head on the finished embedding: ``svm`` is linear, ``rbf`` has a Gaussian
            kernel (gamma: scikit-learn's ``scale``), ``gbm`` is LightGBM; these are calibrated on
            held-out folds. ``logistic`` is a logistic regression. The figures of each epoch come
            from a linear SVM always.
        ema_decay: Use a moving average of the weights for validation and for the final model;
            0 leaves it out.
        chunk_size: Most crops in a forward of one process; a larger batch is embedded in parts,
            its triplets are still those of the whole batch. ``null`` embeds it at once.
        channels_last: Memory format of the network; ``auto`` times both on a GPU and takes the
            faster, and takes channels-last on a CPU.
        compile: Compile the training's forward: ``default``, or ``reduce-overhead`` for CUDA
            graphs.
        seed: Seed of dropout and stochastic depth.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_b4.aa_in1k",
        image_size: int = 380,
        embedding_dim: int = 512,
        dropout: float = 0.4,
        pretrained: bool | str = False,
        drop_path_rate: float | None = 0.2,
        bn_momentum: float | None = None,
        margin: float = 1.0,
        triplet_weight: float = 1.0,
        cross_entropy_weight: float = 0.0,
        triplet_after_epoch: int = 0,
        freeze_epochs: int = 0,
        freeze_lr: float | None = None,
        head_l2: float = 1e-4,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "one_cycle"] = "constant",
        svm_c: float = 2.0,
        head: HeadName = "svm",
        ema_decay: float = 0.0,
        chunk_size: int | None = None,
        channels_last: bool | Literal["auto"] = "auto",
        compile: Literal[False, "default", "reduce-overhead"] = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if chunk_size is not None and chunk_size < 1:
            raise UsageError(f"model.chunk_size={chunk_size}; expected 1 or more, or null")
        if triplet_weight <= 0 and cross_entropy_weight <= 0:
            raise UsageError(
                "model.triplet_weight and model.cross_entropy_weight are both 0; nothing to learn"
            )
        if triplet_after_epoch < 0 or freeze_epochs < 0:
            raise UsageError(
                f"model.triplet_after_epoch={triplet_after_epoch}, model.freeze_epochs="
                f"{freeze_epochs}; expected 0 or more"
            )
        if triplet_after_epoch and (triplet_weight <= 0 or cross_entropy_weight <= 0):
            raise UsageError(
                f"model.triplet_after_epoch={triplet_after_epoch} needs both losses: set "
                "model.triplet_weight and model.cross_entropy_weight above 0"
            )
        if freeze_lr is not None and not freeze_epochs:
            raise UsageError(f"model.freeze_lr={freeze_lr:g} is for model.freeze_epochs above 0")
        self.embedder = EmbeddingModel(
            backbone, image_size, embedding_dim, dropout, pretrained, drop_path_rate, bn_momentum
        )
        # Kept out of the module tree, so that nobody moves it: Apple's devices have no float64,
        # and distributed training would broadcast it at every step.
        self._head = (make_head(head, embedding_dim, svm_c),)
        self.head_name: HeadName = head
        self.triplet_loss = SemiHardTripletLoss(margin)
        self.cross_entropy = (
            CrossEntropyOnEmbedding(embedding_dim) if cross_entropy_weight > 0 else None
        )
        self.triplet_weight, self.cross_entropy_weight = triplet_weight, cross_entropy_weight
        self.triplet_after_epoch = triplet_after_epoch
        self.freeze_epochs, self.freeze_lr = freeze_epochs, freeze_lr
        self.head_l2 = head_l2
        self.optimizer_name, self.lr, self.momentum = optimizer, lr, momentum
        self.weight_decay, self.schedule, self.seed = weight_decay, schedule, seed
        self.chunk_size, self.channels_last = chunk_size, channels_last
        self.average = WeightAverage(self, ema_decay) if ema_decay else None
        self.configuration = ""
        self.info: dict[str, Any] = {}
        self.outcome: TripletOutcome | None = None  # of the last step, for callbacks
        self.history: list[dict[str, float]] = []  # figures of each epoch, by name
        self.means = EpochMeans()
        self.watch = LossWatch()
        mode: CompileMode | Literal[False] = compile
        self._embed: Callable[[Tensor], Tensor] = (
            compile_forward(self.embedder.forward, mode) if mode else self.embedder.forward
        )
        self._captured = mode == "reduce-overhead"
        self._replay: Replay | None = None
        self._step_seed = 0
        self._recent: deque[tuple[Tensor, Tensor]] = deque()
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Embed crops, ``(B, 3, S, S) -> (B, D)``."""
        embeddings: Tensor = self.embedder(images)
        return embeddings

    def setup(self, stage: str) -> None:
        """Check that network and crops fit, and note where everything comes from."""
        if stage == "fit" and self.trainer.ckpt_path is None:
            self._use_channels_last(self._choose_channels_last())
        data = self._data
        if data is None or data.description is None:
            return
        manifest, embedder = data.description.manifest, self.embedder
        if manifest.spec.size != embedder.image_size:
            raise UsageError(
                f"the crops in {manifest.root} have {manifest.spec.size} px, model.image_size is "
                f"{embedder.image_size}: pass --model.image_size {manifest.spec.size}, or crop "
                f"with --size {embedder.image_size}"
            )
        self.info = make_info(
            crop_spec=manifest.spec,
            sampling=manifest.sampling,
            backbone=embedder.resolved_backbone,
            mean=embedder.mean.flatten().tolist(),
            std=embedder.std.flatten().tolist(),
            counts=data.description.counts,
            manifest_sha256=manifest.sha256,
            crop_versions=manifest.versions,
            seed=self.seed,
            configuration=self.configuration,
        )

    def on_train_start(self) -> None:
        """Refuse to stretch a schedule that was planned for another length."""
        planned = getattr(self.lr_schedulers(), "total_steps", None)
        steps = self.trainer.estimated_stepping_batches
        if planned is not None and planned != steps:
            raise UsageError(
                f"the one_cycle schedule to resume was planned for {planned} steps, now there are "
                f"{steps}; resume with the same trainer.max_epochs and data.batch_size, or start "
                "a new run"
            )

    def on_train_epoch_start(self) -> None:
        """Forget the embeddings of the last epoch."""
        self._recent.clear()
        self.means.clear()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's figures.

        Raises:
            JobError: If a loss of the epoch was no number, or not one batch of it held a triplet.
        """
        self._refuse_nan(self.watch.check_all())
        means = self.means.read()
        if not means.get("train_triplets") and self.cross_entropy is None:
            raise JobError(
                f"no batch of epoch {self.current_epoch} held two crops of one class and one of "
                "the other: nothing was learnt; use a larger data.batch_size, or "
                "data.batches.balance true"
            )
        means["head_norm"] = float(self.embedder.projection.weight.detach().norm())
        self.log_dict(means)
        figures = self.trainer.callback_metrics
        validated = {name: float(v) for name, v in figures.items() if name.startswith("val_")}
        self.history.append({"epoch": self.current_epoch, "lr": self._lr} | means | validated)

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Make dropout depend on (seed, epoch, batch) alone, so that a resume changes nothing."""
        self._step_seed = sample_seed(self.seed, self.current_epoch, batch_idx) + self.global_rank
        torch.manual_seed(self._step_seed)
        if self.freeze_epochs:
            self._set_frozen()
        if self._captured:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        parallel = self.trainer.strategy.model
        if isinstance(parallel, DistributedDataParallel):
            # In chunks, a weight gets its gradient in several parts; `backward` averages the whole.
            parallel.require_backward_grad_sync = not self._is_chunked(batch["image"])
            parallel.require_forward_param_sync = True

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Loss of one batch; triplets are mined over all processes' embeddings together."""
        embeddings = self.gather(self._embed_batch(batch["image"]))
        labels = self.gather(batch["label"])
        outcome = self.triplet_loss.evaluate(embeddings, labels)
        triplet, n_triplets, ap_mean, an_mean, active_share = outcome
        loss = self._objective(triplet, embeddings, labels)
        self._refuse_nan(
            self.watch.add(loss, batch["index"], self.current_epoch, self.global_step, self._lr)
        )
        self.outcome = outcome._replace(loss=triplet.detach())
        self.means.add(
            {"train_loss": loss, "train_triplet_loss": triplet, "train_triplets": n_triplets},
            {
                "train_ap_distance": ap_mean,
                "train_an_distance": an_mean,
                "train_active_share": active_share,
            },
            n_triplets,
        )
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(labels))
        self._remember(embeddings.detach(), labels)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradient of the loss; for a batch in chunks, handed on to the weights chunk by chunk."""
        super().backward(loss, *args, **kwargs)
        if self._replay is None:
            return
        self._replay.backward(self._step_context)
        self._replay = None
        if self.trainer.world_size > 1:
            _average_gradients(self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A frozen backbone takes no part: no step, no moments, no decay."""
        if self._is_frozen:
            # Not by requires_grad: distributed training asks once which weights have a gradient.
            for parameter in self.embedder.backbone.parameters():
                parameter.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, and then of the average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self)

    def on_fit_start(self) -> None:
        """The average follows the network to its device."""
        keep_freed_memory(self.device)
        if self.average is not None:
            self.average.to(self)

    def on_validation_start(self) -> None:
        """Validate the average, if there is one; all processes that of the first."""
        if self.average is not None:
            if self.trainer.world_size > 1:
                for tensor in self.average.tensors():
                    torch.distributed.broadcast(tensor, src=0)
            self.average.swap(self)

    def on_validation_end(self) -> None:
        """Go on with the network itself."""
        if self.average is not None:
            self.average.swap(self)

    def take_average(self) -> None:
        """Become the average for good, at the end of a training."""
        if self.average is not None:
            self.average.swap(self)
            self.average = None

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        """Collect all processes' embeddings; figures come at the end of the epoch, from them."""
        parts = (batch["index"], batch["label"], self.embedder(batch["image"]))
        index, labels, embeddings = (self.gather(part).cpu() for part in parts)
        self._validation.append((index, labels, embeddings))

    def on_validation_epoch_end(self) -> None:
        """Log loss, AUC, equal error rate and accuracy of the current embedding.

        The scores come from an SVM on the running epoch's own training embeddings, so that these
        figures cost no extra pass and never see a validation label.
        """
        columns = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        labels, embeddings = deduplicate(*columns)
        self._validation.clear()
        if not torch.isfinite(embeddings).all():
            raise JobError(
                f"the embedding became NaN in epoch {self.current_epoch}; {self._advice}"
            )
        # The AUC is always there, if need be as nan: checkpoints are chosen by it.
        figures = {
            "val_loss": self._validation_loss(embeddings, labels),
            "val_auc": float("nan"),
        }
        if self._recent:
            seen, truth = (
                torch.cat([part.cpu() for part in parts])
                for parts in zip(*self._recent, strict=True)
            )
            if int(truth.bincount(minlength=2).min()) >= 2:
                machine = LinearSVM(seen.shape[1], self.head.C).fit(seen, truth)
                scores, answers = machine(embeddings).numpy(), labels.numpy()
                figures |= {
                    "val_auc": compute_auc(answers, scores),
                    "val_eer": compute_eer(answers, scores),
                    "val_accuracy": compute_accuracy(answers, scores, 0.5),
                }
        self.log_dict(figures, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """The optimiser over all parameters, with its schedule."""
        head = self.embedder.projection.weight
        trained = [p for p in self.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim >= 2 and p is not head]
        others = [p for p in trained if p.ndim < 2 or p is head]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        # Lightning cannot clip what a fused step would unscale by itself.
        trainer = self._trainer
        clipped = bool(trainer and trainer.gradient_clip_val and "mixed" in str(trainer.precision))
        fused = can_fuse(head.device) and not clipped
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=fused)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=fused)
        if self.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.lr,
            total_steps=steps,
            pct_start=0.2,
            # SGD's momentum is a setting of ours; of AdamW's betas the policy may move the first.
            cycle_momentum=self.optimizer_name == "adamw",
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add everything that a prediction needs, and everything to go on exactly.

        Raises:
            JobError: If the network to be kept is no longer made of numbers.
        """
        if "optimizer_states" in checkpoint:
            self._refuse_nan(self.watch.check_all())
            checkpoint[RUN_KEY] = {
                "channels_last": self.embedder.memory_format == torch.channels_last,
                "history": [dict(row) for row in self.history],
                "means": self.means.state_dict(),
                "recent": [(rows.cpu(), labels.cpu()) for rows, labels in self._recent],
            }
            if self.average is not None:
                # As everywhere, `state_dict` is the network to predict with.
                checkpoint[RUN_KEY]["network"] = checkpoint["state_dict"]
                checkpoint[RUN_KEY]["n_updates"] = self.average.n_updates
                checkpoint["state_dict"] = self.average.state_dict()
        checkpoint["state_dict"] = dict(checkpoint["state_dict"])
        self._refuse_broken(checkpoint["state_dict"])
        checkpoint[KEY] = self.info
        for name, value in self.head.state_dict().items():
            checkpoint["state_dict"][f"{_HEAD_PREFIX}{name}"] = value

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other data or another network than a checkpoint was begun with."""
        old: dict[str, Any] = checkpoint.get("hyper_parameters", {})
        for name in _FIXED:
            if name in old and old[name] != self.hparams[name]:
                raise UsageError(
                    f"the checkpoint to resume from was begun with model.{name}={old[name]!r}, "
                    f"now it is {self.hparams[name]!r}; start a new run"
                )
        before = checkpoint.get(KEY, {}).get("manifest_sha256")
        now = self.info.get("manifest_sha256")
        if before is not None and now is not None and before != now:
            raise UsageError(
                "the checkpoint to resume from was trained on other crops (its manifest has "
                f"sha256 {before[:12]}, this one {now[:12]}); start a new run"
            )
        checkpoint["state_dict"] = without_head(checkpoint["state_dict"])
        kept: dict[str, Any] = checkpoint.get(RUN_KEY, {})
        if kept:
            self.history = list(kept["history"])
            self.means.load_state_dict(kept["means"])
            self._recent = deque(kept["recent"])
        if self.channels_last == "auto":
            self._use_channels_last(kept.get("channels_last", False))
        else:
            self._use_channels_last(self.channels_last)
        if self.average is not None and "network" in kept:
            self.average.load_state_dict(checkpoint["state_dict"], kept["n_updates"])
            checkpoint["state_dict"] = kept["network"]

    @property
    def head(self) -> Head:
        """The head of the finished checkpoint; it lives on the CPU."""
        return self._head[0]

    def load_network(self, state: dict[str, Any]) -> None:
        """Load a checkpoint's ``state_dict`` without its head."""
        self.load_state_dict(without_head(state))

    def gather(self, values: Tensor) -> Tensor:
        """Put the ``(B / N, ...)`` of N processes together to ``(B, ...)``, in the batch's order.

        Every process then computes the loss of the whole batch. Backwards, the gather adds up the
        gradients that all N of them have for a row: N times the true one. Distributed training
        divides by N when it averages, so that what the optimiser sees is exactly the gradient of
        one process with the whole batch, also of terms that are computed N times (the penalty,
        the cross-entropy's own weights).
        """
        if self.trainer.world_size == 1:
            return values
        gathered: Any = self.all_gather(values, sync_grads=values.requires_grad)
        n_processes, n_turns = gathered.shape[:2]
        turns = torch.arange(n_turns, device=gathered.device)[:, None]
        ranks = (torch.arange(n_processes, device=gathered.device) - turns) % n_processes
        together: Tensor = gathered[ranks, turns].flatten(0, 1)
        return together

    @property
    def _data(self) -> CropDataModule | None:
        return getattr(self.trainer, "datamodule", None)

    @property
    def _advice(self) -> str:
        written = [
            getattr(callback, name, "")
            for name in ("best_model_path", "saved_path")
            for callback in self.trainer.callbacks  # type: ignore[attr-defined]
        ]
        last = next((path for path in reversed(written) if path), None)
        good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        return f"{good}; try a smaller model.lr or trainer.gradient_clip_val"

    @property
    def _lr(self) -> float:
        if self._is_frozen and self.freeze_lr is not None:
            return self.freeze_lr  # also after a step, when the schedule has written its next one
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    @property
    def _is_frozen(self) -> bool:
        return self.current_epoch < self.freeze_epochs

    def _set_frozen(self) -> None:
        frozen = self._is_frozen
        if self.embedder.backbone.training == frozen:
            self.embedder.backbone.train(not frozen)
        if self.freeze_lr is not None:
            # A schedule reckons from the number of the step, and writes its rate after each one.
            schedule: Any = self.lr_schedulers()
            groups = self.trainer.optimizers[0].param_groups
            own = schedule.get_last_lr() if schedule else [self.lr] * len(groups)
            for group, lr in zip(groups, own, strict=True):
                group["lr"] = self.freeze_lr if frozen else lr

    def _refuse_nan(self, bad: Step | None) -> None:
        if bad is not None:
            raise JobError(
                f"the loss became {bad.loss.item()} in epoch {bad.epoch}, step {bad.step}, at lr "
                f"{bad.lr:g}, on the crops with indices {bad.indices.tolist()[:8]}...; "
                f"{self._advice}"
            )

    def _refuse_broken(self, state: dict[str, Tensor]) -> None:
        floats = [value for value in state.values() if value.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(value).all() for value in floats]).all()):
            raise JobError(
                f"the weights became NaN by the end of step {self.global_step}; {self._advice}"
            )

    def _embed_batch(self, images: Tensor) -> Tensor:
        if not self._is_chunked(images):
            embeddings = self._embed(images)
            # The memory that a CUDA graph answers in is written again by the next step.
            return embeddings.clone() if self._captured else embeddings
        size = self.chunk_size or len(images)
        seeds = [
            sample_seed(self._step_seed, self.global_rank, chunk)
            for chunk in range(count_chunks(len(images), size))
        ]
        self._replay = Replay(self._embed, self.embedder, images, size, seeds)
        return self._replay.embeddings

    def _is_chunked(self, images: Tensor) -> bool:
        return self.chunk_size is not None and len(images) > self.chunk_size

    def _step_context(self) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self.trainer.precision_plugin.forward_context()
        return context

    def _choose_channels_last(self) -> bool:
        if self.channels_last != "auto":
            return self.channels_last
        trainer: Trainer = self.trainer
        device = trainer.strategy.root_device
        if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
            # The two formats round differently: what decides must not be a stopwatch where the
            # same seed promises the same weights.
            return device.type == "cpu"
        size = self._data.batch_size // trainer.world_size if self._data else 28
        side = self.embedder.image_size
        shape = (min(size, self.chunk_size or size), 3, side, side)
        images = torch.zeros(shape, dtype=torch.uint8, device=device)
        planar_s, interleaved_s = time_memory_formats(self.embedder, images, self._step_context)
        faster: bool = trainer.strategy.broadcast(interleaved_s < planar_s)
        logger.info(
            "memory format: channels_last %.1f ms a step, contiguous %.1f ms: %s",
            interleaved_s * 1e3,
            planar_s * 1e3,
            "channels_last" if faster else "contiguous",
        )
        return faster

    def _use_channels_last(self, wanted: bool) -> None:
        self.embedder.use_memory_format(torch.channels_last if wanted else torch.contiguous_format)

    def _remember(self, embeddings: Tensor, labels: Tensor) -> None:
        self._recent.append((embeddings, labels))  # moving them now would wait for the device
        while len(self._recent) * len(labels) > _RECENT_ROWS:
            self._recent.popleft()

    def _objective(self, triplet: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """What training makes smaller: the weighted losses, and the penalty on the head."""
        penalty = self.head_l2 / 2 * self.embedder.projection.weight.pow(2).sum()
        waits = self.current_epoch < self.triplet_after_epoch
        loss: Tensor = (0.0 if waits else self.triplet_weight) * triplet + penalty
        if self.cross_entropy is not None:
            loss = loss + self.cross_entropy_weight * self.cross_entropy(embeddings, labels)
        return loss

    def _validation_loss(self, embeddings: Tensor, labels: Tensor) -> float:
        """Mean objective over batches of the training size, drawn in a fixed random order."""
        size = self._data.batch_size if self._data else 28
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        losses = []
        for part in torch.split(order, size):
            batch = embeddings[part].to(self.device), labels[part].to(self.device)
            losses.append(float(self._objective(self.triplet_loss(*batch), *batch)))
        return sum(losses) / len(losses)


def _average_gradients(module: LightningModule) -> None:
    """What distributed training does in the background, once and for all weights together."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
