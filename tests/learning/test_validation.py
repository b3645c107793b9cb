"""Metrics of collected embeddings: every row once, and a nan where nothing can be said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepfake.heads.linear import LinearSVM
from deepfake.learning.validation import CollectedEmbeddings, RecentEmbeddings
from tests import oracles


def draw(count: int = 20) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    rows = torch.randn(count, 4) + labels[:, None]
    return torch.nn.functional.normalize(rows), labels


def test_every_row_counts_once_whatever_the_processes_padded() -> None:
    rows, labels = draw()
    head = LinearSVM(4).fit(rows, labels)
    found = []
    for order in (torch.arange(20), torch.cat([torch.arange(20).flip(0), torch.tensor([0, 3, 3])])):
        collected = CollectedEmbeddings()
        for part in torch.split(order, 7):
            collected.add(part, labels[part], rows[part])
        found.append(collected.measure(lambda e, t: e.sum() + t.sum(), 8, head=head))
    assert found[0] == found[1]
    scores = head(rows).tolist()
    expected = oracles.area_under_curve(labels.tolist(), scores)
    assert found[0]["auc"] == pytest.approx(expected)
    right = [(score >= 0.5) == bool(y) for score, y in zip(scores, labels.tolist(), strict=True)]
    assert found[0]["accuracy"] == pytest.approx(sum(right) / 20)


@pytest.mark.parametrize("broken", [False, True], ids=["no-head", "nan"])
def test_without_a_head_or_a_number_the_auc_is_nan(broken: bool) -> None:
    rows, labels = draw()
    head = LinearSVM(4).fit(rows, labels) if broken else None
    rows = rows.clone()
    if broken:
        rows[3] = torch.nan
    collected = CollectedEmbeddings()
    collected.add(torch.arange(20), labels, rows)
    metrics = collected.measure(lambda e, t: t.sum(), 20, head=head)
    assert metrics.keys() == {"loss", "auc"}
    assert math.isnan(metrics["auc"])


def test_the_recent_head_is_fitted_on_what_came_last() -> None:
    recent, again = RecentEmbeddings(), RecentEmbeddings()
    assert recent.fit_head() is None
    recent.add(*draw(2))
    assert recent.fit_head() is None  # one row of each class
    rows, labels = draw(2048)
    for _ in range(3):
        recent.add(rows, labels)
    assert sum(len(part) for _, part in recent.state_dict()) == 4096
    again.load_state_dict(recent.state_dict())
    heads = recent.fit_head(), again.fit_head()
    assert heads[0] is not None
    assert heads[1] is not None
    assert torch.equal(heads[0](rows), heads[1](rows))
    recent.add(torch.full((2, 4), torch.nan), torch.tensor([0, 1]))
    assert recent.fit_head() is None
    recent.clear()
    assert recent.state_dict() == []


def test_of_large_batches_the_last_one_is_kept() -> None:
    recent = RecentEmbeddings()
    recent.add(*draw(5000))
    recent.add(*draw(5000))
    assert [len(part) for _, part in recent.state_dict()] == [5000]
    assert recent.fit_head() is not None


def test_the_loss_of_a_short_last_part_counts_by_its_rows() -> None:
    rows, labels = draw(29)
    collected = CollectedEmbeddings()
    collected.add(torch.arange(29), labels, rows)
    found = collected.measure(lambda e, t: torch.tensor(float(len(t) > 1)), 28, head=None)
    assert found["loss"] == pytest.approx(28 / 29)
