"""Runs extraction over many sources, in order, in worker processes that may die.

What a worker fails to read gets a status, and the job goes on. Knows nothing of what becomes of
the extractions. What extracts is imported where it works: a process that only hands out the work
does not carry torch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from deepfake.errors import UsageError
from deepfake.jobs.workers import Failure, read_in_workers, spare_worker, tell_progress
from deepfake.records import (
    CropSpec,
    Extraction,
    Frame,
    Landmarks,
    Sampling,
    Source,
    Status,
    Workers,
)

if TYPE_CHECKING:
    from deepfake.faces.extraction import FaceExtractor

WatchFrames = Callable[[Source, int], None]
"""Told a source and how many of its frames have been searched."""


def early_worker(workers: Workers) -> AbstractContextManager[None]:
    """Start the first worker that extracts now, while this process imports and loads its own."""
    return spare_worker("deepfake.faces.extraction") if workers.processes else nullcontext()


def iter_extractions(
    sources: Iterable[Source],
    spec: CropSpec,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    landmarks: Landmarks = "five",
    view_px: int = 0,
    watch: WatchFrames | None = None,
) -> Generator[tuple[Source, Extraction]]:
    """Extract the faces of every source, in the order given.

    Args:
        sources: Consumed lazily, a bounded window ahead of what is yielded.
        spec: The crop recipe.
        workers: How many processes do it, within which limits, on which device.
        sampling: Which frames of a video or animation are looked at.
        landmarks: ``mesh`` gives every crop the points of the face mesh.
        view_px: As of ``FaceExtractor``.
        watch: Told how many frames of a source have been searched, while it is.

    Yields:
        Each source with its extraction.

    Raises:
        UsageError: If the device does not exist.
        JobError: If workers cannot be started.
    """
    check_detect_device(workers.detect_device)
    # Workers share the machine with each other; this process keeps the threads that it has.
    make = make_worker_extractor if workers.processes else _make_extractor
    settings = (spec, workers.max_pixels, sampling, workers.detect_device, landmarks, view_px)
    told = None if watch is None or workers.processes else watch
    read = partial(_make_reader, partial(make, *settings), told)
    answers = read_in_workers(sources, read, workers, watch or _ignore)
    with closing(answers):
        for source, answer in answers:
            if isinstance(answer, Failure):
                answer = Extraction(Status.UNREADABLE, answer.reason)
            yield source, answer


def check_detect_device(name: str) -> None:
    """Refuse a device that the detector cannot run on here.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: If it is another word, or this machine does not have it.
    """
    kind, colon, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or bool(colon) != number.isdecimal()):
        raise UsageError(f"detect device {name!r}; expected cpu, cuda or cuda:N")
    if kind == "cpu":
        return
    import torch

    n_devices = torch.cuda.device_count()
    if int(number or 0) >= n_devices:
        raise UsageError(f"detect device {name!r}: this machine has {n_devices} CUDA devices")


def make_worker_extractor(
    spec: CropSpec,
    max_pixels: int,
    sampling: Sampling,
    device: str,
    landmarks: Landmarks = "five",
    view_px: int = 0,
) -> FaceExtractor:
    """The extractor of a worker process, which has one thread."""
    import cv2
    import torch

    from deepfake.faces.extraction import FaceExtractor

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return FaceExtractor(spec, None, max_pixels, sampling, device, landmarks, view_px)


def _make_extractor(
    spec: CropSpec,
    max_pixels: int,
    sampling: Sampling,
    device: str,
    landmarks: Landmarks,
    view_px: int,
) -> FaceExtractor:
    from deepfake.faces.extraction import FaceExtractor

    return FaceExtractor(spec, None, max_pixels, sampling, device, landmarks, view_px)


def _make_reader(
    make: Callable[[], FaceExtractor], watch: WatchFrames | None
) -> Callable[[Source], Extraction]:
    """What reads a source; how far it is, a worker tells its parent, and this process ``watch``."""
    extractor = make()

    def read(source: Source) -> Extraction:
        n_searched = 0

        def count(frame: Frame, found: Extraction | None) -> None:
            nonlocal n_searched
            if found is None:
                return
            n_searched += 1
            if watch is None:
                tell_progress(n_searched)
            else:
                watch(source, n_searched)

        return extractor.extract(source, count)

    return read


def _ignore(source: Source, n_searched: int) -> None:
    """Nobody watches."""
