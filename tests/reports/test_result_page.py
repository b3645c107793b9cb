"""A result shows itself: on a line, in a notebook, on a page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepfake.errors import UsageError
from deepfake.faces.extraction import encode_crop
from deepfake.inference.results import PicturedResult, ResultList
from deepfake.records import FaceScore, PersonScore, Status
from tests.made_results import BOX, make_answer, make_no_answer

HOSTILE = "<script>alert(1)</script>\x1b[2J.jpg"


def make_pictured(path: str = "a.jpg", **facts: Any) -> PicturedResult:
    people = tuple(
        PersonScore(n, p_fake, 1, 0.0, 0.0, 40.0, counts, remark)
        for n, p_fake, counts, remark in [(0, 0.9, True, ""), (1, 0.2, False, "<small>")]
    )
    faces = tuple(FaceScore(0, 0.0, n, BOX, 0.99, one.p_fake, n) for n, one in enumerate(people))
    answer = make_answer(path, 0.9, faces=faces, people=people, **facts)
    known = {name: getattr(answer, name) for name in answer.__dataclass_fields__}
    crop = encode_crop(np.full((64, 64, 3), 120, np.uint8), 90)
    return PicturedResult(**known, crops={0: crop})


def test_a_line_says_verdict_score_people_and_remarks() -> None:
    result = make_pictured(remarks=("flawed JPEG",))
    line = "a.jpg: fake, p_fake 0.900 (real up to 0.490, fake from 0.500); flawed JPEG"
    assert str(result) == line
    assert repr(result) == f"<Result {line}>"
    assert str(make_no_answer("b.jpg")) == "b.jpg: no_face: so it is"
    both = ResultList([result, make_no_answer("b.jpg")])
    assert str(both) == repr(both) == f"{result}\n{both[1]}"
    assert repr(ResultList()) == "<ResultList of no results>"


def test_no_name_steers_a_terminal_or_a_page() -> None:
    result = make_pictured(HOSTILE, remarks=("<b>bold</b>",))
    for shown in (str(result), repr(result), result._repr_html_(), ResultList([result]).__str__()):
        assert "\x1b" not in shown
    cell = result._repr_html_()
    assert "<script" not in cell
    assert "<b>bold" not in cell
    assert "&lt;small&gt;" in cell


def test_a_cell_holds_everything_it_shows() -> None:
    cell = ResultList([make_pictured(), make_no_answer("b.jpg")])._repr_html_()
    assert cell.count("<article>") == 2
    assert cell.count('src="data:image/jpeg;base64,') == 2  # of the first person, twice
    assert "http" not in cell
    for text in ("fake", "0.900", "2 people", "person 2: 0.200", "does not count", "so it is"):
        assert text in cell
    part = ResultList([make_pictured(), make_no_answer("b.jpg")])[1:]
    assert part._repr_html_().count("<article>") == 1
    many = ResultList([make_no_answer(f"{n}.jpg") for n in range(60)])
    assert "and 10 more results" in many._repr_html_()
    assert "no results" in ResultList()._repr_html_()


def test_a_page_is_written_once(tmp_path: Path) -> None:
    result, page = make_pictured(), tmp_path / "a.html"
    assert result.save_html(str(page)) == page
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in text
    with pytest.raises(UsageError, match=r"a\.html exists"):
        result.save_html(page)
    ResultList([result, result]).save_html(page, overwrite=True)
    assert page.read_text().count("<article>") == 2
    with pytest.raises(UsageError, match="there is no folder"):
        result.save_html(tmp_path / "no" / "a.html")


def test_tables_of_pandas() -> None:
    result = make_pictured()
    assert list(result.to_frame().p_fake) == [0.9]
    assert list(result.to_frame("face").person) == [0, 1]
    table = ResultList([result, make_no_answer("b.jpg")]).to_frame()
    assert list(table.status) == ["ok", Status.NO_FACE.value]


def test_show_opens_a_page_or_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))  # type: ignore[func-returns-value]
    make_pictured().show()
    (page,) = tmp_path.rglob("*.html")
    assert opened == [page.as_uri()]
    assert str(page) in caplog.text


def test_show_in_a_notebook_shows_there(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    shell = SimpleNamespace(kernel=object())
    display = SimpleNamespace(HTML=lambda text: text, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    result = make_pictured()
    result.show()
    assert shown == [result._repr_html_()]
