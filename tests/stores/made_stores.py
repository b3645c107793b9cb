"""Stores for tests: a web server that fails as it is told, and the memory of this process."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec

BUSY, CUT, SLOW, SWAP, SPOIL = "busy", "cut", "slow", "swap", "spoil"
"""What a server does to a GET: 503, half of the bytes and then nothing, half a second of silence,
half of the bytes of what is then another object; ``SPOIL`` is of writes."""
REDIRECT_PATH = "/elsewhere"
"""Answered with 302 where there is a target."""


class Server(ThreadingHTTPServer):
    """Objects by their path, and what will happen to the next reads.

    Args:
        knows_ranges: Whether it answers a question for a part of an object with that part.

    Attributes:
        faults: Of the next reads, in order.
        target: Where ``REDIRECT_PATH`` leads.
        redirects_by: The header that tells it.
        log: What was asked for.
    """

    def __init__(self, knows_ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.knows_ranges = knows_ranges
        self.objects: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.target, self.redirects_by = "", "Location"
        self.log: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(is_read=False)

    def do_GET(self) -> None:
        self._answer(is_read=True)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def _answer(self, is_read: bool) -> None:
        asked = self.headers.get("Range", "")
        self.server.log.append(f"{self.command} {self.path} {asked}".strip())
        fault = self.server.faults.pop(0) if is_read and self.server.faults else ""
        redirects = self.server.target and self.path == REDIRECT_PATH
        data = self.server.objects.get(self.path)
        if redirects or data is None or fault == BUSY:
            self.send_response(302 if redirects else 404 if data is None else 503)
            if redirects:
                self.send_header(self.server.redirects_by, self.server.target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == SLOW:
            time.sleep(0.5)
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        start = int(found[1]) if found and self.server.knows_ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.end_headers()
        if not is_read:
            return
        body = data[start:]
        if fault == SWAP:
            self.server.objects[self.path] = data[::-1]
        if fault in (CUT, SWAP):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


@contextmanager
def serve(knows_ranges: bool = True) -> Iterator[Server]:
    with Server(knows_ranges) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@contextmanager
def empty_memory() -> Iterator[Any]:
    """The store of this process, which belongs to this test alone."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def copy_tree(folder: Path, memory: Any, root: str) -> None:
    """Have the files of a folder in the store of this process, too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            memory.pipe_file(f"/{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


class Proxy(ThreadingHTTPServer):
    """Stands before an S3 server and does the same to the reads and writes of some objects.

    Args:
        target: Port of that server.

    Attributes:
        faults: By the end of a key, what happens to its next reads, in order.
        write_faults: The same of writes: 503, half of the bytes taken and no answer, half a second
            of silence, a bit of it turned over.
        written: Keys that were written, in order.
        swap: Replaces the object that is being read by another one.
    """

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = target
        self.faults: dict[str, list[str]] = {}
        self.write_faults: dict[str, list[str]] = {}
        self.written: list[str] = []
        self.swap: Callable[[], object] = lambda: None

    def find_fault(self, method: str, path: str) -> str:
        of_method = {"GET": self.faults, "PUT": self.write_faults}.get(method, {})
        for end, faults in of_method.items():
            if path.partition("?")[0].endswith(end) and faults:
                return faults.pop(0)
        return ""

    def forward(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection("127.0.0.1", self.target, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Forward(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"  # a client that asks before it sends a body is told to go on

    def _forward(self) -> None:
        fault = self.server.find_fault(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if self.command == "PUT" and fault == CUT:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fault == BUSY:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == SLOW:
            time.sleep(0.5)
        if fault == SPOIL:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        status, headers, data = self.server.forward(
            self.command, self.path, body, dict(self.headers.items())
        )
        if fault == SWAP:
            self.server.swap()
        if self.command == "PUT" and status == 200:
            self.server.written.append(self.path.partition("?")[0])
        self.send_response_only(status)
        told = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                told = value  # of a HEAD
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", told)
        self.end_headers()
        if fault in (CUT, SWAP):
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - http.server's names

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@contextmanager
def stand_before(port: int) -> Iterator[Proxy]:
    with Proxy(port) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        yield proxy
        proxy.shutdown()
