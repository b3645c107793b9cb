"""A finished checkpoint gets another threshold, sigmoid or head; its network stays as it is.

What is done to it is written into the checkpoint's own history. Knows no report.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.splits import SPLITS
from deepfake.errors import UsageError
from deepfake.evaluation.evaluate import file_rows
from deepfake.evaluation.predictions import (
    ALL,
    EvaluationSet,
    divide,
    embed_crops,
    read_material,
    require_same_recipe,
    score_material,
    was_trained_on,
)
from deepfake.heads import Head, HeadName, make_head
from deepfake.learning.checkpoint import Checkpoint, derive_checkpoint
from deepfake.metrics import (
    Summary,
    choose_threshold,
    choose_threshold_for_rate,
    format_metric,
    summarise,
)
from deepfake.records import LABEL_NAMES


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What became of a checkpoint.

    Args:
        output: The new file.
        threshold_before: Of the old one.
        threshold: Of the new one.
        origin: How it was chosen.
        before: Figures of files before, by split.
        after: Figures of the same files after.
    """

    output: Path
    threshold_before: float
    threshold: float
    origin: str
    before: dict[str, Summary]
    after: dict[str, Summary]

    def __str__(self) -> str:
        lines = [
            f"{'files of':<12}{'':<8}{'real':>7}{'fake':>7}{'AUC':>9}{'EER':>9}{'accuracy':>10}"
        ]
        for split, now in self.after.items():
            for word, row in (("before", self.before[split]), ("after", now)):
                lines.append(
                    f"{split:<12}{word:<8}{row.n_real:>7}{row.n_fake:>7}"
                    f"{format_metric(row.auc, 9)}{format_metric(row.eer, 9)}"
                    f"{format_metric(row.accuracy, 10)}"
                )
        lines += [
            f"threshold {self.threshold_before:.4f} -> {self.threshold:.4f} ({self.origin})",
            f"checkpoint: {self.output}",
        ]
        return "\n".join(lines) + "\n"


def calibrate(
    checkpoint: Checkpoint,
    root: Path,
    output: Path,
    *,
    origin: str = "",
    split: str | None = None,
    false_alarm_rate: float | None = None,
    prevalence: float | None = None,
    **options: Any,
) -> Adjustment:
    """Fit sigmoid and threshold anew on data that the checkpoint did not learn from.

    The threshold is chosen on files, because files are what it decides about: for a wanted share
    of falsely accused reals, or 0.5 at a wanted prevalence (the fewest expected errors), else for
    the best balanced accuracy.

    Args:
        checkpoint: The old one.
        root: Crop folder of the validation set.
        output: The new one.
        origin: What the user named as data.
        split: Split of the folder; by default ``validation`` where there are splits.
        false_alarm_rate: Wanted share of reals that are called fake.
        prevalence: Share of fakes where the checkpoint will be used.
        **options: Of ``embed_crops``.

    Raises:
        UsageError: If the data cannot serve: its recipe, its labels, its size, its use so far.
        JobError: If a class has too few crops, or scores do not rise with fake.
    """
    material = read_material(root, checkpoint, "", origin, split, preferred_split="validation")
    _refuse_training_crops(material, checkpoint)
    embedded = embed_crops(root, material.faces, checkpoint, **options)
    labels = np.array([row.label for row in material.faces])
    head = copy.deepcopy(checkpoint.head).calibrate(embedded.vectors, labels)
    if prevalence is not None:
        if not 0 < prevalence < 1:
            raise UsageError(f"prevalence {prevalence:g}; expected a share between 0 and 1")
        head.shift_prevalence(float(labels.mean()), prevalence)
    old = score_material(material, embedded, checkpoint, checkpoint.aggregation)
    new = score_material(material, embedded, _with_head(checkpoint, head), checkpoint.aggregation)
    before, after = file_rows(old), file_rows(new)
    where = f"on {len(after.labels)} files of {material.name} ({material.split})"
    try:
        if false_alarm_rate is not None:
            threshold = choose_threshold_for_rate(after.labels, after.p_fake, false_alarm_rate)
            how = f"false-alarm rate of at most {false_alarm_rate:g} {where}"
        elif prevalence is not None:
            threshold, how = 0.5, f"fewest errors at a prevalence of {prevalence:g}, fitted {where}"
        else:
            threshold = choose_threshold(after.labels, after.p_fake)
            how = f"best balanced accuracy {where}"
    except ValueError as error:
        raise UsageError(f"{material.root}: {error}") from error
    name = "calibration"
    summaries = {name: summarise(after.labels, after.p_fake, threshold)}
    event = {
        "what": "calibrate",
        **_describe(material),
        "false_alarm_rate": false_alarm_rate,
        "prevalence": prevalence,
        "threshold": threshold,
    }
    derive_checkpoint(checkpoint, output, head, _changes(threshold, how, summaries), event)
    return Adjustment(
        output,
        checkpoint.threshold,
        threshold,
        how,
        {name: summarise(before.labels, before.p_fake, checkpoint.threshold)},
        summaries,
    )


