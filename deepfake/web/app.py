"""The application: pages for people, an API for scripts, both over the same queue.

What they answer stands in ``routes``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from deepfake.errors import DeepfakeError
from deepfake.web.access import Access, Guard
from deepfake.web.completion import Completions
from deepfake.web.engine import Engine
from deepfake.web.openapi import make_openapi
from deepfake.web.routes.file import FileRoutes
from deepfake.web.routes.media import MediaRoutes
from deepfake.web.routes.pages import PageRoutes
from deepfake.web.routes.queue import QueueRoutes
from deepfake.web.routes.submissions import SubmissionRoutes
from deepfake.web.store import Store
from deepfake.web.uploads import UploadError, UploadLimits


@dataclass(frozen=True, slots=True)
class Server:
    """What all routes share.

    Args:
        store: The queue, and its files.
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
    engine, completions = server.engine, Completions(server.store.queue)
    operations = [
        *SubmissionRoutes(engine, completions, server.limits, server.allowed).operations(),
        *QueueRoutes(engine).operations(),
        *FileRoutes(engine).operations(),
        *MediaRoutes(server.store).operations(),
    ]
    pages = PageRoutes(server, make_openapi(operations))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        completions.listen()
        engine.on_ended = completions.announce
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    app = Starlette(
        routes=[*pages.routes(), *(operation.make_route() for operation in operations)],
        lifespan=lifespan,
        exception_handlers={
            HTTPException: _answer_http_error,
            UploadError: _answer_upload_error,
            DeepfakeError: _answer_error,
            ClientDisconnect: _answer_nobody,
        },
    )
    return Guard(app, server.access, server.store.sessions)


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
