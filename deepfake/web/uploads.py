"""Multipart bodies in, files on the disk out: streamed, hashed, within limits.

The name that a client gives to a file is only ever a text. Knows no queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

_BUFFER = 1 << 20  # written to the disk together
_FIELDS, _FIELD_BYTES = 16, 4096
_NAME_LENGTH = 1024
_SPARE_BYTES = 256 << 20  # that an upload leaves on the disk


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What a client may send.

    Args:
        file_bytes: Of one file.
        files: Files of one client that may be in the queue at once.
        idle_s: Longest pause of a client in the middle of an upload.
        total_s: Longest upload.
        at_once: Uploads that are received at once; more are refused for the moment.
    """

    file_bytes: int = 4 << 30
    files: int = 1000
    idle_s: float = 30.0
    total_s: float = 3600.0
    at_once: int = 128


class UploadError(Exception):
    """A body that is not taken.

    Args:
        status: Of HTTP.
        problem: What is wrong, and what to do.
    """

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status, self.problem = status, problem


@dataclass(slots=True)
class ReceivedFile:
    """A file of a body.

    Args:
        name: What the client calls it.
        path: Where its bytes lie.
        sha256: Of them.
    """

    name: str
    path: Path
    sha256: str


@dataclass(slots=True)
class Received:
    """Everything that a body held."""

    files: list[ReceivedFile] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    def discard(self) -> None:
        """Remove the files that nobody has moved away."""
        for file in self.files:
            file.path.unlink(missing_ok=True)


async def receive(
    content_type: str,
    content_length: int | None,
    stream: AsyncIterator[bytes],
    folder: Path,
    limits: UploadLimits,
    n_free: int,
) -> Received:
    """Take in a ``multipart/form-data`` body.

    Args:
        content_type: With its boundary.
        content_length: Of the body, where the client says so.
        stream: The body.
        folder: Where the files go, under names of ours; on the disk before this returns.
        limits: Of size and time.
        n_free: How many files may still come.

    Raises:
        UploadError: If the body is no such body, breaks off, or goes beyond a limit. Nothing of it
            is left.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise UploadError(415, "expected multipart/form-data with fields named files")
    _require_space(folder, content_length or 0)
    try:
        body = _Body(options[b"boundary"], folder, limits, n_free)
    except FormParserError as error:
        raise UploadError(400, f"the body is no multipart/form-data: {error}") from error
    try:
        async with asyncio.timeout(limits.total_s):
            while True:
                try:
                    async with asyncio.timeout(limits.idle_s):
                        chunk = await anext(stream, None)
                except TimeoutError:
                    raise UploadError(
                        408, f"nothing came for {limits.idle_s:g} s; send the files again"
                    ) from None
                if chunk is None:
                    break
                if body.feed(chunk):
                    await _to_its_end(body.write_out)
        await _to_its_end(body.finish)
        return body.received
    except TimeoutError:
        body.discard()
        raise UploadError(
            408, f"the upload took more than {limits.total_s:g} s; send fewer files at once"
        ) from None
    except MultipartParseError as error:
        body.discard()
        raise UploadError(400, f"the body is no multipart/form-data: {error}") from error
    except OSError as error:
        body.discard()
        raise UploadError(
            507, f"the upload cannot be kept ({error.strerror}); free some space"
        ) from error
    except BaseException:
        body.discard()
        raise


async def _to_its_end(write: Callable[[], None]) -> None:
    """Write in a thread, which nobody leaves behind: it would write what was discarded."""
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.gather(writing, return_exceptions=True)
        raise


def _require_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + _SPARE_BYTES > free:
        raise UploadError(
            507,
            f"{wanted:,} bytes do not fit on the server's disk ({free:,} are free); free some "
            "space there, or send less at once",
        )


class _Body:
    """The parser's callbacks; what they collect is written out now and then.

    Args:
        boundary: Between the parts.
        folder: Where files go.
        limits: Of size.
        n_free: How many files may come.
    """

    def __init__(self, boundary: bytes, folder: Path, limits: UploadLimits, n_free: int) -> None:
        self.received = Received()
        self._folder, self._limits, self._n_free = folder, limits, n_free
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._field: str | None = None
        self._text = b""
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._size = 0
        # What is to be written: bytes of the open file, or its end, or the next one.
        self._todo: list[tuple[str, Any]] = []
        self._n_waiting = 0
        self._has_ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> bool:
        """Parse a chunk; whether it is time to write."""
        self._parser.write(chunk)
        return self._n_waiting >= _BUFFER

    def write_out(self) -> None:
        """Do what is to be done on the disk; blocks.

        Raises:
            UploadError: If the disk fills up.
        """
        _require_space(self._folder, 0)
        todo, self._todo, self._n_waiting = self._todo, [], 0
        for what, value in todo:
            if what == "open":
                handle, name = tempfile.mkstemp(dir=self._folder)
                self._file, self._digest = os.fdopen(handle, "wb"), hashlib.sha256()
                self.received.files.append(ReceivedFile(value, Path(name), ""))
            elif what == "data":
                assert self._file is not None
                self._file.write(value)
                self._digest.update(value)
            else:
                assert self._file is not None
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._file = None
                self.received.files[-1].sha256 = self._digest.hexdigest()

    def finish(self) -> None:
        """Write the rest out.

        Raises:
            UploadError: If the body broke off.
        """
        self.write_out()
        if not self._has_ended:
            raise UploadError(400, "the body broke off before its end; send the files again")

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            self._file.close()
        self.received.discard()

    def _begin_part(self) -> None:
        self._headers.clear()
        self._field, self._text, self._size = None, b"", 0

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            self._field = name
            if len(self.received.fields) == _FIELDS:
                raise UploadError(400, f"more than {_FIELDS} fields that are no files")
            return
        if name != "files":
            raise UploadError(400, f"a file came in field {name!r}; expected files")
        if self._n_free == 0:
            raise UploadError(
                413,
                f"more than {self._limits.files} files of one client; remove some from the queue "
                "first",
            )
        self._n_free -= 1
        shown = options[b"filename"].decode("utf-8", "replace")[:_NAME_LENGTH]
        self._todo.append(("open", shown or "unnamed"))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is not None:
            self._text += data[start:end]
            if len(self._text) > _FIELD_BYTES:
                raise UploadError(413, f"field {self._field!r} is longer than {_FIELD_BYTES} bytes")
            return
        self._size += end - start
        if self._size > self._limits.file_bytes:
            raise UploadError(
                413,
                f"a file is larger than {self._limits.file_bytes:,} bytes, which this server takes "
                "at most (--max-file-size)",
            )
        self._todo.append(("data", data[start:end]))
        self._n_waiting += end - start

    def _end_part(self) -> None:
        if self._field is None:
            self._todo.append(("close", None))
        else:
            self.received.fields[self._field] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self._has_ended = True
