"""The training of the embedder, as a LightningModule: what a step, an epoch and a checkpoint are.

Knows no file format of crops and no command line; ``callbacks.FitClassifier`` adds the classifier.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from deepfake.errors import JobError, UsageError
from deepfake.learning.augmentation import sample_seed
from deepfake.learning.checkpoint import KEY, make_info
from deepfake.learning.classifier import SVMClassifier
from deepfake.learning.data import CropDataModule, Sample, each_once
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.losses import AuxiliaryCrossEntropy, SemiHardTripletLoss, TripletOutcome
from deepfake.metrics import compute_accuracy, compute_auc, compute_eer

_CLASSIFIER_PREFIX = "classifier."
_RECENT_ROWS = 4096  # embeddings of the running epoch that the validation figures are fitted on


def without_classifier(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's ``state_dict`` that Lightning knows."""
    return {key: v for key, v in state.items() if not key.startswith(_CLASSIFIER_PREFIX)}


class TripletTask(LightningModule):
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
        head_l2: Strength of the L2 penalty ``head_l2 / 2 * sum(w^2)`` on the head's weight alone.
        optimizer: ``sgd`` or ``adamw``.
        lr: Learning rate (the peak, for ``one_cycle``).
        momentum: Of SGD.
        weight_decay: Of the optimiser, on matrices and filters except the head's.
        schedule: ``constant``, or ``one_cycle`` over the whole training.
        svm_c: Inverse regularisation of the linear SVM.
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
        head_l2: float = 1e-4,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "one_cycle"] = "constant",
        svm_c: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if triplet_weight <= 0 and cross_entropy_weight <= 0:
            raise UsageError(
                "model.triplet_weight and model.cross_entropy_weight are both 0; nothing to learn"
            )
        self.embedder = EmbeddingModel(
            backbone, image_size, embedding_dim, dropout, pretrained, drop_path_rate, bn_momentum
        )
        # Kept out of the module tree, so that nobody moves it: Apple's devices have no float64,
        # and distributed training would broadcast it at every step.
        self._classifier = (SVMClassifier(embedding_dim, svm_c),)
        self.triplet_loss = SemiHardTripletLoss(margin)
        self.cross_entropy = (
            AuxiliaryCrossEntropy(embedding_dim) if cross_entropy_weight > 0 else None
        )
        self.triplet_weight, self.cross_entropy_weight = triplet_weight, cross_entropy_weight
        self.head_l2 = head_l2
        self.optimizer_name, self.lr, self.momentum = optimizer, lr, momentum
        self.weight_decay, self.schedule, self.seed = weight_decay, schedule, seed
        self.configuration = ""
        self.info: dict[str, Any] = {}
        self.outcome: TripletOutcome | None = None  # of the last step, for callbacks
        self._mined: list[Tensor] = []
        self._recent: deque[tuple[Tensor, Tensor]] = deque()
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Embed crops, ``(B, 3, S, S) -> (B, D)``."""
        embeddings: Tensor = self.embedder(images)
        return embeddings

    def setup(self, stage: str) -> None:
        """Check that network and crops fit, and note where everything comes from."""
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
        self._mined.clear()

    def on_train_epoch_end(self) -> None:
        """Log what the mining found, as means over all triplets of the epoch.

        Raises:
            JobError: If not one batch of the epoch held a triplet, and nothing else taught.
        """
        totals = torch.stack(self._mined).sum(dim=0).tolist() if self._mined else [0.0]
        n_triplets, *sums = totals
        if n_triplets:
            names = ("train_ap_distance", "train_an_distance", "train_active_share")
            self.log_dict(
                {name: total / n_triplets for name, total in zip(names, sums, strict=True)}
            )
        elif self.cross_entropy is None:
            raise JobError(
                f"no batch of epoch {self.current_epoch} held two crops of one class and one of "
                "the other: nothing was learnt; use a larger data.batch_size, or data.balance true"
            )

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Make dropout depend on (seed, epoch, batch) alone, so that a resume changes nothing."""
        step_seed = sample_seed(self.seed, self.current_epoch, batch_idx)
        torch.manual_seed(step_seed + self.global_rank)

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Loss of one batch; triplets are mined over all processes' embeddings together."""
        embeddings = self.gather(self.embedder(batch["image"]))
        labels = self.gather(batch["label"])
        outcome = self.triplet_loss.evaluate(embeddings, labels)
        triplet, n_triplets, *means = outcome
        penalty = self.head_l2 / 2 * self.embedder.head.weight.pow(2).sum()
        loss: Tensor = self.triplet_weight * triplet + penalty
        if self.cross_entropy is not None:
            loss = loss + self.cross_entropy_weight * self.cross_entropy(embeddings, labels)
        self._refuse_nan(loss, batch)
        triplet, weight = triplet.detach(), n_triplets.to(triplet.dtype)
        self.outcome = outcome._replace(loss=triplet)
        self._mined.append(torch.stack([weight, *(weight * mean for mean in means)]))
        figures = {"train_loss": loss.detach(), "train_triplet_loss": triplet}
        figures["train_triplets"] = weight
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(labels))
        self.log("loss", triplet, prog_bar=True, logger=False, batch_size=len(labels))
        self._remember(embeddings.detach(), labels)
        return loss

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
        labels, embeddings = each_once(*columns)
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
            seen, truth = (torch.cat(parts).cpu() for parts in zip(*self._recent, strict=True))
            if int(truth.bincount(minlength=2).min()) >= 2:
                machine = SVMClassifier(seen.shape[1], self.classifier.C).fit(seen, truth)
                scores, answers = machine(embeddings).numpy(), labels.numpy()
                figures |= {
                    "val_auc": compute_auc(answers, scores),
                    "val_eer": compute_eer(answers, scores),
                    "val_accuracy": compute_accuracy(answers, scores, 0.5),
                }
        self.log_dict(figures, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """The optimiser over all parameters, with its schedule."""
        head = self.embedder.head.weight
        trained = [p for p in self.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim >= 2 and p is not head]
        others = [p for p in trained if p.ndim < 2 or p is head]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.lr)
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
        """Add everything that a prediction needs."""
        checkpoint[KEY] = self.info
        for name, value in self.classifier.state_dict().items():
            checkpoint["state_dict"][f"{_CLASSIFIER_PREFIX}{name}"] = value

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other data or another network than a checkpoint was begun with."""
        old: dict[str, Any] = checkpoint.get("hyper_parameters", {})
        for name in ("backbone", "image_size", "embedding_dim", "optimizer", "schedule"):
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
        checkpoint["state_dict"] = without_classifier(checkpoint["state_dict"])

    @property
    def classifier(self) -> SVMClassifier:
        """The classifier of the finished checkpoint; it lives on the CPU."""
        return self._classifier[0]

    def load_network(self, state: dict[str, Any]) -> None:
        """Load a checkpoint's ``state_dict`` without its classifier."""
        self.load_state_dict(without_classifier(state))

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
        written = [getattr(c, "best_model_path", "") for c in self.trainer.checkpoint_callbacks]
        last = next((path for path in reversed(written) if path), None)
        good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        return f"{good}; try a smaller model.lr or trainer.gradient_clip_val"

    def _refuse_nan(self, loss: Tensor, batch: Sample) -> None:
        if not bool(torch.isfinite(loss.detach())):
            lr = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise JobError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}, step "
                f"{self.global_step}, at lr {lr:g}, on the crops with indices "
                f"{batch['index'].tolist()[:8]}...; {self._advice}"
            )

    def _remember(self, embeddings: Tensor, labels: Tensor) -> None:
        self._recent.append((embeddings, labels))  # moving them now would wait for the device
        while len(self._recent) * len(labels) > _RECENT_ROWS:
            self._recent.popleft()

    def _validation_loss(self, embeddings: Tensor, labels: Tensor) -> float:
        """Mean triplet loss over batches of the training size, drawn in a fixed random order."""
        size = self._data.batch_size if self._data else 28
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        losses = [
            float(self.triplet_loss(embeddings[part], labels[part]))
            for part in torch.split(order, size)
        ]
        return sum(losses) / len(losses)
