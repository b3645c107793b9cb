"""The ``evaluate`` command: a checkpoint and labelled data in, a folder of evidence out.

Knows no formula and no HTML: whoever wants a page hands in what renders it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.errors import UsageError
from deepfake.evaluation.bootstrap import N_RESAMPLES
from deepfake.evaluation.embeddings import Change, EmbedOptions, embed_once, hash_network
from deepfake.evaluation.evaluate import (
    OVERALL,
    Evaluation,
    RobustnessCurve,
    compute_robustness_point,
    evaluate_predictions,
    start_of_robustness,
)
from deepfake.evaluation.origins import list_changes, list_roots
from deepfake.evaluation.predictions import Predictions, predict_set
from deepfake.evaluation.robustness import CORRUPTIONS, choose_corruptions, corrupt
from deepfake.evaluation.sets import EvaluationSet, open_crops, read_evaluation_set
from deepfake.evaluation.tables import format_predictions, format_scored_faces, to_json
from deepfake.inference.judging import compare_with_limits
from deepfake.jobs.engine import Executor, run_here
from deepfake.learning.checkpoint import Checkpoint, describe_versions
from deepfake.records import Policy, Workers
from deepfake.storage import LOCK_NAMES, Confinement, exclusive, write_atomic, write_stream
from deepfake.stores.address import Address, is_url

METRICS_FILE = "metrics.json"
FILES_FILE = "predictions.csv"
FACES_FILE = "faces.csv"
REPORT_FILE = "report.html"
_EMBEDDINGS, _CROPS = "embeddings", "crops"
_OWN = {METRICS_FILE, FILES_FILE, FACES_FILE, REPORT_FILE, _EMBEDDINGS, _CROPS, *LOCK_NAMES}
Renderer = Callable[[Evaluation, dict[str, Any]], str]
"""An evaluation and its provenance to the text of a page."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is evaluated, and how.

    Args:
        split: ``train``, ``validation``, ``test`` or ``all``; by default ``test`` where there are
            splits.
        aggregation: How the frames of a file make its score, a name of ``POLICIES``; by default,
            and in its numbers always, as the checkpoint says.
        n_resamples: Resamples of the bootstrap.
        corruptions: Damage to the stored crops, names of ``CORRUPTIONS``, at every severity; an
            empty list means all, ``None`` none. Boxes and files without a score stay as they are.

    Raises:
        UsageError: If a corruption is unknown or the number of resamples is negative.
    """

    split: str | None = None
    aggregation: Policy | None = None
    n_resamples: int = N_RESAMPLES
    corruptions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        choose_corruptions(self.corruptions or ())
        if self.n_resamples < 0:
            raise UsageError(f"resamples={self.n_resamples}; expected 0 or more")


def run_evaluation(
    checkpoint: Checkpoint,
    data: Sequence[str],
    output: Path | None,
    options: EvaluationOptions = EvaluationOptions(),
    embed_options: EmbedOptions = EmbedOptions(),  # noqa: B008 - frozen
    workers: Workers = Workers(processes=0),  # noqa: B008 - frozen
    render: Renderer | None = None,
    command: str = "",
    execute: Executor = run_here,
) -> Evaluation:
    """Evaluate a checkpoint on one or more data sets.

    With an output folder, embeddings (and the crops of media) are kept in it: another call with
    another split of media, aggregation, number of resamples or head needs no second pass.

    Args:
        checkpoint: What is evaluated.
        data: Crop folders or labelled media.
        output: Folder for ``metrics.json``, the tables and the page; ``None`` writes none.
        options: What is evaluated, and how.
        embed_options: How crops pass the network.
        workers: How media are read.
        render: Makes ``report.html``, where there is an output folder.
        command: The command line, for the record.
        execute: Who crops, and who embeds where there is an output folder.

    Raises:
        UsageError: If data or output are not usable.
        JobError: If a crop is missing, or the disk is full.
    """
    aggregation = checkpoint.recipe.aggregation
    if options.aggregation is not None:
        aggregation = replace(aggregation, policy=options.aggregation)
    with ExitStack() as stack:
        if output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepfake-")))
        else:
            folder = output
            _prepare(output)
            stack.enter_context(exclusive(output))
        sets: list[EvaluationSet] = []
        for name, origin in _name_sets(data).items():
            crops = folder / _CROPS / name
            root = open_crops(origin, checkpoint, crops, workers, embed_options.quiet, execute)
            one = read_evaluation_set(root, checkpoint, name, origin, options.split)
            is_clip = bool(one.faces.kept("frame").max(initial=0))
            if other := compare_with_limits(checkpoint, one.sampling, aggregation, is_clip):
                one = replace(one, remarks=(*one.remarks, other))
            sets.append(one)

        def predict(change: Change | None = None, change_name: str = "") -> list[Predictions]:
            cache = None if output is None else output / _EMBEDDINGS
            predictions = []
            for one in sets:
                embeddings = embed_once(
                    one, checkpoint, cache, embed_options, change, change_name, execute
                )
                predictions.append(predict_set(one, embeddings, checkpoint.head, aggregation))
            return predictions

        evaluation = evaluate_predictions(
            predict(), checkpoint.limits, aggregation, options.n_resamples
        )
        evaluation = replace(evaluation, robustness=_follow(evaluation, options, predict))
        if output is not None:
            _write(evaluation, output, describe_origin(checkpoint, command), render)
    return evaluation


def _follow(
    evaluation: Evaluation,
    options: EvaluationOptions,
    predict: Callable[[Change, str], list[Predictions]],
) -> tuple[RobustnessCurve, ...]:
    """Corrupt the crops, and score them as ever."""
    if options.corruptions is None:
        return ()
    curves, start = [], start_of_robustness(evaluation)
    for name in choose_corruptions(options.corruptions):
        corruption, points = CORRUPTIONS[name], [start]
        for severity, value in enumerate(corruption.values, 1):
            sets = predict(partial(_corrupt, name, severity), f"{name}-{value:g}")
            points.append(compute_robustness_point(sets, evaluation.n_resamples, severity, value))
        curves.append(RobustnessCurve(name, corruption.title, corruption.unit, tuple(points)))
    return tuple(curves)


def _corrupt(name: str, severity: int, crop: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    return corrupt(crop, name, severity, seed)


def _write(
    evaluation: Evaluation, output: Path, provenance: dict[str, Any], render: Renderer | None
) -> None:
    result = json.dumps(to_json(evaluation, provenance), indent=2) + "\n"
    for name, lines in (
        (FILES_FILE, format_predictions(evaluation)),
        (FACES_FILE, format_scored_faces(evaluation)),
    ):
        write_stream(output / name, (line.encode() for line in lines))
    if render is not None:
        write_atomic(output / REPORT_FILE, render(evaluation, provenance))
    write_atomic(output / METRICS_FILE, result)


def describe_origin(checkpoint: Checkpoint, command: str) -> dict[str, Any]:
    """Where metrics come from: checkpoint, versions, command; plain types."""
    info = checkpoint.info
    return {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": checkpoint.sha256,
        "checkpoint_files": {one.name: one.sha256 for one in checkpoint.members or (checkpoint,)},
        "tta": checkpoint.tta,
        "network_sha256": hash_network(checkpoint),
        "backbone": info.get("backbone"),
        "limits": checkpoint.limits.to_dict(),
        "error_rates": info.get("error_rates"),
        "chosen_for": info.get("chosen_for"),
        "trained_on_manifest_sha256": info.get("manifest_sha256"),
        "trained_on_crops": info.get("counts"),
        "trained_on_data": " + ".join(list_roots(checkpoint)) or None,
        "history": list_changes(checkpoint),
        "crop_spec": checkpoint.recipe.crop.to_dict(),
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
    Confinement(output).check_all(_EMBEDDINGS, _CROPS)
    output.mkdir(parents=True, exist_ok=True)


def _name_sets(data: Sequence[str]) -> dict[str, str]:
    """A short name for each data set: the last part of its path, numbered if need be."""
    names: dict[str, str] = {}
    seen: set[object] = set()
    for origin in data:
        where = Address.parse(origin) if is_url(origin) else Path(origin).resolve()
        if where in seen:
            raise UsageError(f"{origin} is named twice: its files would count for two")
        seen.add(where)
        place = where if isinstance(where, Path) else where.path
        stem = place.name.removesuffix(".csv") or "data"
        name, number = stem, 1
        while name in names or name == OVERALL:
            number += 1
            name = f"{stem}-{number}"
        names[name] = origin
    return names
