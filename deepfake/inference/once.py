"""``deepfake.predict``: score in one call, with the detector of the last one where it is the same.

Knows no command line.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from deepfake.inference.inputs import Inputs, check_inputs
from deepfake.inference.predictor import IN_THIS_PROCESS, Predictor, find_sources
from deepfake.inference.results import ResultList
from deepfake.learning.checkpoint_names import (
    DEFAULT,
    CheckpointName,
    NamedCheckpoint,
    find_checkpoint,
)
from deepfake.progress import Progress
from deepfake.records import Workers

_PATIENCE_S = 1.0  # what is done sooner shows no progress


def predict(
    inputs: Inputs,
    checkpoint: CheckpointName | Sequence[CheckpointName] | None = None,
    device: str | Sequence[str] = "auto",
    workers: Workers = IN_THIS_PROCESS,
    quiet: bool = False,
) -> ResultList:
    """Score photos and videos: ``deepfake.predict("photo.jpg")``.

    The results come when all are there, in order. The detector of the last call is kept, and
    loaded anew only where its file has changed or another is named: for several detectors in turn,
    or more results than memory should hold, make a ``Predictor`` of each.

    Args:
        inputs: As of ``Predictor.predict``.
        checkpoint: As of ``Predictor.from_checkpoint``; by default the model in the box.
        device: As of ``Predictor``.
        workers: As of ``Predictor``.
        quiet: Show no progress.

    Raises:
        UsageError: If an input is none, a folder or pattern names no file, or the device does not
            exist.
        CheckpointError: If there is no such checkpoint.
    """
    check_inputs(inputs)
    found = ResultList()
    with (
        _borrow(checkpoint, device, workers) as predictor,
        tempfile.TemporaryDirectory(prefix="deepfake-") as folder,
    ):
        sources = list(find_sources(inputs, folder, workers))  # first: how many are left is asked
        with Progress(len(sources), quiet=quiet, delay_s=_PATIENCE_S) as progress:
            predictor.watch = progress.note_frames
            for result in predictor.score_pictured(sources):
                found.append(result)
                progress.advance()
    return found


_lock = threading.Lock()
_kept: list[tuple[Any, Predictor]] = []  # of the last call, while no call uses it


@contextmanager
def _borrow(
    checkpoint: CheckpointName | Sequence[CheckpointName] | None,
    device: str | Sequence[str],
    workers: Workers,
) -> Iterator[Predictor]:
    """A predictor for this thread alone: the kept one, or one that is loaded, and kept after."""
    names: Sequence[CheckpointName]
    if checkpoint is None or isinstance(checkpoint, str | os.PathLike | NamedCheckpoint):
        names = [DEFAULT if checkpoint is None else checkpoint]
    else:
        names = checkpoint
    found = [find_checkpoint(name) for name in names]
    key = [[_identify(one) for one in found], device, workers, os.getpid()]  # no fork has threads
    with _lock:
        held = _kept.pop() if _kept else None
    if held is None or held[0] != key:
        del held  # two would be in memory
        held = key, Predictor.from_checkpoint(found, device, workers=workers)
    try:
        yield held[1]
    finally:
        with _lock:
            _kept[:] = [held]


def _identify(found: NamedCheckpoint) -> tuple[Any, ...]:
    """What changes where a file is written anew or replaced, without reading it."""
    path = found.path.absolute()
    try:
        about = path.stat()
    except OSError:
        return (path,)  # loading it says why
    return path, found.name, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
