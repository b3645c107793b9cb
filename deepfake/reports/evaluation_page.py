"""An evaluation in, its page out: metrics, charts, mistakes, and where all of it comes from.

Computes no metric and no score; the template says how values are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest, nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.crop_store import read_if_whole
from deepfake.error_rates import RATES
from deepfake.evaluation.evaluate import OVERALL, Evaluation, ScoredRows
from deepfake.evaluation.predictions import is_usable_row
from deepfake.metrics import METRICS
from deepfake.records import LABEL_NAMES, Limits, Verdict
from deepfake.reports.evaluation_charts import (
    ERROR_RATES,
    draw_evaluation,
    draw_robustness,
    draw_slicing,
)
from deepfake.reports.evaluation_text import (
    list_chance,
    list_coverage,
    list_gaps,
    list_rates,
    list_remarks,
    list_tables,
    name_severity,
)
from deepfake.reports.page import embed_thumbnail, render

N_MISTAKES = 12
"""Thumbnails of each kind of mistake."""


def format_report(evaluation: Evaluation, provenance: Mapping[str, Any]) -> str:
    """The page of an evaluation.

    Args:
        evaluation: What was found; crops are read again for thumbnails.
        provenance: As of ``job.describe_origin``.
    """
    names = [predictions.dataset.name for predictions in evaluation.sets]
    level = evaluation.levels["file"]
    return render(
        "evaluation.html",
        title=f"Evaluation on {', '.join(names)}",
        evaluation=evaluation,
        limits=evaluation.limits,
        rates=RATES,
        rate_tables=list_rates(evaluation),
        at_chance=list_chance(level.datasets),
        overall=level.overall.metrics,
        coverage=evaluation.coverage[OVERALL],
        coverages=list_coverage(evaluation),
        splits={one.dataset.name: one.dataset.split for one in evaluation.sets},
        remarks=list_remarks(evaluation),
        metrics=METRICS,
        tables=list_tables(evaluation),
        list_gaps=list_gaps,
        name_severity=name_severity,
        charts=draw_evaluation(evaluation),
        confusion=count_confusion(level.rows, evaluation.limits),
        verdicts=[verdict.value for verdict in Verdict],
        slices=[chart for one in evaluation.slices for chart in draw_slicing(one, evaluation)],
        error_rates=ERROR_RATES,
        curves=[draw_robustness(curve) for curve in evaluation.robustness],
        false_positives=find_mistakes(evaluation, label=0),
        false_negatives=find_mistakes(evaluation, label=1),
        unscored=[
            (predictions.dataset.name, file)
            for predictions in evaluation.sets
            for file, place in zip(
                predictions.dataset.files, predictions.find_scores(), strict=True
            )
            if place < 0
        ],
        label_names=LABEL_NAMES,
        provenance=provenance,
    )


def count_confusion(rows: ScoredRows, limits: Limits) -> NDArray[np.int64]:
    """Rows by label and verdict, ``(2, 3)``: real, unclear, fake."""
    said = rows.judge(limits)
    return np.array(
        [
            [np.count_nonzero(said[rows.labels == label] == verdict) for verdict in Verdict]
            for label in (0, 1)
        ]
    )


def find_mistakes(evaluation: Evaluation, label: int) -> list[dict[str, Any]]:
    """The worst wrong verdicts on files of a class, with the most suspicious face of each."""
    wrong_verdict = Verdict.FAKE if label == 0 else Verdict.REAL
    wrong = (
        (float(predictions.files.p_fake[place]), predictions, file)
        for predictions in evaluation.sets
        for file, place in zip(predictions.dataset.files, predictions.find_scores(), strict=True)
        if file.label == label
        and place >= 0
        and evaluation.limits.judge(
            predictions.files.p_fake[place], predictions.files.n_people[place]
        )
        is wrong_verdict
    )
    choose, how = nlargest if label == 0 else nsmallest, evaluation.aggregation
    shown = []
    for p_fake, predictions, file in choose(N_MISTAKES, wrong, key=lambda mistake: mistake[0]):
        dataset = predictions.dataset
        # As `aggregate` chooses whose face decides; who has no usable one has any.
        own = np.flatnonzero([source == file.id for source in dataset.faces.values("source")])
        scored = [place for place in own.tolist() if predictions.people[place] >= 0]
        usable = [place for place in scored if is_usable_row(dataset.faces[place], how)]
        top = dataset.faces[max(usable or scored, key=lambda place: predictions.p_fake[place])]
        crop = read_if_whole(dataset.root, top.crop)
        thumbnail = None if crop is None else embed_thumbnail(crop)
        shown.append({"file": file, "p_fake": p_fake, "set": dataset.name, "thumbnail": thumbnail})
    return shown
