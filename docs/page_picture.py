"""Makes the picture of the page that README shows: drawn portraits, in a real browser.

    deepfake demo
    python docs/page_picture.py --demo demo/ --output docs/page.png

Needs the extras ``web`` and ``dev`` and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

_STEP = 25  # from one person to another

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SERVE = "import sys; from deepfake.cli import main; sys.exit(main())"


def main() -> None:
    """Start a server, drop portraits on its page, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, required=True, help="as the demo left it")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    checkpoint = options.demo / "run" / "model.ckpt"
    photos = [
        path
        for word in ("real", "fake")
        for path in sorted((options.demo / "photos" / word).rglob("*.png"))[::_STEP][:2]
    ]
    words = [sys.executable, "-c", _SERVE, "serve", "--checkpoint", str(checkpoint)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            take(server.stdout.readline().strip(), photos, options.output)
        finally:
            server.terminate()


def take(url: str, photos: list[Path], output: Path) -> None:
    """Look at the page once all has its answer."""
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, _BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(url)
        page.set_input_files("#files", list(map(str, photos)))
        page.locator("#rows tr").nth(len(photos) - 1).wait_for()
        page.locator("#overall").wait_for(state="hidden", timeout=300_000)
        page.screenshot(path=output, full_page=True)
        browser.close()
    sys.stdout.write(f"{output}: {output.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
