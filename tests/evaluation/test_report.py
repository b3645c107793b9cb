"""The pages: complete, escaped, self-contained; looked at in a real browser where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepfake.evaluation import evaluation_charts, report
from deepfake.evaluation import prediction_page as prediction_room
from deepfake.evaluation.evaluate import Evaluation, evaluate
from deepfake.evaluation.job import describe_origin
from deepfake.evaluation.material import embed_crops, read_material, score_material
from deepfake.evaluation.page import make_thumbnail
from deepfake.evaluation.prediction_page import digest_scores, format_prediction_report
from deepfake.evaluation.report import format_report
from deepfake.faces.extraction import encode_crop
from deepfake.records import Aggregation, FaceScore, MediaScore, Status
from tests.evaluation.conftest import HOSTILE, Made

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
COMMAND = "deepfake evaluate --data '</code><script>alert(3)</script>'"


@pytest.fixture(scope="module")
def evaluation(made: Made) -> Evaluation:
    sets = []
    for name, split in (("first", "test"), ("second <set>", "validation")):
        data = read_material(made.crops, made.checkpoint, name, "crops/", split)
        embeddings = embed_crops(made.crops, data.faces, made.checkpoint, device="cpu")
        sets.append(score_material(data, embeddings, made.checkpoint, Aggregation()))
    return evaluate(sets, made.checkpoint.threshold, Aggregation(), rounds=50)


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, made: Made) -> str:
    return format_report(evaluation, describe_origin(made.checkpoint, COMMAND))


def make_answers() -> tuple[list[MediaScore], dict[int, bytes]]:
    box = (0.0, 0.0, 40.0, 40.0)
    faces = tuple(
        FaceScore(index, index / 2, face, box, 0.9, p, track=face)
        for index, face, p in ((0, 0, 0.2), (0, 1, 0.6), (5, 0, 0.9), (9, 0, 0.3))
    )
    scores = [
        MediaScore("a.jpg", Status.OK, "", 0.3, "real", 0.5, 1, box, faces[:1]),
        MediaScore(HOSTILE, Status.UNREADABLE, "io_error: <b>", None, None, 0.5, 0),
        MediaScore(
            "clip.mp4", Status.OK, "faces in 3 of 3 frames", 0.6, "fake", 0.5, 4, box, faces
        ),
        MediaScore("b\x1b.jpg", Status.OK, "", 0.6, "fake", 0.5, 1, box, faces[:1]),
    ]
    crop = encode_crop(np.full((32, 32, 3), 90, dtype=np.uint8), 90)
    return scores, {0: crop, 2: crop}


@pytest.fixture(scope="module")
def prediction_page(made: Made) -> str:
    scores, pictures = make_answers()
    origin = describe_origin(made.checkpoint, COMMAND)
    return format_prediction_report(digest_scores(scores), pictures, origin, 0.5)


class _Reader(HTMLParser):
    """Collects what a page would load, run, or leave without words."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.silent: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append(tag)
        self.links += [facts[n] or "" for n in ("src", "href", "xlink:href") if n in facts]
        handlers = [name for name in facts if name.startswith("on")]
        assert not handlers, (tag, handlers)
        named = facts.get("alt") or facts.get("aria-label") or facts.get("aria-hidden")
        if tag in ("img", "svg") and not named:
            self.silent.append(self.get_starttag_text() or tag)
        if tag == "th":
            assert facts.get("scope") in ("row", "col")
        if tag == "table":
            self.open.append("table")
        if tag == "caption":
            self.open.pop()


@pytest.mark.parametrize("kind", ["page", "prediction_page"])
def test_a_page_is_self_contained_labelled_and_harmless(
    kind: str, request: pytest.FixtureRequest
) -> None:
    text: str = request.getfixturevalue(kind)
    reader = _Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert {"link", "iframe", "object", "base", "form"}.isdisjoint(reader.tags)
    assert all(link.startswith("data:image/jpeg;base64,") for link in reader.links)
    assert not reader.silent
    assert not reader.open, "a table without a caption"
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert '<html lang="en">' in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    assert text.count("<h1>") == 1


def test_hostile_names_are_shown_and_not_obeyed(page: str, prediction_page: str) -> None:
    for text in (page, prediction_page):
        assert "<script" not in text
        assert "&lt;script&gt;alert(3)" in text
        assert "&lt;script&gt;alert(" in text
    assert "&lt;img src=x onerror=" in page
    assert "&lt;i&gt;swap&lt;/i&gt;" in page
    assert "<i>swap" not in page
    assert "second &lt;set&gt;" in page
    assert "b\\x1b.jpg" in prediction_page
    assert "\\u202e" in prediction_page


