"""The folder of one job: its plan, its settings, its shards, each whole or not there at all.

A shard is written aside, synced, sealed with the checksums of its files and of its inputs, and
renamed. Nothing in it depends on time, host, or number of workers. Knows nothing of what a shard
holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfake.errors import UsageError
from deepfake.storage import (
    LOCK_NAMES,
    TEMPORARY_PREFIX,
    Confinement,
    sync_file,
    sync_folder,
    write_atomic,
    write_stream,
)
from deepfake.tables import parse_json, read_text

JOB_FILE = "job.json"
PLAN_FILE = "plan.csv"
SHARDS_FOLDER = "shards"
SEAL_FILE = "shard.json"
_OLD_FOLDER = "old"
OUTPUTS_FILE, TIMES_FILE = "outputs.json", "times.json"
"""Notes of where a job wrote, and when: of this disk, while all else is the same on any."""
RESULTS = "results"
OF_INPUTS = ("inputs", "block_size", "plan_sha256", RESULTS)
"""Settings that tell of the inputs, not of what is made of them."""
_READ_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Shard:
    """What a shard says about itself.

    Args:
        folder: Where it lies.
        inputs: SHA-256 of each input when it was worked on, by id, in order; empty where it could
            not be read.
        files: SHA-256 of each file, by its path in the folder.
    """

    folder: Path
    inputs: dict[str, str]
    files: dict[str, str]

    def is_whole(self) -> bool:
        """Whether every file is there with the content that it was sealed with, and no other."""
        try:
            found = _list_files(self.folder)
        except OSError:
            return False
        if found.keys() != {SEAL_FILE, *self.files} or any(found.values()):
            return False
        return all(hash_file(self.folder / name) == self.files[name] for name in self.files)


class JobFolder:
    """The folder of one job, or of one part of it.

    Args:
        root: Where it lies, or will lie.
        kind: What makes such folders, for messages: ``crop``, ``predict``.
    """

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind = root, kind

    def begin(
        self, plan: Iterable[str], settings: Mapping[str, Any], anew: bool | None = None
    ) -> None:
        """Write plan and settings into an empty folder, or go on with a job of these settings.

        A plan may change: shards whose inputs are not what they were are set aside,
        and what they hold of unchanged inputs is used again.

        Args:
            plan: Lines of ``plan.csv``.
            settings: Everything that the result depends on, in plain types.
            anew: Forget a job of other settings instead of refusing; ``None``: nobody can ask for
                that.

        Raises:
            UsageError: If the folder holds anything else, or a job of other settings.
        """
        # What lies in a shard is looked at when it is read.
        Confinement(self.root).check_all(SHARDS_FOLDER, _OLD_FOLDER)
        if (self.root / JOB_FILE).exists():
            difference = find_difference(_settled(read_job(self.root)), _settled(settings))
            if difference is not None and anew:
                for folder in (SHARDS_FOLDER, _OLD_FOLDER):
                    with suppress(FileNotFoundError):  # what cannot be removed would be taken
                        shutil.rmtree(self.root / folder)
            elif difference is not None:
                name, before, now = difference
                advice = "or run the command that began it"
                if anew is not None:
                    advice = "run the command that began it, or pass --overwrite"
                raise UsageError(
                    f"{self.root} was begun with {name}={_show(before)}, now it is {_show(now)}; "
                    f"name a new output, {advice}"
                )
        else:
            self._refuse_foreign()
        # Only now is it certain that nothing here is anybody else's.
        for leftover in [*self.root.glob(f"{TEMPORARY_PREFIX}*")]:
            is_folder = leftover.is_dir() and not leftover.is_symlink()
            shutil.rmtree(leftover) if is_folder else leftover.unlink()
        write_stream(self.root / PLAN_FILE, (line.encode() for line in plan))
        plan_sha256 = hash_file(self.root / PLAN_FILE)
        self._write_settings({**settings, "plan_sha256": plan_sha256})
        (self.root / SHARDS_FOLDER).mkdir(exist_ok=True)

    def conclude(self, names: Sequence[str]) -> None:
        """Note the checksums of the files that all shards together came to: the job is finished."""
        results = {name: hash_file(self.root / name) for name in names}
        self._write_settings({**read_job(self.root), RESULTS: results})

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        text = json.dumps(settings, indent=2, sort_keys=True)
        write_atomic(self.root / JOB_FILE, text + "\n")

    def folder_of(self, block: int) -> Path:
        """Where the shard of a block lies."""
        return self.root / SHARDS_FOLDER / f"{block:05d}"

    def read_shard(self, block: int) -> Shard | None:
        """The shard of a block, every file of it checked; ``None`` if absent or damaged.

        Raises:
            UsageError: If it is a link that leads out of the folder.
        """
        folder = self.folder_of(block)
        Confinement(self.root).path_of(f"{SHARDS_FOLDER}/{folder.name}/{SEAL_FILE}")
        return read_shard(folder)

    def open_block(self, block: int) -> Path:
        """A new folder to write the files of a shard into."""
        aside = self.root / f"{TEMPORARY_PREFIX}{block:05d}"
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir()
        return aside

    def seal(self, block: int, aside: Path, inputs: Mapping[str, str]) -> None:
        """Make the shard of a block of what was written aside.

        Args:
            block: Number of the block.
            aside: As ``open_block`` gave it.
            inputs: SHA-256 of each input, by id, in order.
        """
        files = {name: hash_file(aside / name) for name in _list_files(aside)}
        content = json.dumps({"inputs": dict(inputs), "files": files}, indent=1)
        sealed = {"content": content, "sha256": hashlib.sha256(content.encode()).hexdigest()}
        (aside / SEAL_FILE).write_text(json.dumps(sealed) + "\n", encoding="utf-8")
        for path in sorted(aside.rglob("*")):
            sync_folder(path) if path.is_dir() else sync_file(path)
        sync_folder(aside)
        aside.replace(self.folder_of(block))
        sync_folder(self.folder_of(block).parent)

    def take_shard(self, block: int, other: JobFolder) -> None:
        """Have a shard of another folder, without taking up the space twice where possible."""
        source = other.folder_of(block)
        aside = self.open_block(block)
        for name in _list_files(source):
            target = aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source / name, target)
        sync_folder(aside)
        aside.replace(self.folder_of(block))
        sync_folder(self.folder_of(block).parent)

    def set_aside(self, block: int) -> None:
        """Move the shard of a block out of the way; damaged ones are removed."""
        folder = self.folder_of(block)
        if not folder.exists():
            return
        shard = self.read_shard(block)
        old = self.root / _OLD_FOLDER
        if shard is None:
            shutil.rmtree(folder)
            return
        old.mkdir(exist_ok=True)
        name = hashlib.sha256(json.dumps(shard.inputs).encode()).hexdigest()[:32]
        if (old / name).exists():
            shutil.rmtree(folder)
        else:
            folder.replace(old / name)

    def iter_old(self) -> Iterator[Shard]:
        """Whole shards that were set aside."""
        for folder in sorted((self.root / _OLD_FOLDER).glob("*")):
            shard = read_shard(folder)  # no link: ``begin`` has looked
            if shard is not None:
                yield shard

    def drop_beyond(self, n_blocks: int) -> None:
        """Set shards of blocks aside that the plan no longer has."""
        for folder in sorted((self.root / SHARDS_FOLDER).iterdir()):
            if folder.name.isdigit() and int(folder.name) >= n_blocks:
                self.set_aside(int(folder.name))

    def holds_shards(self) -> bool:
        """Whether anything was sealed, be it for other inputs than now."""
        folders = (self.root / SHARDS_FOLDER, self.root / _OLD_FOLDER)
        return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)

    def forget_old(self) -> None:
        """Remove what was set aside."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root / _OLD_FOLDER)

    def _refuse_foreign(self) -> None:
        """A folder without ``job.json`` may only hold what a killed run leaves before it."""
        foreign = sorted(
            path.name
            for path in self.root.iterdir()
            if path.name not in (*LOCK_NAMES, PLAN_FILE)
            and (path.is_dir() or not path.name.startswith(TEMPORARY_PREFIX))
        )
        if foreign:
            raise UsageError(
                f"{self.root} is not empty and holds no {self.kind} job ({foreign[0]!r} is in it); "
                "name a new output"
            )


