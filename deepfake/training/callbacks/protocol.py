"""What callbacks may ask of the module that they accompany, beside what Lightning gives it.

``learning.task.EmbeddingTask`` is such a module; callbacks never import it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from pytorch_lightning import LightningModule
from torch import Tensor

from deepfake.errors import JobError
from deepfake.faces.quality import TrainingFaces
from deepfake.heads import Head
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.losses import Metrics, Objective


class EmbeddingModule(Protocol):
    """A LightningModule that trains an embedding.

    Attributes:
        embedder: The network; its ``backbone`` can be frozen, its ``projection`` watched.
        objective: What training makes smaller.
        training_forward: Embeds the crops of a training step; may be replaced by a compiled one.
        chunk_size: Most crops of one forward.
        step_metrics: What the last training step measured.
        info: What a checkpoint remembers of its making.
    """

    embedder: EmbeddingModel
    objective: Objective
    training_forward: Callable[[Tensor], Tensor]
    chunk_size: int | None
    step_metrics: Metrics
    info: dict[str, Any]

    def set_head(self, head: Head | None) -> None:
        """Score with this head from now on, and keep it in checkpoints."""
        ...

    def set_training_faces(self, faces: TrainingFaces | None) -> None:
        """Keep in checkpoints what faces the head has learnt from."""
        ...

    def epoch_metrics(self) -> dict[str, float]:
        """Means of the running epoch so far, by the names that are logged."""
        ...


def as_embedding_module(module: LightningModule) -> EmbeddingModule:
    """The module as what it must be here.

    Raises:
        JobError: If it is another one.
    """
    if not hasattr(module, "embedder") or not hasattr(module, "epoch_metrics"):
        raise JobError(f"{type(module).__name__} trains no embedding; these callbacks need one")
    return cast(EmbeddingModule, module)
