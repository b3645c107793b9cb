"""How images and filters lie in memory while training."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.learning.tuning import keep_freed_memory, time_memory_formats
from deepfake.training.callbacks.protocol import EmbeddingModule, as_embedding_module

logger = logging.getLogger(__name__)


class MemoryFormat(Callback):
    """Choose the memory format of the network, and keep it over a resume.

    Args:
        channels_last: ``auto`` times both on a GPU and takes the faster, and takes channels-last
            on a CPU.
    """

    def __init__(self, channels_last: bool | Literal["auto"] = "auto") -> None:
        self.channels_last = channels_last
        self._chosen = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose, unless a checkpoint will say."""
        if stage == "fit" and (trainer.ckpt_path is None or self.channels_last != "auto"):
            module = as_embedding_module(pl_module)
            self._use(module, self._choose(trainer, module))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the format that the run was begun with: the other one rounds differently."""
        if trainer.state.fn == "fit" and self.channels_last == "auto":
            kept = checkpoint["callbacks"].get(self.state_key, {"channels_last": False})
            self._use(as_embedding_module(pl_module), kept["channels_last"])

    def state_dict(self) -> dict[str, Any]:
        """The choice."""
        return {"channels_last": self._chosen}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what a network on a CPU frees for its next tensors."""
        keep_freed_memory(pl_module.device)

    def _choose(self, trainer: Trainer, module: EmbeddingModule) -> bool:
        if self.channels_last != "auto":
            return self.channels_last
        device = trainer.strategy.root_device
        if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
            # The two formats round differently: what decides must not be a stopwatch where the
            # same seed promises the same weights.
            return device.type == "cpu"
        data: Any = getattr(trainer, "datamodule", None)
        size = data.batch_size // trainer.world_size if data else 28
        side = module.embedder.image_size
        shape = (min(size, module.chunk_size or size), 3, side, side)
        images = torch.zeros(shape, dtype=torch.uint8, device=device)
        context = trainer.precision_plugin.forward_context
        planar_s, interleaved_s = time_memory_formats(module.embedder, images, context)
        faster: bool = trainer.strategy.broadcast(interleaved_s < planar_s)
        logger.info(
            "memory format: channels_last %.1f ms a step, contiguous %.1f ms: %s",
            interleaved_s * 1e3,
            planar_s * 1e3,
            "channels_last" if faster else "contiguous",
        )
        return faster

    def _use(self, module: EmbeddingModule, channels_last: bool) -> None:
        self._chosen = channels_last
        module.embedder.use_memory_format(
            torch.channels_last if channels_last else torch.contiguous_format
        )
