"""Pages for people, with their style and scripts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import deepfake.reports
import deepfake.web
from deepfake.media.discovery import display_name
from deepfake.web.pages import render_api, render_file, render_index
from deepfake.web.routes.file import find_file

if TYPE_CHECKING:
    from deepfake.web.app import Server

_STATIC = Path(deepfake.web.__file__).parent / "static"
_REPORT_STYLE = Path(deepfake.reports.__file__).parent / "templates" / "style.css"
_ASSETS = {
    "style.css": ("text/css", (_REPORT_STYLE, _STATIC / "style.css")),  # one look for all pages
    "table.js": ("text/javascript", (_STATIC / "table.js",)),
    "queue.js": ("text/javascript", (_STATIC / "queue.js",)),
    "icon.svg": ("image/svg+xml", (_STATIC / "icon.svg",)),
    "file.js": ("text/javascript", (_STATIC / "file.js",)),
}


class PageRoutes:
    """Routes of what people see.

    Args:
        server: What the pages are of.
        description: The API, as of ``make_openapi``.
    """

    def __init__(self, server: Server, description: dict[str, Any]) -> None:
        self.server, self.description = server, description

    def routes(self) -> list[Route]:
        """What a browser opens."""
        return [
            Route("/", self.index),
            Route("/file/{file_id}", self.file),
            Route("/api", self.api),
            Route("/openapi.json", self.openapi),
            Route("/static/{name}", self.static),
        ]

    async def index(self, request: Request) -> Response:
        """The page with the queue."""
        return HTMLResponse(render_index(self.server))

    async def file(self, request: Request) -> Response:
        """The page of one file."""
        file = find_file(request, self.server.store)
        page = await asyncio.to_thread(render_file, file, self.server)
        return HTMLResponse(page)

    async def api(self, request: Request) -> Response:
        """The API for people."""
        return HTMLResponse(render_api(self.description, self.server))

    async def openapi(self, request: Request) -> Response:
        """The API for machines."""
        return JSONResponse(self.description)

    async def static(self, request: Request) -> Response:
        """Style and scripts."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise HTTPException(404, f"there is no {display_name(name)}")
        kind, paths = _ASSETS[name]
        return Response("\n".join(path.read_text("utf-8") for path in paths), media_type=kind)
