"""Looks at objects of stores, lists them, and has them as files of this disk while they are read.

fsspec opens the stores, with whatever configuration and credentials of theirs it finds. What fails
in passing is tried again; what an object is when it has been read is compared with what it was when
the job was planned. Knows no photo and no job.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import multiprocessing
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from deepfake.errors import MediaError, UsageError, one_line
from deepfake.records import Source, StoredObject
from deepfake.stores.address import Address, RedirectError, hide_secrets

T = TypeVar("T")
MAX_BYTES = 8 * 2**30
"""Largest object that is fetched."""
RANGE_BYTES = 16 * 2**20
"""Of an object is asked for at once."""
TRIES = 5
PAUSE_S = 0.5
"""Before the second try; each further one is twice as long, and all are shorter by chance."""
CHANGED = "changed"
"""Code of the reason where an object is no longer what it was when the job was planned."""

_STAMPS = (
    "ETag", "etag", "md5Hash", "generation", "blob_id", "Last-Modified", "LastModified",
    "last_modified", "updated", "mtime", "created",
)  # fmt: skip
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
_CHUNK_BYTES = 2**20
_MD5 = re.compile("[0-9a-f]{32}")
_MISSING = "no such object"
_LOOKS_AT_ONCE, _LOOKS_AHEAD = 32, 4096
# Another time there may be more time, or memory; of an object, a server that answers, too.
_MAY_COME_BACK = ("timeout:", "crashed:")
_OBJECT_MAY_COME_BACK = ("io_error:", f"{CHANGED}:")
_FINAL = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, RedirectError,
)  # fmt: skip
_WAIT_AND_TRY = (408, 425, 429)  # of HTTP's 4xx; the others are answers


@dataclass(frozen=True, slots=True)
class Look:
    """What lies at an address: an object, or a folder of them.

    Args:
        is_folder: Whether it is a folder; it has neither size nor stamp.
        size: As of ``StoredObject``.
        stamp: As of ``StoredObject``.
        md5: Of its content, where the store tells that; else empty, or of something else.
    """

    is_folder: bool = False
    size: int | None = None
    stamp: str = ""
    md5: str = ""


class Sink(Protocol):
    """What takes the bytes of an object: a file, or what computes on them."""

    def tell(self) -> int:
        """How many it has taken."""
        ...

    def write(self, data: memoryview, /) -> int:
        """Take some; returns how many were taken."""
        ...


class CountError(OSError):
    """Fewer, more or other bytes came than were asked for, or sent."""


def look(address: Address, other_stores: bool = False) -> Look | None:
    """See what lies at an address; ``None`` if nothing does.

    Raises:
        MediaError: ``io_error`` if the store does not say.
        UsageError: If the package that speaks with such a store is missing.
    """
    store = open_store(address.scheme, other_stores)
    try:
        info = insist(partial(_ask, store, address.url), str(address))
    except MediaError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return _read_info(info)


def look_at_all(
    addresses: Iterable[Address], other_stores: bool = False
) -> Iterator[Look | MediaError]:
    """The same for many, in order, many at once; what a store does not say is told, not raised."""

    def see(address: Address) -> Look | MediaError:
        try:
            return look(address, other_stores) or MediaError(address, "io_error", _MISSING)
        except MediaError as error:
            return error

    waiting = iter(addresses)
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, "deepfake-look") as threads:
        while ahead := list(islice(waiting, _LOOKS_AHEAD)):
            yield from threads.map(see, ahead)


def list_folder(address: Address) -> Iterator[tuple[str, Look]]:
    """Every object below a folder, at any depth, with its key from there; in any order.

    Where there is no such folder, there is none.

    Raises:
        MediaError: ``io_error`` if the store does not say.
    """
    store = open_store(address.scheme, False)
    where = address.url.rstrip("/") if address.key else address.url
    less = {"expand_info": False} if address.scheme == "hf" else {}
    start = str(store._strip_protocol(where)).strip("/")
    try:
        found = insist(partial(store.find, where, detail=True, **less), str(address))
    except MediaError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return
        raise
    for path, info in found.items():
        whole = path.lstrip("/")
        name = whole.removeprefix(f"{start}/") if start else whole
        # What stands for a folder itself, as some programs write it, is no object of it.
        is_below = name != whole or not start
        if is_below and info.get("type") == "file" and name and not name.endswith("/"):
            yield name, _read_info(info)


def read_object(address: Address, other_stores: bool = False) -> bytes:
    """The whole content of a small object, such as a list.

    Raises:
        UsageError: If there is none.
        MediaError: ``io_error`` or ``too_large`` if it cannot be had, ``changed`` if it was
            replaced meanwhile.
    """
    with tempfile.TemporaryFile(buffering=0) as file:
        _fetch(_find(address, other_stores), str(address), file)
        file.seek(0)
        return file.read()


def download(address: Address, path: Path, seen: Look | None = None) -> None:
    """Copy an object into a new file.

    Args:
        address: Of the object.
        path: Of the file.
        seen: What it was when it was looked at; by default it is looked at now.

    Raises:
        UsageError: If there is none.
        MediaError: As of ``read_object``.
    """
    with path.open("xb", buffering=0) as file:
        copy_object(address, file, seen)


def copy_object(address: Address, file: BinaryIO, seen: Look | None = None) -> None:
    """Write an object into an unbuffered file, from its beginning; see ``download``."""
    stored = _find(address, False) if seen is None else _describe(address, seen, False)
    _fetch(stored, str(address), file)


def read_part(address: Address, offset: int, n_bytes: int) -> bytes:
    """Some bytes of an object.

    Raises:
        MediaError: ``io_error`` if it cannot be had, or ends before them.
    """
    store = open_store(address.scheme, False)

    def ask() -> bytes:
        data: bytes = store.cat_file(address.url, start=offset, end=offset + n_bytes)
        _check_count(len(data), n_bytes)
        return data

    return insist(ask, str(address))


def _find(address: Address, other_stores: bool) -> StoredObject:
    found = look(address, other_stores)
    if found is None or found.is_folder:
        raise UsageError(f"{address}: no such object")
    return _describe(address, found, other_stores)


def _describe(address: Address, seen: Look, other_stores: bool) -> StoredObject:
    return StoredObject(address.url, seen.size, seen.stamp, other_stores)


@contextmanager
def fetched(source: Source) -> Iterator[Source]:
    """A source as a file of this disk, for as long as it is read.

    What lies here already is left as it is. An object of a store is copied into a private file that
    has no name: it goes when it is closed, also with a process that is killed.

    Raises:
        MediaError: ``io_error`` if it cannot be had, ``changed`` if it is not what it was when the
            job was planned, ``too_large``.
    """
    if source.stored is None or source.problem is not None:
        yield source
        return
    with _private_file() as (file, path):
        _fetch(source.stored, source.name, file)
        yield replace(source, path=path, stored=None)


def may_come_back(source: Source, reason: str) -> bool:
    """Whether what was not read for this reason may be read another time."""
    is_object = source.stored is not None and reason.startswith(_OBJECT_MAY_COME_BACK)
    return is_object or reason.startswith(_MAY_COME_BACK)


@contextmanager
def _private_file() -> Iterator[tuple[BinaryIO, Path]]:
    # Unbuffered: what a full disk has not taken must not be tried once more when it is closed.
    with tempfile.TemporaryFile(prefix="deepfake-", buffering=0) as file:
        path = Path(f"/proc/self/fd/{file.fileno()}")
        if path.exists():
            yield file, path
            return
    # Without /proc it has a name.
    with tempfile.TemporaryDirectory(prefix="deepfake-") as folder:
        path = Path(folder) / "object"
        with path.open("w+b", buffering=0) as file:
            yield file, path


def _fetch(stored: StoredObject, name: str, file: BinaryIO) -> None:
    address = Address.parse(stored.url)
    if address.scheme == "memory" and multiprocessing.parent_process() is not None:
        raise MediaError(name, "io_error", "memory:// is of one process; use 0 workers")
    if (stored.size or 0) > MAX_BYTES:
        raise MediaError(name, "too_large", f"{stored.size} bytes; at most {MAX_BYTES} are fetched")
    store = open_store(address.scheme, stored.other_stores)

    def is_changed() -> bool:
        now = look(address, stored.other_stores)
        return now is None or (now.size, now.stamp) != (stored.size, stored.stamp)

    changed = "it is not what it was when the job was planned; run the same command again"

    def read_on() -> None:
        try:
            if address.is_web:
                _stream(store, stored, name, file)
            elif stored.size is None:
                raise MediaError(name, "io_error", "the store does not tell its size")
            else:
                read_ranges(store, stored.url, stored.size, file)
        except MediaError:
            raise
        except Exception as error:
            _refuse_full_disk(error, name, file)
            if is_changed():
                raise MediaError(name, CHANGED, changed) from error
            raise

    insist(read_on, name)
    if is_changed():
        raise MediaError(name, CHANGED, changed)


def read_ranges(store: Any, url: str, size: int, file: Sink) -> None:
    """Append what is missing, range by range; what has come stays where a later one fails."""
    while (start := file.tell()) < size:
        end = min(start + RANGE_BYTES, size)
        data = store.cat_file(url, start=start, end=end)
        _check_count(len(data), end - start)
        write_all(file, data)


def _check_count(came: int, asked: int) -> None:
    if came != asked:
        raise CountError(f"{came} bytes came, and {asked} were asked for")


def write_all(file: Sink, data: bytes) -> None:
    """Write bytes to what may take a part of them at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _stream(store: Any, stored: StoredObject, name: str, file: BinaryIO) -> None:
    """Append what is missing, as it comes; from the start where the server knows no ranges."""
    from fsspec.asyn import sync

    async def read() -> None:
        start = file.tell()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        session = await store.set_session()
        async with session.get(store.encode_url(stored.url), headers=headers) as answer:
            if answer.status == 404:
                raise FileNotFoundError(stored.url)
            answer.raise_for_status()
            begins = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if start and not (answer.status == 206 and begins):
                file.seek(0)
                file.truncate()
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                write_all(file, chunk)
                if file.tell() > MAX_BYTES:
                    detail = f"more than {MAX_BYTES} bytes came; no more are fetched"
                    raise MediaError(name, "too_large", detail)
                if stored.size is not None and file.tell() > stored.size:
                    break
        if stored.size is not None and file.tell() != stored.size:
            came = file.tell()
            file.seek(0)
            file.truncate()
            raise CountError(f"{came} bytes came, or more, of an object of {stored.size}")

    sync(store.loop, read)


