"""Errors by size and sharpness: slices of equal numbers, rates counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from deepfake.dataset.rows import pack_crops
from deepfake.evaluation.evaluate import evaluate_predictions
from deepfake.evaluation.predictions import Predictions
from deepfake.evaluation.slices import MIN_FACES, N_SLICES, compute_slices, slice_masks
from deepfake.evaluation.tables import format_scored_faces, to_json
from deepfake.records import Aggregation
from tests.evaluation.test_evaluate import make_set
from tests.made_limits import ONE_CUT


def make_graded(n: int) -> Predictions:
    """Files of one face, real and fake in turns; the blurred half is predicted wrongly."""
    wrong = [place < n // 2 for place in range(n)]
    scored = make_set(
        "graded",
        [
            (place % 2, "", [(0, 0.8 if (place % 2 == 1) != error else 0.2)])
            for place, error in enumerate(wrong)
        ],
    )
    faces = pack_crops(
        replace(face, box_xyxy=(0.0, 5.0, 30.0, 45.0 + place))
        for place, face in enumerate(scored.dataset.faces)
    )
    sharpness = np.arange(1, n + 1, dtype=np.float32)
    return replace(scored, dataset=replace(scored.dataset, faces=faces), sharpness=sharpness)


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ([1, 99], [100]),
        ([99, 1], [100]),
        ([50, 1, 49], [51, 49]),
        ([20] * 5, [20] * 5),
    ],
)
def test_no_slice_is_a_handful_however_many_values_are_equal(
    numbers: list[int], wanted: list[int]
) -> None:
    values = np.repeat(np.arange(len(numbers), dtype=np.float64), numbers)
    masks = slice_masks(values)
    assert np.sum(masks, axis=0).tolist() == [1] * len(values)
    assert [int(mask.sum()) for mask in masks] == wanted


def test_slices_hold_what_they_say() -> None:
    n = 10 * MIN_FACES
    size, sharpness = compute_slices([make_graded(n)], ONE_CUT, n_resamples=200)
    assert (size.name, sharpness.name) == ("face_size", "sharpness")
    assert size.values.tolist() == [40.0 + place for place in range(n)]  # the longer side
    for slicing in (size, sharpness):
        assert len(slicing.slices) == N_SLICES
        assert {(part.n_real, part.n_fake) for part in slicing.slices} == {(n // 10, n // 10)}
        assert [part.metrics["false_positive_rate"].value for part in slicing.slices] == [
            1,
            1,
            0.5,
            0,
            0,
        ]
        assert [part.metrics["false_negative_rate"].value for part in slicing.slices] == [
            1,
            1,
            0.5,
            0,
            0,
        ]
    part = sharpness.slices[2]
    assert (part.low, part.median, part.high) == (0.4 * n + 1, 0.5 * n + 0.5, 0.6 * n)
    assert part.metrics["false_positive_rate"].low < 0.5 < part.metrics["false_positive_rate"].high
    # Twenty alike rows are no certainty.
    rate = sharpness.slices[0].metrics["false_positive_rate"]
    assert 0.7 < rate.low < rate.high == 1
    assert rate.note.endswith("groups: all 20 rows are alike")


@pytest.mark.parametrize(("n", "parts"), [(0, 0), (1, 1), (39, 1), (40, 2), (99, 4), (5000, 5)])
def test_few_faces_make_few_slices(n: int, parts: int) -> None:
    masks = slice_masks(np.random.default_rng(n).permutation(n).astype(float))
    assert len(masks) == parts
    counts = [int(mask.sum()) for mask in masks]
    assert sum(counts) == n
    assert max(counts, default=0) - min(counts, default=0) <= 1


def test_equal_values_are_never_separated() -> None:
    values = np.array([1.0] * 150 + [2.0] * 30 + [3.0] * 20)
    masks = slice_masks(values)
    assert [int(mask.sum()) for mask in masks] == [150, 50]
    assert np.all(np.sum(masks, axis=0) == 1)
    assert len(slice_masks(np.full(200, 4.0))) == 1


def test_sharpness_is_in_the_tables() -> None:
    scored = make_graded(2 * MIN_FACES)
    result = evaluate_predictions([scored], ONE_CUT, Aggregation(), n_resamples=0)
    facts = to_json(result, {})["slices"]
    assert facts["sharpness"]["unit"] == "variance of the crop's Laplacian"
    first, second = facts["sharpness"]["slices"]
    assert (first["low"], first["high"], first["n_real"]) == (1, MIN_FACES, MIN_FACES // 2)
    assert first["metrics"]["false_negative_rate"] == {"value": 1, "low": None, "high": None}
    assert second["metrics"]["false_positive_rate"]["value"] == 0
    head, row, *_ = (line.rstrip("\n") for line in format_scored_faces(result))
    assert dict(zip(head.split(","), row.split(","), strict=True))["sharpness"] == "1"


def test_a_class_that_is_missing_has_no_share() -> None:
    (size, _) = compute_slices([make_set("a", [(0, "", [(0, 0.9)])])], ONE_CUT)
    (part,) = size.slices
    assert (
        part.metrics["false_positive_rate"].value,
        part.metrics["false_negative_rate"].reason,
    ) == (1, "no rows")
    assert math.isnan(part.metrics["false_negative_rate"].value)
    assert part.metrics["false_positive_rate"].note == "no interval: 1 groups, 5 are needed"
