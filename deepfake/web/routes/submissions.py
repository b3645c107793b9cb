"""Files that come in: uploads, and paths of the server."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from deepfake.errors import UsageError
from deepfake.media.discovery import discover, display_name
from deepfake.tables import parse_json
from deepfake.web.completion import Completions
from deepfake.web.engine import Engine, Model
from deepfake.web.folder import PREFIX
from deepfake.web.openapi import ANSWER, BINARY, Operation, response
from deepfake.web.routes.file import describe_queued
from deepfake.web.uploads import Received, UploadError, UploadLimits, receive
from deepfake.web.views import describe_score

logger = logging.getLogger(__name__)
_JSON_BYTES = 1 << 16
_POSITION_DIGITS = 15  # what JavaScript counts exactly
_UPLOAD_ERRORS = (400, 408, 413, 415, 503, 507)
_FILES = {"type": "object", "properties": {"files": {"type": "array", "items": ANSWER}}}
_POSITION = {
    "type": "integer",
    "minimum": 0,
    "description": "Where the files are listed; by default behind those that came before.",
}


class SubmissionRoutes:
    """Routes that files come in by.

    Args:
        engine: Works on them.
        completions: Tells when it has.
        limits: What clients may send.
        allowed: Folders whose files may be named by their path.
    """

    def __init__(
        self,
        engine: Engine,
        completions: Completions,
        limits: UploadLimits,
        allowed: tuple[Path, ...],
    ) -> None:
        self.engine, self.store = engine, engine.store
        self.completions, self.limits, self.allowed = completions, limits, allowed
        self._uploads = 0

    def operations(self) -> list[Operation]:
        """How files come in."""
        queued = {202: response("The files, in the order they came, in state queued.", _FILES)}
        under = "It must lie under a folder given with --allow-folder"
        none = "; this server was given none."
        return [
            Operation(
                "POST",
                "/api/score",
                self.score,
                "Score files",
                {200: response("One object a file.", _FILES)},
                _UPLOAD_ERRORS,
                "Answers when all have their answer, in the order they came; nothing is kept.",
                self._describe_form(),
            ),
            Operation(
                "POST",
                "/api/files",
                self.add_files,
                "Queue files",
                queued,
                _UPLOAD_ERRORS,
                "Answers at once; ask for each file, or for the queue, later.",
                self._describe_form({"position": _POSITION}),
            ),
            Operation(
                "POST",
                "/api/paths",
                self.add_path,
                "Queue a file, or a folder, of the server",
                queued,
                (400, 403, 404, 413),
                under + ("." if self.allowed else none),
                self._describe_path(),
            ),
        ]

    async def score(self, request: Request) -> Response:
        """Score files and wait for the answers."""
        received = await self._receive(request, request.scope["owner"], ("model",))
        ids: list[str] = []
        try:
            self._enqueue(received, "", ids, is_kept=False)
            waiting = asyncio.gather(*map(self.completions.wait_for, ids))
            files = await _unless_gone(request, waiting)
            answer = {"files": [describe_score(file) for file in files]}
        finally:
            for file_id in ids:
                await asyncio.to_thread(self.engine.remove, file_id)
        return JSONResponse(answer)

    async def add_files(self, request: Request) -> Response:
        """Queue files and answer at once."""
        owner = request.scope["owner"]
        received = await self._receive(request, owner, ("model", "position"))
        ids: list[str] = []
        self._enqueue(received, owner, ids)
        return self._answer_queued(ids)

    async def add_path(self, request: Request) -> Response:
        """Queue a file, or all of a folder, that lies under an allowed folder."""
        text, key = await _read_path(request)
        model = self._choose_model(key)
        owner = request.scope["owner"]
        found = await asyncio.to_thread(find_allowed, text, self.allowed, self.store.root)
        free = self._count_free(owner)
        if len(found) > free:
            raise HTTPException(413, f"{len(found)} files, and {free} may still be queued")
        ids: list[str] = []
        with self._all_or_none(ids):
            for name, path in found:
                ids.append(self.store.add_path(path, owner, name, model.key))
        self.engine.wake()
        return self._answer_queued(ids)

    @contextmanager
    def _all_or_none(self, ids: list[str]) -> Iterator[None]:
        """Of a request that cannot be queued as a whole nothing stays."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            for file_id in ids:
                with suppress(OSError, sqlite3.Error):
                    self.store.remove(file_id)
            ids.clear()
            logger.warning("files could not be queued: %s", error)
            is_gone = isinstance(error, FileNotFoundError)
            problem = "a file has gone meanwhile" if is_gone else "no room to queue them"
            raise HTTPException(404 if is_gone else 507, f"{problem}; nothing was queued") from None

    async def _receive(self, request: Request, owner: str, fields: Sequence[str]) -> Received:
        if self._uploads >= self.limits.at_once:
            raise UploadError(503, "too many uploads at once; try again in a moment")
        self._uploads += 1
        try:
            length = request.headers.get("content-length", "")
            received = await receive(
                request.headers.get("content-type", ""),
                int(length) if length.isdecimal() else None,
                request.stream(),
                self.store.incoming,
                self.limits,
                self._count_free(owner),
            )
        finally:
            self._uploads -= 1
        try:
            # Others may have come while this one was received.
            if len(received.files) > (free := self._count_free(owner)):
                raise UploadError(413, f"{len(received.files)} files, and {free} may still come")
            self._check(received, fields)
        except (UploadError, HTTPException):
            received.discard()
            raise
        return received

    def _check(self, received: Received, fields: Sequence[str]) -> None:
        unknown = set(received.fields) - set(fields)
        if unknown:
            raise UploadError(400, f"unknown field {display_name(min(unknown))!r}")
        if not received.files:
            raise UploadError(400, "no file came; expected fields named files")
        self._choose_model(received.fields.get("model", ""))
        _read_position(received.fields)

    def _enqueue(
        self, received: Received, owner: str, ids: list[str], is_kept: bool = True
    ) -> None:
        """Queue what came, all of it or nothing; ``ids`` gets the id of each."""
        model = self._choose_model(received.fields.get("model", ""))
        position = _read_position(received.fields)
        try:
            with self._all_or_none(ids):
                for file in received.files:
                    ids.append(
                        self.store.add_upload(
                            file.path, owner, file.name, file.sha256, model.key, is_kept, position
                        )
                    )
        except HTTPException:
            received.discard()
            raise
        self.engine.wake()

    def _answer_queued(self, ids: Sequence[str]) -> Response:
        return JSONResponse({"files": [describe_queued(one, self.engine) for one in ids]}, 202)

    def _choose_model(self, word: str) -> Model:
        models = list(self.engine.models.values())
        found = [one for one in models if not word or word in (one.key, one.name)]
        if not found:
            there = ", ".join(f"{one.name} ({one.key})" for one in models)
            raise HTTPException(400, f"no model {display_name(word)}; there are {there}")
        return found[0]

    def _count_free(self, owner: str) -> int:
        return max(0, self.limits.files - self.store.queue.count_files(owner))

    # Their bodies, for the description

    def _describe_form(
        self, more: Mapping[str, dict[str, Any]] = MappingProxyType({})
    ) -> dict[str, Any]:
        one = BINARY | {"maxLength": self.limits.file_bytes}
        fields = {
            "files": {"type": "array", "maxItems": self.limits.files, "items": one},
            "model": self._describe_model(),
            **more,
        }
        schema = {"type": "object", "required": ["files"], "properties": fields}
        return {"multipart/form-data": {"schema": schema}}

    def _describe_path(self) -> dict[str, Any]:
        fields = {"path": {"type": "string"}, "model": self._describe_model()}
        schema = {"type": "object", "required": ["path"], "properties": fields}
        return {"application/json": {"schema": schema}}

    def _describe_model(self) -> dict[str, Any]:
        models = self.engine.models
        words = [*models, *(one.name for one in models.values())]
        return {"type": "string", "enum": words, "default": words[0]}


