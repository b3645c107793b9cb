"""A compiled forward for training."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.learning.tuning import compile_forward
from deepfake.training.callbacks.protocol import as_embedding_module


class CompileForward(Callback):
    """Compile the forward of training steps; validation and prediction stay as they are.

    Args:
        mode: ``default`` fuses kernels, ``reduce-overhead`` also records CUDA graphs; ``False``
            switches it off.
    """

    def __init__(self, mode: Literal[False, "default", "reduce-overhead"] = False) -> None:
        self.mode = mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the compiled forward in place; nothing is compiled before the first step."""
        if stage != "fit" or not self.mode:
            return
        module = as_embedding_module(pl_module)
        compiled = compile_forward(module.embedder.forward, self.mode)
        # The memory that a CUDA graph answers in is written again by the next step.
        module.training_forward = (
            compiled if self.mode == "default" else lambda images: compiled(images).clone()
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Tell CUDA graphs where a step begins."""
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the plain forward back."""
        if stage == "fit" and self.mode:
            module = as_embedding_module(pl_module)
            module.training_forward = module.embedder.forward
