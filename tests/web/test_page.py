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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import fakes
from tests.evaluation.browser import BROWSER
from tests.web.made_media import SECONDS, encode_video
from tests.web.made_server import WAIT_S, Running, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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
        self.page.on(
            "request",
            lambda r: None if r.url.startswith((origin, "data:")) else self.elsewhere.append(r.url),
        )
        self.page.goto(server.access.url)

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
    tab.drop([*photos, ("clip.mp4", video)])
    tab.wait_until_done(4)
    names = page.locator("#rows th").all_inner_texts()
    assert sorted(names) == sorted([*(name for name, _ in photos), "clip.mp4"])
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
    # The queue is the server's, in the order in which the files had arrived there.
    assert page.locator("#rows th").all_inner_texts() == list(files)
    tab.look(tmp_path, "queue")

    # The file: its curve, a jump by the mouse and one by the keyboard.
    page.get_by_role("link", name="clip.mp4").click()
    page.locator(".jump.frame").first.wait_for()
    player = page.locator("#video")
    player.evaluate(
        "video => video.readyState > 1 || new Promise(done => video.onloadeddata = done)"
    )
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
    tab.close()


def test_without_a_mouse(served: Running, chromium: Browser, photo: bytes) -> None:
    tab = Tab(chromium, served)
    page = tab.page
    tab.choose("<b>x</b>.html", b"<script>")
    tab.wait_until_done(1)
    seen = []
    for _ in range(12):
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
        [("clip.avi", encode_video("avi", "mpeg4")), ("old.mp4", encode_video("mp4", "mpeg4"))]
    )
    tab.wait_until_done(2)
    for name in ("clip.avi", "old.mp4"):
        page.get_by_role("link", name=name).click()
        note = page.locator("#stage-note", has_text=re.compile("these are its scored frames"))
        note.wait_for()
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
