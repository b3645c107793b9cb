"""A moving average of a network's weights, kept beside it.

Lightning has ``EMAWeightAveraging``; it asks the device for a number at every step, averages tensor
by tensor, and would write its last average into a checkpoint that is made of the best epoch. Knows
no loss and no Trainer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepfake.errors import UsageError


class WeightAverage:
    """Exponential moving average of parameters and float buffers; other buffers are copied.

    The decay grows as ``(1 + n) / (10 + n)`` after ``n`` updates until it reaches ``decay``, so
    that a short training is not an average with its random start.

    Args:
        module: Network to follow.
        decay: Share of the old average that an update keeps, in (0, 1).

    Raises:
        UsageError: If the decay is outside.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise UsageError(f"model.ema_decay={decay}; expected 0 (off) up to, not including, 1")
        self.decay, self.n_updates = decay, 0
        self._average = {name: v.detach().clone() for name, v in _live(module).items()}
        self._swapped = False

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
        self._swapped = not self._swapped

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
