"""A checkpoint gets another sigmoid, other limits or another head; its network stays as it is.

What is done to it is written into the checkpoint's own history. Knows no report.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.splits import SPLITS
from deepfake.error_rates import (
    MAX_ERROR_RATE,
    ErrorRates,
    check_rate,
    count_needed,
    describe_chance,
    is_chance,
)
from deepfake.errors import JobError, UsageError
from deepfake.evaluation.calibration import Calibration, calibrate
from deepfake.evaluation.embeddings import Embeddings, EmbedOptions, embed_crops
from deepfake.evaluation.evaluate import ScoredRows, file_rows
from deepfake.evaluation.origins import ALL, divide_as_trained, was_trained_on
from deepfake.evaluation.predictions import predict_set
from deepfake.evaluation.sets import EvaluationSet, read_evaluation_set
from deepfake.heads import Head, HeadName, MeanHead, make_head
from deepfake.learning.checkpoint import Checkpoint, derive_checkpoint
from deepfake.learning.crops import CropDataset, measure_training_faces
from deepfake.learning.ensemble import look_once
from deepfake.learning.joined import Tta, count_looks
from deepfake.metrics import Summary, format_metric, summarise
from deepfake.records import EVEN_ODDS, LABEL_NAMES, Aggregation, Limits, Recipe
from deepfake.tables import align


@dataclass(frozen=True, slots=True)
class Refit:
    """What became of a checkpoint.

    Args:
        output: The new file.
        limits_before: Of the old one; ``None`` if it had no head.
        limits: Of the new one.
        error_rates: What they were chosen for, and reach.
        before: Metrics of files before, by split; empty if the old one had no head.
        after: Metrics of the same files after.
    """

    output: Path
    limits_before: Limits | None
    limits: Limits
    error_rates: ErrorRates
    before: dict[str, Summary]
    after: dict[str, Summary]

    def __str__(self) -> str:
        table: list[list[object]] = [["files of", "", "real", "fake", "AUC", "EER", "accuracy"]]
        for split in self.after:
            for word, summaries in (("before", self.before), ("after", self.after)):
                if split in summaries:
                    row = summaries[split]
                    metrics = map(format_metric, (row.auc, row.eer, row.accuracy))
                    table.append([split, word, row.n_real, row.n_fake, *metrics])
        lines = align(table)
        if self.limits_before is not None:
            real, fake = self.limits_before.real, self.limits_before.of_fake()
            lines.append(f"before: real up to {real:.4f}, fake from {fake:.4f}")
        lines += [*self.error_rates.describe(self.limits), f"checkpoint: {self.output}"]
        return "\n".join(lines) + "\n"


def calibrate_checkpoint(
    checkpoint: Checkpoint,
    root: Path,
    output: Path,
    *,
    origin: str = "",
    split: str | None = None,
    max_fpr: float = MAX_ERROR_RATE,
    max_fnr: float = MAX_ERROR_RATE,
    prevalence: float | None = None,
    options: EmbedOptions = EmbedOptions(),  # noqa: B008 - frozen
) -> Refit:
    """Fit sigmoid and limits anew on data that the checkpoint did not learn from.

    Unlike a training, which must end with a checkpoint, it refuses what the data cannot carry.

    Args:
        checkpoint: The old one, or several as one, which become one file. With a mirrored look it
            is calibrated for that, and the new one looks so, too.
        root: Crop folder of the validation set.
        output: The new one.
        origin: What the user named as data.
        split: Split of the folder; by default ``validation`` where there are splits.
        max_fpr: Highest share of real files that are called fake.
        max_fnr: Highest share of fake files that are called real.
        prevalence: Share of fakes where the checkpoint will be used; ``p_fake`` is a probability
            there, the limits keep their error rates.
        options: How crops pass the network.

    Raises:
        UsageError: If the data cannot serve: its recipe, its labels, its size, its use so far.
        JobError: If a class has too few crops, or the detector is at chance on them.
    """
    check_wishes(max_fpr, max_fnr, prevalence)
    dataset = read_evaluation_set(root, checkpoint, "", origin, split, "validation")
    _refuse_training_crops(dataset, checkpoint)
    embeddings = embed_crops(root, dataset.faces, checkpoint, options)
    saved = look_once(checkpoint)
    head = copy.deepcopy(saved.head)
    calibration = calibrate(
        head,
        dataset.faces,
        embeddings.vectors,
        _recipe_of(checkpoint, dataset),
        max_fpr,
        max_fnr,
        prevalence,
        f"{dataset.name} ({dataset.split})",
        checkpoint.tta,
    )
    _refuse_what_is_not_measured(calibration.error_rates, dataset, head)
    aggregation = checkpoint.recipe.aggregation
    before, after = (
        {"calibration": file_rows(predict_set(dataset, [embeddings], one.eval(), aggregation))}
        for one in (checkpoint.head, _repeat(head, checkpoint.tta))
    )
    result = _compare(checkpoint, output, calibration, before, after)
    event = {"what": "calibrate", **_describe(dataset)}
    event |= {"max_fpr": max_fpr, "max_fnr": max_fnr, "prevalence": prevalence}
    derive_checkpoint(saved, output, head, _changes(calibration, result), event)
    return result


def fit_new_head(
    checkpoint: Checkpoint,
    root: Path,
    output: Path,
    *,
    origin: str = "",
    head: HeadName = "svm",
    C: float = 2.0,  # noqa: N803
    max_fpr: float = MAX_ERROR_RATE,
    max_fnr: float = MAX_ERROR_RATE,
    options: EmbedOptions = EmbedOptions(),  # noqa: B008 - frozen
) -> Refit:
    """Fit the head anew, or for the first time, on the embeddings of crops.

    As in training: the train split fits the classifier, validation its sigmoid and the limits, test
    is only measured. Crops without splits are divided by group.

    Args:
        checkpoint: The old one; one of mid-training, without a fitted head, will do.
        root: Crop folder.
        output: The new one.
        origin: What the user named as data.
        head: ``svm``, ``svm-hinge``, ``logistic``, ``rbf`` or ``gbm``.
        C: Inverse strength of regularisation.
        max_fpr: Highest share of real files that are called fake.
        max_fnr: Highest share of fake files that are called real.
        options: How crops pass the network.

    Raises:
        UsageError: If the crops were cut by another recipe or cannot be divided, or the head
            cannot be fitted here or not on so many.
        JobError: If a class has too few crops, or the head cannot be fitted on them.
    """
    check_wishes(max_fpr, max_fnr)
    fitted = make_head(head, checkpoint.head.embedding_dim, C)
    dataset = read_evaluation_set(root, checkpoint, "", origin, ALL)
    split_of_row = np.array(divide_as_trained(read_manifest(root), checkpoint))
    train, validation = split_of_row == "train", split_of_row == "validation"
    fitted.check_fit(int(train.sum()))
    embeddings = embed_crops(root, dataset.faces, checkpoint, options)
    fitted.fit_classifier(embeddings.vectors[train], dataset.labels[train])
    calibration = calibrate(
        fitted,
        dataset.faces.choose(np.flatnonzero(validation)),
        embeddings.vectors[validation],
        _recipe_of(checkpoint, dataset),
        max_fpr,
        max_fnr,
        origin=f"the validation split of {dataset.name}",
    )
    fitted.warn_if_useless()

    score = partial(_score_splits, dataset, embeddings, split_of_row, checkpoint.recipe.aggregation)
    # A checkpoint of mid-training has no head that anything could be scored with.
    before = score(checkpoint.head) if _has_head(checkpoint) else {}
    result = _compare(checkpoint, output, calibration, before, score(fitted))
    event = {"what": "fit-head", **_describe(dataset), "head": head, "C": C}
    event |= {"max_fpr": max_fpr, "max_fnr": max_fnr}
    changes = _changes(calibration, result)
    changes |= {"head": head, "recipe": checkpoint.recipe.to_dict()}
    if not before:
        changes["weights"] = f"epoch {checkpoint.info['epoch']} (mid-training)"
    learnt = dataset.faces.choose(np.flatnonzero(train))
    faces = measure_training_faces(CropDataset(root, learnt, checkpoint.recipe.crop.size))
    derive_checkpoint(checkpoint, output, fitted, changes, event, faces)
    return result


def _repeat(head: Head, tta: Tta) -> Head:
    return MeanHead([head] * count_looks(tta)) if tta != "none" else head


def _has_head(checkpoint: Checkpoint) -> bool:
    return checkpoint.error_rates is not None


def check_wishes(max_fpr: float, max_fnr: float, prevalence: float | None = None) -> None:
    """Refuse what nobody can want of new limits.

    Raises:
        UsageError: If a rate is out of range.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"prevalence {prevalence:g}; expected a share between 0 and 1")
    for name, rate in (("max-fpr", max_fpr), ("max-fnr", max_fnr)):
        try:
            check_rate(name, rate)
        except ValueError as error:
            raise UsageError(f"--{error}") from error


