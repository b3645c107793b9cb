"""What a training that goes on from a checkpoint must have in common with the one that began it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from deepfake.errors import UsageError


def refuse_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Settings that may not change, by name; the old ones are only compared, never used.

    Raises:
        UsageError: If one did.
    """
    for name, value in now.items():
        if before.get(name, value) != value:
            raise UsageError(
                f"the checkpoint to resume from was begun with {name}={before[name]!r}, now it "
                f"is {value!r}; give the --config and options of that run again (its folder "
                "holds all of them in config.yaml), or start a new run"
            )


_OF_A_RUN = ("seed_everything", "data", "model")
_MAY_CHANGE = (
    # Where things lie, how fast it goes, and what is only looked at or refused.
    *("data.root", "data.cache", "data.cache_gb", "data.num_workers", "data.crop_preset"),
    *("data.split.find_look_alikes", "data.split.allow_leak"),
    *("model.pretrained", "model.training.chunk_size"),
)


def refuse_other_settings(before: str, now: str) -> None:
    """What of a configuration makes a run: it would be ignored, or mix two runs in one.

    With another seed or other split settings crops that were trained on would be measured on.

    Args:
        before: Text of the configuration that a checkpoint was begun with; empty if not known.
        now: Of the run that goes on.

    Raises:
        UsageError: If one is another one; settings that only one of both has are passed over.
    """
    old, new = (
        {
            name: value
            for part, settings in _read(text).items()
            if part in _OF_A_RUN
            for name, value in _flatten(part, settings)
            if name not in _MAY_CHANGE
        }
        for text in (before, now)
    )
    refuse_change(old, {name: value for name, value in new.items() if name in old})


def _read(text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):  # a stranger's; nothing is taken from it
        return {}
    return content if isinstance(content, dict) else {}


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Settings by their whole names."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flatten(f"{name}.{key}", inner)


def refuse_other_crops(before: str | None, now: str | None) -> None:
    """The crops' manifest, by its sha256; ``None`` is not known.

    Raises:
        UsageError: If it is another one.
    """
    if before is not None and now is not None and before != now:
        raise UsageError(
            "the checkpoint to resume from was trained on other crops (its manifest has sha256 "
            f"{before[:12]}, this one {now[:12]}); start a new run"
        )


def refuse_other_length(before: int | None, now: int | None) -> None:
    """Steps of the optimiser that a schedule spans; ``None`` has no end.

    Raises:
        UsageError: If there are more or fewer now.
    """
    if before is not None and before != now:
        raise UsageError(
            f"the schedule to resume was planned for {before} steps, now there are {now}; resume "
            "with the same trainer.max_epochs and data.batch_size, or begin a new run from the "
            "weights of this one with --model.pretrained RUN/model.ckpt"
        )


def choose_state(state: dict[str, Any], own: dict[str, Any], goes_on: bool) -> dict[str, Any]:
    """What a module loads of a checkpoint's ``state_dict``: weights, and its own objective.

    Args:
        state: Of the checkpoint.
        own: Of the module.
        goes_on: Whether the training goes on; else an objective that is another one stays as it is.

    Raises:
        UsageError: If a training would go on with another objective.
    """
    kept = {
        name: value for name, value in state.items() if not name.startswith(("head.", "quality."))
    }
    theirs, ours = (
        {name: value for name, value in part.items() if name.startswith("objective.")}
        for part in (kept, own)
    )
    if theirs.keys() == ours.keys():
        return kept
    if goes_on:
        raise UsageError(
            "the checkpoint to resume from was begun with another model.objective; start a new run"
        )
    return {name: value for name, value in kept.items() if name not in theirs} | ours
