"""What a training step leaves behind without making the CPU wait for the GPU.

Metrics are summed where they arise and read once an epoch; whether a loss was a number is copied in
the background and read when it has arrived. Knows no network and no Trainer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is not known to be good yet.

    Args:
        loss: Its loss, a 0-d tensor on the CPU.
        indices: ``(B,)`` rows of its crops.
        epoch: Number of its epoch.
        step: Number of the step in the whole training.
        lr: Learning rate that it had.
    """

    loss: Tensor
    indices: Tensor
    epoch: int
    step: int
    lr: float


class LossWatch:
    """Finds the first step whose loss is no number.

    On a CPU at once, before the weights are changed. On a GPU a few steps later, because
    asking at once would leave it idle: the caller must ask for all steps before it keeps weights.

    Args:
        patience: Most steps that may be unknown; ``None`` chooses by the device of the losses.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.patience = patience
        self._pending: deque[tuple[Step, torch.cuda.Event | None]] = deque()

    def add(self, loss: Tensor, indices: Tensor, epoch: int, step: int, lr: float) -> Step | None:
        """Note a step.

        Returns:
            The earliest step that has turned out to be bad, if any.
        """
        patience = self.patience
        if patience is None:
            patience = 8 if loss.device.type == "cuda" else 0
        event = None
        if loss.device.type == "cuda":
            value = torch.empty((), dtype=loss.dtype, pin_memory=True)
            value.copy_(loss.detach(), non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        else:
            value = loss.detach().cpu()
        self._pending.append((Step(value, indices, epoch, step, lr), event))
        return self._first_bad(patience)

    def check_all(self) -> Step | None:
        """Wait for every step that was noted; the first bad one, if any."""
        return self._first_bad(0)

    def _first_bad(self, patience: int) -> Step | None:
        while self._pending:
            step, event = self._pending[0]
            if event is not None and not event.query():  # type: ignore[no-untyped-call]
                if len(self._pending) <= patience:
                    return None
                event.synchronize()
            elif event is None and len(self._pending) <= patience:
                return None
            self._pending.popleft()
            if not bool(torch.isfinite(step.loss)):
                self._pending.clear()
                return step
        return None


class EpochMeans:
    """Weighted means over the steps of an epoch, summed on the device.

    Metrics of a step count alike; those of its triplets count by how many there were.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._sums: Tensor | None = None  # (2, names): weighted sums, weights

    def add(self, metrics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take the 0-d (value, weight) of one step in; always the same names in the same order."""
        self.names = list(metrics)
        values = torch.stack([value.detach().float() for value, _ in metrics.values()])
        weights = torch.stack([weight.to(values.dtype) for _, weight in metrics.values()])
        row = torch.stack([values * weights, weights])
        self._sums = row if self._sums is None else self._sums.to(row.device) + row

    def read(self) -> dict[str, float]:
        """The means so far; a metric without any weight is left out."""
        if self._sums is None:
            return {}
        sums, weights = self._sums.tolist()
        return {
            name: total / weight
            for name, total, weight in zip(self.names, sums, weights, strict=True)
            if weight
        }

    def clear(self) -> None:
        """Begin an epoch."""
        self.names, self._sums = [], None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint in mid-epoch keeps."""
        return {
            "names": list(self.names),
            "sums": None if self._sums is None else self._sums.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with an epoch."""
        self.names, self._sums = list(state["names"]), state["sums"]
