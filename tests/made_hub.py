"""A small hub on this machine that speaks what the hub's own client speaks, and holds no secrets.

Repositories are lists of commits; files of models go through the large file storage, cards through
the commit itself, as on the real one. Those of data sets are called ``datasets/USER/NAME``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_secretofthetests0123456789"
Files = dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        old = self.commits.get(self.branches.get(branch, ""), {})
        number = f"{len(self.commits)}"
        oid = hashlib.sha1(number.encode() + b"".join(files.values())).hexdigest()
        self.commits[oid] = old | files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        oid = self.branches.get(revision, revision)
        return oid if oid in self.commits else None


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.status: int | None = None
        """Answers everything with this."""

    def downloads(self) -> list[str]:
        return [line for line in self.asked if line.startswith("GET") and "/resolve/" in line]


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def use_hub(patch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """What the client reads in its variables when it is imported, which has long happened."""
    for name, value in (
        ("ENDPOINT", url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(home / "hub")),
        ("HF_TOKEN_PATH", str(home / "token")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
    ):
        patch.setattr(constants, name, value)
    patch.delenv("HF_TOKEN", raising=False)


_ANY, _DATA_SET = "/api/((?:models|datasets)/[^/]+/[^/]+)", "/api/(datasets/[^/]+/[^/]+)"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        if found := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        elif found := re.fullmatch(rf"{_DATA_SET}/tree/([^/]+)(?:/(.+))?", path):
            is_deep = "recursive=true" in self.path.lower()
            self._list(found[1], unquote(found[2]), unquote(found[3] or ""), is_deep)
        elif found := re.fullmatch(rf"{_ANY}(?:/revision/([^/]+))?", path):
            located = self._locate(found[1].removeprefix("models/"), unquote(found[2] or "main"))
            if located is not None:
                _, oid, files = located
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": found[1].partition("/")[2], "sha": oid, "siblings": siblings})
        else:
            self._fail(404, "EntryNotFound")

    def do_POST(self) -> None:
        path = self._begin()
        if path is None:
            return
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(rf"{_DATA_SET}/paths-info/([^/]+)", path):
            located = self._locate(found[1], unquote(found[2]))
            wanted = parse_qs(body.decode())["paths"]
            if located is not None:
                self._json([one for one in _describe(located[2], True) if one["path"] in wanted])
        elif self._token() != TOKEN:
            self._fail(401, "", "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path):
            located = self._locate(found[1], unquote(found[3]))
            if located is not None and found[2] == "preupload":
                self._json({"files": [_choose_mode(file) for file in json.loads(body)["files"]]})
            elif located is not None:
                self._commit(found[1], located[0], unquote(found[3]), body)
        else:
            self._fail(404, "EntryNotFound")

    def do_PUT(self) -> None:
        path = self._begin()
        if path is None:
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = path.rsplit("/", 1)[-1]
        if hashlib.sha256(data).hexdigest() != oid:
            self._fail(400, "")
            return
        self.server.large[oid] = data
        self._json({})

    def _begin(self) -> str | None:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        if self.server.status is not None:
            self._fail(self.server.status, "")
            return None
        return path

    def _token(self) -> str | None:
        return (self.headers["Authorization"] or "").removeprefix("Bearer ") or None

    def _locate(self, name: str, revision: str) -> tuple[Repository, str, Files] | None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and self._token() != TOKEN):
            self._fail(401, "RepoNotFound")
            return None
        oid = repository.resolve(revision)
        if oid is None:
            self._fail(404, "RevisionNotFound")
            return None
        return repository, oid, repository.commits[oid]

    def _resolve(self, name: str, revision: str, file: str) -> None:
        located = self._locate(name, revision)
        if located is None:
            return
        _, oid, files = located
        if file not in files:
            self._fail(404, "EntryNotFound", commit=oid)
            return
        data = files[file]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if file.endswith(".safetensors"):
            told = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-Etag": f'"{told}"', "X-Linked-Size": str(len(data))}
            data = self.server.large.get(told, data)
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if part is None:
            self._answer(200, data, headers)
            return
        start, end = int(part[1]), min(int(part[2]) + 1, len(data))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._answer(206, data[start:end], headers)

    def _list(self, name: str, revision: str, folder: str, is_deep: bool) -> None:
        located = self._locate(name, revision)
        if located is None:
            return
        _, oid, files = located
        below = f"{folder}/" if folder else ""
        found = [one for one in _describe(files, is_deep, below) if one["path"].startswith(below)]
        if found:
            self._json(found)
        else:
            self._fail(404, "EntryNotFound", commit=oid)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repositories:
            self._json({"url": f"{self.server.url}/{name}"}, 409)
            return
        repository = Repository(private=wanted.get("visibility") == "private")
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.server.repositories[name] = repository
        self._json({"url": f"{self.server.url}/{name}"})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for one in wanted["objects"]:
            upload = {"href": f"{self.server.url}/large/{one['oid']}"}
            objects.append(one | {"actions": {"upload": upload}})
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, branch: str, body: bytes) -> None:
        files: Files = {}
        for line in body.splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        oid = repository.commit(files, branch)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, message: str = "", commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self._answer(status, b"{}", {name: value for name, value in headers.items() if value})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _describe(files: Files, is_deep: bool, below: str = "") -> list[dict[str, Any]]:
    """What the hub tells of files, and of the folders that it takes from their names."""
    found: dict[str, dict[str, Any]] = {}
    for name, data in files.items():
        oid = hashlib.sha1(data).hexdigest()
        for end in (at.start() for at in re.finditer("/", name)):
            found[name[:end]] = {"type": "directory", "path": name[:end], "oid": oid, "size": 0}
        found[name] = {"type": "file", "path": name, "oid": oid, "size": len(data)}
    return [one for one in found.values() if is_deep or "/" not in one["path"][len(below) :]]


def _choose_mode(file: dict[str, Any]) -> dict[str, Any]:
    large = file["path"].endswith(".safetensors")
    return {
        "path": file["path"],
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
        "oid": None,
    }
