"""One file of the queue: its answer, its evidence, its explanation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from deepfake.web.answers import explanation_path
from deepfake.web.engine import Engine
from deepfake.web.evidence import pack_evidence
from deepfake.web.openapi import ANSWER, BINARY, Operation, response
from deepfake.web.queue import ENDED, State, StoredFile
from deepfake.web.store import Store
from deepfake.web.views import describe_file

ONE_FILE = "/api/files/{file_id}"
EVIDENCE = response("Tables, page, crops, hashes.", BINARY, "application/zip")
_SANDBOXED = {
    # The page of an explanation is one file with its own style; it may do nothing but be looked at.
    "content-security-policy": "sandbox; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; frame-ancestors 'none'"
}


class FileRoutes:
    """Routes of one file.

    Args:
        engine: Works on it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.store = engine, engine.store

    def operations(self) -> list[Operation]:
        """What can be asked of one file."""
        one, state = ONE_FILE, response("Its state.", ANSWER)
        asked = response("Its state; explanation says how far it is.", ANSWER)
        page = response("One page that needs nothing else.", {"type": "string"}, "text/html")
        answer, gone = response("Its state and answer.", ANSWER), response("Nothing is left.")
        return [
            Operation("GET", one, self.file, "One file", {200: answer}, (404,)),
            Operation("DELETE", one, self.remove, "Remove one file", {204: gone}, (404,)),
            Operation(
                "POST", f"{one}/cancel", self.cancel, "Cancel one file", {200: state}, (404,)
            ),
            Operation(
                "GET",
                f"{one}/evidence",
                self.evidence,
                "The evidence of one file",
                {200: EVIDENCE},
                (404, 409),
            ),
            Operation(
                "POST",
                f"{one}/explanation",
                self.explain,
                "Ask for an explanation",
                {202: asked},
                (404, 409),
                "Saliency maps of the most suspicious faces, and whether they pass their check.",
            ),
            Operation(
                "GET",
                f"{one}/explanation",
                self.explanation,
                "The page of the explanation",
                {200: page},
                (404,),
            ),
        ]

    async def file(self, request: Request) -> Response:
        """One file with its answer."""
        return JSONResponse(describe_file(find_file(request, self.store), self.engine))

    async def remove(self, request: Request) -> Response:
        """Forget one file."""
        await asyncio.to_thread(self.engine.remove, find_file(request, self.store).id)
        return Response(status_code=204)

    async def cancel(self, request: Request) -> Response:
        """Give up one file."""
        file = find_file(request, self.store)
        await asyncio.to_thread(self.engine.cancel, file.id)
        return JSONResponse(describe_queued(file.id, self.engine))

    async def evidence(self, request: Request) -> Response:
        """The evidence of one file as a zip."""
        return await send_evidence([find_file(request, self.store)], self.engine)

    async def explain(self, request: Request) -> Response:
        """Ask for the explanation of one file."""
        file = find_file(request, self.store)
        if file.answer is None or not file.answer["faces"]:
            raise HTTPException(409, "there is no score that could be explained")
        self.store.queue.set_explanation(file.id, State.QUEUED)
        self.engine.wake()
        return JSONResponse(describe_queued(file.id, self.engine), 202)

    async def explanation(self, request: Request) -> Response:
        """The page of an explanation."""
        file = find_file(request, self.store)
        if file.explanation is not State.DONE:
            raise HTTPException(404, "it has no explanation yet; ask for one with POST")
        path = explanation_path(self.store.folder_of(file.id))
        return FileResponse(path, media_type="text/html", headers=_SANDBOXED)


def find_file(request: Request, store: Store) -> StoredFile:
    """The file that a request names, if it belongs to who asks.

    Raises:
        HTTPException: If there is none, or it is somebody else's: both look the same.
    """
    file = store.queue.get(request.path_params["file_id"])
    if file is None or file.owner != request.scope["owner"]:
        raise HTTPException(404, "there is no such file")
    return file


def describe_queued(file_id: str, engine: Engine) -> dict[str, Any]:
    """A file of the queue as it is by now, without its faces.

    Raises:
        HTTPException: If it was removed meanwhile.
    """
    file = engine.store.queue.get(file_id)
    if file is None:
        raise HTTPException(410, "the file was removed")
    return describe_file(file, engine, with_faces=False)


async def send_evidence(files: Sequence[StoredFile], engine: Engine) -> Response:
    """The evidence of those files that have ended, as one zip.

    Raises:
        HTTPException: If none has.
    """
    done = [file for file in files if file.state in ENDED]
    if not done:
        raise HTTPException(409, "no file has an answer yet")
    path = await asyncio.to_thread(pack_evidence, done, engine.store, engine.models)
    return FileResponse(
        path,
        media_type="application/zip",
        filename="deepfake-evidence.zip",
        background=BackgroundTask(path.unlink, missing_ok=True),
    )
