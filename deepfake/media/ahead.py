"""Decodes the next frames of a clip while its reader works on those that it has."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Semaphore, Thread

from deepfake.records import Frame


@contextmanager
def reading_ahead(
    clip: Iterator[Frame], max_frames: int, max_pixels: int
) -> Generator[Iterator[Frame]]:
    """The same frames, and at their end the same exception, decoded in a thread of their own.

    Decoders and networks both let other threads run, so that one clip keeps two cores busy. A clip
    of a single frame starts no thread. On leaving, the thread has ended: only then may the clip be
    closed.

    Args:
        clip: Where the frames come from; nothing else may ask it for any meanwhile.
        max_frames: At most so many wait to be read, 1 or more.
        max_pixels: At most so many pixels do, but for a frame that alone has more.
    """
    ahead = _Ahead(clip, max_frames, max_pixels)
    try:
        yield ahead.frames()
    finally:
        ahead.stop()


class _Ahead:
    def __init__(self, clip: Iterator[Frame], max_frames: int, max_pixels: int) -> None:
        self._clip = clip
        self._max_frames, self._max_pixels = max_frames, max_pixels
        self._ready: SimpleQueue[Frame | BaseException] = SimpleQueue()
        self._room = Semaphore(0)
        self._is_stopped = False
        self._thread: Thread | None = None

    def frames(self) -> Iterator[Frame]:
        # A photo is a clip of one frame: most ends show with the second one.
        for n_read, frame in enumerate(self._clip, start=1):
            yield frame
            if n_read == 2:
                break
        else:
            return
        pixels = frame.image.shape[0] * frame.image.shape[1]
        n_ahead = max(1, min(self._max_frames, self._max_pixels // pixels))
        self._room.release(n_ahead)
        self._thread = Thread(target=self._decode, name="deepfake-decode", daemon=True)
        self._thread.start()
        while True:
            item = self._ready.get()
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            self._room.release()

    def _decode(self) -> None:
        try:
            while True:
                self._room.acquire()
                if self._is_stopped:
                    return
                self._ready.put(next(self._clip))
        except BaseException as error:  # noqa: BLE001 - the reader raises it
            self._ready.put(error)

    def stop(self) -> None:
        """Let no more frames be decoded, and wait for the one that is."""
        self._is_stopped = True
        self._room.release()
        if self._thread is not None:
            self._thread.join()
