"""A moving average of the weights, validated and kept instead of them.

The wiring is that of Lightning's ``WeightAveraging``, the arithmetic is ours: that class asks the
device for a number at every step, averages tensor by tensor, and would write its last average into
a checkpoint that is made of the best epoch.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from deepfake.errors import UsageError

_STATE, _NETWORK = "averaging_state", "current_model_state"  # as Lightning names them


class AverageWeights(Callback):
    """Validate and keep an exponential moving average of the weights.

    In every checkpoint ``state_dict`` is the average, the network to predict with; the network to
    go on with lies beside it. At the end of a training the average becomes the network.

    Args:
        decay: Share of the old average that a step keeps; 0 switches the average off.
    """

    def __init__(self, decay: float = 0.0) -> None:
        if decay and not 0 < decay < 1:
            raise UsageError(f"average.decay={decay}; expected 0 (off) up to, not including, 1")
        self.decay = decay
        self.average: WeightAverage | None = None
        self._step = 0  # of the optimiser, at the last update

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin an average."""
        if stage == "fit" and self.decay:
            self.average, self._step = WeightAverage(pl_module, self.decay), 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the network to its device."""
        if self.average is not None:
            self.average.to(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Take the weights in, after a step of the optimiser."""
        self._update(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average; all processes that of the first."""
        if self.average is not None:
            if trainer.world_size > 1:
                for tensor in self.average.tensors():
                    torch.distributed.broadcast(tensor, src=0)
            self.average.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the network itself."""
        if self.average is not None:
            self.average.swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Become the average for good."""
        if self.average is not None:
            self.average.swap(pl_module)
            self.average = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where nothing was left to be trained."""
        self.on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average as ``state_dict``, and the network beside it."""
        if self.average is None:
            return
        self._update(trainer, pl_module)  # another callback may save before this one had its turn
        checkpoint[_NETWORK] = checkpoint["state_dict"]
        checkpoint["state_dict"] = self.average.state_dict()
        checkpoint[_STATE] = {
            "decay": self.decay,
            "n_updates": self.average.n_updates,
            "step": self._step,
        }

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
        if self.average is not None:
            self.average.load_state_dict(checkpoint["state_dict"], state["n_updates"])
            self._step = state["step"]
            pl_module.load_state_dict(checkpoint[_NETWORK])

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None and trainer.global_step > self._step:
            self._step = trainer.global_step
            self.average.update(pl_module)


class WeightAverage:
    """Exponential moving average of parameters and float buffers; other buffers are copied.

    The decay grows as ``(1 + n) / (10 + n)`` after ``n`` updates until it reaches ``decay``, so
    that a short training is not an average with its random start.

    Args:
        module: Network to follow.
        decay: Share of the old average that an update keeps, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.n_updates = decay, 0
        self._average = {name: v.detach().clone() for name, v in _live(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the network's present weights in; one call per step of the optimiser."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        self.n_updates += 1
        live = _live(module)
        floats = [name for name, value in live.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self._average[name] for name in floats],
            [live[name].detach() for name in floats],
            1 - decay,
        )
        for name, value in live.items():
            if not value.is_floating_point():
                self._average[name].copy_(value)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange network and average; a second call undoes it."""
        for name, value in _live(module).items():
            kept = value.detach().clone()
            value.copy_(self._average[name])
            self._average[name].copy_(kept)

    def to(self, module: nn.Module) -> None:
        """Follow a network to its device and memory format, before it is trained."""
        for name, value in _live(module).items():
            start = self._average[name] if self.n_updates else value
            self._average[name] = torch.empty_like(value).copy_(start.detach())

    def tensors(self) -> list[Tensor]:
        """The average, in the order of the network's own parameters and buffers."""
        return list(self._average.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The average under the network's own names."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], n_updates: int) -> None:
        """Go on from what ``state_dict`` gave after ``n_updates`` updates."""
        for name, value in self._average.items():
            value.copy_(state[name])
        self.n_updates = n_updates


def _live(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())
