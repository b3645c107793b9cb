"""The batch of all processes in its order; real processes are in tests/test_processes.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from deepfake.learning.processes import average_gradients, gather


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_rows_come_back_in_the_order_of_the_batch(n_processes: int) -> None:
    # Process r of N has every N-th row, beginning one row later in every turn.
    batch = torch.arange(12.0).reshape(12, 1)
    turns = batch.reshape(12 // n_processes, n_processes, 1)
    parts = [
        torch.stack([turn[(rank + i) % n_processes] for i, turn in enumerate(turns)])
        for rank in range(n_processes)
    ]
    module: Any = SimpleNamespace(
        trainer=SimpleNamespace(world_size=n_processes),
        all_gather=lambda values, sync_grads: torch.stack(parts),
    )
    assert torch.equal(gather(module, parts[0]), batch)


def test_gradients_are_averaged_in_place(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    layer(torch.ones(1, 3)).sum().backward()
    layer.bias.grad = None
    assert layer.weight.grad is not None
    before = layer.weight.grad.clone()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        average_gradients(layer.parameters())
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(layer.weight.grad, before)
    assert layer.bias.grad is None
