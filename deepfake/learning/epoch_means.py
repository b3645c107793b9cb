"""Means of an epoch's metrics, without making the CPU wait for the GPU.

Metrics are summed where they arise and read once an epoch. Knows no network and no Trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


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
