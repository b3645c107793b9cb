"""Folders in a store as folders of this disk; what has not changed is copied once.

Knows nothing of what their files hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from deepfake.errors import JobError, MediaError
from deepfake.jobs.folder import JOB_FILE, hash_file
from deepfake.progress import Progress
from deepfake.storage import TEMPORARY_PREFIX, no_space_is_an_error, write_atomic
from deepfake.stores.address import Address
from deepfake.stores.objects import Look, download, list_folder
from deepfake.tables import parse_json

_SEEN_FILE = ".objects.json"
_AT_ONCE = 16
_SILENT_S = 2.0


def name_mirror(address: Address) -> str:
    """What a folder of this disk is called that mirrors one in a store: no two share a name."""
    digest = hashlib.sha256(str(address).encode()).hexdigest()
    return f"{address.name or address.host}-{digest[:12]}"


@contextmanager
def store_must_answer() -> Iterator[None]:
    """What a store does not give ends the job, with advice; it is no fault of an input."""
    try:
        yield
    except MediaError as error:
        raise JobError(
            f"{error.path} cannot be read ({error.detail}); run the same command again"
        ) from error


def copy_job(address: Address, root: Path) -> bool:
    """Have the folder of a job, with all of its files and no others.

    Args:
        address: Of the folder in the store.
        root: Of this disk; nobody else writes to it meanwhile.

    Returns:
        Whether there is one: nothing is copied of a folder without ``job.json``.

    Raises:
        JobError: If the store does not give it, or this disk is full.
    """
    with store_must_answer(), no_space_is_an_error(root):
        there = {name: seen for name, seen in list_folder(address) if _is_plain(name)}
        if JOB_FILE not in there:
            return False
        root.mkdir(parents=True, exist_ok=True)
        for path in [*root.rglob("*")]:
            name = path.relative_to(root).as_posix()
            if name not in {*there, _SEEN_FILE} and not path.is_dir():
                path.unlink()
        copy_changed(address, root, there)
    return True


def _is_plain(name: str) -> bool:
    """Whether an object has a name that a job gives: it leads nowhere else, and hides nothing."""
    return "\\" not in name and all(part and part[0] != "." for part in name.split("/"))


def copy_changed(address: Address, root: Path, seen: Mapping[str, Look]) -> None:
    """Have objects in a folder that nobody else writes to meanwhile.

    What was copied before is read once more: this disk may have spoiled it, or lost it with its
    power, for copies are not synced.

    Args:
        address: Of the folder in the store.
        root: The folder; what it holds of other names stays.
        seen: What the store says of each object, by its name below both.

    Raises:
        MediaError: If one cannot be had, or is another one by now.
    """
    known = _read_known(root)
    told = {name: _tell(root, name, one) for name, one in seen.items()}
    todo = [name for name in told if known.get(name) != told[name]]
    copy = partial(copy_object_to, root, address)
    with (
        Progress(len(todo), delay_s=_SILENT_S) as progress,
        ThreadPoolExecutor(_AT_ONCE, "deepfake-mirror") as threads,
    ):
        for _ in threads.map(copy, todo, (seen[name] for name in todo)):
            progress.advance(1)
    told |= {name: _tell(root, name, seen[name]) for name in todo}
    write_atomic(root / _SEEN_FILE, json.dumps(told, indent=1, sort_keys=True) + "\n")


def copy_object_to(root: Path, address: Address, name: str, seen: Look | None = None) -> None:
    """Have one object in a folder: the old one, or the new one as a whole.

    Nobody else may copy the same one meanwhile.

    Raises:
        MediaError: As of ``download``.
        UsageError: If there is none.
    """
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    temporary.unlink(missing_ok=True)
    download(address.below(name), temporary, seen)
    temporary.replace(path)


def _tell(root: Path, name: str, seen: Look) -> list[object]:
    """What the store says of an object, and the checksum of its copy."""
    return [seen.size, seen.stamp, hash_file(root / name)]


def _read_known(root: Path) -> dict[str, Any]:
    """What was so of the objects that were copied before."""
    try:
        content = parse_json((root / _SEEN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