def _show(value: object) -> str:
    return "its default" if value is None else repr(value)


def _settled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What may not change while a job goes on; its inputs may."""
    return {key: value for key, value in settings.items() if key not in OF_INPUTS}


def read_job(root: Path) -> dict[str, Any]:
    """The settings of a job.

    Raises:
        UsageError: If they cannot be read, or lie outside of the folder.
    """
    path = Confinement(root).path_of(JOB_FILE)
    try:
        settings = parse_json(read_text(path, "JSON file"))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} holds no settings; was it edited?")
    numbers = [settings.get(name, 1) for name in ("inputs", "block_size")]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise UsageError(f"{path}: inputs and block_size must be 1 or more; was it edited?")
    if not isinstance(settings.get(RESULTS, {}), dict):
        raise UsageError(f"{path}: {RESULTS} must be checksums by name; was it edited?")
    return settings


def find_wrong_results(root: Path, settings: Mapping[str, Any]) -> list[str]:
    """Files of a finished job that are not what it came to.

    Raises:
        UsageError: If one of them lies outside of the folder.
    """
    results, inside = settings.get(RESULTS, {}), Confinement(root)
    return [name for name, digest in results.items() if hash_file(inside.path_of(name)) != digest]


def read_shard(folder: Path) -> Shard | None:
    """A sealed folder, every file of it checked; ``None`` if absent or damaged."""
    shard = read_seal(folder)
    return shard if shard is not None and shard.is_whole() else None


def read_seal(folder: Path) -> Shard | None:
    """What a sealed folder says of itself, its files not looked at."""
    if (folder / SEAL_FILE).is_symlink():
        return None  # no shard of ours has links
    try:
        sealed = parse_json(read_text(folder / SEAL_FILE))
        text = sealed["content"]
        if hashlib.sha256(text.encode()).hexdigest() != sealed["sha256"]:
            return None
        content = parse_json(text)
        return Shard(folder, dict(content["inputs"]), dict(content["files"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def hash_file(path: Path) -> str:
    """SHA-256 of a regular file's content; empty if it cannot be read."""
    digest = hashlib.sha256()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, a device never end
            return ""
        # Without a file object, which takes longer than the hash of a crop.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            while chunk := os.read(descriptor, _READ_BYTES):
                digest.update(chunk)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file at a second place."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def find_difference(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[str, object, object] | None:
    """The first setting, at any depth, that two descriptions do not share, with both values.

    Example:
        >>> find_difference({"spec": {"size": 64}}, {"spec": {"size": 80}})
        ('size', 64, 80)
    """
    for key in [*new, *sorted(old.keys() - new.keys())]:
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            inner = find_difference(before, now)
            if inner is not None:
                return inner
        elif before != now:
            return key, before, now
    return None


def _list_files(folder: Path) -> dict[str, bool]:
    """All that is no folder, at any depth: whether it is a link, by its path in the folder."""
    found: dict[str, bool] = {}
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                name = f"{inner}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                else:
                    found[name] = entry.is_symlink()
    return {name: found[name] for name in sorted(found, key=lambda name: name.split("/"))}
