"""Charts of a whole evaluation: what is drawn of it, and what is left out, in words."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.decomposition import PCA

from deepfake.evaluation import predictions
from deepfake.evaluation.evaluate import Evaluation
from deepfake.evaluation.predictions import choose_drawn
from deepfake.metrics import compute_auc, compute_calibration_error
from deepfake.reports.charts import map_axes
from deepfake.reports.evaluation_charts import (
    draw_evaluation,
    draw_slicing,
    place_by_tsne,
    project_by_pca,
    trace_calibration,
    trace_precision,
    trace_roc,
)
from tests.test_metrics import random_rows


def test_large_clouds_are_drawn_in_part(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_clouds(evaluation: Evaluation) -> list[tuple[int, str]]:
        """Number of points and caption of every cloud."""
        charts = draw_evaluation(evaluation)
        charts += [
            chart for slicing in evaluation.slices for chart in draw_slicing(slicing, evaluation)
        ]
        points = [re.findall('class="points [^>]*', chart.svg) for chart in charts]
        return [
            (sum(path.count("M") for path in paths), chart.caption)
            for chart, paths in zip(charts, points, strict=True)
            if paths
        ]

    whole = draw_clouds(evaluation)
    assert {number for number, _ in whole} == {44}
    assert not any("are drawn" in caption for _, caption in whole)
    monkeypatch.setattr(predictions, "N_DRAWN", 10)
    kept = [one.drawn[choose_drawn(len(one.drawn))] for one in evaluation.sets]
    pairs = zip(evaluation.sets, kept, strict=True)
    few = replace(evaluation, sets=tuple(replace(one, drawn=drawn) for one, drawn in pairs))
    parts = draw_clouds(few)
    assert len(parts) >= 3  # embeddings, face size, sharpness
    assert {number for number, _ in parts} == {10}
    assert all("10 of 44 faces are drawn." in caption for _, caption in parts)


def test_traces_hold_what_the_metrics_are_made_of() -> None:
    labels, scores = random_rows(4, 300, ties=True)
    fpr, tpr = trace_roc(labels, scores)
    assert sk.auc(fpr, tpr) == pytest.approx(compute_auc(labels, scores))
    recall, precision = trace_precision(labels, scores)
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(labels.mean())
    assert (np.diff(recall) >= 0).all()
    p_fake, shares, rows = trace_calibration(labels, scores)
    assert rows.sum() == 300
    assert (np.abs(p_fake - shares) * rows).sum() / 300 == pytest.approx(
        compute_calibration_error(labels, scores)
    )
    one = np.ones(3, dtype=int)
    assert [len(part) for part in trace_roc(one, scores[:3])] == [0, 0]
    assert [len(part) for part in trace_precision(one, scores[:3])] == [0, 0]


def test_tsne_keeps_near_rows_near() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(at, 0.1, (20, 8)) for at in (0, 5)])
    plane = place_by_tsne(rows)
    assert plane.shape == (40, 2)
    assert np.array_equal(plane, place_by_tsne(rows))
    distances = np.linalg.norm(plane[:, None] - plane, axis=-1) + 1e9 * np.eye(40)
    nearest = distances.argmin(axis=1)
    assert np.array_equal(nearest < 20, np.arange(40) < 20)
    assert place_by_tsne(rows[:9]).shape == (0, 2)


def test_projection_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)) * np.linspace(3, 0.1, 8)
    plane, share = project_by_pca(rows)
    pca = PCA(2).fit(rows)
    np.testing.assert_allclose(np.abs(plane), np.abs(pca.transform(rows)), atol=1e-8)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())
    axes = map_axes(plane)
    assert all(50 < axes.x_px(x) < 344 for x in plane[:, 0])


def test_projection_of_little() -> None:
    assert project_by_pca(np.zeros((0, 4)))[0].shape == (0, 2)
    plane, share = project_by_pca(np.ones((3, 1)))
    assert (plane.shape, share) == ((3, 2), 0.0)
