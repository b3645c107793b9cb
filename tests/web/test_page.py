"""The page in a real browser: what a journalist does in the first minute, with a mouse and without.

Skipped where there is no Chromium; in CI its absence fails.
"""

from __future__ import annotations

import csv
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import pytest

from tests import fakes
from tests.web.made_media import SECONDS, encode_photo, encode_video
from tests.web.made_server import Running, running
from tests.web.tab import LOADED, Tab, open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

FOR_GOOD = "This cannot be undone."


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def photos() -> list[tuple[str, bytes]]:
    """Three real photos where there are some, else drawn ones."""
    root = Path(os.environ.get("DEEPFAKE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    real = [
        root / "faces" / "face_recognition" / "examples" / f"{name}.jpg"
        for name in ("obama-480p", "two_people", "obama_small")
    ]
    if all(path.is_file() for path in real):
        return [(path.name, path.read_bytes()) for path in real]
    return [(f"drawn{n}.png", encode_photo(fakes.portrait(n))) for n in range(3)]


def test_the_first_minute(
    served: Running, chromium: Browser, photos: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    assert "token" not in page.url
    tab.look(tmp_path, "empty")
    video = encode_video()
    held: list[Route] = []  # the first upload ends last
    page.route("**/api/files", lambda r: r.continue_() if held else held.append(r))
    tab.drop([*photos, ("clip.mp4", video)])
    page.locator("#rows a").nth(2).wait_for()
    held[0].continue_()
    page.unroute("**/api/files")
    tab.wait_until_done(4)
    names = page.locator("#rows th").all_inner_texts()
    assert names == [*(name for name, _ in photos), "clip.mp4"]
    check_rows(tab, names)
    tab.look(tmp_path, "queue")
    page.get_by_role("link", name="clip.mp4").click()
    page.locator(".jump.frame").first.wait_for()
    page.locator("#video").evaluate(LOADED)
    jump_by_mouse(page)
    jump_by_keyboard(page)
    tab.look(tmp_path, "file")
    page.get_by_role("link", name="All files").click()
    check_evidence(page, names)
    page.get_by_role("button", name="Remove all").click()
    page.locator("#queue").wait_for(state="hidden")
    assert tab.questions == ["Remove 4 files and their answers from the server? " + FOR_GOOD]
    tab.close()


def check_rows(tab: Tab, names: list[str]) -> None:
    """Each row shows what the API says, and a reload shows the same rows."""
    page = tab.page
    files = {
        file["path"]: file
        for file in page.evaluate("fetch('/api/queue').then(a => a.json())")["files"]
    }
    for name, row in zip(names, page.locator("#rows tr").all(), strict=True):
        file = files[name]
        assert file["status"] == "ok"
        assert row.locator(".badge").inner_text() == file["verdict"]
        assert row.locator("b").inner_text() == f"{file['p_fake']:.3f}"
        assert (
            row.locator("img.thumb").evaluate(
                "image => image.decode().then(() => image.naturalWidth)"
            )
            > 0
        )
    assert page.locator("#summary").inner_text().startswith("4 files done: ")
    page.reload()
    tab.wait_until_done(4)
    # The queue is the server's, in the order in which the files were dropped.
    assert page.locator("#rows th").all_inner_texts() == names == list(files)


def jump_by_mouse(page: Page) -> None:
    """On the curve, to a second in which both people are seen."""
    page.locator("#curve .now").wait_for(state="attached")
    assert page.locator("#boxes g").count() == 0  # nobody is there yet
    drawing = page.locator("#curve .chart > svg")
    box = drawing.bounding_box()
    assert box is not None
    left, right, last = (
        float(page.locator("#curve").get_attribute(f"data-{word}") or "nan")
        for word in ("left", "right", "last")
    )
    wanted = 1.5
    x = (left + (right - left) * wanted / last) / 360 * box["width"]
    drawing.click(position={"x": x, "y": box["height"] / 2})
    page.locator("#stage-note", has_text="At 1.5 s.").wait_for()
    player = page.locator("#video")
    assert player.evaluate("video => video.currentTime") == pytest.approx(wanted, abs=0.02)
    assert page.locator("#boxes g").count() == 2  # both people
    assert page.locator(".jump[data-current]").count() > 0


def jump_by_keyboard(page: Page) -> None:
    """From frame to frame; what is at hand is outlined."""
    page.locator(".jump.frame").first.focus()
    page.keyboard.press("Tab")
    jump = page.locator(".jump.frame").nth(1)
    outline = jump.evaluate("button => getComputedStyle(button).outlineStyle")
    page.keyboard.press("Enter")
    time_s = float(jump.get_attribute("data-time") or "nan")
    page.locator("#stage-note", has_text=f"At {time_s:.1f} s.").wait_for()
    player = page.locator("#video")
    assert player.evaluate("video => video.currentTime") == pytest.approx(time_s, abs=0.02)
    assert 0 < time_s < SECONDS
    assert outline != "none"


def check_evidence(page: Page, names: list[str]) -> None:
    """Of all files, as a file on the disk."""
    with page.expect_download() as download:
        page.get_by_role("link", name="Evidence of all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        table = archive.read("scores.csv").decode().splitlines()
    assert [row["path"] for row in csv.DictReader(table)] == names


def test_the_list_is_sorted_and_filtered_by_keyboard_and_a_reload_leaves_it_so(
    served: Running, chromium: Browser
) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    made = {"b10.png": (0.5, 3), "a.png": (None, 0), "b9.png": (0.9, 1), "C.png": (0.1, 2)}
    for name, (p_fake, n_people) in made.items():
        served.put(tab.owner, name, p_fake, n_people)
    page.reload()
    tab.wait_until_done(4)
    assert tab.names() == [*made]
    said, told = page.locator("#announcement"), page.locator("#view")
    expected = {
        "Score": (["b9.png", "b10.png", "C.png", "a.png"], "highest first", "lowest first"),
        "Verdict": (["b9.png", "b10.png", "C.png", "a.png"], "fake first", "real first"),
        "People": (["b10.png", "C.png", "b9.png", "a.png"], "most first", "fewest first"),
        "File": (["a.png", "b9.png", "b10.png", "C.png"], "from A to Z", "from Z to A"),
    }
    for title, (order, first, then) in expected.items():
        head = page.get_by_role("columnheader", name=title)
        head.get_by_role("button").focus()
        word = {"File": "name"}.get(title, title.lower())
        last = ["a.png"] if title != "File" else []  # what has no score is last either way
        ways = ["ascending", "descending"] if title == "File" else ["descending", "ascending"]
        turned = [*reversed(order[: 4 - len(last)]), *last]
        for names, way, words in zip((order, turned), ways, (first, then), strict=True):
            page.keyboard.press("Enter")
            assert tab.names() == names
            assert head.get_attribute("aria-sort") == way
            assert page.locator("[aria-sort]").count() == 1
            assert said.text_content() == told.inner_text() == f"Sorted by {word}, {words}."
    page.get_by_role("columnheader", name="Score").get_by_role("button").press("Space")
    page.get_by_label("Show").focus()
    page.keyboard.press("ArrowDown")
    assert tab.names() == ["b9.png"]
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    assert tab.names() == ["a.png"]  # without an answer
    page.keyboard.press("Home")
    page.get_by_label("Name contains").focus()
    page.keyboard.type("B")
    told.filter(has_text="2 of 4 files shown; sorted by score, highest first.").wait_for()
    assert said.text_content() == told.inner_text()
    page.reload()
    tab.wait_until_done(2)
    assert tab.names() == ["b9.png", "b10.png"]
    assert page.locator("#rows tr").count() == 4
    assert page.get_by_label("Name contains").input_value() == "B"
    # What is new is seen, whatever the filter says; it comes in behind the others.
    tab.choose("new.png", b"nothing")
    tab.wait_until_done(5)
    assert tab.names() == ["b9.png", "b10.png", "C.png", "a.png", "new.png"]
    page.get_by_role("button", name="All files, as added").press("Enter")
    assert tab.names() == [*made, "new.png"]
    assert page.evaluate("document.activeElement.id") == "kind"
    assert said.text_content() == "All files shown, as they were added."
    page.get_by_role("button", name="Remove all").click()
    page.locator("#queue").wait_for(state="hidden")
    tab.close()


def test_rows_stay_while_somebody_is_at_them(served: Running, chromium: Browser) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    served.put(tab.owner, "low.png", 0.1, 1)
    page.reload()
    page.get_by_role("columnheader", name="Score").get_by_role("button").click()
    page.get_by_role("link", name="low.png").focus()
    served.put(tab.owner, "high.png", 0.9, 1)
    page.evaluate("poll()")
    page.get_by_role("link", name="high.png").wait_for()
    assert tab.names() == ["low.png", "high.png"]
    page.get_by_label("Name contains").focus()
    page.evaluate("poll()")
    page.locator("#rows tr:first-child", has_text="high.png").wait_for()
    page.get_by_role("button", name="Remove all").click()
    page.locator("#queue").wait_for(state="hidden")
    tab.close()


def test_a_model_is_chosen_by_what_is_known_of_it(
    served: Running, chromium: Browser, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = served.engine.models
    other = replace(next(iter(models.values())), key="0" * 12, name="other", sentence="Odd faces.")
    monkeypatch.setitem(models, other.key, other)
    monkeypatch.setitem(served.engine._scoring, other.key, Lock())
    tab = Tab(chromium, served)
    page = tab.page
    about = page.locator("#about")
    assert about.inner_text() == "Trained by a test; nothing was measured."
    page.get_by_label("Model").select_option("other")
    assert about.inner_text() == "Odd faces."
    page.reload()
    assert about.inner_text() == "Odd faces."
    tab.choose("a.png", photo)
    tab.wait_until_done(1)
    (file,) = page.evaluate("fetch('/api/queue').then(a => a.json())")["files"]
    assert (file["model"], file["status"]) == (other.key, "ok")
    assert page.locator("#rows th small").inner_text() == "other"
    page.get_by_role("button", name="Remove all").click()
    page.locator("#queue").wait_for(state="hidden")
    tab.close()


@pytest.mark.slow
def test_a_connection_that_breaks_off_is_said_and_what_was_not_sent_is_sent_again(
    served: Running, chromium: Browser, photo: bytes
) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    waits = served.put_waiting(tab.owner)
    page.goto(f"{served.access.origin}/file/{waits}")
    tab.context.set_offline(True)
    note = page.locator("#waiting")
    note.filter(has_text="does not answer; is it still running? This page asks again").wait_for()
    tab.context.set_offline(False)
    note.filter(has_text="It is in the queue.").wait_for()
    served.store.queue.cancel(waits)
    page.get_by_text("No answer: cancelled").wait_for()  # by itself
    page.goto(served.access.origin)
    page.get_by_role("link", name="waits.png").wait_for()
    tab.context.set_offline(True)
    tab.choose("a.png", photo)
    row = page.locator("#rows tr", has_text="a.png")
    row.filter(has_text="the connection broke off; is the server still running?").wait_for()
    page.locator("#problem", has_text="The server does not answer").wait_for()
    tab.context.set_offline(False)
    row.get_by_role("button", name="Send again").click()
    row.locator(".badge").wait_for()
    page.locator("#problem").wait_for(state="hidden")
    page.get_by_role("button", name="Remove all").click()
    page.locator("#queue").wait_for(state="hidden")
    assert all("ERR_INTERNET_DISCONNECTED" in complaint for complaint in tab.complaints)
    tab.context.close()


def test_without_a_mouse(served: Running, chromium: Browser, photo: bytes) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    tab.choose("<b>x</b>.html", b"<script>")
    tab.wait_until_done(1)
    seen = []
    for _ in range(16):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    for stop in (
        "Skip to content",
        "files",
        "folder",
        "evidence",
        "remove-all",
        "Score",
        "<b>x</b>.html",
        "Remove",
    ):
        assert stop in seen
    # A name is a text, and a file without an answer says why.
    row = page.locator("#rows tr")
    assert row.locator("th b").count() == 0
    assert "unreadable" in row.inner_text()
    assert "decode_error" in row.inner_text()
    row.get_by_role("button", name=re.compile("Remove")).focus()
    page.keyboard.press("Enter")
    page.locator("#queue").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "files"
    tab.close()


@pytest.mark.slow
def test_a_video_that_no_browser_plays_is_shown_by_its_frames(
    served: Running, chromium: Browser, tmp_path: Path
) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    tab.drop(
        [
            ("clip.avi", encode_video("avi", "mpeg4")),
            ("old.mp4", encode_video("mp4", "mpeg4")),
            ("loud.mp4", encode_video("mp4", "mpeg4", sound="aac")),  # the sound can be played
        ]
    )
    tab.wait_until_done(3)
    for name in ("clip.avi", "old.mp4", "loud.mp4"):
        page.get_by_role("link", name=name).click()
        note = page.locator("#stage-note", has_text=re.compile("these are its scored frames"))
        note.wait_for()
        for player in page.locator("#video").all():
            player.evaluate(LOADED)
        page.locator("#boxes g").nth(1).wait_for(state="attached")
        frame = page.locator(".jump.frame").nth(3)
        frame.click()
        page.locator(f"#still[src$='/frames/{frame.get_attribute('data-frame')}']").wait_for()
        assert page.locator("#boxes g").count() == 2
        tab.look(tmp_path, name)
        page.get_by_role("link", name="All files").click()
    page.get_by_role("button", name="Remove all").click()
    page.locator("#queue").wait_for(state="hidden")
    tab.context.close()


@pytest.mark.slow
def test_an_explanation_is_asked_for_and_opened(
    served: Running, chromium: Browser, photo: bytes
) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    tab.choose("a.png", photo)
    tab.wait_until_done(1)
    page.get_by_role("link", name="a.png").click()
    page.get_by_role("button", name="Look into").click()
    page.get_by_role("link", name="Open the explanation").click()
    page.get_by_role("heading", name="Where the score comes from").wait_for()
    tab.close()
    served.script().ask("DELETE", "/api/files")


@pytest.mark.slow
def test_the_other_pages_are_as_good(
    chromium: Browser, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.web.access._GUESS_S", 0.0)
    access: dict[str, Any] = {"secret": "long enough a password", "is_password": True}
    with running(tmp_path / "private", [checkpoint], **access) as server:
        tab = Tab(chromium, server)
        tab.look(tmp_path, "door")
        tab.page.get_by_label("Password of this server").fill(access["secret"])
        tab.page.get_by_role("button", name="Open").click()
        tab.page.get_by_role("link", name="API").click()
        tab.page.get_by_role("heading", name="The API").wait_for()
        tab.look(tmp_path, "api")
        tab.close()
