"""The routes: pages for people, an API for scripts, both over the same queue.

Every request has passed the guard and knows whom it is for; nobody learns that a file of somebody
else exists. Decodes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import deepfake.reports
from deepfake.errors import DeepfakeError, UsageError
from deepfake.media.discovery import discover, display_name
from deepfake.web.access import Access, Guard
from deepfake.web.answers import explanation_path, find_crop
from deepfake.web.engine import Engine, Model
from deepfake.web.evidence import pack_evidence
from deepfake.web.frames import list_frames
from deepfake.web.openapi import make_openapi
from deepfake.web.pages import render_api, render_file, render_index
from deepfake.web.store import ENDED, State, Store, StoredFile
from deepfake.web.uploads import Received, UploadError, UploadLimits, receive
from deepfake.web.views import (
    choose_thumbnail,
    describe_file,
    describe_score,
    find_media_type,
)

_STATIC = Path(__file__).parent / "static"
_REPORT_STYLE = Path(deepfake.reports.__file__).parent / "templates" / "style.css"
_ASSETS = {
    "style.css": ("text/css", (_REPORT_STYLE, _STATIC / "style.css")),  # one look for all pages
    "table.js": ("text/javascript", (_STATIC / "table.js",)),
    "queue.js": ("text/javascript", (_STATIC / "queue.js",)),
    "icon.svg": ("image/svg+xml", (_STATIC / "icon.svg",)),
    "file.js": ("text/javascript", (_STATIC / "file.js",)),
}
_SANDBOXED = {
    # The page of an explanation is one file with its own style; it may do nothing but be looked at.
    "content-security-policy": "sandbox; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; frame-ancestors 'none'"
}
_JSON_BYTES = 1 << 16
_POSITION_DIGITS = 15  # what JavaScript counts exactly
_MEDIA = {"content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'"}


@dataclass(frozen=True, slots=True)
class Server:
    """What all routes share.

    Args:
        store: The queue.
        engine: Works on it.
        access: How the server is reached.
        limits: What clients may send.
        allowed: Folders whose files may be named by their path.
    """

    store: Store
    engine: Engine
    access: Access
    limits: UploadLimits
    allowed: tuple[Path, ...] = ()


def make_app(server: Server) -> Guard:
    """The whole application, behind its guard."""
    routes = _Routes(server)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        routes.loop = asyncio.get_running_loop()
        server.engine.on_ended = routes.announce
        server.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(server.engine.stop)

    app = Starlette(
        routes=routes.all(),
        lifespan=lifespan,
        exception_handlers={
            HTTPException: _answer_http_error,
            UploadError: _answer_upload_error,
            DeepfakeError: _answer_error,
            ClientDisconnect: _answer_nobody,
        },
    )
    return Guard(app, server.access, server.store)


class _Routes:
    """All of them, over one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.store, self.engine = server.store, server.engine
        self.loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._uploads = 0
        self._openapi = make_openapi(server.engine.models, server.limits, bool(server.allowed))

    def all(self) -> list[Route]:
        """What is answered; the OpenAPI description has the same."""
        one = "/api/files/{file_id}"
        return [
            Route("/", self.index),
            Route("/file/{file_id}", self.file_page),
            Route("/api", self.api_page),
            Route("/openapi.json", self.openapi),
            Route("/static/{name}", self.static),
            Route("/api/models", self.models),
            Route("/api/score", self.score, methods=["POST"]),
            Route("/api/queue", self.queue),
            Route("/api/cancel", self.cancel_all, methods=["POST"]),
            Route("/api/evidence", self.evidence_of_all),
            Route("/api/paths", self.add_path, methods=["POST"]),
            Route("/api/files", self.add_files, methods=["POST"]),
            Route("/api/files", self.remove_all, methods=["DELETE"]),
            Route(one, self.file),
            Route(one, self.remove, methods=["DELETE"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/evidence", self.evidence),
            Route(f"{one}/explanation", self.explanation),
            Route(f"{one}/explanation", self.explain, methods=["POST"]),
            Route(f"{one}/thumbnail", self.thumbnail),
            Route(f"{one}/media", self.media),
            Route(f"{one}/frames/{{index:int}}", self.frame),
            Route(f"{one}/crops/{{index:int}}/{{face:int}}", self.crop),
        ]

    # What is told from other threads

    def announce(self, file_id: str) -> None:
        """Wake whoever waits for a file; called by the lanes."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._wake, file_id)

    def _wake(self, file_id: str) -> None:
        for future in self._waiting.pop(file_id, []):
            if not future.done():
                future.set_result(None)

    async def _wait_for(self, file_id: str) -> StoredFile:
        while True:
            future = asyncio.get_running_loop().create_future()
            self._waiting[file_id].append(future)
            file = self.store.get(file_id)
            if file is None:
                raise HTTPException(410, "the file was removed while it waited")
            if file.state in ENDED:
                return file
            await future

    # Pages

    async def index(self, request: Request) -> Response:
        """The page with the queue."""
        return HTMLResponse(render_index(self.server))

    async def file_page(self, request: Request) -> Response:
        """The page of one file."""
        file = self._find(request)
        page = await asyncio.to_thread(render_file, file, self.server)
        return HTMLResponse(page)

    async def api_page(self, request: Request) -> Response:
        """The API for people."""
        return HTMLResponse(render_api(self._openapi, self.server))

    async def openapi(self, request: Request) -> Response:
        """The API for machines."""
        return JSONResponse(self._openapi)

    async def static(self, request: Request) -> Response:
        """Style and scripts."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise HTTPException(404, f"there is no {display_name(name)}")
        kind, paths = _ASSETS[name]
        return Response("\n".join(path.read_text("utf-8") for path in paths), media_type=kind)

    # API

    async def models(self, request: Request) -> Response:
        """Which models there are."""
        return JSONResponse({"models": [_describe_model(m) for m in self.engine.models.values()]})

    async def score(self, request: Request) -> Response:
        """Score files and wait for the answers."""
        received = await self._receive(request, request.scope["owner"], ("model",))
        ids = self._enqueue(received, "", is_kept=False)
        try:
            files = await _unless_gone(request, asyncio.gather(*map(self._wait_for, ids)))
            answer = {"files": [describe_score(file) for file in files]}
        finally:
            for file_id in ids:
                await asyncio.to_thread(self.engine.remove, file_id)
        return JSONResponse(answer)

    async def add_files(self, request: Request) -> Response:
        """Queue files and answer at once."""
        owner = request.scope["owner"]
        received = await self._receive(request, owner, ("model", "position"))
        ids = self._enqueue(received, owner)
        return JSONResponse({"files": [self._describe(file_id) for file_id in ids]}, 202)

    async def add_path(self, request: Request) -> Response:
        """Queue a file, or all of a folder, that lies under an allowed folder."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _JSON_BYTES:
                raise HTTPException(413, f"the request has more than {_JSON_BYTES} bytes")
        try:
            asked = json.loads(body)
            text, model = asked["path"], asked.get("model", "")
            if not isinstance(text, str) or not isinstance(model, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise HTTPException(400, 'expected JSON like {"path": "/folder/photo.jpg"}') from None
        chosen = self._choose_model(model)
        owner = request.scope["owner"]
        found = await asyncio.to_thread(find_allowed, text, self.server.allowed)
        free = self._count_free(owner)
        if len(found) > free:
            raise HTTPException(413, f"{len(found)} files, and {free} may still be queued")
        ids = [self.store.add_path(path, owner, name, chosen.key) for name, path in found]
        self.engine.wake()
        return JSONResponse({"files": [self._describe(file_id) for file_id in ids]}, 202)

    async def queue(self, request: Request) -> Response:
        """The files of this client that have changed since a version."""
        owner = request.scope["owner"]
        try:
            since = int(request.query_params.get("since", "-1"))
        except ValueError:
            raise HTTPException(400, "since is a version, a whole number") from None
        version = self.store.version()
        files = self.store.list_files(owner, since)
        running = [file for file in self.store.list_running(owner) if file not in files]
        mine, ahead = self.store.count_ahead(owner)
        answer = {
            "version": version,
            "n_files": self.store.count_files(owner),
            "n_waiting": mine,
            "n_ahead": ahead,
            "time_left_s": self.engine.time_left_s(owner),
            "files": [describe_file(f, self.engine, with_faces=False) for f in files + running],
        }
        return JSONResponse(answer)

    async def file(self, request: Request) -> Response:
        """One file with its answer."""
        return JSONResponse(describe_file(self._find(request), self.engine))

    async def cancel(self, request: Request) -> Response:
        """Give up one file."""
        file = self._find(request)
        await asyncio.to_thread(self.engine.cancel, file.id)
        return JSONResponse(self._describe(file.id))

    async def cancel_all(self, request: Request) -> Response:
        """Give up all files that have no answer yet."""
        files = self.store.list_files(request.scope["owner"])
        waiting = [file.id for file in files if file.state not in ENDED]
        # Those that wait first: else one after the other would be begun.
        for file_id in reversed(waiting):
            await asyncio.to_thread(self.engine.cancel, file_id)
        return JSONResponse({"n_cancelled": len(waiting)})

    async def remove(self, request: Request) -> Response:
        """Forget one file."""
        await asyncio.to_thread(self.engine.remove, self._find(request).id)
        return Response(status_code=204)

    async def remove_all(self, request: Request) -> Response:
        """Forget all files of this client."""
        for file in reversed(self.store.list_files(request.scope["owner"])):
            await asyncio.to_thread(self.engine.remove, file.id)
        return Response(status_code=204)

    async def explain(self, request: Request) -> Response:
        """Ask for the explanation of one file."""
        file = self._find(request)
        if file.answer is None or not file.answer["faces"]:
            raise HTTPException(409, "there is no score that could be explained")
        self.store.set_explanation(file.id, State.QUEUED)
        self.engine.wake()
        return JSONResponse(self._describe(file.id), 202)

    async def explanation(self, request: Request) -> Response:
        """The page of an explanation."""
        file = self._find(request)
        if file.explanation is not State.DONE:
            raise HTTPException(404, "it has no explanation yet; ask for one with POST")
        path = explanation_path(self.store.folder_of(file.id))
        return FileResponse(path, media_type="text/html", headers=_SANDBOXED)

    async def evidence(self, request: Request) -> Response:
        """The evidence of one file as a zip."""
        return await self._pack([self._find(request)])

    async def evidence_of_all(self, request: Request) -> Response:
        """The evidence of all files of this client as one zip."""
        return await self._pack(self.store.list_files(request.scope["owner"]))

    async def _pack(self, files: list[StoredFile]) -> Response:
        done = [file for file in files if file.state in ENDED]
        if not done:
            raise HTTPException(409, "no file has an answer yet")
        path = await asyncio.to_thread(pack_evidence, done, self.store, self.engine.models)
        return FileResponse(
            path,
            media_type="application/zip",
            filename="deepfake-evidence.zip",
            background=BackgroundTask(path.unlink, missing_ok=True),
        )

    # Images and media; all were written by us, but for the upload itself

    async def thumbnail(self, request: Request) -> Response:
        """The face that decided, or the first frame."""
        file = self._find(request)
        return _image(choose_thumbnail(file, self.store.folder_of(file.id)))

    async def frame(self, request: Request) -> Response:
        """A kept frame."""
        folder = self.store.folder_of(self._find(request).id)
        kept = list_frames(folder).get(request.path_params["index"])
        return _image(None if kept is None else kept.path)

    async def crop(self, request: Request) -> Response:
        """A crop as the network saw it."""
        folder = self.store.folder_of(self._find(request).id)
        place = request.path_params
        return _image(find_crop(folder, place["index"], place["face"]))

    async def media(self, request: Request) -> Response:
        """The upload itself, if it is a video of a kind that browsers play; never as a page."""
        file = self._find(request)
        kind = find_media_type(file)
        if kind is None:
            raise HTTPException(404, "browsers play no such file; its scored frames are shown")
        return FileResponse(
            file.path, media_type=kind, headers=_MEDIA | {"content-disposition": "inline"}
        )

    # What several of them do

    def _find(self, request: Request) -> StoredFile:
        file = self.store.get(request.path_params["file_id"])
        if file is None or file.owner != request.scope["owner"]:
            raise HTTPException(404, "there is no such file")
        return file

    def _describe(self, file_id: str) -> dict[str, Any]:
        file = self.store.get(file_id)
        if file is None:
            raise HTTPException(410, "the file was removed")
        return describe_file(file, self.engine, with_faces=False)

    def _choose_model(self, key: str) -> Model:
        models = self.engine.models
        if key and key not in models:
            raise HTTPException(400, f"no model {display_name(key)}; there are {', '.join(models)}")
        return models[key] if key else next(iter(models.values()))

    def _count_free(self, owner: str) -> int:
        return max(0, self.server.limits.files - self.store.count_files(owner))

    async def _receive(self, request: Request, owner: str, fields: Sequence[str]) -> Received:
        if self._uploads >= self.server.limits.at_once:
            raise UploadError(503, "too many uploads at once; try again in a moment")
        self._uploads += 1
        try:
            length = request.headers.get("content-length", "")
            received = await receive(
                request.headers.get("content-type", ""),
                int(length) if length.isdecimal() else None,
                request.stream(),
                self.store.incoming,
                self.server.limits,
                self._count_free(owner),
            )
        finally:
            self._uploads -= 1
        try:
            unknown = set(received.fields) - set(fields)
            if unknown:
                raise UploadError(400, f"unknown field {display_name(min(unknown))!r}")
            if not received.files:
                raise UploadError(400, "no file came; expected fields named files")
            self._choose_model(received.fields.get("model", ""))
            _read_position(received.fields)
        except (UploadError, HTTPException):
            received.discard()
            raise
        return received

    def _enqueue(self, received: Received, owner: str, is_kept: bool = True) -> list[str]:
        model = self._choose_model(received.fields.get("model", ""))
        position = _read_position(received.fields)
        ids = [
            self.store.add_upload(f.path, owner, f.name, f.sha256, model.key, is_kept, position)
            for f in received.files
        ]
        self.engine.wake()
        return ids


def _read_position(fields: Mapping[str, str]) -> int | None:
    text = fields.get("position", "")
    if text and not (text.isdecimal() and text.isascii() and len(text) <= _POSITION_DIGITS):
        raise HTTPException(
            400,
            f"position {display_name(text)!r}; expected a whole number of at most "
            f"{_POSITION_DIGITS} digits",
        )
    return int(text) if text else None


def find_allowed(text: str, allowed: tuple[Path, ...]) -> list[tuple[str, Path]]:
    """The files that a path from a client names: itself, or all photos and videos of the folder.

    Args:
        text: From the client.
        allowed: Folders, resolved; nothing outside of them is opened, whatever links say.

    Raises:
        HTTPException: If the path leads out of them, or to nothing.
    """
    try:
        path = Path(text).resolve(strict=True)
        inside = any(path.is_relative_to(folder) for folder in allowed)
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        # The same words for what is missing: nobody shall learn what lies elsewhere.
        where = ", ".join(map(str, allowed)) or "none: start the server with --allow-folder"
        raise HTTPException(403, f"no file or folder that may be opened; allowed is {where}")
    try:
        sources = discover(path).sources if path.is_dir() else ()
    except UsageError as error:
        raise HTTPException(404, str(error)) from None
    if path.is_dir():
        return [(s.name, s.path.resolve()) for s in sources if s.problem is None]
    if not path.is_file():
        raise HTTPException(400, "this is neither a file nor a folder")
    return [(path.name, path)]


async def _unless_gone(request: Request, work: asyncio.Future[Any]) -> Any:
    """Wait for work, unless the client goes away."""

    async def hear() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.ensure_future(hear())
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.gather(gone, work, return_exceptions=True)


def _image(path: Path | None) -> Response:
    if path is None or not path.is_file():
        raise HTTPException(404, "there is no such image")
    return FileResponse(path, media_type="image/png" if path.suffix == ".png" else "image/jpeg")


def _describe_model(model: Model) -> Mapping[str, str]:
    return {"model": model.key, "name": model.name, "about": model.sentence}


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def _answer_upload_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UploadError)
    # The rest of the body is not read: the connection cannot serve another request.
    return JSONResponse({"error": error.problem}, error.status, {"connection": "close"})


def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client has gone


def _answer_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 500)