def test_the_page_adds_up_and_holds_every_part(page: str, evaluation: Evaluation) -> None:
    text = html.unescape(page)
    assert "46 files = 44 ok + 1 no_face + 0 too_small + 1 unreadable" in text
    for part in ("In short", "What went in", "Figures", "Worst mistakes", "What this is, and"):
        assert f"<h2>{part}" in text
    charts = ("Scores", "ROC", "Precision and recall", "Calibration", "Score against face size")
    traits = ("Errors by face size", "Score against sharpness", "Errors by sharpness")
    for title in (*charts, *traits, "Map of embeddings", "Confusion at the threshold"):
        assert f"<h3>{title}</h3>" in text
    auc = evaluation.levels["file"].overall.figures["auc"]
    assert f"<b>{auc.value:.3f}</b>" in text
    assert f"{auc.low:.3f}\u2013{auc.high:.3f}" in text
    assert "2 files, in input order." in text
    assert page.count('class="mistake"') == page.count('alt="Face from') > 0


def test_confusion_counts(evaluation: Evaluation) -> None:
    rows = evaluation.levels["file"].rows
    table = report._confusion(rows, evaluation.threshold)["rows"]
    counts = [int(cell["count"]) for row in table for cell in row["cells"]]
    called = rows.p_fake >= evaluation.threshold
    assert counts == [
        int(((rows.labels == label) & (called == word)).sum())
        for label in (0, 1)
        for word in (False, True)
    ]


def test_mistakes_are_the_worst_first(evaluation: Evaluation, made: Made) -> None:
    turned = [
        replace(s, file_p_fake={k: 1 - p for k, p in s.file_p_fake.items()})
        for s in evaluation.sets
    ]
    alarms, missed = report._mistakes(evaluate(turned, 0.5, Aggregation(), rounds=0))
    assert 0 < len(alarms) <= report.MISTAKES
    assert [item["score"] for item in alarms] == sorted(
        (item["score"] for item in alarms), reverse=True
    )
    assert [item["score"] for item in missed] == sorted(item["score"] for item in missed)
    assert all(item["picture"].startswith("data:image/jpeg;base64,") for item in alarms)


def test_gone_crops_and_single_classes_leave_a_page(evaluation: Evaluation, made: Made) -> None:
    scored = evaluation.sets[0]
    fakes = [n for n, row in enumerate(scored.material.faces) if row.label == 1]
    material = replace(
        scored.material,
        root=Path("gone"),
        faces=tuple(scored.material.faces[n] for n in fakes),
        files=tuple(file for file in scored.material.files if file.label == 1),
        remarks=("LEAK: <b>",),
    )
    only = replace(
        scored,
        material=material,
        embedded=scored.embedded.where(np.isin(np.arange(len(scored.p_fake)), fakes)),
        p_fake=scored.p_fake[fakes],
        tracks=tuple(scored.tracks[n] for n in fakes),
    )
    text = format_report(
        evaluate([only], 0.999, Aggregation(), rounds=5), describe_origin(made.checkpoint, "")
    )
    assert "n/a" in text
    assert "one class only: 0 real and 10 fake rows" in text
    assert text.count("<td>n/a<small>no rows</small></td>") == 2  # of reals, by size, sharpness
    assert "No picture: the crop is gone" in text
    assert "first: LEAK: &lt;b&gt;" in text
    perfect = format_report(
        evaluate([only], 0.0, Aggregation(), rounds=5), describe_origin(made.checkpoint, "")
    )
    assert "None: every file with an answer was called right." in perfect


def test_large_clouds_are_drawn_in_part(
    evaluation: Evaluation, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_charts, "_POINTS", 10)
    text = format_report(evaluation, describe_origin(made.checkpoint, ""))
    assert text.count("10 of 44 faces are drawn.") >= 2


def test_prediction_page_shows_the_most_suspicious_first(prediction_page: str) -> None:
    digest = digest_scores(iter(make_answers()[0]))
    assert [place for place, _ in digest.shown] == [2, 3, 0]
    assert digest.values.tolist() == [0.3, 0.6, 0.6]
    assert (digest.n_fake, digest.n_silent) == (2, 1)
    text = html.unescape(prediction_page)
    assert "4 inputs = 3 ok + 0 no_face + 0 too_small + 1 unreadable. Of the 3" in text
    assert text.index("<h3>clip.mp4") < text.index("<h3>b\\x1b.jpg") < text.index("<h3>a.jpg")
    assert "4 faces, 2 people, faces in 3 of 3 frames" in text
    assert "Highest 0.90 at 2.5 s, threshold 0.50." in text
    assert text.count('alt="Most suspicious face of') == 2
    assert text.count('aria-label="Score over time') == 1


