"""A checkpoint gets another threshold, sigmoid or head; its network stays as it is.

What is done to it is written into the checkpoint's own history. Knows no report.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.splits import SPLITS
from deepfake.errors import UsageError
from deepfake.evaluation.embeddings import Embeddings, EmbedOptions, embed_crops
from deepfake.evaluation.evaluate import ScoredRows, file_rows
from deepfake.evaluation.predictions import predict_set
from deepfake.evaluation.sets import (
    ALL,
    EvaluationSet,
    assign_split_of_crop,
    read_evaluation_set,
    was_trained_on,
)
from deepfake.heads import Head, HeadName, make_head
from deepfake.learning.checkpoint import Checkpoint, derive_checkpoint
from deepfake.metrics import Summary, format_metric, summarise
from deepfake.records import LABEL_NAMES, Aggregation
from deepfake.tables import align
from deepfake.thresholds import choose_threshold, choose_threshold_for_rate


@dataclass(frozen=True, slots=True)
class Refit:
    """What became of a checkpoint.

    Args:
        output: The new file.
        threshold_before: Of the old one; ``nan`` if it had no head.
        threshold: Of the new one.
        threshold_origin: How it was chosen.
        before: Metrics of files before, by split; empty if the old one had no head.
        after: Metrics of the same files after.
    """

    output: Path
    threshold_before: float
    threshold: float
    threshold_origin: str
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
        before = format_metric(self.threshold_before)
        lines += [
            f"threshold {before} -> {self.threshold:.4f} ({self.threshold_origin})",
            f"checkpoint: {self.output}",
        ]
        return "\n".join(lines) + "\n"


def calibrate_checkpoint(
    checkpoint: Checkpoint,
    root: Path,
    output: Path,
    *,
    origin: str = "",
    split: str | None = None,
    max_fpr: float | None = None,
    prevalence: float | None = None,
    options: EmbedOptions = EmbedOptions(),  # noqa: B008 - frozen
) -> Refit:
    """Fit sigmoid and threshold anew on data that the checkpoint did not learn from.

    The threshold is chosen on files, because files are what it decides about: for a wanted false
    positive rate, or 0.5 at a wanted prevalence (the fewest expected errors), else for the best
    balanced accuracy.

    Args:
        checkpoint: The old one.
        root: Crop folder of the validation set.
        output: The new one.
        origin: What the user named as data.
        split: Split of the folder; by default ``validation`` where there are splits.
        max_fpr: Wanted false positive rate: share of real files that are predicted fake.
        prevalence: Share of fakes where the checkpoint will be used.
        options: How crops pass the network.

    Raises:
        UsageError: If the data cannot serve: its recipe, its labels, its size, its use so far.
        JobError: If a class has too few crops, or scores do not rise with fake.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"prevalence {prevalence:g}; expected a share between 0 and 1")
    dataset = read_evaluation_set(root, checkpoint, "", origin, split, "validation")
    _refuse_training_crops(dataset, checkpoint)
    embeddings = embed_crops(root, dataset.faces, checkpoint, options)
    labels = dataset.labels
    head = copy.deepcopy(checkpoint.head).calibrate(embeddings.vectors, labels).eval()
    if prevalence is not None:
        head.shift_prevalence(float(labels.mean()), prevalence)
    aggregation = checkpoint.recipe.aggregation
    before, after = (
        {"calibration": file_rows(predict_set(dataset, embeddings, one, aggregation))}
        for one in (checkpoint.head, head)
    )
    threshold, how = _choose_for(after["calibration"], dataset, max_fpr, prevalence)
    result = _compare(checkpoint, output, threshold, how, before, after)
    event = {"what": "calibrate", **_describe(dataset), "threshold": threshold}
    event |= {"false_positive_rate": max_fpr, "prevalence": prevalence}
    derive_checkpoint(checkpoint, output, head, _changes(result), event)
    return result


