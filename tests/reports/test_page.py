"""What all pages share: escaped, self-contained; looked at in a real browser where there is one."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake.reports.page import embed_thumbnail
from tests.evaluation.browser import BROWSER, browse, probe

_WIDTHS = (390, 1440)


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


def test_thumbnail_of_no_picture() -> None:
    assert embed_thumbnail(b"no") is None


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
