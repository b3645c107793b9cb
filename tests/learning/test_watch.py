"""Bad steps are found, sooner or later but always; means are those of the epoch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepfake.learning.watch import EpochMeans, LossWatch, Step


def feed(watch: LossWatch, losses: list[float]) -> list[Step | None]:
    return [
        watch.add(torch.tensor(loss, requires_grad=True), torch.tensor([i]), 2, i, 0.5)
        for i, loss in enumerate(losses)
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_on_a_processor_a_bad_step_is_known_at_once(bad: float) -> None:
    found = feed(LossWatch(), [1.0, bad])
    assert found[0] is None
    assert found[1] is not None
    assert (found[1].epoch, found[1].step, found[1].lr) == (2, 1, 0.5)
    assert found[1].indices.tolist() == [1]


def test_a_patient_watch_finds_the_first_bad_step_later() -> None:
    watch = LossWatch(patience=3)
    nan = float("nan")
    found = feed(watch, [1.0, nan, nan, 1.0, 1.0])
    assert [step is None for step in found] == [True] * 4 + [False]
    assert found[4] is not None
    assert found[4].step == 1


def test_nothing_escapes_the_last_look() -> None:
    watch = LossWatch(patience=8)
    assert feed(watch, [1.0, 2.0, float("nan")]) == [None] * 3
    bad = watch.check_all()
    assert bad is not None
    assert bad.step == 2
    assert watch.check_all() is None


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


@pytest.mark.gpu
def test_on_a_gpu_the_watch_does_not_wait() -> None:
    watch = LossWatch()
    nan = torch.full((), float("nan"), device="cuda")
    found = None
    for step in range(20):
        with torch.cuda.stream(torch.cuda.current_stream()):
            loss = nan if step == 3 else torch.ones((), device="cuda")
        found = found or watch.add(loss, torch.tensor([step]), 0, step, 0.1)
    found = found or watch.check_all()
    assert found is not None
    assert found.step == 3
