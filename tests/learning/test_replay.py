"""A batch in chunks: the gradient of the whole, and statistics that saw each crop once."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.losses import SemiHardTripletLoss
from deepfake.learning.replay import Replay, count_chunks

LABELS = torch.arange(10) % 2


def make(backbone: str = "test_efficientnet_ln", dropout: float = 0.0) -> EmbeddingModel:
    torch.manual_seed(5)
    return EmbeddingModel(backbone, 32, 16, dropout)


def images() -> Tensor:
    return torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def replayed(model: EmbeddingModel, chunk_size: int) -> dict[str, Tensor]:
    n_chunks = count_chunks(10, chunk_size)
    replay = Replay(model, model, images(), chunk_size, list(range(n_chunks)))
    loss = SemiHardTripletLoss()(replay.embeddings, LABELS)
    loss.backward()
    replay.backward(nullcontext)
    return gradients(model)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    assert any(bool(value.abs().max() > 1e-3) for value in first.values())
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 10, 99])
def test_without_dropout_it_is_the_gradient_of_the_whole_batch(chunk_size: int) -> None:
    model = make().train()
    SemiHardTripletLoss()(model(images()), LABELS).backward()
    whole = gradients(model)
    model.zero_grad()
    assert_same(whole, replayed(model, chunk_size))


def test_with_batch_norm_that_does_not_learn_too() -> None:
    model = make("test_efficientnet").train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    SemiHardTripletLoss()(model(images()), LABELS).backward()
    whole = gradients(model)
    model.zero_grad()
    assert_same(whole, replayed(model, 4))


@pytest.mark.parametrize("backbone", ["test_efficientnet_ln", "test_efficientnet"])
def test_both_passes_drop_the_same(backbone: str) -> None:
    # With graphs of all chunks at once, as a large card would do it.
    model = make(backbone, dropout=0.5).train()
    reference = make(backbone, dropout=0.5).train()
    parts = []
    for seed, chunk in enumerate(images().tensor_split(3)):
        torch.manual_seed(seed)
        parts.append(reference(chunk))
    SemiHardTripletLoss()(torch.cat(parts), LABELS).backward()
    found = replayed(model, 4)
    assert_same(gradients(reference), found)
    # Running statistics have seen every chunk once.
    for (name, one), two in zip(reference.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=0, msg=name)


def test_statistics_are_kept_again_afterwards() -> None:
    model = make("test_efficientnet").train()
    replayed(model, 5)
    tracking = [
        m.track_running_stats
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    assert tracking
    assert all(tracking)


def test_no_gradient_is_none() -> None:
    model = make().train()
    replay = Replay(model, model, images(), 5, [0, 1])
    replay.backward(nullcontext)
    assert gradients(model) == {}
