"""What is seen of one file; all of it was written by us, but for the upload itself."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from deepfake.web.answers import find_crop
from deepfake.web.frames import list_frames
from deepfake.web.openapi import BINARY, Operation, response
from deepfake.web.routes.file import ONE_FILE, find_file
from deepfake.web.store import Store
from deepfake.web.views import choose_thumbnail, find_media_type

_VIDEO = {"content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'"}


class MediaRoutes:
    """Routes of images and videos.

    Args:
        store: Has the files.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def operations(self) -> list[Operation]:
        """What is shown of one file."""
        one, image = ONE_FILE, {200: response("JPEG or PNG.", BINARY, "image/*")}
        video = {200: response("If browsers may play it.", BINARY, "video/*")}
        frames, crops = f"{one}/frames/{{index:int}}", f"{one}/crops/{{index:int}}/{{face:int}}"
        of_thumbnail = "The face that decided, or the first frame"
        of_frame = "A frame with a face, upright as it was searched"
        return [
            Operation("GET", f"{one}/thumbnail", self.thumbnail, of_thumbnail, image, (404,)),
            Operation("GET", frames, self.frame, of_frame, image, (404,)),
            Operation("GET", crops, self.crop, "A face as the network saw it", image, (404,)),
            Operation("GET", f"{one}/media", self.video, "The video itself", video, (404,)),
        ]

    async def thumbnail(self, request: Request) -> Response:
        """The face that decided, or the first frame."""
        file = find_file(request, self.store)
        return _send_image(choose_thumbnail(file, self.store.folder_of(file.id)))

    async def frame(self, request: Request) -> Response:
        """A kept frame."""
        folder = self.store.folder_of(find_file(request, self.store).id)
        kept = list_frames(folder).get(request.path_params["index"])
        return _send_image(None if kept is None else kept.path)

    async def crop(self, request: Request) -> Response:
        """A crop as the network saw it."""
        folder = self.store.folder_of(find_file(request, self.store).id)
        place = request.path_params
        return _send_image(find_crop(folder, place["index"], place["face"]))

    async def video(self, request: Request) -> Response:
        """The upload itself, if it is a video of a kind that browsers play; never as a page."""
        file = find_file(request, self.store)
        kind = find_media_type(file)
        if kind is None:
            raise HTTPException(404, "browsers play no such file; its scored frames are shown")
        return FileResponse(
            file.path, media_type=kind, headers=_VIDEO | {"content-disposition": "inline"}
        )


def _send_image(path: Path | None) -> Response:
    if path is None or not path.is_file():
        raise HTTPException(404, "there is no such image")
    return FileResponse(path, media_type="image/png" if path.suffix == ".png" else "image/jpeg")
