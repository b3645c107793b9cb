"""The sentences beside a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from deepfake.heads import LinearSVM
from deepfake.learning.checkpoint import Checkpoint
from deepfake.learning.embedder import EmbeddingModel
from deepfake.metrics import Estimate
from deepfake.records import Recipe
from deepfake.reports.model_text import describe_model
from tests.made_limits import ONE_CUT, make_error_rates


def make_checkpoint() -> Checkpoint:
    return Checkpoint(
        path=Path("a.ckpt"),
        name="a.ckpt",
        embedder=EmbeddingModel("test_efficientnet", 32, 4),
        head=LinearSVM(4).fit(torch.eye(4).repeat(4, 1), [0, 0, 1, 1] * 4),
        recipe=Recipe(),
        limits=ONE_CUT,
        error_rates=make_error_rates(fpr=Estimate(float("nan"))),
        chosen_for=Recipe(),
        info={"counts": {"train": {"real": 1234, "fake": 56}}},
        sha256="",
    )


def test_it_says_what_was_learnt_and_how_often_it_errs() -> None:
    checkpoint = make_checkpoint()
    assert describe_model(checkpoint) == (
        "Trained on 1,234 real and 56 fake faces. Measured on 300 real and 200 fake files (made "
        "up): n/a of the real ones are called fake, 4.0% (2.0 to 7.0) of the fakes are found, "
        "30.0% of all stay unclear (in brackets: 95 % intervals)."
    )
    unmeasured = replace(checkpoint, error_rates=None)
    assert describe_model(unmeasured).endswith("fake faces. Nothing was measured.")