def _recipe_of(checkpoint: Checkpoint, dataset: EvaluationSet) -> Recipe:
    """How files of a crop folder become scores: its frames, the checkpoint's aggregation."""
    return replace(checkpoint.recipe, sampling=dataset.sampling)


def _refuse_what_is_not_measured(rates: ErrorRates, dataset: EvaluationSet, head: Head) -> None:
    where = f"{dataset.origin} ({dataset.split})"
    for name, rate, word, number, there in (
        ("fpr", rates.max_fpr, "real", rates.n_real, rates.n_supported),
        ("fnr", rates.max_fnr, "fake", rates.n_fake, rates.fnr_supported),
    ):
        if not there:
            raise UsageError(
                f"{where}: a rate of {rate:g} (--max-{name}) cannot be measured on {number} {word} "
                f"files; it takes {count_needed(rate)} with a face that counts"
            )
    if float(head.slope_) >= 0:
        raise JobError(
            f"{where}: on its {rates.n_real} real and {rates.n_fake} fake files the decisions do "
            "not rise with fake; a calibration would turn the detector around: fit a new head "
            "(deepfake fit-head) or train"
        )
    if is_chance(rates.auc):
        raise JobError(
            f"{where}: on its {rates.n_real} real and {rates.n_fake} fake files the detector is "
            f"{describe_chance(rates.auc)}; there is nothing to calibrate: fit a new head "
            "(deepfake fit-head) or train"
        )


