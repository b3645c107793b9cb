"""The queue of one client, all its files together, and the models that work on them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deepfake.web.engine import Engine, Model
from deepfake.web.openapi import ANSWER, MODEL, Operation, response
from deepfake.web.queue import ENDED
from deepfake.web.routes.file import EVIDENCE, send_evidence
from deepfake.web.views import describe_file

_EVERY_VERSION = -1
_QUEUE = {
    "type": "object",
    "properties": {
        "version": {"type": "integer"},
        "n_files": {"type": "integer"},
        "n_waiting": {"type": "integer"},
        "n_ahead": {"type": "integer"},
        "time_left_s": {"type": ["number", "null"]},
        "files": {"type": "array", "items": ANSWER},
    },
}
_SINCE = {
    "name": "since",
    "in": "query",
    "schema": {"type": "integer", "default": _EVERY_VERSION},
    "description": "The version of an earlier answer.",
}
_CANCELLED = {"type": "object", "properties": {"n_cancelled": {"type": "integer"}}}
_MODELS = {"type": "object", "properties": {"models": {"type": "array", "items": MODEL}}}


class QueueRoutes:
    """Routes of all files of one client.

    Args:
        engine: Works on them.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self._queue = engine, engine.store.queue

    def operations(self) -> list[Operation]:
        """What can be asked of all files together."""
        gone = response("Nothing is left of them.")
        changed = "Files that changed since then, or are worked on, without their faces."
        to_cancel = "Cancel all files that wait or are worked on"
        models = response("The first is the default.", _MODELS)
        return [
            Operation("DELETE", "/api/files", self.remove_all, "Remove all files", {204: gone}),
            Operation(
                "GET",
                "/api/queue",
                self.changes,
                "What has changed in the queue",
                {200: response(changed, _QUEUE)},
                (400,),
                query=(_SINCE,),
            ),
            Operation(
                "POST",
                "/api/cancel",
                self.cancel_all,
                to_cancel,
                {200: response("How many.", _CANCELLED)},
            ),
            Operation(
                "GET",
                "/api/evidence",
                self.evidence,
                "The evidence of all files",
                {200: EVIDENCE},
                (409,),
            ),
            Operation(
                "GET", "/api/models", self.models, "The models of this server", {200: models}
            ),
        ]

    async def remove_all(self, request: Request) -> Response:
        """Forget all files of this client."""
        for file in reversed(self._queue.list_files(request.scope["owner"])):
            await asyncio.to_thread(self.engine.remove, file.id)
        return Response(status_code=204)

    async def changes(self, request: Request) -> Response:
        """The files of this client that have changed since a version."""
        owner = request.scope["owner"]
        try:
            since = int(request.query_params.get("since", _EVERY_VERSION))
            if abs(since) >= 2**63:
                raise ValueError
        except ValueError:
            raise HTTPException(400, "since is a version, a whole number") from None
        version = self._queue.version()
        files = self._queue.list_files(owner, since)
        running = [file for file in self._queue.list_running(owner) if file not in files]
        mine, ahead = self._queue.count_ahead(owner)
        answer = {
            "version": version,
            "n_files": self._queue.count_files(owner),
            "n_waiting": mine,
            "n_ahead": ahead,
            "time_left_s": self.engine.time_left_s(owner),
            "files": [describe_file(f, self.engine, with_faces=False) for f in files + running],
        }
        return JSONResponse(answer)

    async def cancel_all(self, request: Request) -> Response:
        """Give up all files that have no answer yet."""
        files = self._queue.list_files(request.scope["owner"])
        waiting = [file.id for file in files if file.state not in ENDED]
        # Those that wait first: else one after the other would be begun.
        for file_id in reversed(waiting):
            await asyncio.to_thread(self.engine.cancel, file_id)
        return JSONResponse({"n_cancelled": len(waiting)})

    async def evidence(self, request: Request) -> Response:
        """The evidence of all files of this client as one zip."""
        return await send_evidence(self._queue.list_files(request.scope["owner"]), self.engine)

    async def models(self, request: Request) -> Response:
        """Which models there are."""
        return JSONResponse({"models": [_describe_model(m) for m in self.engine.models.values()]})


def _describe_model(model: Model) -> Mapping[str, Any]:
    return {"model": model.key, "name": model.name, "about": model.sentence}