def fit_new_head(
    checkpoint: Checkpoint,
    root: Path,
    output: Path,
    *,
    origin: str = "",
    head: HeadName = "svm",
    C: float = 2.0,  # noqa: N803
    options: EmbedOptions = EmbedOptions(),  # noqa: B008 - frozen
) -> Refit:
    """Fit the head anew, or for the first time, on the embeddings of crops.

    As in training: the train split fits, validation chooses the threshold, test is only measured.
    Crops without splits are divided by group.

    Args:
        checkpoint: The old one; one of mid-training, without a fitted head, will do.
        root: Crop folder.
        output: The new one.
        origin: What the user named as data.
        head: ``svm``, ``logistic``, ``rbf`` or ``gbm``.
        C: Inverse strength of regularisation.
        options: How crops pass the network.

    Raises:
        UsageError: If the crops were cut by another recipe or cannot be divided, or the head
            cannot be fitted here or not on so many.
        JobError: If a class has too few crops, or the head cannot be fitted on them.
    """
    if not C > 0:
        raise UsageError(f"C={C:g}; expected an inverse strength of regularisation above 0")
    dataset = read_evaluation_set(root, checkpoint, "", origin, ALL)
    split_of_crop = assign_split_of_crop(read_manifest(root), checkpoint)
    split_of_row = np.array([split_of_crop[row.crop] for row in dataset.faces])
    train = split_of_row == "train"
    fitted = make_head(head, checkpoint.embedder.projection.out_features, C)
    fitted.check_fit(int(train.sum()))
    embeddings = embed_crops(root, dataset.faces, checkpoint, options)
    groups = [row.group for row, inside in zip(dataset.faces, train, strict=True) if inside]
    fitted.fit(embeddings.vectors[train], dataset.labels[train], groups).warn_if_useless()

    score = partial(_score_splits, dataset, embeddings, split_of_row, checkpoint.recipe.aggregation)
    after = score(fitted)
    threshold = _choose(root, choose_threshold, after["validation"])
    # A checkpoint of mid-training has no head that anything could be scored with.
    before = {} if math.isnan(checkpoint.threshold) else score(checkpoint.head)
    how = f"best balanced accuracy on the validation split of {dataset.name}"
    result = _compare(checkpoint, output, threshold, how, before, after)
    event = {"what": "fit-head", **_describe(dataset), "head": head, "C": C, "threshold": threshold}
    changes = _changes(result) | {"head": head, "recipe": checkpoint.recipe.to_dict()}
    if not before:
        changes["weights"] = f"epoch {checkpoint.info['epoch']} (mid-training)"
    derive_checkpoint(checkpoint, output, fitted, changes, event)
    return result


def _refuse_training_crops(dataset: EvaluationSet, checkpoint: Checkpoint) -> None:
    seen = was_trained_on(checkpoint, read_manifest(dataset.root))
    if seen and dataset.split in ("train", ALL):
        raise UsageError(
            f"the checkpoint learnt from split {dataset.split!r} of {dataset.root}: its scores "
            "there are too sure of themselves to calibrate with; use --split validation"
        )


def _choose_for(
    rows: ScoredRows, dataset: EvaluationSet, max_fpr: float | None, prevalence: float | None
) -> tuple[float, str]:
    """A threshold, and how it was chosen."""
    where = f"on {len(rows.labels)} files of {dataset.name} ({dataset.split})"
    if max_fpr is not None:
        threshold = _choose(dataset.root, choose_threshold_for_rate, rows, max_fpr)
        return threshold, f"false positive rate of at most {max_fpr:g} {where}"
    if prevalence is not None:
        return 0.5, f"fewest errors at a prevalence of {prevalence:g}, fitted {where}"
    return _choose(dataset.root, choose_threshold, rows), f"best balanced accuracy {where}"


def _choose(root: Path, rule: Callable[..., float], rows: ScoredRows, *settings: float) -> float:
    try:
        return rule(rows.labels, rows.p_fake, *settings)
    except ValueError as error:
        raise UsageError(f"{root}: {error}") from error


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
        faces = tuple(row for row, inside in zip(dataset.faces, mask, strict=True) if inside)
        ids = {row.source for row in faces}
        files = tuple(file for file in dataset.files if file.id in ids)
        part = replace(dataset, faces=faces, files=files)
        if faces:
            predictions = predict_set(part, embeddings.where(mask), head.eval(), aggregation)
            scored[split] = file_rows(predictions)
    return scored


def _compare(
    checkpoint: Checkpoint,
    output: Path,
    threshold: float,
    how: str,
    before: dict[str, ScoredRows],
    after: dict[str, ScoredRows],
) -> Refit:
    old, new = (
        {split: summarise(rows.labels, rows.p_fake, at) for split, rows in scored.items()}
        for scored, at in ((before, checkpoint.threshold), (after, threshold))
    )
    return Refit(output, checkpoint.threshold, threshold, how, old, new)


def _describe(dataset: EvaluationSet) -> dict[str, Any]:
    numbers = np.bincount(dataset.labels, minlength=2)
    return {
        "data": dataset.origin,
        "split": dataset.split,
        "manifest_sha256": dataset.manifest_sha256,
        "counts": {word: int(number) for word, number in zip(LABEL_NAMES, numbers, strict=True)},
    }


def _changes(result: Refit) -> dict[str, Any]:
    return {
        "threshold": result.threshold,
        "threshold_origin": result.threshold_origin,
        "metrics": {name: asdict(summary) for name, summary in result.after.items()},
    }
