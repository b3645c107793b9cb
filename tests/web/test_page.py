"""The page in a real browser: what a journalist does in the first minute, with a mouse and without.

Skipped where there is no Chromium; in CI its absence fails.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import pytest

from deepfake.media.inspection import FileFacts
from deepfake.records import Limits, PersonScore, Result, Status
from tests import fakes
from tests.evaluation.browser import BROWSER
from tests.web.made_media import SECONDS, encode_video
from tests.web.made_server import WAIT_S, Running, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Route

WINDOWS = [(1440, 900), (390, 844)]
SCHEMES = ["light", "dark"]

# Contrast of every text with what it stands on, as WCAG computes it; the least one, and its text.
CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  let least = [99, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("svg, .stage, .hidden, noscript")
      || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, walker.currentNode.textContent.trim()];
  }
  return least;
}"""

# What cannot be hit with a finger, has no name, or leaves the window.
FAULTS = """() => {
  const faults = [], shown = e => e.checkVisibility() && e.getBoundingClientRect().width > 2;
  for (const e of document.querySelectorAll("a, button, input, select, label")) {
    if (!shown(e) || e.classList.contains("skip")) continue;
    const box = e.getBoundingClientRect(), inline = getComputedStyle(e).display === "inline";
    if (!inline && (box.width < 24 || box.height < 24)) faults.push("small: " + e.outerHTML);
    const name = e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length;
    if (!name && !e.querySelector("img[alt]")) faults.push("nameless: " + e.outerHTML);
  }
  for (const e of document.querySelectorAll("input, select, progress, video, img"))
    if (!(e.labels && e.labels.length) && !e.hasAttribute("aria-label") && !e.hasAttribute("alt"))
      faults.push("no label: " + e.outerHTML);
  for (const e of document.querySelectorAll("main *")) {
    const right = e.getBoundingClientRect().right, free = e.closest(".strip, svg, pre, .hidden");
    if (e.checkVisibility() && !free && right > innerWidth + 1)
      faults.push("too wide: " + e.outerHTML);
  }
  if (document.scrollingElement.scrollWidth > innerWidth) faults.push("scrolls sideways");
  if (!document.querySelector("h1")) faults.push("no heading");
  if (!document.documentElement.lang) faults.push("no language");
  return faults.map(text => text.slice(0, 200));
}"""

LOADED = """video => video.error || video.readyState > 1
  || new Promise(done => { video.onloadeddata = video.onerror = done; })"""

FOR_GOOD = "This cannot be undone."

