"""Charts of a whole evaluation: what is drawn of it, and what is left out, in words."""

from __future__ import annotations

import re

import pytest

from deepfake.evaluation.evaluate import Evaluation
from deepfake.reports import evaluation_charts
from deepfake.reports.evaluation_charts import draw_evaluation, draw_trait


def test_large_clouds_are_drawn_in_part(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_clouds() -> list[tuple[int, str]]:
        """Number of points and caption of every cloud."""
        charts = draw_evaluation(evaluation)
        charts += [chart for trait in evaluation.traits for chart in draw_trait(trait, evaluation)]
        points = [re.findall('class="points [^>]*', chart["svg"]) for chart in charts]
        return [
            (sum(path.count("M") for path in paths), chart["caption"])
            for chart, paths in zip(charts, points, strict=True)
            if paths
        ]

    whole = draw_clouds()
    assert {number for number, _ in whole} == {44}
    assert not any("are drawn" in caption for _, caption in whole)
    monkeypatch.setattr(evaluation_charts, "_POINTS", 10)
    parts = draw_clouds()
    assert len(parts) >= 3  # embeddings, face size, sharpness
    assert {number for number, _ in parts} == {10}
    assert all("10 of 44 faces are drawn." in caption for _, caption in parts)
