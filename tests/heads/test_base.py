"""What every head shares: which rows are refused, and that scoring needs no other package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfake.errors import JobError
from deepfake.heads import HEADS, LinearSVM, base, make_head
from tests.made_embeddings import draw, reload

_SCORE = """
import sys, torch
from deepfake.heads import make_empty_head
for path in sys.argv[1:]:
    state = torch.load(path, weights_only=True)
    head = make_empty_head(state, 8)
    head.load_state_dict(state)
    print(float(head(torch.full((1, 8), 0.3))[0]))
print([name for name in ("sklearn", "lightgbm", "pandas") if name in sys.modules])
"""


def test_loading_and_scoring_import_no_scikit_learn(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm", reason="head gbm is fitted by LightGBM")
    expected, paths = [], []
    for name in HEADS:
        head = make_head(name, 8, 2.0).fit(*draw(40, 40))
        torch.save(head.state_dict(), tmp_path / f"{name}.pt")
        paths.append(str(tmp_path / f"{name}.pt"))
        expected.append(float(head(torch.full((1, 8), 0.3))[0]))
    command = [sys.executable, "-c", _SCORE, *paths]
    *scores, imported = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [float(score) for score in scores] == expected
    assert imported == "[]"


@pytest.mark.parametrize(
    ("n_real", "n_fake"),
    [
        pytest.param(0, 10, id="fakes-only"),
        pytest.param(10, 0, id="reals-only"),
        pytest.param(1, 10, id="one-real"),
        pytest.param(0, 0, id="nothing"),
    ],
)
def test_refuses_too_few_rows(n_real: int, n_fake: int) -> None:
    rows, truth = draw(n_real, n_fake)
    with pytest.raises(JobError, match=f"on {n_real} real and {n_fake} fake rows; it needs 2"):
        LinearSVM(8).fit(rows.reshape(-1, 8), truth)


def test_two_rows_of_each_class_are_enough() -> None:
    rows, truth = draw(2, 2)
    assert bool(torch.isfinite(LinearSVM(8).fit(rows, truth)(torch.from_numpy(rows))).all())


def test_refuses_a_third_class() -> None:
    rows, truth = draw(5, 5)
    truth[0] = 2
    with pytest.raises(JobError, match="cannot fit a classifier"):
        LinearSVM(8).fit(rows, truth)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_refuses_rows_that_are_no_numbers(value: float) -> None:
    rows, truth = draw(5, 5)
    rows[3, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite values"):
        LinearSVM(8).fit(rows, truth)


@pytest.mark.parametrize(
    ("shape", "n_labels", "seen"),
    [
        pytest.param((10, 7), 10, r"shape \(10, 7\) with 10 labels; expected \(N, 8\)", id="width"),
        pytest.param((10, 8), 9, r"shape \(10, 8\) with 9 labels", id="length"),
        pytest.param((8,), 8, r"shape \(8,\) with 8 labels", id="one-dimension"),
    ],
)
def test_refuses_rows_of_another_shape(shape: tuple[int, ...], n_labels: int, seen: str) -> None:
    with pytest.raises(ValueError, match=seen):
        LinearSVM(8).fit(np.ones(shape), np.arange(n_labels) % 2)


def test_scoring_refuses_another_width() -> None:
    rows, truth = draw(5, 5)
    classifier = LinearSVM(8).fit(rows, truth)
    for shape in ((3, 9), (8,)):
        with pytest.raises(ValueError, match=r"expected \(N, 8\)"):
            classifier(torch.zeros(shape))


def test_scoring_refuses_before_the_fit() -> None:
    with pytest.raises(JobError, match="not fitted"):
        LinearSVM(8)(torch.zeros(1, 8))
    with pytest.raises(JobError, match="not fitted"):
        reload(LinearSVM(8))(torch.zeros(1, 8))


def test_a_head_that_is_wrong_about_held_out_rows_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    LinearSVM(8).fit(*draw(60, 60, shift=1.0)).warn_if_useless()
    assert "do not rise with fake" not in caplog.text
    monkeypatch.setattr(base, "fit_sigmoid", lambda decisions, truth: (0.5, 0.0))
    LinearSVM(8).fit(*draw(60, 60)).warn_if_useless()
    assert "on held-out rows the decisions of this head do not rise with fake" in caplog.text