def _refuse_full_disk(error: Exception, name: str, file: BinaryIO) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        if isinstance(file.name, str):
            detail = f"no space left for {file.name}"
        else:
            folder = tempfile.gettempdir()
            detail = f"no space left for a copy in {folder}; TMPDIR names another folder"
        raise MediaError(name, "io_error", detail) from error


def _ask(store: Any, url: str) -> dict[str, Any]:
    store.invalidate_cache()
    try:
        info: dict[str, Any] = store.info(url)
    except FileNotFoundError as error:
        # Of a web server, whatever went wrong is called so.
        if error.__cause__ is not None and getattr(error.__cause__, "status", 0) not in (404, 410):
            raise error.__cause__ from None
        raise
    return info


def _read_info(info: dict[str, Any]) -> Look:
    if info.get("type") == "directory":
        return Look(is_folder=True)
    seen = next((info[name] for name in _STAMPS if info.get(name)), "")
    if isinstance(seen, datetime):
        seen = seen.timestamp()
    digest = hashlib.sha1(str(seen).encode(), usedforsecurity=False).hexdigest()[:16]
    return Look(size=info.get("size"), stamp=digest, md5=_read_md5(info))


def _read_md5(info: dict[str, Any]) -> str:
    """MD5 of the content: of S3 the tag of what came in one request and is not encrypted by key."""
    if info.get("md5Hash"):
        return base64.b64decode(info["md5Hash"]).hex()
    tag = str(info.get("ETag") or "").strip('"')
    return tag if _MD5.fullmatch(tag) else ""


