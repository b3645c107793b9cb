"""A moving average of the weights, validated and kept instead of them.

The wiring is that of Lightning's ``WeightAveraging``, the arithmetic is ours: that class asks the
device for a number at every step, averages tensor by tensor, and would write its last average into
a checkpoint that is made of the best epoch.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from deepfake.errors import UsageError

_STATE, _NETWORK = "averaging_state", "current_model_state"  # as Lightning names them


class AverageWeights(Callback):
    """Validate and keep an exponential moving average of parameters and float buffers.

    Other buffers are copied. The decay grows as ``(1 + n) / (10 + n)`` after ``n`` updates until it
    reaches ``decay``, so that a short training is not an average with its random start.

    In every checkpoint ``state_dict`` is the average, the network to predict with; the network to
    go on with lies beside it. At the end of a training the average becomes the network.

    Args:
        decay: Share of the old average that a step keeps; 0 switches the average off.

    Attributes:
        average: Tensors by the network's own names; empty while there is no average.
        n_updates: Steps that it has taken in.
    """

    def __init__(self, decay: float = 0.0) -> None:
        if decay and not 0 < decay < 1:
            raise UsageError(f"average.decay={decay}; expected 0 (off) up to, not including, 1")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.n_updates = self._step = 0  # the second of the optimiser, at the last update

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier training."""
        self.average = {}
        self.n_updates = self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an average, or go on with it, on the network's device and in its format."""
        if self.decay:
            kept = pl_module.state_dict().keys()  # some buffers are no part of it
            self.average = {
                name: torch.empty_like(value).copy_(self.average.get(name, value.detach()))
                for name, value in _live(pl_module).items()
                if name in kept
            }

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Take the weights in, after a step of the optimiser."""
        if self.average and trainer.global_step > self._step:
            self._step = trainer.global_step
            self.update(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average; all processes that of the first."""
        if trainer.world_size > 1:
            for tensor in self.average.values():
                torch.distributed.broadcast(tensor, src=0)
        self.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the network itself."""
        self.swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Become the average for good."""
        self.swap(pl_module)
        self.average = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where nothing was left to be trained."""
        self.on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average as ``state_dict``, and the network beside it."""
        if self.average:
            # Another callback may save before this one had its turn.
            self.on_train_batch_end(trainer, pl_module)
            checkpoint[_NETWORK] = checkpoint["state_dict"]
            checkpoint["state_dict"] = dict(self.average)
            state = {"decay": self.decay, "n_updates": self.n_updates, "step": self._step}
            checkpoint[_STATE] = state

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with network and average.

        Raises:
            UsageError: If the checkpoint was begun with another decay.
        """
        if trainer.state.fn != "fit":
            return
        state = checkpoint.get(_STATE, {"decay": 0.0})
        if state["decay"] != self.decay:
            raise UsageError(
                "the checkpoint to resume from was begun with average.decay="
                f"{state['decay']!r}, now it is {self.decay!r}; start a new run"
            )
        if self.decay:
            self.average = checkpoint["state_dict"]
            self.n_updates, self._step = state["n_updates"], state["step"]
            pl_module.load_state_dict(checkpoint[_NETWORK])

    @torch.no_grad()
    def update(self, module: LightningModule) -> None:
        """Take the network's present weights in; one call per step of the optimiser."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        self.n_updates += 1
        live = _live(module)
        floats = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floats],
            [live[name].detach() for name in floats],
            1 - decay,
        )
        for name in self.average.keys() - set(floats):
            self.average[name].copy_(live[name])

    @torch.no_grad()
    def swap(self, module: LightningModule) -> None:
        """Exchange network and average, if there is one; a second call undoes it."""
        live = _live(module)
        for name, value in self.average.items():
            kept = live[name].detach().clone()
            live[name].copy_(value)
            value.copy_(kept)


def _live(module: LightningModule) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())
