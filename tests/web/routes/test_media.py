"""What is seen of a file: never what a client has sent, unless it is a video."""

from __future__ import annotations

import pytest

from tests.web.made_media import HTML, SVG
from tests.web.made_server import Running


@pytest.mark.parametrize("data", [HTML, SVG, b"MZ\x90", b"%PDF-1.7"])
def test_what_is_no_video_is_never_served_back(served: Running, data: bytes) -> None:
    browser = served.browser()
    (queued,) = browser.send("/api/files", [("video.mp4", data)]).json()["files"]
    file = browser.wait(queued["id"])
    assert file["status"] == "unreadable"
    for path in ("/media", "/thumbnail", "/frames/0", "/crops/0/0", "/explanation"):
        assert browser.get(f"/api/files/{file['id']}{path}").status == 404
    assert data not in browser.get(f"/file/{file['id']}").body
    browser.ask("DELETE", "/api/files")
