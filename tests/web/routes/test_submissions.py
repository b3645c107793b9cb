"""What comes in over a real socket: one object a file, in order, or a refusal and nothing left."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from deepfake.inference.predictor import Predictor
from deepfake.media.discovery import list_sources
from deepfake.records import Workers
from deepfake.web.answers import describe_result
from deepfake.web.routes.submissions import find_allowed
from deepfake.web.uploads import UploadLimits
from tests import fakes
from tests.web.made_media import HTML
from tests.web.made_server import Running, encode_form, running, wait_until


def test_score_answers_as_predict_does_in_order(
    served: Running, checkpoint: Path, photo: bytes, tmp_path: Path
) -> None:
    path = fakes.write_photo(tmp_path / "crowd.jpg", fakes.montage())
    files = [
        ("a.png", photo),
        ("page.html", HTML),
        ("crowd.jpg", path.read_bytes()),
        ("empty.jpg", b""),
    ]
    answer = served.script().send("/api/score", files)
    assert answer.status == 200
    scored = answer.json()["files"]
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    for (name, data), found in zip(files, scored, strict=True):
        (tmp_path / name).write_bytes(data)
        (result,) = predictor.score(list_sources([name], tmp_path))
        expected = json.loads(json.dumps(describe_result(result)))
        facts = {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        said = found.pop("facts")
        assert set(said) == {"container", "tags", "credentials", "problem"}
        assert bool(said["container"]) == (found["status"] == "ok")
        assert found == expected | facts
    assert [found["status"] for found in scored] == ["ok", "unreadable", "ok", "unreadable"]
    assert served.script().get("/api/queue").json()["n_files"] == 0  # nothing is kept
    assert not list(served.store.files_root.iterdir())


def test_a_client_that_goes_away_takes_its_files_with_it(served: Running, photo: bytes) -> None:
    kind, body = encode_form([("a.png", photo)] * 5, {})
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    headers = {"Content-Type": kind, **served.script().headers}
    connection.request("POST", "/api/score", body, headers)
    wait_until(lambda: list(served.store.files_root.iterdir()))
    connection.close()
    wait_until(lambda: not list(served.store.files_root.iterdir()))


@pytest.mark.usefixtures("inline")
def test_models_are_chosen_by_their_key_or_name(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    from tests.evaluation.made_checkpoint import write_checkpoint

    other = write_checkpoint(
        tmp_path / "other.ckpt", checkpoint.parent / "crops", configuration="x"
    )
    with running(tmp_path / "private", [checkpoint, other], workers=Workers(2, 60.0)) as server:
        script = server.script()
        first, second = script.get("/api/models").json()["models"]
        assert [first["name"], second["name"]] == [str(checkpoint), str(other)]
        fields: list[dict[str, str]] = [
            {"model": second["model"]},
            {"model": second["name"]},
            {},
        ]
        sent = [script.send("/api/files", [("a.png", photo)], one).json() for one in fields]
        file, named, standard = (answer["files"][0] for answer in sent)
        assert file["model"] == named["model"] == second["model"]
        assert standard["model"] == first["model"]
        assert script.wait(file["id"])["status"] == "ok"
        page = server.browser().get("/").body.decode()
        assert all(model["model"] in page for model in (first, second))


# Paths of the server


def paths(served: Running, body: Any) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    return served.browser().ask("POST", "/api/paths", text, {"Content-Type": "application/json"})


def test_an_allowed_file_is_scored_where_it_lies(served: Running, allowed_folder: Path) -> None:
    browser = served.browser()
    body = json.dumps({"path": str(allowed_folder / "inside.png")})
    answer = browser.ask("POST", "/api/paths", body, {"Content-Type": "application/json"})
    assert answer.status == 202
    file = browser.wait(answer.json()["files"][0]["id"])
    assert file["status"] == "ok"
    assert (
        file["sha256"] == hashlib.sha256((allowed_folder / "inside.png").read_bytes()).hexdigest()
    )
    browser.ask("DELETE", "/api/files")
    assert (allowed_folder / "inside.png").exists()


def test_an_allowed_folder_gives_its_photos_and_no_links(
    served: Running, allowed_folder: Path
) -> None:
    browser = served.browser()
    body = json.dumps({"path": str(allowed_folder)})
    answer = browser.ask("POST", "/api/paths", body, {"Content-Type": "application/json"})
    assert [file["path"] for file in answer.json()["files"]] == ["inside.png"]
    browser.ask("DELETE", "/api/files")


@pytest.mark.parametrize(
    "path",
    ["../outside.png", "link.png", "out/outside.png", "missing.png", "/etc/passwd", "out", "\0"],
)
def test_nothing_outside_of_an_allowed_folder_is_opened(
    served: Running, allowed_folder: Path, path: str
) -> None:
    answer = paths(served, {"path": str(allowed_folder / path)})
    assert answer.status == 403
    # What is missing and what is forbidden look the same.
    assert answer.json()["error"].startswith("no file or folder that may be opened")


def test_a_link_that_comes_later_is_not_followed(
    served: Running, allowed_folder: Path, tmp_path: Path
) -> None:
    secret = fakes.write_photo(tmp_path / "secret.png", fakes.portrait(4))
    trap = fakes.write_photo(allowed_folder / "trap" / "a.png", fakes.portrait(5))
    browser = served.browser()
    owner = served.store.sessions.find_owner(browser.headers["Cookie"].partition("=")[2])
    assert owner is not None
    (model,) = served.engine.models
    trap.unlink()
    trap.symlink_to(secret)
    file_id = served.store.add_path(trap, owner, "a.png", model)  # as if swapped after the check
    served.engine.wake()
    file = browser.wait(file_id)
    assert file["state"] == "failed"
    assert "a link has come into its path" in file["error"]
    browser.ask("DELETE", "/api/files")
    trap.unlink()
    trap.parent.rmdir()


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"path": 1}', '{"path": "x", "model": 2}'])
def test_a_path_that_is_none_is_refused(served: Running, body: str) -> None:
    answer = paths(served, body)
    assert answer.status == 400
    assert "expected JSON" in answer.json()["error"]


def test_a_long_path_is_not_read_to_its_end(served: Running) -> None:
    assert paths(served, {"path": "x" * 70_000}).status == 413


# Limits and refusals


@pytest.mark.usefixtures("inline")
def test_limits_and_odd_requests_are_refused_and_leave_nothing(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    limits = UploadLimits(file_bytes=100_000, files=2, idle_s=0.3, at_once=1)
    with running(tmp_path / "private", [checkpoint], limits=limits) as server:
        browser, script = server.browser(), server.script()
        assert script.send("/api/score", [("a.png", bytes(100_001))]).status == 413
        assert browser.send("/api/files", [("a.png", photo)] * 3).status == 413
        assert browser.send("/api/files", []).status == 400
        refused = browser.send("/api/files", [("a.png", photo)], {"model": "none"})
        assert refused.status == 400
        assert f"no model none; there are {checkpoint} (" in refused.json()["error"]
        assert browser.send("/api/files", [("a.png", photo)], {"odd": "1"}).status == 400
        for odd in ("-1", "1.5", "9" * 16):
            refused = browser.send("/api/files", [("a.png", photo)], {"position": odd})
            assert refused.status == 400
            assert f"position '{odd}'; expected a whole number" in refused.json()["error"]
        assert script.send("/api/score", [("a.png", photo)], {"position": "1"}).status == 400
        assert browser.ask("POST", "/api/files", b"x", {"Content-Type": "text/plain"}).status == 415
        assert browser.get("/api/queue?since=x").status == 400
        assert browser.ask("PUT", "/api/files").status == 405
        # Slow ones: while one is received, another is told to come again; then it is given up.
        slow, _ = start_upload(server, photo)
        wait_until(lambda: browser.send("/api/files", [("b.png", photo)]).status == 503)
        assert b"408" in slow.recv(1000)
        slow.close()
        assert not list(server.store.incoming.iterdir())
        assert browser.get("/api/queue").json()["n_files"] == 0


@pytest.mark.usefixtures("inline")
def test_uploads_at_once_share_one_limit(tmp_path: Path, checkpoint: Path, photo: bytes) -> None:
    limits = UploadLimits(files=1, at_once=2)
    with running(tmp_path / "private", [checkpoint], limits=limits) as server:
        slow, rest = start_upload(server, bytes(4 << 20))  # enough to reach the disk
        wait_until(lambda: list(server.store.incoming.iterdir()))
        assert server.script().send("/api/files", [("a.png", photo)]).status == 202
        slow.sendall(rest)
        assert b"413" in slow.recv(1000)
        slow.close()
        assert server.script().get("/api/queue").json()["n_files"] == 1
        assert not list(server.store.incoming.iterdir())


def start_upload(server: Running, data: bytes) -> tuple[socket.socket, bytes]:
    """The first half of an upload, and what is still to be sent of it."""
    kind, body = encode_form([("slow.png", data)], {})
    head = (
        f"POST /api/files HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Authorization: Bearer {server.access.secret}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    half = len(body) // 2
    connection.sendall(head.encode() + body[:half])
    return connection, body[half:]


def test_an_aborted_upload_leaves_nothing(served: Running, photo: bytes) -> None:
    for _ in range(5):
        start_upload(served, photo * 20)[0].close()
    wait_until(lambda: not list(served.store.incoming.iterdir()))
    assert served.script().get("/api/queue").json()["n_files"] == 0


def test_what_others_have_uploaded_is_in_no_allowed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "srv" / "keep"
    other = tmp_path / "srv" / "deepfake-serve-x1"
    own = fakes.write_photo(tmp_path / "srv" / "own.png", fakes.portrait(1))
    for folder in (private, other):
        fakes.write_photo(folder / "files" / "a.png", fakes.portrait(2))
    allowed = (tmp_path / "srv",)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "srv"))
    assert find_allowed(str(tmp_path / "srv"), allowed, private) == [("own.png", own)]
    for path in (private, private / "files", private / "files" / "a.png", other / "files"):
        with pytest.raises(HTTPException, match="no file or folder that may be opened"):
            find_allowed(str(path), allowed, private)
    own.unlink()
    with pytest.raises(HTTPException, match="nothing in it may be opened"):
        find_allowed(str(tmp_path / "srv"), allowed, private)


@pytest.mark.parametrize("path", ["/api/score", "/api/files"])
def test_a_request_that_cannot_be_queued_whole_leaves_nothing(
    served: Running, photo: bytes, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    add, calls = served.store.add_upload, iter(range(9))

    def full(*given: Any) -> str:
        if next(calls) == 1:
            raise OSError(28, "No space left on device")
        return add(*given)

    monkeypatch.setattr(served.store, "add_upload", full)
    answer = served.script().send(path, [("a.png", photo)] * 3)
    assert (answer.status, answer.json()) == (
        507,
        {"error": "no room to queue them; nothing was queued"},
    )
    assert served.script().get("/api/queue").json()["n_files"] == 0
    assert not list(served.store.incoming.iterdir())
    wait_until(lambda: not list(served.store.files_root.iterdir()))


def test_a_path_that_has_gone_is_said(
    served: Running, allowed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*given: Any) -> str:
        raise FileNotFoundError(2, "gone")

    monkeypatch.setattr(served.store, "add_path", gone)
    answer = paths(served, {"path": str(allowed_folder / "inside.png")})
    assert answer.status == 404
    assert "a file has gone meanwhile; nothing was queued" in answer.json()["error"]
