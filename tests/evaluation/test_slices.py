"""Errors by size and sharpness: parts of equal numbers, shares counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from deepfake.evaluation.evaluate import evaluate, format_faces, to_json
from deepfake.evaluation.predictions import Embeddings, Predictions
from deepfake.evaluation.slices import LEAST_FACES, PARTS, cut, measure_traits
from deepfake.records import Aggregation
from tests.evaluation.test_evaluate import make_set


def make_graded(n: int) -> Predictions:
    """Files of one face, real and fake in turns; the blurred half is called wrongly."""
    wrong = [place < n // 2 for place in range(n)]
    scored = make_set(
        "graded",
        [
            (place % 2, "", [(0, 0.8 if (place % 2 == 1) != error else 0.2)])
            for place, error in enumerate(wrong)
        ],
    )
    faces = tuple(
        replace(face, box_xyxy=(0.0, 5.0, 30.0, 45.0 + place))
        for place, face in enumerate(scored.material.faces)
    )
    sharpness = np.arange(1, n + 1, dtype=np.float32)
    return replace(
        scored,
        material=replace(scored.material, faces=faces),
        embedded=Embeddings(scored.embedded.vectors, sharpness),
    )


def test_parts_hold_what_they_say() -> None:
    n = 10 * LEAST_FACES
    size, sharpness = measure_traits([make_graded(n)], 0.5, rounds=200)
    assert (size.name, sharpness.name) == ("face_size", "sharpness")
    assert size.values.tolist() == [40.0 + place for place in range(n)]  # the longer side
    for trait in (size, sharpness):
        assert len(trait.parts) == PARTS
        assert {(part.n_real, part.n_fake) for part in trait.parts} == {(n // 10, n // 10)}
        assert [part.accused.value for part in trait.parts] == [1, 1, 0.5, 0, 0]
        assert [part.missed.value for part in trait.parts] == [1, 1, 0.5, 0, 0]
    part = sharpness.parts[2]
    assert (part.low, part.middle, part.high) == (0.4 * n + 1, 0.5 * n + 0.5, 0.6 * n)
    assert part.accused.low < 0.5 < part.accused.high
    # Twenty alike rows are no certainty.
    assert math.isnan(sharpness.parts[0].accused.low)
    assert sharpness.parts[0].accused.note == "no interval: all 20 rows are alike"


@pytest.mark.parametrize(("n", "parts"), [(0, 0), (1, 1), (39, 1), (40, 2), (99, 4), (5000, 5)])
def test_few_faces_make_few_parts(n: int, parts: int) -> None:
    masks = cut(np.random.default_rng(n).permutation(n).astype(float))
    assert len(masks) == parts
    counts = [int(mask.sum()) for mask in masks]
    assert sum(counts) == n
    assert max(counts, default=0) - min(counts, default=0) <= 1


def test_equal_values_are_never_parted() -> None:
    values = np.array([1.0] * 150 + [2.0] * 30 + [3.0] * 20)
    masks = cut(values)
    assert [int(mask.sum()) for mask in masks] == [150, 50]
    assert np.all(np.sum(masks, axis=0) == 1)
    assert len(cut(np.full(200, 4.0))) == 1


def test_sharpness_is_in_the_tables() -> None:
    scored = make_graded(2 * LEAST_FACES)
    result = evaluate([scored], 0.5, Aggregation(), rounds=0)
    facts = to_json(result, {})["faces_by"]
    assert facts["sharpness"]["unit"] == "variance of the crop's Laplacian"
    first, second = facts["sharpness"]["parts"]
    assert (first["low"], first["high"], first["n_real"]) == (1, LEAST_FACES, LEAST_FACES // 2)
    assert first["figures"]["fakes_missed"] == {"value": 1, "low": None, "high": None}
    assert second["figures"]["reals_accused"]["value"] == 0
    head, row, *_ = format_faces(result).splitlines()
    assert dict(zip(head.split(","), row.split(","), strict=True))["sharpness"] == "1"


def test_a_class_that_is_missing_has_no_share() -> None:
    (size, _) = measure_traits([make_set("a", [(0, "", [(0, 0.9)])])], 0.5)
    (part,) = size.parts
    assert (part.accused.value, part.missed.reason) == (1, "no rows")
    assert math.isnan(part.missed.value)
    assert part.accused.note == "no interval: 1 groups, 5 are needed"
