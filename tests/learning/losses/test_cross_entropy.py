"""The cross-entropy against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deepfake.learning.losses import CrossEntropyOnEmbedding


def test_cross_entropy_is_torchs_on_scaled_rows() -> None:
    loss = CrossEntropyOnEmbedding(scale=8.0).build(embedding_dim=6)
    rows = F.normalize(torch.randn(10, 6))
    labels = torch.arange(10) % 2
    logits = (rows * 8) @ loss.linear.weight[0] + loss.linear.bias
    truth = labels.float()
    expected = -(truth * F.logsigmoid(logits) + (1 - truth) * F.logsigmoid(-logits)).mean()
    assert float(loss(rows, labels)) == pytest.approx(float(expected), abs=1e-6)


def test_it_is_computed_in_full_precision_under_autocast() -> None:
    loss = CrossEntropyOnEmbedding().build(6)
    rows, labels = F.normalize(torch.randn(10, 6)), torch.arange(10) % 2
    with torch.autocast("cpu", torch.bfloat16):
        value, metrics = loss.measure(rows, labels)
    assert value.dtype == torch.float32
    assert float(value) == float(loss(rows, labels)) == float(metrics["cross_entropy"][0])