def insist(do: Callable[[], T], name: str) -> T:
    """Do it, some more times if it fails in passing.

    Raises:
        MediaError: ``io_error`` if it fails each time, or at once where that would be in vain; the
            words are the store's.
    """
    for left in reversed(range(TRIES)):
        try:
            return do()
        except MediaError:
            raise
        except Exception as error:  # each store's package has exceptions of its own
            told = one_line(hide_secrets(str(error))) or type(error).__name__
            if _is_final(error):
                is_missing = isinstance(error, FileNotFoundError)
                raise MediaError(name, "io_error", _MISSING if is_missing else told) from error
            if not left:
                detail = f"{told}; {TRIES} tries failed"
                raise MediaError(name, "io_error", detail) from error
        # An own generator: the one of the process belongs to its seed.
        pause = PAUSE_S * 2 ** (TRIES - 1 - left)
        time.sleep(pause * random.Random().uniform(0.5, 1))
    raise AssertionError  # the last try returns or raises


def _is_final(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status not in _WAIT_AND_TRY
    return isinstance(error, _FINAL) or "Credentials" in type(error).__name__


@cache
def open_store(scheme: str, other_stores: bool) -> Any:
    """What speaks with stores of a kind, for this process.

    Args:
        scheme: As of ``Address``.
        other_stores: As of ``Workers``.

    Raises:
        UsageError: If the package that speaks with such a store is missing, or refuses.
    """
    package = _PACKAGES.get(scheme, "'deepfake[remote]'")
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        import fsspec

        if scheme in ("http", "https"):
            from deepfake.stores.web import make_client

            options["get_client"] = partial(make_client, other_stores)
        if scheme == "hf":
            # Asked for less, its client lists the whole folder of each file that is read.
            options["expand_info"] = True
        if scheme == "s3":
            # Its client would try again by itself, unheard.
            retries = {"max_attempts": 1, "mode": "standard"}
            wanted = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options["config_kwargs"] = {
                "connect_timeout": 10, "read_timeout": 20, "retries": retries, **wanted,
            }  # fmt: skip
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// needs a package that is not installed: pip install {package} ({error})"
        ) from error
    except Exception as error:  # each package wants other settings, and refuses in its own words
        raise UsageError(
            f"{scheme}:// cannot be opened: {one_line(hide_secrets(str(error)))}"
        ) from error


if hasattr(os, "register_at_fork"):
    # The threads of a client do not come along into a child, such as a loader process.
    os.register_at_fork(after_in_child=open_store.cache_clear)
