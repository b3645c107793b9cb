"""A tab of a real browser: what somebody does in it, and what everybody must see and hit."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.evaluation.browser import BROWSER
from tests.web.made_server import WAIT_S, Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

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

DROP = """files => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  return transfer;
}"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium, where there is one."""
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
        owner = server.store.sessions.find_owner(cookies.get(server.access.cookie, ""))
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
