"""The contact sheet shows what it is handed, the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from deepfake.augment.recipes import EXTRAS, RECIPES, Augmentation, sample_seed
from deepfake.augment.sheet import Example, alternate_classes, draw_sheet, row_names
from deepfake.errors import UsageError
from tests.made_crops import LANDMARKS, draw_crop

SIZE = 128
AUGMENT = Augmentation("dacon", ["blind_face"])


def make_examples(labels: Sequence[int] = (0, 1, 0, 1), seed: int = 0) -> list[Example]:
    points = np.array(LANDMARKS, np.float32).reshape(5, 2) * SIZE
    examples = []
    for index, label in enumerate(labels):
        crop, own = (
            draw_crop(np.random.default_rng(index), SIZE, label == 1),
            sample_seed(seed, 0, index),
        )
        examples.append(Example(crop, points, label, own, AUGMENT(crop, own, points)))
    return examples


def tiles(sheet: bytes, rows: int, columns: int) -> np.ndarray:
    drawn = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape[:2] == (rows * 132 + 4, 190 + columns * 132 + 4)
    return np.array(
        [
            [
                drawn[4 + r * 132 : 132 + r * 132, 190 + c * 132 : 318 + c * 132, ::-1]
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    )


def test_a_row_for_each_augmentation() -> None:
    examples = make_examples()
    sheet = draw_sheet(examples)
    assert draw_sheet(make_examples()) == sheet
    names = row_names()
    assert set(names) == {"crop", "landmarks", *RECIPES, *EXTRAS, "self_blend", "as configured"}
    found = tiles(sheet, len(names), 4)
    assert np.array_equal(found[0], [example.crop for example in examples])
    assert np.array_equal(found[-1], [example.augmented for example in examples])
    for name, line in zip(names[1:], found[1:], strict=True):
        assert any(not np.array_equal(*pair) for pair in zip(line, found[0], strict=True)), name
    assert draw_sheet(make_examples(seed=1)) != sheet


def test_rows_by_name() -> None:
    found = tiles(draw_sheet(make_examples([0, 1]), ["crop", "self_blend"]), 2, 2)
    assert found.shape[:2] == (2, 2)
    with pytest.raises(UsageError, match="no augmentation 'glow'; there are crop, landmarks"):
        draw_sheet(make_examples(), ["glow"])


def test_only_reals_are_blended_with_themselves() -> None:
    plain, blended = tiles(draw_sheet(make_examples(), ["crop", "self_blend"]), 2, 4)
    for column, fake in enumerate([False, True, False, True]):
        # Paper with a few words, or a crop that is nearly the one above it.
        assert ((blended[column] > 200).mean() > 0.9) == fake
        assert (np.abs(blended[column].astype(int) - plain[column]).mean() < 40) == (not fake)


def test_crops_without_landmarks() -> None:
    examples = [replace(example, points=None) for example in make_examples()]
    with pytest.raises(UsageError, match=r"no landmarks .*crop again"):
        draw_sheet(examples)
    assert draw_sheet(examples, ["crop", "dacon"])


def test_real_and_fake_take_turns() -> None:
    labels = np.array([1, 1, 0, 1, 1, 1, 0, 0])
    chosen = alternate_classes(labels, 5, seed=0)
    assert labels[chosen].tolist() == [0, 1, 0, 1, 0]
    assert alternate_classes(labels, 5, seed=0) == chosen != alternate_classes(labels, 5, seed=1)
    # Fewer crops than columns: all of them, each once.
    everything = alternate_classes(labels, 20, seed=0)
    assert labels[everything].tolist() == [0, 1, 0, 1, 0, 1, 1, 1]
    assert sorted(everything) == list(range(8))
