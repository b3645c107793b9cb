"""A real server on a real socket, in a thread of the test, and clients that speak to it."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepfake.inference.predictor import Predictor
from deepfake.jobs.workers import Failure
from deepfake.media.inspection import FileFacts
from deepfake.records import Limits, PersonScore, Result, Source, Status, Workers
from deepfake.web import frames
from deepfake.web.access import Access
from deepfake.web.app import Server, make_app
from deepfake.web.engine import Engine
from deepfake.web.server import HttpServer, bind, name_models
from deepfake.web.store import Store
from deepfake.web.uploads import UploadLimits


class InlinePool:
    """Stands in for a pool of one process, which takes seconds to start: reads in the lane."""

    def __init__(self, make: Callable[[], Callable[[Source], FileFacts]], workers: Workers) -> None:
        self._read, self._cancelled = make(), set[str]()

    def start(self) -> None:
        pass

    def cancel(self, source_id: str) -> None:
        self._cancelled.add(source_id)

    def forget(self, source_id: str) -> None:
        self._cancelled.discard(source_id)

    def close(self) -> None:
        pass

    def run(
        self, sources: Iterator[Source], on_progress: Callable[..., None]
    ) -> Iterator[tuple[Source, FileFacts | Failure]]:
        for source in sources:
            if source.id in self._cancelled:
                yield source, Failure("cancelled: nobody waits for it any more")
                continue
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(frames, "tell_progress", partial(on_progress, source))
                facts = self._read(source)
            yield source, facts


TOKEN = "a-token-of-the-tests"
WAIT_S = 120.0  # never reached where all is well


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Somebody who asks: by token, by the cookie of a session, or as nobody."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def send(
        self, path: str, files: Sequence[tuple[str, bytes]], fields: Mapping[str, str] | None = None
    ) -> Answer:
        kind, body = encode_form(files, fields or {})
        return self.ask("POST", path, body, {"Content-Type": kind})

    def wait(self, file_id: str) -> Any:
        """Ask until a file has ended."""
        return wait_until(
            lambda: (
                (file := self.get(f"/api/files/{file_id}").json())["state"]
                in ("done", "failed", "cancelled")
                and file
            )
        )


def wait_until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.05)
    return value


def encode_form(
    files: Sequence[tuple[str, bytes]], fields: Mapping[str, str], name: str = "files"
) -> tuple[str, bytes]:
    """``multipart/form-data`` as browsers write it: its kind, and the body."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    for filename, data in files:
        shown = filename.replace('"', "%22")
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{shown}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        parts.append(head.encode() + data + b"\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join(
        parts
    ) + f"--{boundary}--\r\n".encode()


@dataclass
class Running:
    """A server that answers."""

    access: Access
    store: Store
    engine: Engine
    limits: UploadLimits

    @property
    def port(self) -> int:
        return self.access.port

    def nobody(self) -> Client:
        return Client(self.port)

    def script(self) -> Client:
        """Knows the secret."""
        return Client(self.port, {"Authorization": f"Bearer {self.access.secret}"})

    def browser(self) -> Client:
        """Has opened the page: a session of its own, and what browsers say of themselves."""
        answer = self.nobody().get(f"/?token={self.access.secret}")
        assert answer.status == 200
        cookie = answer.headers["set-cookie"].partition(";")[0]
        return Client(self.port, {"Cookie": cookie, "Origin": self.access.origin})

    def put(self, owner: str, name: str, p_fake: float | None, n_people: int = 0) -> str:
        """A file with this answer in the queue, as if it had been scored."""
        store, limits = self.store, (0.3, 0.7)
        incoming = store.incoming / name
        incoming.write_bytes(b"")
        file_id = store.add_upload(incoming, owner, name, "", next(iter(self.engine.models)))
        assert store.queue.take_next() is not None
        if p_fake is None:
            result = Result(name, Status.NO_FACE, "no face was found")
        else:
            verdict = Limits(0.3, (0.7,)).judge(p_fake, 1)
            people = tuple(PersonScore(n, p_fake, 1, 0, 0, 90, True) for n in range(n_people))
            result = Result(name, Status.OK, "", (), p_fake, verdict, limits, n_people, n_people)
            result = replace(result, people=people, n_people=n_people)
        store.queue.finish(file_id, asdict(result) | {"facts": asdict(FileFacts())}, "")
        return file_id

    def put_waiting(self, owner: str) -> str:
        """A file that nobody has told the lanes of."""
        incoming = self.store.incoming / "waits"
        incoming.write_bytes(b"")
        model = next(iter(self.engine.models))
        return self.store.add_upload(incoming, owner, "waits.png", "", model)


@contextmanager
def running(
    root: Path,
    checkpoints: Sequence[Path],
    *,
    limits: UploadLimits | None = None,
    allowed: Sequence[Path] = (),
    workers: Workers | None = None,
    host: str = "127.0.0.1",
    **access: Any,
) -> Iterator[Running]:
    """A server over one folder."""
    root.mkdir(mode=0o700, exist_ok=True)
    predictors = [
        Predictor.from_checkpoint(path, device="cpu", workers=workers or Workers(1, WAIT_S))
        for path in checkpoints
    ]
    models = name_models(predictors, lambda predictor: "Trained by a test; nothing was measured.")
    store = Store(root)
    engine = Engine(store, models)
    limits = limits or UploadLimits()
    with bind(host, 0) as listener:
        rules = Access(host, listener.getsockname()[1], **{"secret": TOKEN, **access})
        places = tuple(path.resolve() for path in allowed)
        started = threading.Event()
        server = HttpServer(make_app(Server(store, engine, rules, limits, places)), started.set)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            assert started.wait(WAIT_S)
            yield Running(rules, store, engine, limits)
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
            store.close()
        assert not thread.is_alive()
