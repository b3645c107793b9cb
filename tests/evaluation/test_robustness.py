"""Damage: none at severity 0, more at each severity, the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake import cli
from deepfake.errors import UsageError
from deepfake.evaluation import embeddings
from deepfake.evaluation.job import EvaluationOptions, run_evaluation
from deepfake.evaluation.robustness import CORRUPTIONS, choose_corruptions, corrupt
from deepfake.reports.evaluation_text import describe
from tests.evaluation.conftest import CPU, Made
from tests.made_crops import draw_crop

CROP = draw_crop(np.random.default_rng(0), 96, fake=True)
GRADED = [name for name in CORRUPTIONS if name != "flip"]


def measure_psnr(crop: NDArray[np.uint8], name: str, severity: int, seed: int) -> float:
    """Peak signal-to-noise ratio in dB; infinite if nothing has changed."""
    squares = (corrupt(crop, name, severity, seed).astype(float) - crop) ** 2
    return float(10 * np.log10(255**2 / squares.mean())) if squares.any() else np.inf


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_0_changes_nothing_and_the_crop_stays(name: str) -> None:
    before = CROP.copy()
    unchanged = corrupt(CROP, name, 0)
    assert np.array_equal(unchanged, CROP)
    assert unchanged is not CROP
    first, again = (corrupt(CROP, name, 1, seed=5) for _ in range(2))
    assert first.shape == CROP.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, CROP)
    assert np.array_equal(CROP, before)


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("seed", [0, 1])
def test_damage_grows_with_severity(name: str, seed: int) -> None:
    # A soft picture: of one that is all noise, a shift by more pixels is no more of a change.
    rng = np.random.default_rng(seed)
    soft = corrupt(draw_crop(rng, 128, fake=False), "blur", 5)
    soft[40:90, 30:98] //= 2
    assert len(CORRUPTIONS[name].values) == 5
    psnrs = [measure_psnr(soft, name, severity, seed) for severity in range(6)]
    assert psnrs[0] == np.inf
    assert psnrs[1] > 25, "the weakest is hardly seen"
    assert np.all(np.diff(psnrs[1:]) < 0), psnrs


def test_a_mirror_image_has_one_severity() -> None:
    assert np.array_equal(corrupt(CROP, "flip", 1), CROP[:, ::-1])
    with pytest.raises(UsageError, match="flip has severities 0 to 1, not 2"):
        corrupt(CROP, "flip", 2)
    with pytest.raises(UsageError, match="no corruption 'fog'; there are jpeg, video"):
        corrupt(CROP, "fog", 1)


@pytest.mark.parametrize("name", ["noise", "brightness", "jitter"])
def test_chance_is_the_seeds(name: str) -> None:
    assert len({corrupt(CROP, name, 3, seed).tobytes() for seed in range(8)}) > 1


def test_jitter_shows_nothing_that_was_not_in_the_crop() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    for seed in range(20):
        moved = corrupt(np.ascontiguousarray(ramp), "jitter", 5, seed)[100, :, 0].astype(int)
        assert np.all(np.diff(moved) >= 0)  # reflected borders would turn back
        assert moved[-1] - moved[0] == pytest.approx(0.76 * 199, abs=3)


def test_names_are_chosen_once() -> None:
    assert choose_corruptions([]) == tuple(CORRUPTIONS)
    assert choose_corruptions(["blur", "jpeg", "blur"]) == ("blur", "jpeg")


def test_evaluate_follows_damage(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    words = ["evaluate", "--checkpoint", str(made.path), "--data", str(made.crops), "--quiet"]
    words += ["--device", "cpu", "--resamples", "20", "--output", str(output)]
    assert cli.main([*words, "--corruptions", "noise", "flip"]) == 0
    shown = capsys.readouterr().out
    assert "noise (std, % of the range)" in shown
    robustness = json.loads((output / "metrics.json").read_text())["robustness"]
    points = robustness["noise"]["points"]
    assert [point["value"] for point in points] == [None, 2, 4, 8, 12, 20]
    assert len(robustness["flip"]["points"]) == 2
    metrics = json.loads((output / "metrics.json").read_text())
    clean = metrics["levels"]["file"]["overall"]["metrics"]
    assert points[0]["metrics"] == {name: clean[name] for name in ("auc", "accuracy")}
    assert all(0 <= point["metrics"]["auc"]["low"] <= 1 for point in points)
    aucs = [point["metrics"]["auc"]["value"] for point in points]
    assert len(set(aucs)) > 1  # damage reaches the network
    page = (output / "report.html").read_text()
    assert "<h2>Robustness</h2>" in page
    assert page.count("<h3>Robustness: noise</h3>") == 1
    assert len(list((output / "embeddings").glob("*-noise-*/job.json"))) == 5

    # What was kept is used again; without an output nothing is kept and the metrics are the same.
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(embeddings, "_iter_embeddings", fail)
    assert cli.main([*words, "--corruptions", "noise", "flip"]) == 0
    monkeypatch.undo()
    again = run_evaluation(
        made.checkpoint,
        [str(made.crops)],
        None,
        EvaluationOptions(n_resamples=20, corruptions=["flip"]),
        CPU,
    )
    assert (
        describe(again).split("mirrored")[1].splitlines()[2].split()[1]
        == (shown.split("mirrored")[1].splitlines()[2].split()[1])
    )
    assert cli.main([*words, "--corruptions", "fog"]) == 2
    assert "no corruption 'fog'" in capsys.readouterr().err
