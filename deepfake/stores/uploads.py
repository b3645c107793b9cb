"""Puts files of this disk into stores: each whole or not at all, and compared with what came.

What lies there already with the same content is left as it is, so whoever was stopped goes on by
doing the same again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from deepfake.errors import JobError, MediaError, UsageError
from deepfake.stores import objects
from deepfake.stores.address import Address

_SCHEMES = ("s3", "gs", "az", "memory")
_AT_ONCE, _AHEAD = 16, 1024
_READ_BYTES = 2**20


class _Content(NamedTuple):
    """What a file holds; many stores tell the MD5 of an object, none a checksum that all have."""

    size: int
    md5: str
    sha256: str


class _Checksum:
    """Takes bytes as a file does, and keeps their SHA-256 alone."""

    def __init__(self) -> None:
        self._digest, self._size = hashlib.sha256(), 0

    def tell(self) -> int:
        return self._size

    def write(self, data: bytes | memoryview) -> int:
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def check_target(address: Address) -> None:
    """Refuse what nothing can be written to.

    Raises:
        UsageError: If it is in a store that is only read, or names no object or folder of it.
    """
    if address.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise UsageError(f"{address}: such stores are only read here; written to are {known}")
    if not address.name:
        raise UsageError(f"{address} is a whole store; name a file or folder in it")
    if address.name.startswith("."):
        raise UsageError(f"{address}: the name of what is written may not begin with a dot")


def upload_file(path: Path, address: Address) -> bool:
    """Have a file as an object; whether it was sent, for it may have been there already.

    Raises:
        JobError: If it cannot be written, or what lies there is not what was sent.
    """
    with _failure_of_the_job():
        return _put(path, address, objects.look(address))


def upload_folder(
    folder: Path,
    address: Address,
    names: Sequence[str],
    old: Collection[str] = (),
    advance: Callable[[int], None] = lambda n: None,
) -> int:
    """Have the files of a folder as objects below an address.

    Args:
        folder: Where the files lie.
        address: Of the folder in the store.
        names: Of the files, relative to the folder. The last one is sent when all others are there.
        old: Names that the folder had before; those it has no more are removed at the end.
        advance: Told how many more are there.

    Returns:
        How many were sent.

    Raises:
        JobError: If one cannot be written, or what lies there is not what was sent.
    """
    with _failure_of_the_job():
        there = dict(objects.list_folder(address))

        def put(name: str) -> bool:
            return _put(folder / name, address.below(name), there.get(name))

        n_sent = 0
        with ThreadPoolExecutor(_AT_ONCE, "deepfake-upload") as threads:
            for some in (*_split(names[:-1]), names[-1:]):
                for is_sent in threads.map(put, some):
                    n_sent += is_sent
                    advance(1)
        for name in sorted(there.keys() & set(old) - set(names)):
            _remove(address.below(name))
    return n_sent


def _split(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _AHEAD] for start in range(0, len(names), _AHEAD))


def _put(path: Path, address: Address, there: objects.Look | None) -> bool:
    content = _read(path)
    if there is not None and _holds(address, there, content):
        return False
    store = objects.open_store(address.scheme, False)

    def send() -> None:
        try:
            # In one request, or in parts that become an object when the last one has come.
            store.put_file(str(path), address.url)
        except FileNotFoundError as error:
            where = f"{address.scheme}://{address.host}"
            raise MediaError(address, "io_error", f"there is no {where}") from error
        now = objects.look(address)
        if now is None or not _holds(address, now, content):
            raise objects.CountError("what lies there is not what was sent")

    objects.insist(send, str(address))
    return True


def _holds(address: Address, there: objects.Look, content: _Content) -> bool:
    """Whether an object has this content; it is read where the store does not tell its MD5."""
    if there.is_folder or there.size != content.size:
        return False
    if there.md5 == content.md5:
        return True
    store, checksum = objects.open_store(address.scheme, False), _Checksum()
    read = partial(objects.read_ranges, store, address.url, content.size, checksum)
    try:
        objects.insist(read, str(address))
    except MediaError:  # a store that keeps checksums of its own does not give out what was spoiled
        return False
    return checksum.hexdigest() == content.sha256


def _read(path: Path) -> _Content:
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            md5.update(chunk)
            sha256.update(chunk)
            size += len(chunk)
    return _Content(size, md5.hexdigest(), sha256.hexdigest())


def _remove(address: Address) -> None:
    store = objects.open_store(address.scheme, False)
    objects.insist(partial(store.rm_file, address.url), str(address))


@contextmanager
def _failure_of_the_job() -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        raise JobError(
            f"{error.path} was not written ({error.detail}); what was made is kept on this disk: "
            "run the same command again to go on"
        ) from error
