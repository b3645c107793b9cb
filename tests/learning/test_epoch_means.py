"""Means are those of the epoch, over a resume too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepfake.learning.epoch_means import EpochMeans


def metrics(loss: float, distance: float, number: int) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        "loss": (torch.tensor(loss), torch.tensor(1.0)),
        "ap": (torch.tensor(distance), torch.tensor(float(number))),
    }


def test_means_weigh_steps_alike_and_triplets_by_their_number() -> None:
    means = EpochMeans()
    assert means.read() == {}
    for loss, distance, number in ((1.0, 0.5, 10), (2.0, 0.9, 30), (3.0, 0.0, 0)):
        means.add(metrics(loss, distance, number))
    assert means.read() == pytest.approx({"loss": 2.0, "ap": 0.8})
    again = EpochMeans()
    again.load_state_dict(means.state_dict())
    for each in (means, again):
        each.add(metrics(6.0, 0.8, 5))
    assert again.read() == means.read() == pytest.approx({"loss": 3.0, "ap": 0.8})
    means.clear()
    assert means.read() == {}
    again.load_state_dict(means.state_dict())
    assert again.read() == {}


def test_a_metric_without_triplets_is_left_out() -> None:
    means = EpochMeans()
    means.add(metrics(1.0, 0.0, 0))
    assert means.read() == {"loss": 1.0}
