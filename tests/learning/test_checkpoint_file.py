"""Telling a checkpoint of ours from bare weights; reading it is tested with test_checkpoint."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from deepfake.learning.checkpoint_file import KEY, compute_digest, is_checkpoint, part_of


def test_tells_checkpoints_from_weights(tmp_path: Path) -> None:
    weights = {"layer.weight": torch.zeros(2)}
    bare, ours, text = (tmp_path / f"{name}.safetensors" for name in ("bare", "ours", "text"))
    safetensors.torch.save_file(weights, bare)
    safetensors.torch.save_file(weights, ours, metadata={KEY: "{}"})
    text.write_text("no tensors")
    assert is_checkpoint(ours)
    assert is_checkpoint(tmp_path / "last.CKPT")
    assert not any(map(is_checkpoint, (bare, text, tmp_path / "none.safetensors")))
    assert not is_checkpoint(tmp_path / "weights.pth")


def test_a_part_is_named_by_its_prefix() -> None:
    state = {"head.weight": 1, "header": 2, "embedder.head.weight": 3}
    assert part_of(state, "head") == {"weight": 1}


def test_the_digest_knows_names_types_shapes_and_values() -> None:
    state = {"a": torch.zeros(4), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(4), "c": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.zeros(4), "b": torch.ones(2, dtype=torch.float64)},
        {"a": torch.zeros(4), "b": -torch.ones(2)},
    ]
    digests = {compute_digest("text", one) for one in (state, *others)}
    assert len(digests | {compute_digest("other", state)}) == 6
    assert compute_digest("text", dict(reversed(state.items()))) in digests
