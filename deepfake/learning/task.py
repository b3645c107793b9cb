"""The training of the embedder, as a LightningModule: network, objective, steps, optimiser.

Everything beside the step (averages, frozen weights, refusals, the fitted head) is a callback; see
``training.callbacks``. Knows no file format of crops and no command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deepfake.errors import CheckpointError, UsageError
from deepfake.faces.quality import TrainingFaces
from deepfake.heads import Head, make_empty_head
from deepfake.learning.checkpoint import FORMAT, KEY, make_info
from deepfake.learning.checkpoint_file import part_of, read_content, seal
from deepfake.learning.checkpoint_parts import load_part
from deepfake.learning.crops import Sample
from deepfake.learning.data import CropDataModule
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.epoch_means import EpochMeans
from deepfake.learning.losses import Metrics, Objective, SemiHardTripletLoss
from deepfake.learning.optimization import (
    MakeOptimizer,
    MakeSchedule,
    make_optimizer,
    make_schedule,
    settings_of_a_class,
)
from deepfake.learning.processes import average_gradients, count_inner_activations, gather
from deepfake.learning.replay import Replay, count_chunks
from deepfake.learning.resume import (
    choose_state,
    refuse_change,
    refuse_other_crops,
    refuse_other_length,
)
from deepfake.learning.trained import Trained, freeze, parameter_groups, scale_rates
from deepfake.learning.tuning import FUSED
from deepfake.learning.validation import CollectedEmbeddings, RecentEmbeddings

RUN_KEY = "deepfake_run"
"""Where a checkpoint keeps what only its own run needs, to go on."""
_FIXED = {
    "model.backbone": "backbone",
    "model.image_size": "image_size",
    "model.network.embedding_dim": "embedding_dim",
    "model.network.levels": "levels",
}
"""What a training that goes on must have as it was: settings, and their names in a checkpoint."""


@dataclass(frozen=True)
class NetworkSettings:
    """What the network is, beside its backbone.

    Args:
        embedding_dim: Width D of the embedding.
        dropout: Share of backbone features dropped before the projection.
        drop_path_rate: Stochastic depth of the backbone; ``null`` keeps timm's default.
        bn_momentum: Momentum of batch normalisation in torch's sense; ``null`` keeps timm's.
        levels: Features are mean and deviation of the channels of the last so many stages, instead
            of what the backbone makes of them; ``0`` takes the latter.
    """

    embedding_dim: int = 512
    dropout: float = 0.4
    drop_path_rate: float | None = 0.2
    bn_momentum: float | None = None
    levels: int = 0


@dataclass(frozen=True)
class TrainingSettings:
    """How a step is made.

    Args:
        projection_l2: Strength of the penalty ``projection_l2 / 2 * sum(w^2)`` on the weight of
            the projection alone.
        chunk_size: Most crops in a forward of one process; a larger batch is embedded in parts,
            its loss is still that of the whole batch. ``null`` embeds it at once.
        trained: ``all``; ``head``, the projection and what the objective owns; ``norm``,
            normalisation layers and head; a number N, the last N blocks of the backbone and head.
        layer_decay: Factor of the learning rate from each block to the one before it.
    """

    projection_l2: float = 1e-4
    chunk_size: int | None = None
    trained: Trained = "all"
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise UsageError(
                f"model.training.chunk_size={self.chunk_size}; expected 1 or more, or null"
            )


class EmbeddingTask(LightningModule):
    """Train an embedding of face crops with a metric learning objective.

    Args:
        backbone: Any timm model name.
        image_size: Side S of the crops in pixels; must equal that of the crop folder.
        pretrained: ``true`` asks timm for weights, ``false`` starts from random, a path loads a
            local file, a model in the box or one of a hub.
        network: What the network is, beside its backbone.
        objective: What training makes smaller; ``null`` is ``SemiHardTripletLoss``, margin 1.0.
        optimizer: Class of an optimiser with its settings. Its weight decay acts on matrices and
            filters except the projection's.
        schedule: Class of a schedule with its settings, stepped after every step of the optimiser;
            ``OneCycle`` spans the training. ``null`` keeps the rate.
        training: How a step is made.

    Attributes:
        training_forward: Embeds the crops of a training step; a callback may compile it.
        step_metrics: What the last training step measured: name -> (value, weight).
        info: What a checkpoint remembers of its making, in plain types.
        configuration: Text of the run's configuration, for ``info``.

    Raises:
        UsageError: If timm does not know the backbone, or a setting makes no sense.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_b4.aa_in1k",
        image_size: int = 380,
        pretrained: bool | str = False,
        network: NetworkSettings = NetworkSettings(),
        objective: Objective | None = None,
        optimizer: MakeOptimizer = lambda params: SGD(params, lr=0.01),
        schedule: MakeSchedule | None = None,
        training: TrainingSettings = TrainingSettings(),
    ) -> None:
        super().__init__()
        shape = asdict(network) | {"dropout": float(network.dropout)}  # a whole number of Python
        self.embedder = EmbeddingModel(backbone, image_size, pretrained=pretrained, **shape)
        self.objective = (objective or SemiHardTripletLoss()).build(network.embedding_dim)
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.projection_l2, self.chunk_size = training.projection_l2, training.chunk_size
        self.layer_decay = training.layer_decay
        freeze(self.embedder, training.trained)  # before distributed training looks at the weights
        # Plain values, enough to build the network again; where weights came from is no part of it.
        settings = {"backbone": backbone, "image_size": image_size, "pretrained": False}
        self.save_hyperparameters(settings | shape)
        self.training_forward: Callable[[Tensor], Tensor] = self.embedder.forward
        self.step_metrics: Metrics = {}
        self.info: dict[str, Any] = {"format": FORMAT, "limits": None}
        self.configuration = ""
        # Kept out of the module tree, so that nobody moves it: Apple's devices have no float64,
        # and distributed training would broadcast it at every step.
        self._head: tuple[Head | None] = (None,)
        self._quality: dict[str, Tensor] = {}  # the face space of the training faces
        self._means = EpochMeans()
        self._n_activations = count_inner_activations(self.embedder)
        self._recent, self._collected = RecentEmbeddings(), CollectedEmbeddings()
        self._replay: Replay | None = None
        self._begun: dict[str, Any] = {}  # the plan of the run to go on with
        self._plan: dict[str, Any] = {}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str = "cpu",
        objective: Objective | None = None,
        **settings: Any,
    ) -> Self:
        """Network, head and limits of any checkpoint of ours; asks no hub and no weights file.

        Nothing that the file names is imported. What was learnt beside the network (the weights of
        a cross-entropy, proxies) is restored where the objective is given again.

        Args:
            checkpoint_path: ``model.ckpt``, ``last.ckpt`` or that of an epoch.
            map_location: Device to put it on.
            objective: What training and validation measure; the default of the class without it.
            settings: Other arguments of the class that are no part of the network.

        Raises:
            CheckpointError: If the file is damaged, not ours, or its parts do not fit each other.
        """
        path = Path(checkpoint_path)
        content = read_content(path)
        state = content["state_dict"]
        hyper = content["hyper_parameters"]
        if "members" in hyper:
            raise CheckpointError(
                f"{path} holds {len(hyper['members'])} networks, and a task has one: load it with "
                "deepfake.learning.checkpoint.load_checkpoint"
            )
        try:
            hyper = {"levels": 0} | hyper  # files of before know of none
            network = NetworkSettings(**{f.name: hyper[f.name] for f in fields(NetworkSettings)})
            settings |= {name: hyper[name] for name in ("backbone", "image_size")}
            task = cls(network=network, objective=objective, **settings)
        except (UsageError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{path} does not fit this version of deepfake: {error}"
            ) from error
        load_part(path, state, "embedder", task.embedder)
        if objective is not None:
            load_part(path, state, "objective", task.objective)
        task.set_head(_read_head(state, network.embedding_dim))
        task._quality = part_of(state, "quality")
        task.info = content[KEY]
        return task.to(map_location)

    @property
    def head(self) -> Head | None:
        """The fitted head, on the CPU; ``None`` before one was fitted or loaded."""
        return self._head[0]

    def set_head(self, head: Head | None) -> None:
        """Score with this head from now on, and keep it in checkpoints."""
        self._head = (head,)

    def set_training_faces(self, faces: TrainingFaces | None) -> None:
        """Keep in checkpoints what faces the head has learnt from."""
        arrays = {} if faces is None else faces.space.to_arrays()
        self._quality = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.info["quality"] = None if faces is None else faces.describe()

    def setup(self, stage: str) -> None:
        """Check that network and crops fit, and note where everything comes from."""
        if stage == "fit":
            self.set_head(None)  # it is of another network, once this one has changed
            self.set_training_faces(None)
        data = self._data
        if data is None or data.description is None:
            return
        manifest, size = data.description.manifest, self.embedder.image_size
        if manifest.spec.size != size:
            raise UsageError(
                f"the crops in {manifest.root} have {manifest.spec.size} px, model.image_size is "
                f"{size}: pass --model.image_size {manifest.spec.size}, or crop with --size {size}"
            )
        if stage == "fit":
            counts = data.description.counts
            self.info = make_info(manifest, self.embedder, counts, data.seed, self.configuration)
            self.info["initial_weights"] = self.embedder.initial_weights

    def forward(self, images: Tensor) -> Tensor:
        """Embed crops, ``(B, 3, S, S) -> (B, D)``."""
        embeddings: Tensor = self.embedder(images)
        return embeddings

    def on_train_start(self) -> None:
        """Refuse to train what is left of a network without its activations."""
        if count_inner_activations(self.embedder) != self._n_activations:
            raise UsageError(
                "Trainer(sync_batchnorm=True) drops the activations of this backbone: give it "
                "plugins=[deepfake.learning.processes.SyncBatchNorm()] as well"
            )

    def on_train_epoch_start(self) -> None:
        """Forget the embeddings of the last epoch."""
        self._recent.clear()
        self._means.clear()

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Let distributed training wait for the last chunk."""
        parallel = self.trainer.strategy.model
        if isinstance(parallel, DistributedDataParallel):
            # In chunks, a weight gets its gradient in several parts; `backward` averages the whole.
            parallel.require_backward_grad_sync = not self._is_chunked(batch["image"])
            parallel.require_forward_param_sync = True

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Loss of one batch; it is that of all processes' embeddings together."""
        embeddings = gather(self, self._embed(batch["image"]))  # (B / N, D) -> (B, D)
        labels = gather(self, batch["label"])  # (B,)
        loss, metrics = self._measure(embeddings, labels)
        self.step_metrics = {"loss": (loss.detach(), torch.ones_like(loss))}
        self.step_metrics |= {name: (v.detach(), weight) for name, (v, weight) in metrics.items()}
        self._means.add(self.step_metrics)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(labels))
        self._recent.add(embeddings.detach(), labels)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradient of the loss; for a batch in chunks, handed on to the weights chunk by chunk."""
        super().backward(loss, *args, **kwargs)
        if self._replay is None:
            return
        self._replay.backward(self.trainer.precision_plugin.forward_context)
        self._replay = None
        if self.trainer.world_size > 1:
            average_gradients(self.parameters())

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        self.log_dict(self.epoch_metrics())

    def validation_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Collect all processes' embeddings ``(B, D)``; metrics come at the end of the epoch."""
        parts = (batch["index"], batch["label"], self.embedder(batch["image"]))
        index, labels, embeddings = (gather(self, part) for part in parts)
        self._collected.add(index, labels, embeddings)
        return embeddings

    def on_validation_epoch_end(self) -> None:
        """Log loss, AUC, equal error rate and accuracy; without a head see ``RecentEmbeddings``."""
        self._log_collected("val")

    def test_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """As in a validation."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the same metrics as a validation, of the fitted head."""
        self._log_collected("test")

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """``p_fake`` ``(B,)``, ``embedding`` ``(B, D)`` and the name of each ``crop``.

        Raises:
            UsageError: If no head was fitted.
        """
        if self.head is None:
            raise UsageError("this model has no fitted head: fit one with deepfake fit-head")
        embeddings = self.embedder(batch["image"]).cpu()
        rows = self.trainer.predict_dataloaders.dataset.rows  # type: ignore[union-attr]
        names = [rows[number].crop for number in batch["index"].tolist()]
        return {"crop": names, "p_fake": self.head(embeddings), "embedding": embeddings}

    def configure_optimizers(self) -> Any:
        """The optimiser over all that is trained, with its schedule."""
        trainer = self._trainer
        # Lightning cannot clip what a fused step would unscale by itself.
        clipped = bool(trainer and trainer.gradient_clip_val and "mixed" in str(trainer.precision))
        optimizer = make_optimizer(
            self.make_optimizer,
            groups=lambda: parameter_groups(
                self.embedder, self.objective.parameters(), self.layer_decay
            ),
            fused=self.device.type in FUSED and not clipped,
        )
        scale_rates(optimizer)
        schedule = length = None
        if self.make_schedule is not None:
            steps = self.trainer.estimated_stepping_batches
            schedule, length = make_schedule(self.make_schedule, optimizer, steps)
        # Two names and a number, to compare with: nothing is ever imported by them.
        plan = {"optimizer": _name(optimizer), "schedule": _name(schedule)}
        begun, now = ({f"model.{k}": v for k, v in one.items()} for one in (self._begun, plan))
        refuse_change(begun, now)
        refuse_other_length(self._begun.get("length"), length)
        self._plan = plan | {"length": length}
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": _step_when(schedule)}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step the schedule, whose settings may first be looked at now."""
        with settings_of_a_class("model.schedule"):
            super().lr_scheduler_step(scheduler, metric)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add everything that a prediction needs, and everything to go on exactly."""
        if "optimizer_states" in checkpoint:
            checkpoint[RUN_KEY] = self._plan | {
                "means": self._means.state_dict(),
                "recent": self._recent.state_dict(),
            }
        checkpoint[KEY] = self.info
        checkpoint["state_dict"] = dict(checkpoint["state_dict"])
        for name, value in self.head.state_dict().items() if self.head else ():
            checkpoint["state_dict"][f"head.{name}"] = value
        for name, value in self._quality.items():
            checkpoint["state_dict"][f"quality.{name}"] = value
        seal(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other data or another network than a checkpoint was begun with."""
        hyper = {"levels": 0} | checkpoint.get("hyper_parameters", {})
        before = {setting: hyper[name] for setting, name in _FIXED.items() if name in hyper}
        refuse_change(before, {setting: self.hparams[name] for setting, name in _FIXED.items()})
        state = checkpoint["state_dict"]
        goes_on = self._trainer is None or self._trainer.state.fn == TrainerFn.FITTING
        if goes_on:
            begun_on = checkpoint.get(KEY, {}).get("manifest_sha256")
            refuse_other_crops(begun_on, self.info.get("manifest_sha256"))
        else:
            self.info = checkpoint.get(KEY, self.info)
            self.set_head(_read_head(state, self.hparams["embedding_dim"]))
            self._quality = part_of(state, "quality")
        checkpoint["state_dict"] = choose_state(state, self.state_dict(), goes_on)
        self._begun = checkpoint.get(RUN_KEY, {})
        if self._begun:
            self._means.load_state_dict(self._begun["means"])
            self._recent.load_state_dict(self._begun["recent"])

    def epoch_metrics(self) -> dict[str, float]:
        """Means of the running epoch so far, under the names that are logged."""
        means = {f"train_{name}": value for name, value in self._means.read().items()}
        return means | {"projection_norm": float(self.embedder.projection.weight.detach().norm())}

    @property
    def _data(self) -> CropDataModule | None:
        return getattr(self.trainer, "datamodule", None)

    def _measure(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Metrics]:
        """The objective with the penalty on the projection, and the objective's metrics."""
        value, metrics = self.objective.measure(embeddings, labels, self.current_epoch)
        weight = self.embedder.projection.weight  # (D, features)
        return value + self.projection_l2 / 2 * weight.pow(2).sum(), metrics

    def _embed(self, images: Tensor) -> Tensor:
        if not self._is_chunked(images):
            return self.training_forward(images)
        size = self.chunk_size or len(images)
        seeds = torch.randint(2**62, (count_chunks(len(images), size),)).tolist()
        self._replay = Replay(self.training_forward, self.embedder, images, size, seeds)
        return self._replay.embeddings

    def _is_chunked(self, images: Tensor) -> bool:
        return self.chunk_size is not None and len(images) > self.chunk_size

    def _log_collected(self, prefix: str) -> None:
        metrics = self._collected.measure(
            loss_of=lambda *batch: self._measure(*(part.to(self.device) for part in batch))[0],
            batch_size=self._data.batch_size if self._data else 28,
            head=self.head or self._recent.fit_head(),
        )
        self.log_dict({f"{prefix}_{name}": v for name, v in metrics.items()}, prog_bar=True)


def _read_head(state: dict[str, Tensor], embedding_dim: int) -> Head | None:
    tensors = part_of(state, "head")
    if not tensors:
        return None
    head = make_empty_head(tensors, embedding_dim)
    head.load_state_dict(tensors)
    return head.eval()


def _step_when(schedule: LRScheduler | ReduceLROnPlateau) -> dict[str, Any]:
    if isinstance(schedule, ReduceLROnPlateau):
        monitor = getattr(schedule, "monitor", "val_loss")
        return {"scheduler": schedule, "interval": "epoch", "monitor": monitor}
    return {"scheduler": schedule, "interval": "step"}


def _name(thing: object) -> str | None:
    return None if thing is None else f"{type(thing).__module__}.{type(thing).__qualname__}"
