"""The analyst's page: the most suspicious first, and no more of them than a page can hold."""

from __future__ import annotations

import html

import pytest

from deepfake.evaluation.job import describe_origin
from deepfake.records import Limits
from deepfake.reports import prediction_page as prediction_room
from deepfake.reports.prediction_page import digest_scores, format_prediction_report
from tests.evaluation.conftest import Made, make_scores

LIMITS = Limits(0.49, (0.5,))


def test_prediction_page_shows_the_most_suspicious_first(prediction_page: str) -> None:
    digest = digest_scores(iter(make_scores()[0]))
    assert [place for place, _ in digest.shown] == [2, 3, 0]
    assert digest.values.tolist() == [0.3, 0.6, 0.6]
    assert (digest.n_fake, digest.n_unscored) == (2, 1)
    text = html.unescape(prediction_page)
    assert "4 inputs = 3 ok + 0 no_face + 0 too_small + 1 unreadable. Of the 3" in text
    assert text.index("<h3>clip.mp4") < text.index("<h3>b\\x1b.jpg") < text.index("<h3>a.jpg")
    assert "4 faces, 2 people, faces in 3 of 3 frames" in text
    assert "Highest 0.90 at 2.5 s (person 1), real up to 0.49, fake from 0.50." in text
    assert text.count('alt="Most suspicious face of') == 2
    assert text.count('aria-label="Score over time') == 1
    # Of the two people of the clip a thumbnail and a line each, the more suspicious one first.
    assert text.index('alt="Person 2"') < text.index('alt="Person 1"')
    assert "<figcaption>2: 0.600" in text
    assert text.count('alt="Person ') == 2
    assert "<span>person 2</span></li><li>" in text
    assert text.count('class="dot s') == 4


def test_long_predictions_are_cut_and_say_so(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_room, "FILES", 1)
    monkeypatch.setattr(prediction_room, "_OTHERS", 1)
    monkeypatch.setattr(prediction_room, "_UNSCORED", 1)
    scores, thumbnails = make_scores()
    origin = describe_origin(made.checkpoint, "")
    digest = digest_scores([*scores, scores[1]])
    assert [place for place, _ in digest.shown + digest.others] == [2, 3]
    text = format_prediction_report(digest, thumbnails, origin, LIMITS)
    assert "1 files with lower scores, 1 further ones are in the table of scores alone." in text
    assert "2 files, in input order; the first 1 of them, the others are in the table" in text
    assert text.count('class="file"') == 1
    empty = format_prediction_report(digest_scores(scores[1:2]), {}, origin, LIMITS)
    assert "No file has a score." in empty
