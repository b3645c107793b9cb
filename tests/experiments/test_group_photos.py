"""Composed photos of groups: who is in them, and what their rates are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deepfake.media.discovery import discover
from deepfake.media.images import read_image
from deepfake.records import FaceQuality, Limits, Verdict
from tests.fakes import portrait, write_photo
from tests.made_results import make_answer, make_no_answer

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "group_photos.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("group_photos", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nobody_is_in_two_photos(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    for number in range(5):
        flat = np.full((40, 40, 3), 40 * number, np.uint8)
        write_photo(tmp_path / "people" / f"{number}.png", flat)
    sources = discover(tmp_path / "people").sources
    paths = script.write_groups(sources, 2, 99, tmp_path, seed=0)
    pictures = [read_image(path, path.name).image for path in paths]
    assert [picture.shape for picture in pictures] == [(250, 500, 3)] * 2
    shades = [shade for picture in pictures for shade in np.unique(picture)]
    assert len(shades) == len(set(shades)) == 4
    (alone, *_) = script.write_groups(sources, 1, 99, tmp_path, seed=0)
    assert read_image(alone, alone.name).image.shape == (250, 250, 3)


def test_six_fill_two_rows(script: ModuleType) -> None:
    assert script.compose([portrait(number) for number in range(6)]).shape == (500, 750, 3)
    assert script.compose([portrait(number) for number in range(4)]).shape == (500, 750, 3)


def test_rates_with_and_without_correction(script: ModuleType) -> None:
    limits = Limits(0.2, (0.5, 0.9))
    results = [make_answer(f"{n}.png", 0.6 if n else 0.95, limits, n_people=2) for n in range(4)]
    everything = [*results, make_no_answer("x.png")]
    text = "\n".join(script.describe(everything, limits, lambda quality: False))
    assert "4 of 5 photos scored, 2.00 people each" in text
    assert "limit for the number of people: fake 25.0 %" in text
    assert "one limit for all files: fake 100.0 %" in text


def test_a_face_unlike_all_training_faces_is_unclear_on_both_sides(script: ModuleType) -> None:
    limits = Limits(0.2, (0.5,))
    far, near = (FaceQuality(64.0, 1.0, 90.0, distance) for distance in (9.0, 1.0))
    results = [make_answer(f"{n}.png", 0.9, limits, quality=q) for n, q in enumerate((far, near))]
    judged = list(script.judge_alike(results, limits, lambda quality: quality is far))
    assert judged[0] == results[0]
    assert judged[1].verdict is Verdict.FAKE