def test_long_predictions_are_cut_and_say_so(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_room, "FILES", 1)
    monkeypatch.setattr(prediction_room, "_OTHERS", 1)
    monkeypatch.setattr(prediction_room, "_UNANSWERED", 1)
    scores, pictures = make_answers()
    origin = describe_origin(made.checkpoint, "")
    digest = digest_scores([*scores, scores[1]])
    assert [place for place, _ in digest.shown + digest.others] == [2, 3]
    text = format_prediction_report(digest, pictures, origin, 0.5)
    assert "1 files with lower scores, 1 further ones are in the table of scores alone." in text
    assert "2 files, in input order; the first 1 of them, the others are in the table" in text
    assert text.count('class="file"') == 1
    empty = format_prediction_report(digest_scores(scores[1:2]), {}, origin, 0.5)
    assert "No file has an answer." in empty


def test_thumbnail_of_no_picture() -> None:
    assert make_thumbnail(b"no") is None


_PROBE = """<!DOCTYPE html><body><pre id="out"></pre>%s<script>
window.onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, view = frame.contentWindow;
    const wide = [...page.querySelectorAll("main *")].filter(e => !e.closest(".scroll, svg")
      && e.getBoundingClientRect().right > view.innerWidth + 1).map(e => e.outerHTML);
    return {
      inner: view.innerWidth, scroll: page.scrollingElement.scrollWidth, wide: wide.slice(0, 3),
      loads: view.performance.getEntriesByType("resource").map(e => e.name)
        .filter(name => !name.startsWith("data:")),
      pictures: [...page.images].map(e => e.naturalWidth)};
  });
  document.getElementById("out").textContent = JSON.stringify(seen);
};
</script>"""
_WIDTHS = (390, 1440)


def browse(folder: Path, *words: str) -> str:
    assert BROWSER is not None
    options = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-background-networking", "--no-first-run", "--proxy-server=127.0.0.1:9"),
        f"--user-data-dir={folder / 'profile'}",
    ]
    done = subprocess.run(
        [BROWSER, *options, *words], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def probe(folder: Path, pages: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Show pages side by side, each in a window of its width; what the browser says of each."""
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" '
        f'srcdoc="{html.escape(text, quote=True)}"></iframe>'
        for text, width in pages
    )
    (folder / "probe.html").write_text(_PROBE % frames, encoding="utf-8")
    dom = browse(folder, "--dump-dom", (folder / "probe.html").as_uri())
    match = re.search(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None
    seen: list[dict[str, Any]] = json.loads(html.unescape(match[1]))
    return seen


@pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the pages with")
def test_a_browser_shows_the_pages_without_overflow_or_request(
    page: str, prediction_page: str, tmp_path: Path
) -> None:
    pages = [(text, width) for text in (page, prediction_page) for width in _WIDTHS]
    # On paper, where nobody scrolls: A4 less two margins of a centimetre.
    printed = [text.replace("@media print", "@media all") for text in (page, prediction_page)]
    pages += [(text, 718) for text in printed]
    # What the probe must be able to see: a page that is too wide and asks for something.
    bad = '<main><p style="width:500px">x</p><img src="http://127.0.0.1:9/a.png" alt="a"></main>'
    *seen, control = probe(tmp_path, [*pages, (bad, 390)])
    for facts, (_, width) in zip(seen, pages, strict=True):
        assert facts["inner"] == width
        assert facts["scroll"] <= width
        assert facts["wide"] == []
        assert facts["loads"] == []
        assert facts["pictures"]
        assert all(facts["pictures"])
    assert control["scroll"] > 390
    assert len(control["wide"]) == 1
    assert control["loads"] == ["http://127.0.0.1:9/a.png"]


@pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the pages with")
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_a_screenshot_follows_light_and_dark(
    width: int, scheme: str, page: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "shot.png"
    dark = ["--force-dark-mode"] if scheme == "dark" else []
    browse(
        tmp_path,
        *(f"--screenshot={shot}", f"--window-size={width},1200", *dark),
        (tmp_path / "page.html").as_uri(),
    )
    picture = np.asarray(Image.open(shot).convert("L"))
    assert picture.shape == (1200, width)
    assert (np.median(picture) < 60) == (scheme == "dark")
    assert picture.std() > 10
