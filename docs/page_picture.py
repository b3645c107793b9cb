"""Makes a picture of the page of ``deepfake serve``, in a real browser.

    python docs/page_picture.py photo.jpg clip.mp4 --output docs/page.png

Show only files that may be shown: drawn portraits (``deepfake demo`` leaves some), or photos in the
public domain. Needs the extras ``web`` and ``dev``, and a Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SERVE = "import sys; from deepfake.cli import main; sys.exit(main())"


def main() -> None:
    """Start a server, put the files on its page, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--checkpoint", default="default", help="as of deepfake serve")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    words = [sys.executable, "-c", _SERVE, "serve", "--checkpoint", options.checkpoint]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                sys.exit("the server did not start; see its message above")
            take(url, options.files, options.output)
        finally:
            server.terminate()


def take(url: str, files: list[Path], output: Path) -> None:
    """Look at the page once every file has its answer."""
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser_path is None:
        sys.exit(f"there is none of {', '.join(_BROWSERS)}")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=options)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(url)
        page.set_input_files("#files", list(map(str, files)))
        page.locator("#rows tr").nth(len(files) - 1).wait_for()
        page.locator("#overall").wait_for(state="hidden", timeout=1_800_000)
        page.screenshot(path=output, full_page=True)
        browser.close()
    sys.stdout.write(f"{output}: {output.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
