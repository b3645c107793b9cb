"""A real browser, where there is one: what it shows of a page, and what the page asks it for."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


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
