"""A head and validation rows in, its sigmoid and the limits of its verdict out.

The one way to them, for training, ``fit-head`` and ``calibrate``: the classifier stays as it is,
its sigmoid is fitted on all rows, and the limits are chosen on files, because files are what they
decide about, from scores of sigmoids that have not seen the file's group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.rows import CropRow, require_labels
from deepfake.error_rates import MAX_ERROR_RATE, ErrorRates
from deepfake.evaluation.bootstrap import bootstrap_metrics, measure_verdicts
from deepfake.evaluation.predictions import score_files
from deepfake.heads import Head
from deepfake.heads.calibration import compute_prevalence_shift, cross_fit
from deepfake.learning.joined import Tta, count_looks
from deepfake.records import EVEN_ODDS, Limits, Recipe
from deepfake.thresholds import choose_limits


@dataclass(frozen=True, slots=True)
class Calibration:
    """Limits, and what they rest on.

    Args:
        limits: Of the verdict.
        error_rates: What they were chosen for, and reach.
        recipe: Of the files that they were chosen on.
        tta: How often each face was looked at.
    """

    limits: Limits
    error_rates: ErrorRates
    recipe: Recipe
    tta: Tta = "none"

    def to_info(self) -> dict[str, Any]:
        """What a checkpoint remembers of it, in plain types."""
        return {
            "limits": self.limits.to_dict(),
            "error_rates": self.error_rates.to_dict(),
            "chosen_for": {
                "sampling": self.recipe.sampling.to_dict(),
                "aggregation": self.recipe.aggregation.to_dict(),
                "tta": self.tta,
            },
        }


def calibrate(
    head: Head,
    faces: Sequence[CropRow],
    vectors: NDArray[np.float32],
    recipe: Recipe,
    max_fpr: float = MAX_ERROR_RATE,
    max_fnr: float = MAX_ERROR_RATE,
    prevalence: float | None = None,
    origin: str = "the validation split",
    tta: Tta = "none",
) -> Calibration:
    """Fit the sigmoid of a head and choose the limits, on rows that nothing was fitted on.

    The sigmoid is fitted on every look at a face, the limits on the mean of its looks.

    Args:
        head: Its classifier is fitted; gets the sigmoid of all rows.
        faces: ``N`` labelled rows of a manifest.
        vectors: ``(N, looks * D)`` their embeddings, as ``EnsembleEmbedder`` joins those of a
            face's looks.
        recipe: How their frames were sampled, and how the faces of a file make its score.
        max_fpr: Highest share of real files that are called fake.
        max_fnr: Highest share of fake files that are called real.
        prevalence: Share of fakes where it will be used; by default that of these rows.
        origin: Which rows they are, for the record.
        tta: How often each face was looked at.

    Raises:
        ValueError: If a rate is out of range, or a number is not finite.
        JobError: If a class has fewer than two rows.
        UsageError: If a row has no label.
    """
    labels = require_labels(faces)
    p_fake = _fit_sigmoid(head, faces, labels, vectors, count_looks(tta), prevalence)
    files, _ = score_files(faces, p_fake, recipe.aggregation)
    label_of = {row.source: label for row, label in zip(faces, labels.tolist(), strict=True)}
    group_of = {row.source: row.group for row in faces}
    y_true = np.array([label_of[source] for source in files])
    groups = [group_of[source] for source in files]
    scores = np.array([file.p_fake for file in files.values()])
    judged = np.array([file.n_people > 0 for file in files.values()])
    if not all((judged & (y_true == label)).any() for label in (0, 1)):
        judged[:] = True  # faces are too small throughout: what is there is better than nothing
    people = [
        person.p_fake
        for file, label, taken in zip(files.values(), y_true, judged, strict=True)
        if taken and not label
        for person in file.people
        if person.counts or not file.n_people
    ]
    chosen = choose_limits(np.array(people), y_true[judged], scores[judged], max_fpr, max_fnr)
    limits = chosen.limits
    verdicts = [limits.judge(file.p_fake, file.n_people) for file in files.values()]
    rates = measure_verdicts(y_true, verdicts, groups)
    error_rates = ErrorRates(
        max_fpr=max_fpr,
        max_fnr=max_fnr,
        n_real=int((y_true == 0).sum()),
        n_fake=int((y_true == 1).sum()),
        n_groups=len(set(groups)),
        n_supported=chosen.n_supported,
        fnr_supported=chosen.fnr_supported,
        auc=bootstrap_metrics(y_true, scores, groups, EVEN_ODDS)["auc"],
        **rates,
        origin=origin,
    )
    return Calibration(limits, error_rates, recipe, tta)


def _fit_sigmoid(
    head: Head,
    faces: Sequence[CropRow],
    labels: NDArray[np.int64],
    vectors: NDArray[np.float32],
    n_looks: int,
    prevalence: float | None,
) -> NDArray[np.float64]:
    """Give the head its sigmoid; scores ``(N,)`` of sigmoids that have not seen a face's group."""
    # One row a look; each is of unit norm by itself.
    looks = np.concatenate(np.split(vectors * np.float32(n_looks**0.5), n_looks, axis=1))
    labels_of_looks = np.tile(labels, n_looks)
    head.calibrate(looks, labels_of_looks)
    shift, before = 0.0, float(labels.mean())
    if prevalence is not None:
        shift = compute_prevalence_shift(before, prevalence)
        head.shift_prevalence(before, prevalence)
    groups = [row.group for row in faces] * n_looks
    p_fake = cross_fit(head.compute_decisions(looks), labels_of_looks, groups, shift)
    means: NDArray[np.float64] = p_fake.reshape(n_looks, -1).mean(axis=0)
    return means
