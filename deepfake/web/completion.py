"""Waits in the event loop for files that lanes, which are other threads, work on."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from starlette.exceptions import HTTPException

from deepfake.web.queue import ENDED, Queue, StoredFile


class Completions:
    """Who waits for which file.

    Args:
        queue: Has them.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, list[asyncio.Future[None]]] = defaultdict(list)

    def listen(self) -> None:
        """Wake in the running loop, from now on, whoever waits."""
        self._loop = asyncio.get_running_loop()

    def announce(self, file_id: str) -> None:
        """Wake whoever waits for a file; called by the lanes."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, file_id)

    async def wait_for(self, file_id: str) -> StoredFile:
        """A file when it has ended.

        Raises:
            HTTPException: If it is removed meanwhile.
        """
        while True:
            future = asyncio.get_running_loop().create_future()
            self._waiting[file_id].append(future)
            file = self._queue.get(file_id)
            if file is None:
                raise HTTPException(410, "the file was removed while it waited")
            if file.state in ENDED:
                return file
            await future

    def _wake(self, file_id: str) -> None:
        for future in self._waiting.pop(file_id, []):
            if not future.done():
                future.set_result(None)