DROP = """files => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  return transfer;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("playwright is not installed")
    if BROWSER is None:
        skip("there is no Chromium on this machine")
    # Chromium's sandbox refuses root, and only root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


def skip(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and in CI the page must be tested")
    pytest.skip(reason)


class Tab:
    """A page of a browser of its own, with all that it complains of and asks for."""

    def __init__(self, browser: Browser, server: Running) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 900})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(1000 * WAIT_S)
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        origin = server.access.origin
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.questions: list[str] = []
        self.page.on("dialog", self._agree)
        self.page.on(
            "request",
            lambda r: None if r.url.startswith((origin, "data:")) else self.elsewhere.append(r.url),
        )
        self.page.goto(server.access.url)
        cookies = {cookie["name"]: cookie["value"] for cookie in self.context.cookies()}
        owner = server.store.find_owner(cookies.get(server.access.cookie, ""))
        self.owner = owner or ""  # where a door is first to be opened, nobody

    def _agree(self, dialog: Dialog) -> None:
        self.questions.append(dialog.message)
        dialog.accept()

    def names(self) -> list[str]:
        """Of the files that are shown, from above."""
        return [row.inner_text() for row in self.page.locator("#rows tr:not([hidden]) th").all()]

    def drop(self, files: list[tuple[str, bytes]]) -> None:
        encoded = [[name, base64.b64encode(data).decode()] for name, data in files]
        transfer = self.page.evaluate_handle(DROP, encoded)
        self.page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})

    def choose(self, name: str, data: bytes) -> None:
        """With the field, not by a drop."""
        self.page.set_input_files("#files", {"name": name, "mimeType": "", "buffer": data})

    def wait_until_done(self, n_files: int) -> None:
        self.page.locator("#rows tr").nth(n_files - 1).wait_for()
        self.page.locator("#overall").wait_for(state="hidden")

    def look(self, folder: Path, name: str) -> None:
        """What everybody must be able to see and hit, in both windows and both schemes."""
        for width, height in WINDOWS:
            self.page.set_viewport_size({"width": width, "height": height})
            for scheme in SCHEMES:
                self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                assert self.page.evaluate(FAULTS) == []
                ratio, text = self.page.evaluate(CONTRAST)
                assert ratio >= 4.5, (name, width, scheme, text)
                self.page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
        self.page.set_viewport_size({"width": 1440, "height": 900})

    def close(self) -> None:
        assert self.complaints == []
        assert self.elsewhere == []
        self.context.close()


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
    return [(f"drawn{n}.png", png(fakes.portrait(n))) for n in range(3)]


def png(picture: fakes.Picture) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


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
    tab.look(tmp_path, "queue")

    # The file: its curve, a jump by the mouse and one by the keyboard.
    page.get_by_role("link", name="clip.mp4").click()
    page.locator(".jump.frame").first.wait_for()
    player = page.locator("#video")
    player.evaluate(LOADED)
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
    assert player.evaluate("video => video.currentTime") == pytest.approx(wanted, abs=0.02)
    assert page.locator("#boxes g").count() == 2  # both people
    assert page.locator(".jump[data-current]").count() > 0
    page.locator(".jump.frame").first.focus()
    page.keyboard.press("Tab")
    jump = page.locator(".jump.frame").nth(1)
    outline = jump.evaluate("button => getComputedStyle(button).outlineStyle")
    page.keyboard.press("Enter")
    time_s = float(jump.get_attribute("data-time") or "nan")
    page.locator("#stage-note", has_text=f"At {time_s:.1f} s.").wait_for()
    assert player.evaluate("video => video.currentTime") == pytest.approx(time_s, abs=0.02)
    assert 0 < time_s < SECONDS
    assert outline != "none"
    tab.look(tmp_path, "file")

    # The evidence of all, as a file on the disk.
    page.get_by_role("link", name="All files").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Evidence of all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        table = archive.read("scores.csv").decode().splitlines()
    assert [row["path"] for row in csv.DictReader(table)] == names
    page.get_by_role("button", name="Remove all").click()
    page.locator("#queue").wait_for(state="hidden")
    assert tab.questions == ["Remove 4 files and their answers from the server? " + FOR_GOOD]
    tab.close()


def put(server: Running, owner: str, name: str, p_fake: float | None, n_people: int = 0) -> str:
    """A file with this answer in the queue, as if it had been scored."""
    store, limits = server.store, (0.3, 0.7)
    incoming = store.incoming / name
    incoming.write_bytes(b"")
    file_id = store.add_upload(incoming, owner, name, "", next(iter(server.engine.models)))
    assert store.take_next() is not None
    if p_fake is None:
        result = Result(name, Status.NO_FACE, "no face was found")
    else:
        verdict = Limits(0.3, (0.7,)).judge(p_fake, 1)
        people = tuple(PersonScore(n, p_fake, 1, 0, 0, 90, True) for n in range(n_people))
        result = Result(name, Status.OK, "", (), p_fake, verdict, limits, n_people, n_people)
        result = replace(result, people=people, n_people=n_people)
    store.finish(file_id, asdict(result) | {"facts": asdict(FileFacts())}, "")
    return file_id


def test_the_list_is_sorted_and_filtered_by_keyboard_and_a_reload_leaves_it_so(
    served: Running, chromium: Browser
) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    made = {"b10.png": (0.5, 3), "a.png": (None, 0), "b9.png": (0.9, 1), "C.png": (0.1, 2)}
    for name, (p_fake, n_people) in made.items():
        put(served, tab.owner, name, p_fake, n_people)
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
    put(served, tab.owner, "low.png", 0.1, 1)
    page.reload()
    page.get_by_role("columnheader", name="Score").get_by_role("button").click()
    page.get_by_role("link", name="low.png").focus()
    put(served, tab.owner, "high.png", 0.9, 1)
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


def test_a_connection_that_breaks_off_is_said_and_what_was_not_sent_is_sent_again(
    served: Running, chromium: Browser, photo: bytes
) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    waits = put_waiting(served, tab.owner)
    page.goto(f"{served.access.origin}/file/{waits}")
    tab.context.set_offline(True)
    note = page.locator("#waiting")
    note.filter(has_text="does not answer; is it still running? This page asks again").wait_for()
    tab.context.set_offline(False)
    note.filter(has_text="It is in the queue.").wait_for()
    served.store.cancel(waits)
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


def put_waiting(server: Running, owner: str) -> str:
    """A file that nobody has told the lanes of."""
    incoming = server.store.incoming / "waits"
    incoming.write_bytes(b"")
    model = next(iter(server.engine.models))
    return server.store.add_upload(incoming, owner, "waits.png", "", model)


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
