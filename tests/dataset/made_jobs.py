"""Small crop jobs without worker processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deepfake.dataset import cropping
from deepfake.dataset.crop_folder import CropReport
from deepfake.dataset.cropping import crop_media
from deepfake.jobs.parts import Division, JobPart
from deepfake.records import CropSpec, Extraction, Source, Workers

REPO = Path(__file__).resolve().parents[2]

SPEC = CropSpec(size=64)

SHARD = 4


def run(source: Path | str, output: Path, spec: CropSpec = SPEC, **options: Any) -> CropReport:
    settings: dict[str, Any] = {"workers": Workers(0), "quiet": True} | options
    division = Division(None, settings.pop("shard_size", SHARD))
    return crop_media(str(source), output, spec, division=division, **settings)


class Done(NamedTuple):
    photos: Path
    tree: dict[str, str]


def command(source: Path, output: Path, workers: int) -> list[str]:
    words = f"{source} {output} --size 64 --quiet --shard-size {SHARD} --workers {workers}"
    return [sys.executable, "crop.py", *words.split()]


def begin(source: Path, output: Path) -> Path:
    """A job that was begun, as cheaply as possible: its plan, and no shard."""
    with pytest.raises(KeyError, match="stop"):
        run_with(source, output)
    return output


def run_with(source: Path, output: Path) -> None:
    def stop(*arguments: object) -> Iterator[tuple[Source, Extraction]]:
        raise KeyError("stop")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cropping, "iter_extractions", stop)
        run(source, output)


def run_part(
    source: Path,
    output: Path,
    part: JobPart | None,
    block_size: int | None = None,
    **options: Any,
) -> CropReport:
    settings: dict[str, Any] = {"workers": Workers(0), "quiet": True} | options
    return crop_media(str(source), output, SPEC, division=Division(part, block_size), **settings)