def fit_head(
    checkpoint: Checkpoint,
    root: Path,
    output: Path,
    *,
    origin: str = "",
    head: HeadName = "svm",
    C: float = 2.0,  # noqa: N803
    **options: Any,
) -> Adjustment:
    """Fit the head anew on the embeddings of new crops.

    As in training: the train split fits, validation chooses the threshold, test is only measured.
    Crops without splits are divided by group.

    Args:
        checkpoint: The old one.
        root: Crop folder.
        output: The new one.
        origin: What the user named as data.
        head: A name of ``HEADS``.
        C: Inverse strength of regularisation.
        **options: Of ``embed_crops``.

    Raises:
        UsageError: If the crops were cut by another recipe or cannot be divided, or the head
            cannot be fitted here or not on so many.
        JobError: If a class has too few crops, or the head cannot be fitted on them.
    """
    if not C > 0:
        raise UsageError(f"inverse regularisation {C:g}; expected a number above 0")
    manifest = read_manifest(root)
    require_same_recipe(manifest, checkpoint)
    split_of_crop = divide(manifest, checkpoint)
    whole = read_material(root, checkpoint, "", origin, ALL)
    fitted = make_head(head, checkpoint.embedder.projection.out_features, C)
    fitted.check_fit(sum(split_of_crop[row.crop] == "train" for row in whole.faces))
    embedded = embed_crops(root, whole.faces, checkpoint, **options)
    places = {
        split: np.array([split_of_crop[row.crop] == split for row in whole.faces])
        for split in SPLITS
    }
    train = places["train"]
    labels = np.array([row.label for row in whole.faces])
    groups = [row.group for row, inside in zip(whole.faces, train, strict=True) if inside]
    fitted.fit(embedded.vectors[train], labels[train], groups).warn_if_useless()
    adjusted = _with_head(checkpoint, fitted)

    def score(split: str, scorer: Checkpoint) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        part = _choose(whole, places[split], split)
        rows = file_rows(
            score_material(part, embedded.where(places[split]), scorer, checkpoint.aggregation)
        )
        return rows.labels, rows.p_fake

    try:
        threshold = choose_threshold(*score("validation", adjusted))
    except ValueError as error:
        raise UsageError(f"{root}: {error}") from error
    how = f"best balanced accuracy on the validation split of {whole.name}"
    there = [split for split in SPLITS if places[split].any()]
    before = {split: summarise(*score(split, checkpoint), checkpoint.threshold) for split in there}
    after = {split: summarise(*score(split, adjusted), threshold) for split in there}
    event = {"what": "fit-head", **_describe(whole), "head": head, "C": C, "threshold": threshold}
    derive_checkpoint(
        checkpoint, output, fitted, _changes(threshold, how, after) | {"head": head}, event
    )
    return Adjustment(output, checkpoint.threshold, threshold, how, before, after)


def _refuse_training_crops(material: EvaluationSet, checkpoint: Checkpoint) -> None:
    seen = was_trained_on(checkpoint, read_manifest(material.root))
    if seen and material.split in ("train", ALL):
        raise UsageError(
            f"the checkpoint learnt from split {material.split!r} of {material.root}: its scores "
            "there are too sure of themselves to calibrate with; use --split validation"
        )


def _with_head(checkpoint: Checkpoint, head: Head) -> Checkpoint:
    return replace(checkpoint, head=head.eval())


def _choose(whole: EvaluationSet, mask: NDArray[np.bool_], split: str) -> EvaluationSet:
    faces = tuple(row for row, inside in zip(whole.faces, mask, strict=True) if inside)
    ids = {row.source for row in faces}
    return replace(
        whole, split=split, faces=faces, files=tuple(f for f in whole.files if f.id in ids)
    )


def _describe(material: EvaluationSet) -> dict[str, Any]:
    numbers = np.bincount([row.label or 0 for row in material.faces], minlength=2)
    return {
        "data": material.origin,
        "split": material.split,
        "manifest_sha256": material.manifest_sha256,
        "counts": {word: int(number) for word, number in zip(LABEL_NAMES, numbers, strict=True)},
    }


def _changes(threshold: float, origin: str, metrics: dict[str, Summary]) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "threshold_origin": origin,
        "metrics": {name: asdict(summary) for name, summary in metrics.items()},
    }