def _refuse_training_crops(dataset: EvaluationSet, checkpoint: Checkpoint) -> None:
    seen = was_trained_on(checkpoint, read_manifest(dataset.root))
    if seen and dataset.split in ("train", ALL):
        raise UsageError(
            f"the checkpoint learnt from split {dataset.split!r} of {dataset.root}: its scores "
            "there are too sure of themselves to calibrate with; use --split validation"
        )


def _score_splits(
    dataset: EvaluationSet,
    embeddings: Embeddings,
    split_of_row: NDArray[np.str_],
    aggregation: Aggregation,
    head: Head,
) -> dict[str, ScoredRows]:
    """The files of every split that has some."""
    scored = {}
    for split in SPLITS:
        mask = split_of_row == split
        faces = dataset.faces.choose(np.flatnonzero(mask))
        ids = set(faces.values("source"))
        own = np.flatnonzero([id in ids for id in dataset.files.values("id")])
        part = replace(dataset, faces=faces, files=dataset.files.choose(own))
        if len(faces):
            predictions = predict_set(part, [embeddings.where(mask)], head.eval(), aggregation)
            scored[split] = file_rows(predictions)
    return scored


def _compare(
    checkpoint: Checkpoint,
    output: Path,
    calibration: Calibration,
    before: dict[str, ScoredRows],
    after: dict[str, ScoredRows],
) -> Refit:
    old, new = (
        {split: summarise(rows.labels, rows.p_fake, EVEN_ODDS) for split, rows in scored.items()}
        for scored in (before, after)
    )
    limits = checkpoint.limits if _has_head(checkpoint) else None
    return Refit(output, limits, calibration.limits, calibration.error_rates, old, new)


def _describe(dataset: EvaluationSet) -> dict[str, Any]:
    numbers = np.bincount(dataset.labels, minlength=2)
    return {
        "data": dataset.origin,
        "split": dataset.split,
        "manifest_sha256": dataset.manifest_sha256,
        "counts": {word: int(number) for word, number in zip(LABEL_NAMES, numbers, strict=True)},
    }


def _changes(calibration: Calibration, result: Refit) -> dict[str, Any]:
    metrics = {name: asdict(summary) for name, summary in result.after.items()}
    return calibration.to_info() | {"metrics": metrics}
