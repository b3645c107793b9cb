"""The ``evaluate`` command: a checkpoint and labelled data in, a folder of evidence out.

Knows no formula and no HTML.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.errors import UsageError
from deepfake.evaluation.bootstrap import ROUNDS
from deepfake.evaluation.evaluate import (
    TOGETHER,
    Curve,
    Evaluation,
    evaluate,
    format_faces,
    format_files,
    measure_point,
    start_of_curves,
    to_json,
)
from deepfake.evaluation.predictions import (
    Change,
    Predictions,
    embed_once,
    hash_network,
    open_crops,
    read_material,
    score_material,
)
from deepfake.evaluation.robustness import CORRUPTIONS, choose_corruptions, corrupt
from deepfake.learning.checkpoint import Checkpoint, describe_versions
from deepfake.records import MAX_PIXELS, Policy
from deepfake.reports.evaluation_page import format_report
from deepfake.storage import LOCK_NAMES, exclusive, write_atomic

METRICS_FILE = "metrics.json"
FILES_FILE = "predictions.csv"
FACES_FILE = "faces.csv"
REPORT_FILE = "report.html"
_EMBEDDINGS, _CROPS = "embeddings", "crops"
_OWN = {METRICS_FILE, FILES_FILE, FACES_FILE, REPORT_FILE, _EMBEDDINGS, _CROPS, *LOCK_NAMES}


def run_evaluation(
    checkpoint: Checkpoint,
    data: Sequence[str],
    output: Path | None,
    *,
    split: str | None = None,
    aggregation: Policy | None = None,
    rounds: int = ROUNDS,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    timeout_s: float = 60.0,
    max_pixels: int = MAX_PIXELS,
    detect_device: str = "cpu",
    corruptions: Sequence[str] | None = None,
    command: str = "",
    quiet: bool = True,
) -> Evaluation:
    """Evaluate a checkpoint on one or more data sets.

    With an output folder, embeddings (and the crops of media) are kept in it: another call with
    another split of media, aggregation, number of rounds or head needs no second pass.

    Args:
        checkpoint: What is evaluated.
        data: Crop folders or labelled media.
        output: Folder for ``report.html``, ``metrics.json`` and the tables; ``None`` writes none.
        split: ``train``, ``validation``, ``test`` or ``all``; by default ``test`` where there are
            splits.
        aggregation: How the frames of a file make its score, a name of ``POLICIES``; by default,
            and in its numbers always, as the checkpoint says.
        rounds: Drawings of the bootstrap.
        device: As of ``Predictor``.
        batch_size: Crops per call of the network.
        workers: Processes that decode and detect.
        timeout_s: Longest time for one file in seconds.
        max_pixels: Larger pictures are ``unreadable``.
        detect_device: Where faces of media are searched for: ``cpu``, ``cuda`` or ``cuda:N``.
        corruptions: Damage to the stored crops, names of ``CORRUPTIONS``, at every strength; an
            empty list means all. Boxes and files without an answer stay as they are.
        command: The command line, for the record.
        quiet: Show no progress.

    Raises:
        UsageError: If data or output are not usable.
        JobError: If a crop is missing, or the disk is full.
    """
    damages = () if corruptions is None else choose_corruptions(corruptions)
    how = checkpoint.aggregation
    if aggregation is not None:
        how = replace(how, policy=aggregation)
    if rounds < 0:
        raise UsageError(f"rounds={rounds}; expected 0 or more")
    with ExitStack() as stack:
        if output is not None:
            _prepare(output)
            stack.enter_context(exclusive(output))
            folder = output
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepfake-")))
        materials = []
        for name, origin in _name_sets(data).items():
            root = open_crops(
                origin,
                checkpoint,
                folder / _CROPS / name,
                workers=workers,
                timeout_s=timeout_s,
                max_pixels=max_pixels,
                detect_device=detect_device,
                quiet=quiet,
            )
            materials.append(read_material(root, checkpoint, name, origin, split))

        def score(kind: str = "", change: Change | None = None) -> list[Predictions]:
            return [
                score_material(
                    material,
                    embed_once(
                        material,
                        checkpoint,
                        None if output is None else output / _EMBEDDINGS,
                        kind,
                        device=device,
                        batch_size=batch_size,
                        workers=workers,
                        quiet=quiet,
                        change=change,
                    ),
                    checkpoint,
                    how,
                )
                for material in materials
            ]

        evaluation = evaluate(score(), checkpoint.threshold, how, rounds)
        start, curves = start_of_curves(evaluation), []
        for name in damages:
            damage, points = CORRUPTIONS[name], [start]
            for strength, value in enumerate(damage.values, 1):
                sets = score(f"{name}-{value:g}", partial(_damage, name, strength))
                points.append(measure_point(sets, checkpoint.threshold, rounds, strength, value))
            curves.append(Curve(name, damage.title, damage.unit, tuple(points)))
        evaluation = replace(evaluation, curves=tuple(curves))
        if output is not None:
            provenance = describe_origin(checkpoint, command)
            result = json.dumps(to_json(evaluation, provenance), indent=2) + "\n"
            write_atomic(output / FILES_FILE, format_files(evaluation))
            write_atomic(output / FACES_FILE, format_faces(evaluation))
            write_atomic(output / REPORT_FILE, format_report(evaluation, provenance))
            write_atomic(output / METRICS_FILE, result)
    return evaluation


def _damage(name: str, strength: int, crop: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    return corrupt(crop, name, strength, seed)


def describe_origin(checkpoint: Checkpoint, command: str) -> dict[str, Any]:
    """Where figures come from: checkpoint, versions, command; plain types."""
    info = checkpoint.info
    return {
        "checkpoint": str(checkpoint.path),
        "checkpoint_sha256": checkpoint.sha256,
        "network_sha256": hash_network(checkpoint),
        "backbone": info.get("backbone"),
        "threshold_origin": info.get("threshold_origin"),
        "trained_on_manifest_sha256": info.get("manifest_sha256"),
        "history": [event.get("what") for event in info.get("history", [])],
        "crop_spec": checkpoint.crop_spec.to_dict(),
        "trained_with": info.get("versions"),
        "evaluated_with": describe_versions(),
        "command": command,
    }


def _prepare(output: Path) -> None:
    """Create the folder; one with anything else than an evaluation in it is refused."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; name a folder for the report")
    foreign = sorted({path.name for path in output.iterdir()} - _OWN) if output.exists() else []
    if foreign:
        raise UsageError(
            f"--output {output} holds other things than an evaluation ({foreign[0]!r}); name a "
            "new folder"
        )
    output.mkdir(parents=True, exist_ok=True)


def _name_sets(data: Sequence[str]) -> dict[str, str]:
    """A short name for each data set: the last part of its path, numbered if need be."""
    names: dict[str, str] = {}
    for origin in data:
        stem = Path(origin).resolve().name.removesuffix(".csv") or "data"
        name, number = stem, 1
        while name in names or name == TOGETHER:
            number += 1
            name = f"{stem}-{number}"
        names[name] = origin
    return names