def _read_position(fields: Mapping[str, str]) -> int | None:
    text = fields.get("position", "")
    if text and not (text.isdecimal() and text.isascii() and len(text) <= _POSITION_DIGITS):
        raise HTTPException(
            400,
            f"position {display_name(text)!r}; expected a whole number of at most "
            f"{_POSITION_DIGITS} digits",
        )
    return int(text) if text else None


async def _read_path(request: Request) -> tuple[str, str]:
    """The path that a request names, and the key of its model; empty for the default."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _JSON_BYTES:
            raise HTTPException(413, f"the request has more than {_JSON_BYTES} bytes")
    try:
        asked = parse_json(body.decode())
        text, model = asked["path"], asked.get("model", "")
        if not isinstance(text, str) or not isinstance(model, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise HTTPException(400, 'expected JSON like {"path": "/folder/photo.jpg"}') from None
    return text, model


def find_allowed(text: str, allowed: tuple[Path, ...], private: Path) -> list[tuple[str, Path]]:
    """The files that a path from a client names: itself, or all photos and videos of the folder.

    Args:
        text: From the client.
        allowed: Folders, resolved; nothing outside of them is opened, whatever links say.
        private: Folder of a server, with what others have uploaded: not opened, wherever it lies,
            nor those of other servers.

    Raises:
        HTTPException: If the path leads out of them, or to nothing.
    """
    try:
        path = Path(text).resolve(strict=True)
        inside = any(path.is_relative_to(folder) for folder in allowed)
        inside = inside and not _is_private(path, private)
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
        found = [(s.name, s.path.resolve()) for s in sources if s.problem is None]
        open_ = [(name, file) for name, file in found if not _is_private(file, private)]
        if not open_:
            raise HTTPException(404, "nothing in it may be opened")
        return open_
    if not path.is_file():
        raise HTTPException(400, "this is neither a file nor a folder")
    return [(path.name, path)]


def _is_private(path: Path, private: Path) -> bool:
    if path.is_relative_to(private.resolve()):
        return True
    # Those of the servers of this user that keep nothing, by their name.
    temporary = Path(tempfile.gettempdir()).resolve()
    if not path.is_relative_to(temporary):
        return False
    return any(part.startswith(PREFIX) for part in path.relative_to(temporary).parts[:1])


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
