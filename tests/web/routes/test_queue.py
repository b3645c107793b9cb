"""All files of one client: each finds what is theirs, and nothing else."""

from __future__ import annotations

import concurrent.futures
import hashlib

from tests.web.made_server import Running


def test_many_uploads_at_once_and_nobody_gets_anothers(served: Running, photo: bytes) -> None:
    """The short form of the load test: each of ten people finds exactly what was theirs."""

    def use(number: int) -> None:
        browser = served.browser()
        files = [(f"{number}.html", b"%d" % number), (f"{number}b.html", b"b%d" % number)]
        queued = browser.send("/api/files", files).json()["files"]
        for file, (name, data) in zip(queued, files, strict=True):
            ended = browser.wait(file["id"])
            assert ended["path"] == name
            assert ended["sha256"] == hashlib.sha256(data).hexdigest()
        assert browser.get("/api/queue").json()["n_files"] == 2
        assert browser.ask("DELETE", "/api/files").status == 204

    with concurrent.futures.ThreadPoolExecutor(10) as people:
        list(people.map(use, range(10)))
    assert not list(served.store.files_root.iterdir())
