"""Metrics of every level, counted by hand on a few made-up rows."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfake.dataset.rows import CropRow, SourceRow, pack_crops, pack_sources
from deepfake.error_rates import RATES
from deepfake.errors import UsageError
from deepfake.evaluation.evaluate import LEVELS, OVERALL, evaluate_predictions
from deepfake.evaluation.predictions import FileScores, Predictions
from deepfake.evaluation.sets import EvaluationSet
from deepfake.evaluation.tables import format_predictions, format_scored_faces, to_json
from deepfake.inference.aggregation import FileScore, aggregate
from deepfake.metrics import METRICS, compute_auc
from deepfake.records import Aggregation, FaceScore, Limits, Sampling
from deepfake.reports.evaluation_text import describe
from tests.made_limits import ONE_CUT

FACE = CropRow(
    *("a.jpg", "s0", 0, 0.0, 0, 0, "", "g0", "test"),
    *((0.0, 0.0, 10.0, 20.0), 0.9, (), 0),
)
FILE = SourceRow("s0.jpg", "ok", "", 1, 0, "", "g0", "test", "s0", "s0.jpg")


def score_of(parts: list[tuple[int, float]]) -> FileScore:
    """Frame by frame, the faces of people who all count."""
    faces = [
        FaceScore(frame, 0.0, 0, (0.0, 0.0, 60.0, 60.0), 0.99, p_fake, person)
        for frame, (person, p_fake) in enumerate(parts)
    ]
    score = aggregate(faces)
    assert score is not None
    return score


def make_set(name: str, files: list[tuple[int, str, list[tuple[int, float]]]]) -> Predictions:
    """A data set of files: label, method, and (person, score) of each face; none = no answer."""
    faces, sources, scores, people = [], [], list[float](), list[int]()
    scored: dict[str, FileScore] = {}
    for number, (label, method, parts) in enumerate(files):
        key = f"{name}-{number}"
        status = "ok" if parts else "no_face"
        facts: dict[str, Any] = {"label": label, "method": method, "group": f"g{number}"}
        sources.append(replace(FILE, id=key, path=f"{key}.mp4", status=status, **facts))
        for place, (person, p_fake) in enumerate(parts):
            faces.append(replace(FACE, source=key, frame=place, **facts))
            scores.append(p_fake)
            people.append(person)
        if parts:
            scored[key] = score_of(parts)
    dataset = EvaluationSet(
        name,
        f"data/{name}",
        Path(),
        "test",
        pack_crops(faces),
        pack_sources(sources),
        Sampling(),
        "m" * 64,
        "d" * 64,
        remarks=("a remark",) if name == "two" else (),
    )
    sharpness = np.arange(1, len(faces) + 1, dtype=np.float32)
    drawn = np.zeros((len(faces), 2), dtype=np.float32)
    whose = np.array(people, np.int32)
    kept = FileScores(scored.items())
    return Predictions(dataset, np.array(scores), sharpness, drawn, whose, kept)


ONE = make_set(
    "one",
    [
        (0, "", [(0, 0.1), (0, 0.2)]),
        (0, "", [(0, 0.3), (1, 0.9)]),
        (1, "swap", [(0, 0.8), (0, 0.6)]),
        (1, "mask", [(0, 0.4)]),
        (0, "", []),
        (1, "swap", []),
        (1, "swap", []),
    ],
)
TWO = make_set("two", [(0, "", [(0, 0.2)]), (1, "swap", [(0, 0.7)]), (1, "", [(0, 0.1)])])


def test_levels_hold_their_own_rows() -> None:
    result = evaluate_predictions([ONE], ONE_CUT, Aggregation(), n_resamples=0)
    file, person, face = (result.levels[name].overall for name in ("file", "person", "face"))
    assert (file.n_real, file.n_fake) == (2, 2)
    assert (person.n_real, person.n_fake) == (3, 2)
    assert (face.n_real, face.n_fake) == (4, 3)
    assert sorted(result.levels["person"].rows.p_fake.round(3)) == [0.15, 0.3, 0.4, 0.7, 0.9]
    assert file.metrics["accuracy"].value == 0.5  # 0.15 and 0.7 correct, 0.9 and 0.4 wrong
    assert person.metrics["accuracy"].value == pytest.approx(3 / 5)
    assert face.metrics["auc"].value == pytest.approx(
        compute_auc(np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.6, 0.4]))
    )
    assert list(result.distinct_levels()) == ["file", "person", "face"]


def test_data_sets_and_methods() -> None:
    level = evaluate_predictions([ONE, TWO], ONE_CUT, Aggregation(), n_resamples=0).levels["file"]
    assert list(level.datasets) == ["one", "two"]
    assert (level.overall.n_real, level.overall.n_fake) == (3, 4)
    assert list(level.methods) == ["(not named)", "mask", "swap"]
    # A method meets the reals of the data sets that it occurs in.
    assert (level.methods["mask"].n_real, level.methods["mask"].n_fake) == (2, 1)
    assert (level.methods["swap"].n_real, level.methods["swap"].n_fake) == (3, 2)
    assert level.methods["swap"].metrics["auc"].value == pytest.approx(4 / 6)
    assert level.overall.n_groups == 7  # g0 of one and g0 of two are different people


def test_files_without_an_answer_under_either_reading() -> None:
    coverage = evaluate_predictions([ONE, TWO], ONE_CUT, Aggregation(), n_resamples=0).coverage
    one = coverage["one"]
    assert one.statuses == {"ok": 4, "no_face": 3, "too_small": 0, "unreadable": 0}
    assert one.n_files == 7
    assert str(one) == "7 files = 4 ok + 3 no_face + 0 too_small + 0 unreadable"
    assert one.accuracy == 2 / 4
    assert one.accuracy_if_wrong == pytest.approx(2 / 7)
    assert one.accuracy_if_real == pytest.approx(3 / 7)
    assert coverage[OVERALL].n_files == 10
    assert coverage[OVERALL].accuracy == pytest.approx(4 / 7)


def test_files_without_a_label_are_counted_and_not_judged() -> None:
    dataset = ONE.dataset
    files = pack_sources(replace(f, label=None) if f.status != "ok" else f for f in dataset.files)
    scored = replace(ONE, dataset=replace(dataset, files=files))
    coverage = evaluate_predictions([scored], ONE_CUT, Aggregation(), n_resamples=0).coverage["one"]
    assert coverage.n_files == 7
    assert coverage.accuracy == coverage.accuracy_if_wrong == coverage.accuracy_if_real == 0.5


def test_nothing_answered_has_no_accuracy() -> None:
    silent = make_set("none", [(0, "", []), (1, "", [])])
    result = evaluate_predictions([silent], ONE_CUT, Aggregation(), n_resamples=10)
    assert math.isnan(result.coverage["none"].accuracy)
    assert result.coverage["none"].accuracy_if_wrong == 0
    assert result.coverage["none"].accuracy_if_real == 0.5
    assert "n/a" in describe(result)
    assert to_json(result, {})["levels"]["file"]["overall"]["prevalence"] is None


def test_result_for_machines_is_json_without_nan() -> None:
    result = to_json(
        evaluate_predictions([ONE, TWO], ONE_CUT, Aggregation(), n_resamples=20), {"command": "so"}
    )
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result
    metrics = result["levels"]["file"]["overall"]["metrics"]
    assert tuple(metrics) == tuple(METRICS)
    assert metrics["tpr_at_fpr_1"]["value"] is None
    assert metrics["tpr_at_fpr_1"]["reason"] == "3 real rows are too few, it needs 100"
    assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
    assert result["levels"]["file"]["overall"]["prevalence"] == pytest.approx(4 / 7)
    assert result["coverage"]["one"]["files"] == 7
    assert [part["name"] for part in result["datasets"]] == ["one", "two"]
    assert result["datasets"][1]["remarks"] == ["a remark"]


def test_tables_have_a_row_per_file_and_per_face() -> None:
    result = evaluate_predictions([ONE, TWO], ONE_CUT, Aggregation(), n_resamples=0)
    files = list(csv.DictReader(format_predictions(result)))
    assert len(files) == 10
    assert files[1]["verdict"] == "fake"
    assert (files[1]["label"], files[1]["correct"]) == ("real", "0")
    assert (files[4]["p_fake"], files[4]["verdict"], files[4]["correct"]) == ("", "", "")
    faces = list(csv.DictReader(format_scored_faces(result)))
    assert len(faces) == 10
    assert [row["person"] for row in faces[:4]] == ["0", "0", "0", "1"]
    assert faces[0]["path"] == "one-0.mp4"


def test_terminal_table_is_aligned_and_says_why() -> None:
    text = describe(evaluate_predictions([ONE, TWO], ONE_CUT, Aggregation(), n_resamples=20))
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("by file"))
    row = next(line for line in lines if line.startswith("all together"))
    assert head.index("AUC") + 3 == row.index(row.split()[5]) + len(row.split()[5])
    assert "  one: TPR@1% n/a: 2 real rows are too few, it needs 100" in lines
    assert "  two: ECE n/a: 3 rows are too few, it needs 15" in lines
    assert "by person" in text
    assert "by face" in text
    assert "methods, by file" in text
    brief = "AUC, AP, EER, accuracy, bal. acc., log loss, Brier"
    assert f"  one: {brief} no interval: 4 groups, 5 are needed" in lines
    assert "0.286 if the others count as wrong, 0.429 if they are predicted real" in text
    assert "two: a remark" in text
    assert ONE.dataset.name in text


def test_verdicts_and_chance_are_told() -> None:
    scores = np.random.default_rng(0).uniform(size=60)
    flat = make_set("flat", [(n % 2, "", [(0, float(p))]) for n, p in enumerate(scores)])
    limits = Limits(0.1, (0.9,))
    result = evaluate_predictions([flat], limits, Aggregation(), n_resamples=200)
    rates = result.levels["file"].overall.rates
    real, fake = scores[::2], scores[1::2]
    assert rates["fpr"].value == pytest.approx((real >= 0.9).mean())
    assert rates["tpr"].value == pytest.approx((fake >= 0.9).mean())
    assert rates["fnr"].value == pytest.approx((fake <= 0.1).mean())
    assert rates["unclear"].value == pytest.approx(((scores > 0.1) & (scores < 0.9)).mean())
    text = describe(result)
    assert "verdicts by data set" in text
    assert "flat: not better than chance: AUC 0." in text
    assert "holds 0.5" in text
    known = make_set("known", [(n % 2, "", [(0, 0.2 + 0.6 * (n % 2))]) for n in range(60)])
    told = describe(evaluate_predictions([known], limits, Aggregation(), n_resamples=200))
    assert "better than chance" not in told


def test_one_face_per_file_is_shown_once() -> None:
    result = evaluate_predictions([TWO], ONE_CUT, Aggregation(), n_resamples=0)
    assert list(result.distinct_levels()) == ["file, person, face"]
    assert result.levels["face"] is result.levels["file"]
    assert "by file, person, face" in describe(result)


def test_frame_has_a_row_per_level_group_and_metric() -> None:
    result = evaluate_predictions([ONE, TWO], ONE_CUT, Aggregation(), n_resamples=20)
    frame = result.to_frame()
    groups = {
        "overall": [OVERALL],
        "dataset": ["one", "two"],
        "method": ["(not named)", "mask", "swap"],
    }
    assert len(frame) == len(LEVELS) * 6 * len([*METRICS, *RATES])
    for by, names in groups.items():
        assert frame[(frame["by"] == by)]["group"].unique().tolist() == names
    row = frame.query("level == 'file' and group == 'swap' and metric == 'auc'").iloc[0]
    auc = result.levels["file"].methods["swap"].metrics["auc"]
    assert (row["value"], row["n_real"], row["n_fake"]) == (auc.value, 3, 2)
    gap = frame.query("level == 'file' and group == 'one' and metric == 'ece'").iloc[0]
    assert math.isnan(gap["value"])
    assert gap["reason"] == "4 rows are too few, it needs 15"


def test_an_unlabelled_face_is_refused() -> None:
    first, *rest = ONE.dataset.faces
    faces = pack_crops([replace(first, label=None), *rest])
    bare = replace(ONE, dataset=replace(ONE.dataset, faces=faces))
    with pytest.raises(UsageError, match=r"1 of 7 crops have no label, such as a\.jpg"):
        evaluate_predictions([bare], ONE_CUT, Aggregation(), n_resamples=0)
