"""How crops lie on disk: each as a file of its own, or those of a shard together in a tar.

A crop has one name in both, ``shards/00000/crops/KEY.jpg``: it is that file, or the member
``KEY.jpg`` of ``shards/00000/crops.tar``. So both have the same manifest, byte for byte, and
whatever is trained or scored by it is the same.

    shards/00000/                       shards/00000/
        crops/                              crops.tar       KEY.jpg, KEY.json, KEY.jpg, KEY.json ...
            KEY.jpg                         crops.csv       where in it each crop lies, its checksum
        manifest.csv, sources.csv           manifest.csv, sources.csv
        shard.json                          shard.json

The tar is as WebDataset wants it: members that follow each other under one key are a sample, the
crop and its row of the manifest. It is not compressed, so that a crop can be read without the
others. Nobody else knows which of the two a folder is.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, Protocol

from deepfake.dataset.crop_index import (
    CROPS_FOLDER,
    INDEX_FILE,
    TAR_FILE,
    KnownCrops,
    Place,
    format_index,
    parse_digest,
    read_index,
    shard_of,
    tar_of,
)
from deepfake.dataset.crop_mirror import find_mirror
from deepfake.dataset.manifest import STORE, read_job
from deepfake.dataset.rows import CropRow, describe_crop
from deepfake.errors import JobError, UsageError
from deepfake.jobs.folder import RESULTS, SHARDS_FOLDER, hash_file, link_or_copy, read_seal
from deepfake.storage import Confinement

StoreKind = Literal["folder", "tar"]
_KINDS = ("folder", "tar")
_MOST_OPEN = 32  # of a store; a process has a few of them, and may have 256 files open at least
_TAR_BLOCK = 512


def name_crop(shard: int, file: str) -> str:
    """A crop of a shard, as the manifest calls it."""
    return f"{SHARDS_FOLDER}/{shard:05d}/{CROPS_FOLDER}/{file}"


# Writing


class CropWriter(Protocol):
    """Stores the crops of one shard, in the order of their rows."""

    def add(self, row: CropRow, encoded: bytes) -> None:
        """Store a crop."""
        ...

    def keep(self, row: CropRow, shard: Path) -> None:
        """Store a crop as another shard of the same store holds it, by the file name in its row."""
        ...


@contextmanager
def write_crops(shard: Path, store: StoreKind) -> Iterator[CropWriter]:
    """Store the crops of a shard in its folder, which holds none yet.

    Raises:
        UsageError: If tars cannot be read on this system.
    """
    if store == "folder":
        (shard / CROPS_FOLDER).mkdir()
        yield _FileWriter(shard / CROPS_FOLDER)
        return
    _require_pread()
    index: list[tuple[str, Place]] = []
    with (shard / TAR_FILE).open("wb") as file:
        yield _TarWriter(file, index)
        file.write(bytes(2 * _TAR_BLOCK))  # the end of an archive
    with (shard / INDEX_FILE).open("w", encoding="utf-8", newline="\n") as table:
        table.writelines(format_index(index))


class _FileWriter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, row: CropRow, encoded: bytes) -> None:
        (self._folder / _file_name(row)).write_bytes(encoded)

    def keep(self, row: CropRow, shard: Path) -> None:
        name = _file_name(row)
        link_or_copy(shard / CROPS_FOLDER / name, self._folder / name)


class _TarWriter:
    def __init__(self, file: BinaryIO, index: list[tuple[str, Place]]) -> None:
        self._file, self._index = file, index
        self._kept: dict[Path, dict[str, Place]] = {}

    def add(self, row: CropRow, encoded: bytes) -> None:
        name = _file_name(row)
        offset = self._append(name, encoded)
        digest = hashlib.sha256(encoded).digest()
        self._index.append((name, Place(offset, len(encoded), digest)))
        text = json.dumps(describe_crop(row))
        self._append(f"{PurePosixPath(name).stem}.json", text.encode())

    def keep(self, row: CropRow, shard: Path) -> None:
        if shard not in self._kept:
            self._kept[shard] = read_index(shard)
        name = _file_name(row)
        place = self._kept[shard].get(name)
        if place is None:
            raise UsageError(f"{shard / INDEX_FILE} does not list {name}; was the table edited?")
        # Opened for each: a block may keep crops of as many shards as it has inputs.
        self.add(row, _OpenTar(shard / TAR_FILE).read(place.offset, place.n_bytes))

    def _append(self, name: str, data: bytes) -> int:
        """Write a member; where its content begins."""
        # As it is born: time, owner and group are 0, the mode is 644.
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        offset = self._file.tell()
        self._file.write(data + bytes(-len(data) % _TAR_BLOCK))
        return offset


def _file_name(row: CropRow) -> str:
    return PurePosixPath(row.crop).name


# Reading


class CropStore:
    """Crops of a finished crop folder, read in any order, by any thread and any process.

    Args:
        root: The folder.
        crops: Which ones, as its manifest calls them.
        allow_damage: Take a shard that has lost its checksums, or the list of what its tar holds,
            for one of unknown crops, instead of refusing it.

    Raises:
        UsageError: If there is no such store, it cannot be read on this system, or a shard is
            damaged.
    """

    def __init__(self, root: Path, crops: Iterable[str], allow_damage: bool = False) -> None:
        job = read_job(root)
        kind = job.get(STORE, "folder")
        if kind not in _KINDS:
            raise UsageError(
                f"{root} keeps its crops in {STORE}={kind!r}; this version reads "
                f"{' and '.join(_KINDS)}"
            )
        if kind == "tar":
            _require_pread()
        self._root, self._inside = root, Confinement(root)
        self._tars, self._mirror = _OpenTars(self._inside), find_mirror(root)
        self._is_of_files = kind == "folder"
        self._has_index = not self._is_of_files or self._mirror is not None
        # Without results: made before there were checksums.
        has_checksums = self._has_index or RESULTS in job
        shards = sorted({shard_of(crop) for crop in crops}) if has_checksums else []
        self._known = KnownCrops(self._learn_all(shards, allow_damage))

    def read(self, crop: str) -> bytes:
        """The bytes of a crop, as it was written.

        Raises:
            JobError: If they cannot be read, or are others.
            UsageError: If its name, or a link, leads out of the folder.
        """
        path = self._mirror.address.below(crop) if self._mirror else self._root / crop
        try:
            data = self.read_unchecked(crop)
        except OSError as error:
            raise JobError(
                f"crop {path} cannot be read ({error}); run the crop command again to mend it"
            ) from error
        known = self._known.find(crop)
        if known is not None and hashlib.sha256(data).digest() != known.sha256:
            raise JobError(
                f"crop {path} is not as it was written (its checksum is another); run the crop "
                "command again to mend it"
            )
        return data

    def read_unchecked(self, crop: str) -> bytes:
        """The bytes of a crop as they lie there, whatever was written.

        Raises:
            OSError: If they cannot be read.
            JobError: If a store does not give them.
            UsageError: If its name, or a link, leads out of the folder.
        """
        if not self._has_index:
            return self._inside.path_of(crop).read_bytes()
        known = self._known.find(crop)
        if known is None:
            raise OSError(f"{shard_of(crop)}/{INDEX_FILE} does not list it, or is damaged")
        if self._mirror is not None:
            return self._mirror.read(crop, known)
        return self._tars.read(tar_of(crop), known.offset, known.n_bytes)

    def digest(self, crop: str) -> str:
        """SHA-256 of a crop as it was written, or, where nobody knows, as it is.

        Empty where it cannot be read.
        """
        known = self._known.find(crop)
        if known is not None:
            return known.sha256.hex()
        try:
            return hashlib.sha256(self.read_unchecked(crop)).hexdigest()
        except OSError:
            return ""

    def file_of(self, crop: str) -> Path:
        """The file on the disk that holds a crop."""
        return self._root / (crop if self._is_of_files else tar_of(crop))

    def _learn_all(
        self, shards: Iterable[str], allow_damage: bool
    ) -> Iterator[tuple[str, Mapping[str, Place]]]:
        for shard in shards:
            try:
                yield shard, self._learn(shard)
            except UsageError:
                if not allow_damage:
                    raise

    def _learn(self, shard: str) -> Mapping[str, Place]:
        """What a shard says of its crops."""
        folder = self._root / shard
        seal = read_seal(folder)
        if seal is None:
            raise UsageError(f"{folder} is damaged; run the crop command again to mend it")
        if not self._has_index:
            return {
                PurePosixPath(name).name: Place(0, 0, parse_digest(written))
                for name, written in seal.files.items()
                if name.startswith(f"{CROPS_FOLDER}/")
            }
        path = self._inside.path_of(f"{shard}/{INDEX_FILE}")
        # Of files in a store it is the mirror's own.
        if not self._is_of_files and hash_file(path) != seal.files.get(INDEX_FILE):
            raise UsageError(f"{path} is damaged; run the crop command again to mend it")
        return read_index(folder)


def read_if_whole(root: Path, crop: str) -> bytes | None:
    """A crop that is only shown; ``None`` if it, or the folder, is gone or damaged."""
    try:
        return CropStore(root, [crop]).read(crop)
    except (JobError, UsageError):
        return None


class _OpenTars:
    """Tars of a folder that are read at random; of many, those that were used last stay open.

    ``pread`` moves no position that threads, or a process and its forks, would share.
    """

    def __init__(self, inside: Confinement) -> None:
        self._inside = inside
        # Not of a bound method, or a cycle would keep files open until it is collected.
        self._open = lru_cache(_MOST_OPEN)(partial(_open_tar, inside))

    def __reduce__(self) -> tuple[Any, ...]:
        """For loader processes that are not forked, which open the files themselves."""
        return _OpenTars, (self._inside,)

    def read(self, name: str, offset: int, n_bytes: int) -> bytes:
        """Some bytes of a tar.

        Raises:
            OSError: If it cannot be read, or ends before them.
            UsageError: If it is a link that leads out of the folder, or no file.
        """
        return self._open(name).read(offset, n_bytes)


class _OpenTar:
    """An open file; it is closed when nobody holds it any more, be it the cache or a thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._n_bytes = os.fstat(self._descriptor).st_size

    def read(self, offset: int, n_bytes: int) -> bytes:
        if offset + n_bytes > self._n_bytes:  # before memory is taken for whatever is claimed
            raise OSError(f"{self._path} ends at {self._n_bytes}, before {offset + n_bytes}")
        data = b""
        while len(data) < n_bytes:
            more = os.pread(self._descriptor, n_bytes - len(data), offset + len(data))
            if not more:
                raise OSError(f"{self._path} was cut while it was read")
            data += more
        return data


def _require_pread() -> None:
    if not hasattr(os, "pread"):
        raise UsageError(
            "tars of crops are read by pread, which this system does not have; crop into a folder "
            "of files: --store folder"
        )


def _open_tar(inside: Confinement, name: str) -> _OpenTar:
    return _OpenTar(inside.path_of(name))
