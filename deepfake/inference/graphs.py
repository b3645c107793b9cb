"""The ONNX graphs that this user has made on this machine: which they are, and some for next time.

A graph says which checkpoint it was made from, but so can anybody's, and one that equals torch on a
few crops may still answer otherwise on others. So a graph counts only if its SHA-256 stands in this
user's record, with the checkpoint that it was made from. The record lies in the user's cache:
whoever can write there can replace this package as well. A graph from another machine is in no
record; it is made again here. Knows neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from deepfake.errors import DeepfakeError, JobError
from deepfake.storage import write_atomic

logger = logging.getLogger(__name__)
_RECORD_FOLDER = "made"
_KEPT_GRAPHS = 4  # each is as large as its checkpoint
ONNX_SUFFIX = ".onnx"


def cache_folder() -> Path:
    """Where this user's graphs are kept and recorded.

    Raises:
        JobError: If this user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepfake"
    except RuntimeError as error:
        raise JobError(
            "there is no home folder to keep a graph in; set XDG_CACHE_HOME, or score with torch"
        ) from error


def record_graph(graph: bytes, checkpoint_sha256: str) -> None:
    """Note that this user has made a graph from a checkpoint, and has compared the two.

    A record that cannot be written costs time only: the graph will not be used by ``predict``.
    """
    try:
        path = _record_of(graph)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, checkpoint_sha256)
    except (OSError, DeepfakeError) as error:
        logger.info("the graph is not recorded as made here (%s)", error)


def is_recorded(graph: bytes, checkpoint_sha256: str) -> bool:
    """Whether this user has made a graph, byte for byte, from a checkpoint on this machine.

    Raises:
        JobError: If this user has no home.
    """
    path = _record_of(graph)
    with suppress(OSError, ValueError):
        about = [path.parent.lstat(), path.lstat()]
        kinds = [stat.S_ISDIR(about[0].st_mode), stat.S_ISREG(about[1].st_mode)]
        # On Windows a profile is its user's alone, and there are no such modes.
        private = os.name != "posix" or all(
            one.st_uid == os.geteuid() and not one.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            for one in about
        )
        return all(kinds) and private and path.read_text(encoding="ascii") == checkpoint_sha256
    return False


def keep_graph(name: str, graph: bytes) -> None:
    """Keep a graph for the next job; a cache that cannot be written costs time only."""
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(folder / name, graph)
        kept = sorted(folder.glob(f"*{ONNX_SUFFIX}"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-_KEPT_GRAPHS]:
            old.unlink(missing_ok=True)
    except (OSError, DeepfakeError) as error:
        logger.info("the graph is not kept for next time (%s)", error)


def _record_of(graph: bytes) -> Path:
    return cache_folder() / _RECORD_FOLDER / hashlib.sha256(graph).hexdigest()
