"""Telling a checkpoint of ours from bare weights; reading it is tested with test_checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from deepfake.errors import CheckpointError
from deepfake.learning.checkpoint_file import (
    FORMAT,
    KEY,
    compute_digest,
    is_checkpoint,
    part_of,
    read_content,
    seal,
)


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


def content_with(**parts: Any) -> dict[str, Any]:
    return {KEY: {"format": FORMAT}, "state_dict": {}, "hyper_parameters": {}} | parts


def make_circle() -> dict[str, Any]:
    circle: dict[str, Any] = {}
    circle["members"] = [circle]
    return circle


def make_bomb() -> list[Any]:
    bomb: list[Any] = []
    for _ in range(12):
        bomb = [bomb] * 10
    return bomb


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"hyper_parameters": make_circle()}, "it holds more than 1,000,000 values, or itself"),
        ({"hyper_parameters": {"a": make_bomb()}}, "it holds more than 1,000,000 values"),
        ({"state_dict": {"a": torch.zeros(1).expand(10**13)}}, "without its numbers"),
        ({"state_dict": {"a": torch.eye(3).to_sparse()}}, r"a tensor that is torch\.sparse_coo on"),
        ({"state_dict": {"a": torch.zeros(3, device="meta")}}, r"torch\.strided on meta"),
        ({"state_dict": {"a": torch.full((3,), 1j)}}, r"it holds a tensor of torch\.complex64"),
        ({"state_dict": {7: torch.zeros(1)}}, "7 is no tensor"),
    ],
    ids=["circle", "bomb", "wide", "sparse", "meta", "complex", "number"],
)
def test_a_small_file_costs_no_more_than_it_holds(
    tmp_path: Path, parts: dict[str, Any], told: str
) -> None:
    content, path = content_with(**parts), tmp_path / "odd.ckpt"
    if 7 in content["state_dict"]:
        seal(content)
    torch.save(content, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=f"damaged: .*{told}"):
        read_content(path)
