"""Several looks side by side: gains are those over the first, from the same resamples."""

from __future__ import annotations

import numpy as np

from deepfake.metrics import METRICS
from deepfake.records import EVEN_ODDS
from experiments import looks


def test_the_gain_of_a_twin_is_nothing_and_that_of_a_better_one_is_seen() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 150)
    # Rising and falling again, as files of several folders may come.
    places = [*range(75), *range(75)[::-1]]
    groups = [f"g{number:03d}" for number in places for _ in range(2)]
    weak, strong = (labels * gain + rng.normal(0, 1, len(labels)) for gain in (1.0, 3.0))
    scored = [(labels, 1 / (1 + np.exp(-one)), groups) for one in (weak, weak, strong)]
    first, twin, better = looks.describe(["a", "b", "c"], scored)
    assert twin | {"detector": "a"} == first
    assert twin["gain"] == "+0.0000 [+0.0000, +0.0000]"
    auc = METRICS["auc"].formula(labels, scored[2][1], EVEN_ODDS)
    assert str(better["AUC"]).startswith(f"{auc:.4f} [")
    assert "[+" in str(better["gain"])
