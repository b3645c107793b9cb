"""Crop folders in a store, read as if they lay on this disk.

Such a folder has a mirror in a folder that the user names, the cache. Its tables, and what its
shards say of themselves, are copied when it is opened; face meshes when they are asked for; the
crops of a shard when the first of them is, as long as the cache has room. A crop whose shard finds
none is read by itself. So the bytes are the same, whatever the cache holds.

    cache/
        crops-1f0c52ab93d7/     the mirror: a crop folder without its crops
            job.json, manifest.csv, sources.csv, shards/00000/shard.json, crops.csv ...
            .objects.json       what the store said of these objects, their checksums
        shards/                 of each shard its tar, or one file of all its crops

Only a store that this process was told of is asked: what lies in a folder opens nothing.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from deepfake.dataset.crop_index import (
    CROPS_FOLDER,
    INDEX_FILE,
    TAR_FILE,
    Place,
    format_index,
    parse_digest,
    read_index,
    shard_of,
    tar_of,
)
from deepfake.dataset.manifest import JOB_FILE, STORE, TABLES, is_crop_folder, read_job
from deepfake.errors import MediaError, UsageError
from deepfake.jobs.folder import SEAL_FILE, SHARDS_FOLDER, hash_file, read_seal
from deepfake.jobs.mirroring import (
    copy_changed,
    copy_object_to,
    name_mirror,
    store_must_answer,
)
from deepfake.storage import alone, no_space_is_an_error, write_atomic
from deepfake.stores.address import Address, is_url
from deepfake.stores.objects import (
    Look,
    copy_object,
    list_folder,
    look,
    read_part,
    write_all,
)

if TYPE_CHECKING:
    from deepfake.dataset.object_cache import ObjectCache

logger = logging.getLogger(__name__)
CACHE_GB = 100.0
"""Of crops in a cache, unless another number is given."""
_COPIES_FOLDER = "shards"
_AT_ONCE = 16
_SEAL = re.compile(rf"({SHARDS_FOLDER}/\d{{5,}})/{re.escape(SEAL_FILE)}")  # leads nowhere else
_SHA256 = re.compile("[0-9a-f]{64}")


def open_crops(
    root: str, cache: str | Path | None, cache_gb: float = CACHE_GB, in_order: bool = False
) -> Path:
    """Where a crop folder lies on this disk: itself, or the mirror of one in a store.

    Args:
        root: Its path or address.
        cache: Folder for mirrors; several may share it.
        cache_gb: Billions of bytes of crops that it may hold.
        in_order: As of ``ObjectCache``.

    Raises:
        UsageError: As of ``check_cache``, or if there is no crop folder.
        JobError: If the store does not give its tables.
    """
    check_cache(root, cache, cache_gb)
    if cache is None:
        return Path(root)
    address = Address.parse(root.rstrip("/"))
    with store_must_answer():
        mirror = _open(address, Opening(root, Path(cache), cache_gb, in_order))
    _MIRRORS[str(address)] = mirror
    return mirror.root


def check_cache(root: str, cache: str | Path | None, cache_gb: float) -> None:
    """Refuse a crop folder in a store without a cache, and one of this disk with one.

    Raises:
        UsageError: Also if the store has no folders, or a cache has a size and no place.
    """
    if not is_url(root):
        if cache is not None:
            raise UsageError(f"--cache is for crops in a store, and {root} lies on this disk")
        if cache_gb != CACHE_GB:
            raise UsageError(
                "--cache-gb is the size of the cache: name its folder with --cache DIR"
            )
        return
    address = Address.parse(root)
    if address.is_web:
        raise UsageError(f"{address}: a web server has no folders; copy the crops to a disk")
    if cache is None:
        raise UsageError(
            f"{address} lies in a store: name a folder of this disk with --cache, where its "
            "crops are kept while they are read"
        )
    if not 0 < cache_gb < math.inf:  # false for NaN, too
        raise UsageError(f"--cache-gb {cache_gb:g}; expected a number above 0")


def peek_job(root: str, cache: str | Path | None, cache_gb: float = CACHE_GB) -> dict[str, Any]:
    """``job.json`` of a crop folder; one in a store is not opened by that.

    A store is asked only where ``open_crops`` would open it.

    Raises:
        UsageError: As of ``check_cache`` and ``read_job``.
        JobError: If the store does not give it.
    """
    check_cache(root, cache, cache_gb)
    if not is_url(root):
        return read_job(Path(root))
    address = Address.parse(root.rstrip("/"))
    with store_must_answer(), tempfile.TemporaryDirectory(prefix="deepfake-") as folder:
        copy_object_to(Path(folder), address, JOB_FILE)
        return read_job(Path(folder))


def find_crops(name: str) -> Path | None:
    """The crop folder that an input is, on this disk; ``None`` if it is none.

    One in a store is one from when it was opened.
    """
    if is_url(name):
        mirror = _MIRRORS.get(str(Address.parse(name.rstrip("/"))))
        return None if mirror is None else mirror.root
    return Path(name) if is_crop_folder(name) else None


def find_mirror(root: Path) -> CropMirror | None:
    """What reads the tars of a folder; ``None`` if they lie in it."""
    return next((mirror for mirror in _MIRRORS.values() if mirror.root == root), None)


def is_stored(name: str) -> bool:
    """Whether an address is that of a crop folder; the store is asked."""
    address = Address.parse(name.rstrip("/"))
    if address.is_web:  # has no folders
        return False
    with store_must_answer():
        return look(address.below(JOB_FILE)) is not None


class Opening(NamedTuple):
    """What ``open_crops`` was given."""

    root: str
    cache: Path
    cache_gb: float
    in_order: bool


class CropMirror:
    """The crops and face meshes of a crop folder in a store.

    Args:
        root: The folder that mirrors it.
        address: Of the folder.
        cache: Has the copies.
        packs: The crops of each shard, by the shard.
        opening: How it was opened.
    """

    def __init__(
        self,
        root: Path,
        address: Address,
        cache: ObjectCache,
        packs: Mapping[str, Pack],
        opening: Opening,
    ) -> None:
        self.root, self.address, self.packs, self.opening = root, address, packs, opening
        self._cache = cache
        self._wrong: set[str] = set()

    def read(self, crop: str, place: Place) -> bytes:
        """A crop, by what the index of its shard says of it.

        Raises:
            OSError: If the folder has no crops of its shard, or it is not as it was written.
            JobError: If the store does not give it.
        """
        shard = shard_of(crop)
        pack = self.packs.get(shard)
        if pack is None:
            raise OSError(f"there is no {self.address.below(tar_of(crop))}")
        end = place.offset + place.n_bytes
        if end > pack.n_bytes:  # before memory is taken for whatever is claimed
            raise OSError(f"its shard ends at {pack.n_bytes}, before {end}")
        data = self._cache.read(pack.name, place.offset, place.n_bytes)
        if data is None and self._fetch(shard, pack):
            data = self._cache.read(pack.name, place.offset, place.n_bytes)
        if data is not None and _hash(data) != place.sha256:
            self._cache.forget(pack.name)  # damaged on this disk
            data = None
        if data is None:
            name, offset = (tar_of(crop), place.offset) if pack.is_tar else (crop, 0)
            with store_must_answer():
                data = read_part(self.address.below(name), offset, place.n_bytes)
            if _hash(data) != place.sha256:
                raise OSError("it is not as it was written: its checksum is another")
        return data

    def bring(self, name: str, sha256: str) -> None:
        """Have a smaller file in the mirror; loader processes may want the same one at once.

        Raises:
            JobError: If the store does not give it.
        """
        path = self.root / name
        if hash_file(path) == sha256:
            return
        with alone(path.parent), store_must_answer():
            if hash_file(path) != sha256:  # nobody else has copied it meanwhile
                copy_object_to(self.root, self.address, name)

    def _fetch(self, shard: str, pack: Pack) -> bool:
        if shard in self._wrong:
            return False
        copy = partial(self._copy_tar if pack.is_tar else self._copy_crops, shard, pack)
        try:
            with store_must_answer():
                return self._cache.fetch(pack.name, pack.n_bytes, copy)
        except _WrongContentError as error:
            # Those of its crops that are whole can be read: each has a checksum of its own.
            logger.warning("%s is not as it was written (its checksum is another)", error)
            self._wrong.add(shard)
            return False

    def _copy_tar(self, shard: str, pack: Pack, file: BinaryIO) -> None:
        address = self.address.below(f"{shard}/{TAR_FILE}")
        seen = look(address)
        if seen is None:
            raise MediaError(address, "io_error", "it is there no more")
        if seen.size != pack.n_bytes:  # the cache has made room for that many
            raise _WrongContentError(address)
        copy_object(address, file, seen)
        if hash_file(Path(file.name)) != pack.name:
            raise _WrongContentError(address)

    def _copy_crops(self, shard: str, pack: Pack, file: BinaryIO) -> None:
        places = read_index(self.root / shard)
        if hash_file(self.root / shard / INDEX_FILE) != pack.name:  # a later job's
            raise _WrongContentError(self.address.below(shard))

        def read(name: str) -> bytes:
            address = self.address.below(f"{shard}/{CROPS_FOLDER}/{name}")
            data = read_part(address, 0, places[name].n_bytes)
            if _hash(data) != places[name].sha256:
                raise _WrongContentError(address)
            return data

        with ThreadPoolExecutor(_AT_ONCE, "deepfake-mirror") as threads:
            for data in threads.map(read, places):
                write_all(file, data)


_MIRRORS: dict[str, CropMirror] = {}
"""Of this process, by address. Those that it starts are given theirs."""


class Pack(NamedTuple):
    """The crops of a shard as one file.

    Args:
        name: Of its copy: what changes with its content.
        n_bytes: Its size.
        is_tar: Whether it is an object; else each crop is one.
    """

    name: str
    n_bytes: int
    is_tar: bool


class _WrongContentError(Exception):
    """What came is not what was written."""


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _open(address: Address, opening: Opening) -> CropMirror:
    try:
        from deepfake.dataset.object_cache import ObjectCache
    except ImportError as error:
        raise UsageError("this system has no file locks (fcntl), which --cache needs") from error
    cache, limit, in_order = opening.cache, int(opening.cache_gb * 1e9), opening.in_order
    root = cache / name_mirror(address)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with no_space_is_an_error(cache):
            copies = ObjectCache(cache / _COPIES_FOLDER, limit, in_order)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"--cache {cache}: {error.filename} is a file") from error
    with alone(root), no_space_is_an_error(root):
        packs = _copy_tables(address, root)
    copies.use(pack.name for pack in packs.values())
    total = sum(pack.n_bytes for pack in packs.values())
    told = f"{address}: {total / 1e9:.2f} GB of crops; {cache} holds {limit / 1e9:g} GB"
    if total > limit and in_order:
        told += ", those that were read last"
    elif total > limit:
        told += "; the others are read from the store one by one, in each epoch again"
    logger.info("%s", told)
    return CropMirror(root, address, copies, packs, opening)


def _copy_tables(address: Address, root: Path) -> dict[str, Pack]:
    """Copy what is small and has changed; the crops of each shard that is whole."""
    if look(address.below(JOB_FILE)) is None:
        raise UsageError(f"{address} is not a crop folder (no {JOB_FILE})")
    there = dict(list_folder(address))
    shards = sorted(found[1] for name in there if (found := _SEAL.fullmatch(name)))
    wanted = [JOB_FILE, *TABLES, *(f"{shard}/{SEAL_FILE}" for shard in shards)]
    wanted += [f"{shard}/{INDEX_FILE}" for shard in shards]
    copy_changed(address, root, {name: there[name] for name in wanted if name in there})
    make = _describe_tar if read_job(root).get(STORE) == "tar" else _describe_files
    packs = {shard: make(root / shard, shard, there) for shard in shards}
    return {shard: pack for shard, pack in packs.items() if pack is not None}


def _describe_tar(folder: Path, shard: str, there: Mapping[str, Look]) -> Pack | None:
    """The tar of a shard; ``None`` if it is missing, or the shard does not say what it is."""
    seal, tar = read_seal(folder), there.get(f"{shard}/{TAR_FILE}")
    sha256 = "" if seal is None else str(seal.files.get(TAR_FILE, ""))
    if tar is None or not _SHA256.fullmatch(sha256):
        return None
    return Pack(sha256, tar.size or 0, is_tar=True)


def _describe_files(folder: Path, shard: str, there: Mapping[str, Look]) -> Pack | None:
    """The crops of a shard in the order of their names, for which it gets an index."""
    seal = read_seal(folder)
    if seal is None:
        return None
    places: dict[str, Place] = {}
    offset = 0
    for path, sha256 in sorted(seal.files.items()):
        kind, _, name = path.partition("/")
        seen = there.get(f"{shard}/{path}")
        if kind == CROPS_FOLDER and seen is not None:
            places[name] = Place(offset, seen.size or 0, parse_digest(sha256))
            offset += places[name].n_bytes
    text = "".join(format_index(places.items()))
    name = _hash(text.encode()).hex()
    if hash_file(folder / INDEX_FILE) != name:  # another job may be reading it
        write_atomic(folder / INDEX_FILE, text)
    return Pack(name, offset, is_tar=False)
