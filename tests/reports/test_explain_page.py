"""The page of an explanation: every peak with its faces, and aloud where the map fails."""

from __future__ import annotations

import html
from dataclasses import replace

import numpy as np
import pytest

from deepfake.errors import UsageError
from deepfake.evaluation.job import describe_origin
from deepfake.records import Aggregation
from deepfake.reports.explain_page import format_explanation
from tests.evaluation.conftest import Files, Made, explain_made


def test_the_page_holds_every_peak(made: Made, files: Files) -> None:
    found = explain_made(made, files.clip, train_crops=made.crops, n_neighbours=3)
    text = html.unescape(
        format_explanation(found, Aggregation(), describe_origin(made.checkpoint, "so"))
    )
    assert "3 faces in 3 frames" in text
    assert "its score is the mean over them" in text
    assert text.count('<section class="peak"') == 3
    assert text.count('aria-label="Score over time') == 1
    assert text.count('class="mark"') == 3
    assert "NOT the crops that this checkpoint was trained on" in text
    assert text.count("nearest training faces are fakes.") == 3


def test_the_page_says_when_the_map_fails(made: Made, files: Files) -> None:
    found = explain_made(made, files.photo, n_faces=1)
    assert len(found.peaks) == 1
    origin = describe_origin(made.checkpoint, "")
    peak = found.peaks[0]
    for hot, random, holds in ((2.0, 1.0, True), (1.0, 1.5, False)):
        turned = replace(found, peaks=(replace(peak, hot_drop=hot, random_drop=random),))
        text = format_explanation(turned, Aggregation(), origin)
        assert turned.holds is holds
        assert ("The maps FAIL their check on this file" in text) is not holds
        assert ("takes off more in 1 of 1." in text) is holds
        assert f"log-odds of fake by \N{MINUS SIGN}{hot:.2f} on average" in text
    cold = replace(peak, heat=-np.ones_like(peak.heat), frame=None)
    text = format_explanation(replace(found, peaks=(cold,)), Aggregation(), origin)
    assert "the frame cannot be decoded again" in text


def test_an_unlabelled_neighbour_is_refused(made: Made, files: Files) -> None:
    found = explain_made(made, files.photo, train_crops=made.crops, n_faces=1, n_neighbours=1)
    (near,) = found.peaks[0].neighbours
    bare = replace(near, row=replace(near.row, label=None))
    turned = replace(found, peaks=(replace(found.peaks[0], neighbours=(bare,)),))
    with pytest.raises(UsageError, match="has no label; crop from real/ and fake/"):
        format_explanation(turned, Aggregation(), describe_origin(made.checkpoint, ""))
