"""The report of an evaluation: it adds up, and is whole of whatever there is to show."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepfake.dataset.rows import pack_crops, pack_sources
from deepfake.evaluation.evaluate import Evaluation, evaluate_predictions
from deepfake.evaluation.job import describe_origin
from deepfake.evaluation.predictions import FileScores, Predictions, score_files
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.records import Aggregation, Limits
from deepfake.reports import evaluation_page as report
from deepfake.reports.evaluation_charts import draw_evaluation
from deepfake.reports.evaluation_page import count_confusion, find_mistakes, format_report
from deepfake.reports.evaluation_text import list_tables
from tests.evaluation.conftest import Made
from tests.made_limits import ONE_CUT


def test_the_page_adds_up_and_holds_every_part(page: str, evaluation: Evaluation) -> None:
    text = html.unescape(page)
    assert "46 files = 44 ok + 1 no_face + 0 too_small + 1 unreadable" in text
    for part in ("In short", "What went in", "Metrics", "Worst mistakes", "What this is, and"):
        assert f"<h2>{part}" in text
    charts = ("Scores", "ROC", "Precision and recall", "Calibration", "Score against face size")
    slices = ("Errors by face size", "Score against sharpness", "Errors by sharpness")
    for title in (
        *charts,
        *slices,
        "PCA of the embeddings",
        "t-SNE of the embeddings",
        "Verdicts",
    ):
        assert f"<h3>{title}</h3>" in text
    auc = evaluation.levels["file"].overall.metrics["auc"]
    assert f"<b>{auc.value:.3f}</b>" in text
    assert f"{auc.low:.3f}\u2013{auc.high:.3f}" in text
    assert "2 files, in input order." in text
    assert page.count('class="mistake"') == page.count('alt="Face from') > 0


def test_confusion_counts(evaluation: Evaluation) -> None:
    rows = evaluation.levels["file"].rows
    middle = Limits(float(np.quantile(rows.p_fake, 0.3)), (float(np.quantile(rows.p_fake, 0.6)),))
    counts = count_confusion(rows, middle)
    assert counts.shape == (2, 3)
    assert counts.sum(axis=1).tolist() == [(rows.labels == 0).sum(), (rows.labels == 1).sum()]
    real, fake = rows.p_fake <= middle.real, rows.p_fake >= middle.of_fake()
    for label in (0, 1):
        expected = [(part & (rows.labels == label)).sum() for part in (real, ~real & ~fake, fake)]
        assert counts[label].tolist() == expected
    assert counts[:, 1].sum() > 0


def test_mistakes_are_the_worst_first(evaluation: Evaluation, made: Made) -> None:
    turned = [
        replace(
            s, files=FileScores((k, replace(f, p_fake=1 - f.p_fake)) for k, f in s.files.items())
        )
        for s in evaluation.sets
    ]
    result = evaluate_predictions(turned, ONE_CUT, Aggregation(), n_resamples=0)
    false_positives, false_negatives = (find_mistakes(result, label) for label in (0, 1))
    assert 0 < len(false_positives) <= report.N_MISTAKES
    assert [item["p_fake"] for item in false_positives] == sorted(
        (item["p_fake"] for item in false_positives), reverse=True
    )
    assert [item["p_fake"] for item in false_negatives] == sorted(
        item["p_fake"] for item in false_negatives
    )
    assert all(item["thumbnail"].startswith("data:image/jpeg;base64,") for item in false_positives)


def test_a_mistake_is_shown_by_a_face_that_decided(made: Made) -> None:
    dataset = read_evaluation_set(made.crops, made.checkpoint)
    real = next(row for row in dataset.faces if row.label == 0)
    rows = [
        replace(real, face=0, crop=real.crop, confidence=0.99),
        replace(real, face=1, crop="unsure.jpg", confidence=0.5),
    ]
    files = [file for file in dataset.files if file.id == real.source]
    few = replace(dataset, faces=pack_crops(rows), files=pack_sources(files))
    p_fake = np.array([0.8, 0.99])
    scores, people = score_files(rows, p_fake, Aggregation())
    drawn = np.ones((2, 4), np.float32)
    scored = Predictions(few, p_fake, np.ones(2, np.float32), drawn, people, scores)
    result = evaluate_predictions([scored], ONE_CUT, Aggregation(), n_resamples=0)
    ((mistake),) = find_mistakes(result, 0)
    # The other is no file at all, and would leave no picture.
    assert mistake["thumbnail"] is not None


def test_seven_data_sets_are_not_all_drawn(evaluation: Evaluation) -> None:
    scored = evaluation.sets[0]
    several = [replace(scored, dataset=replace(scored.dataset, name=f"set{n}")) for n in range(7)]
    result = evaluate_predictions(several, ONE_CUT, Aggregation(), n_resamples=0)
    charts = {chart.title: chart for chart in draw_evaluation(result)}
    for title in ("ROC", "Precision and recall"):
        assert "5 of 7 data sets are drawn." in charts[title].caption
    assert "data sets are drawn" not in str(draw_evaluation(evaluation))


def test_gone_crops_and_single_classes_leave_a_page(evaluation: Evaluation, made: Made) -> None:
    scored = evaluation.sets[0]
    fakes = [n for n, row in enumerate(scored.dataset.faces) if row.label == 1]
    dataset = replace(
        scored.dataset,
        root=Path("gone"),
        faces=scored.dataset.faces.choose(np.array(fakes)),
        files=pack_sources(file for file in scored.dataset.files if file.label == 1),
        remarks=("LEAK: <b>",),
    )
    only = replace(
        scored,
        dataset=dataset,
        p_fake=scored.p_fake[fakes],
        sharpness=scored.sharpness[fakes],
        drawn=scored.drawn[fakes],
        people=scored.people[fakes],
    )
    alone = evaluate_predictions([only], Limits(0.999, (0.999,)), Aggregation(), n_resamples=5)
    levels = {n: replace(level, methods={}) for n, level in alone.levels.items()}  # of reals alone
    assert [
        {by for _, by, _ in list_tables(replace(alone, levels=one))}
        for one in (alone.levels, levels)
    ] == [{"data set", "method"}, {"data set"}]
    text = format_report(alone, describe_origin(made.checkpoint, ""))
    assert "n/a" in text
    assert "one class only: 0 real and 10 fake rows" in text
    assert (
        text.count("<td>n/a<small>no rows</small></td>") == 4
    )  # reals, by size, sharpness, verdict
    assert "No thumbnail: the crop is gone" in text
    assert "first: LEAK: &lt;b&gt;" in text
    perfect = format_report(
        evaluate_predictions([only], Limits(0.0, (0.0,)), Aggregation(), n_resamples=5),
        describe_origin(made.checkpoint, ""),
    )
    assert "None: no file got the wrong verdict." in perfect
