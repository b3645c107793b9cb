"""One file of the queue, from its upload to its removal, and its explanation."""

from __future__ import annotations

import io
import zipfile

from tests.web.made_media import HTML
from tests.web.made_server import Running, wait_until


def test_the_queue_shows_a_file_from_its_upload_to_its_removal(
    served: Running, photo: bytes
) -> None:
    browser = served.browser()
    name = "../<img src=x onerror=alert(1)>\u202e.png"
    answer = browser.send("/api/files", [(name, photo)])
    assert answer.status == 202
    (queued,) = answer.json()["files"]
    assert queued["state"] in ("queued", "running")
    assert "\u202e" not in queued["path"]
    file = browser.wait(queued["id"])
    assert file["status"] == "ok"
    queue = browser.get("/api/queue").json()
    assert (queue["n_files"], queue["n_waiting"]) == (1, 0)
    assert "faces" not in queue["files"][0]
    assert browser.get(f"/api/queue?since={queue['version']}").json()["files"] == []
    one = f"/api/files/{file['id']}"
    face = file["faces"][0]
    for path in ("/thumbnail", "/frames/0", f"/crops/{face['frame_index']}/{face['face_index']}"):
        image = browser.get(one + path)
        assert image.status == 200
        assert image.headers["content-type"] in ("image/jpeg", "image/png")
    assert browser.get(f"{one}/frames/9").status == 404
    assert browser.get(f"{one}/media").status == 404  # a photo is shown by its kept frame
    page = browser.get(f"/file/{file['id']}").body.decode()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert browser.ask("DELETE", one).status == 204
    assert browser.get(one).status == 404
    assert not served.store.folder_of(file["id"]).exists()


def test_an_explanation_is_made_when_asked_for_and_cannot_do_anything(
    served: Running, photo: bytes
) -> None:
    browser = served.browser()
    (queued,) = browser.send("/api/files", [("a.png", photo)]).json()["files"]
    one = f"/api/files/{queued['id']}"
    browser.wait(queued["id"])
    assert browser.get(f"{one}/explanation").status == 404
    assert browser.ask("POST", f"{one}/explanation").status == 202
    wait_until(lambda: browser.get(one).json()["explanation"] in ("done", "failed"))
    page = browser.get(f"{one}/explanation")
    assert page.status == 200
    assert "Where the score comes from" in page.body.decode()
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy
    with zipfile.ZipFile(io.BytesIO(browser.get(f"{one}/evidence").body)) as archive:
        assert "001-a.png/explanation.html" in archive.namelist()
    browser.ask("DELETE", "/api/files")


def test_a_file_without_a_face_has_nothing_to_explain(served: Running) -> None:
    browser = served.browser()
    (queued,) = browser.send("/api/files", [("a.html", HTML)]).json()["files"]
    browser.wait(queued["id"])
    assert browser.ask("POST", f"/api/files/{queued['id']}/explanation").status == 409
    browser.ask("DELETE", "/api/files")
