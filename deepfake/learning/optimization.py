"""Which weights an optimiser gets, how it steps, and how its rate moves over a training.

Optimiser and schedule are given as functions (a class with its settings, as LightningCLI makes
them); what only the Trainer knows is filled in here. Knows no network, no loss and no Trainer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from deepfake.errors import UsageError, one_line

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
_LENGTHS = ("total_steps", "T_max")  # how torch's schedules name the steps of a training


class OneCycle(OneCycleLR):
    """One cycle over the whole training, with the optimiser's own rate as its peak.

    The rate rises from a 25th of the peak for a share of the steps and falls to nearly 0. Adam's
    first beta moves against it; the momentum of SGD stays.

    Args:
        optimizer: Its rates are the peaks.
        total_steps: Steps of the training; ``None`` or 0 is filled in from the Trainer.
        pct_start: Share of the steps that the rate rises for.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, pct_start: float = 0.2
    ) -> None:
        super().__init__(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=_avoid_empty_rise(pct_start, total_steps),
            cycle_momentum="betas" in optimizer.defaults,
        )


def make_optimizer(
    make: MakeOptimizer, groups: Callable[[], list[dict[str, Any]]], fused: bool
) -> Optimizer:
    """The optimiser over all groups; where it can and ``fused``, in one kernel for all weights.

    Raises:
        UsageError: If the optimiser refuses its settings.
    """
    with settings_of_a_class("model.optimizer"):
        optimizer = make(groups())
    known = inspect.signature(type(optimizer)).parameters
    # What excludes it, torch says only when it is built so.
    excluded = optimizer.defaults.get("foreach") or optimizer.defaults.get("differentiable")
    if fused and not excluded and "fused" in known and optimizer.defaults["fused"] is None:
        settings = {name: v for name, v in optimizer.defaults.items() if name in known}
        return type(optimizer)(groups(), **settings | {"fused": True})
    return optimizer


def make_schedule(
    make: MakeSchedule, optimizer: Optimizer, total_steps: float
) -> tuple[LRScheduler | ReduceLROnPlateau, int | None]:
    """The schedule; a length that was left open (``null`` or 0) becomes that of the training.

    Returns:
        The schedule, and the length that was filled in, if one was.

    Raises:
        UsageError: If a length was left open and the training has no end, or the schedule refuses
            its settings.
    """
    filled: dict[str, Any] = {}
    steps = 0 if math.isinf(total_steps) else int(total_steps)
    settings = dict(_settings_of(make))
    # torch's cycle can have its length in other words.
    is_told = bool(settings.get("epochs") and settings.get("steps_per_epoch"))
    for name, value in settings.items():
        if name in _LENGTHS and not value and not is_told:
            filled[name] = steps
        if name == "pct_start":
            filled[name] = _avoid_empty_rise(value, steps)
    spans_training = not filled.keys().isdisjoint(_LENGTHS)
    if spans_training and not steps:
        raise UsageError(
            "model.schedule spans the training, which has no end: set trainer.max_epochs or "
            "trainer.max_steps, or model.schedule null"
        )
    with settings_of_a_class("model.schedule"):
        return make(optimizer, **filled), steps if spans_training else None


@contextmanager
def settings_of_a_class(key: str) -> Iterator[None]:
    """Another package's class says what is wrong with its settings; the key says where they are.

    Raises:
        UsageError: If it does.
    """
    try:
        yield
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UsageError(f"{key}: {one_line(str(error), 400)}") from error


def _settings_of(make: Any) -> Iterator[tuple[str, Any]]:
    """Names and values that a class, or a class with settings, is called with."""
    settings = make.keywords if isinstance(make, partial) else {}
    # jsonargparse calls the class through functions of its own; a lambda keeps its settings.
    parts = (make.func, *make.args) if isinstance(make, partial) else (make,)
    kind = next((part for part in parts if isinstance(part, type)), None)
    for name, parameter in inspect.signature(kind).parameters.items() if kind else ():
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        yield name, settings.get(name, default)


def _avoid_empty_rise(pct_start: float, total_steps: int | None) -> float:
    """Where the rise would be exactly one step long, torch divides by zero."""
    return pct_start + 1e-6 if total_steps and pct_start * total_steps == 1 else pct_start
