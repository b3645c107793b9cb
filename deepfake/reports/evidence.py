"""What a page of evidence says of its run: who asked, when, with which settings.

Times stand on pages alone, never in what two runs are compared by. Knows no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from deepfake.inference.predictor import Predictor


def describe_run(
    predictor: Predictor,
    times: tuple[datetime, datetime],
    case: str | None = None,
    analyst: str | None = None,
    **more: object,
) -> dict[str, Any]:
    """The ``run`` of a page's provenance.

    Args:
        predictor: Gave the answers.
        times: When the first file was looked at, and when the last one had its answer.
        case: What the user calls the case.
        analyst: Who asks.
        **more: Further settings.
    """
    settings = describe_settings(predictor) | more
    began, ended = (f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" for time in times)
    return {
        "case": case,
        "analyst": analyst,
        "began": began,
        "ended": ended,
        "settings": {name.replace("_", " "): _show(value) for name, value in settings.items()},
    }


def describe_settings(predictor: Predictor) -> dict[str, Any]:
    """What the answers of a predictor depend on, in plain types, by the names that pages have."""
    workers = predictor.workers
    return {
        "limits": asdict(predictor.judge.limits),
        "frames": predictor.sampling.to_dict(),
        "aggregation": predictor.aggregation.to_dict(),
        "faces": predictor.crop.to_dict(),
        "backend": predictor.backend,
        "device": [str(device) for device in predictor.devices],
        "batch size": predictor.batch_size,
        "detect device": workers.detect_device,
        "most pixels": workers.max_pixels,
        "time limit of a file": f"{workers.timeout_s:g} s",
    }


def _show(value: Any) -> str:
    """A setting in words; what is not set is left out of many."""
    if isinstance(value, Mapping):
        set_ones = {name: one for name, one in value.items() if one is not None}
        return ", ".join(f"{name.replace('_', ' ')} {_show(one)}" for name, one in set_ones.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_show(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
