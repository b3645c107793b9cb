"""The page of an explanation: every top frame with its faces, and aloud where the map fails."""

from __future__ import annotations

import html
from dataclasses import replace

import numpy as np
import pytest

from deepfake.errors import UsageError
from deepfake.evaluation.job import describe_origin
from deepfake.records import Aggregation, Verdict
from deepfake.reports.explain_page import format_explanation
from tests.evaluation.conftest import Files, Made, explain_made


def test_the_page_holds_every_top_frame(made: Made, files: Files) -> None:
    found = explain_made(made, files.clip, train_crops=made.crops, n_neighbours=3)
    text = html.unescape(
        format_explanation(found, Aggregation(), describe_origin(made.checkpoint, "so"))
    )
    assert "3 faces in 3 frames" in text
    assert "its score is the mean over the frames of the most suspicious person" in text
    assert text.count('<section class="top-frame"') == 3
    assert text.count('aria-label="Score over time') == 1
    assert text.count('class="mark"') == 3
    assert "NOT the crops that this checkpoint was trained on" in text
    assert text.count("nearest training faces are fakes.") == 3


def test_the_page_says_when_the_map_fails(made: Made, files: Files) -> None:
    found = explain_made(made, files.photo, n_top=1)
    assert len(found.top_frames) == 1
    origin = describe_origin(made.checkpoint, "")
    top = found.top_frames[0]
    found = replace(found, score=replace(found.score, verdict=Verdict.FAKE))
    for salient, random, n, failure in (
        (2.0, 1.0, 3, ""),
        (2.0, 1.0, 1, "in 1 of 1 crops; by chance alone"),
        (1.0, 0.5, 3, "by 1.00, 0.50 more than elsewhere; only 0.69 or more matters"),
    ):
        tops = (replace(top, salient_drop=salient, random_drops=(random,) * 8),) * n
        turned = replace(found, top_frames=tops)
        text = format_explanation(turned, Aggregation(), origin)
        assert failure in text
        assert ("The maps FAIL their check on this file" in text) is bool(failure)
        assert ("The maps point at what the score depends on." in text) is (failure == "")
        assert f"than every other place in {n} of {n}." in text
        assert f"log-odds of fake by \N{MINUS SIGN}{salient:.2f} on average" in text
        assert "the more the score falls when" in text
        assert text.count("Saliency map:") == n
        passed_only = format_explanation(turned, Aggregation(), origin, show_failed=False)
        assert passed_only.count("Saliency map:") == (0 if failure else n)
        assert ("on this file: they are not shown" in passed_only) is bool(failure)
    turned = replace(turned, score=replace(found.score, verdict=Verdict.REAL))
    assert "the more the score rises when" in format_explanation(turned, Aggregation(), origin)
    cold = replace(top, saliency=-np.ones_like(top.saliency), frame=None)
    text = format_explanation(replace(found, top_frames=(cold,)), Aggregation(), origin)
    assert "No frame: none was kept" in text


def test_an_unlabelled_neighbour_is_refused(made: Made, files: Files) -> None:
    found = explain_made(made, files.photo, train_crops=made.crops, n_top=1, n_neighbours=1)
    (top,) = found.top_frames
    bare = replace(top.neighbours[0], row=replace(top.neighbours[0].row, label=None))
    turned = replace(found, top_frames=(replace(top, neighbours=(bare,)),))
    with pytest.raises(UsageError, match="has no label; crop from real/ and fake/"):
        format_explanation(turned, Aggregation(), describe_origin(made.checkpoint, ""))
