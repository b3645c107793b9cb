"""Runs extraction over many sources, in order, in worker processes that may die.

What a worker fails to read gets a status, and the job goes on. Knows nothing of what becomes of
the extractions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial

import cv2
import torch

from deepfake.errors import UsageError
from deepfake.faces.extraction import FaceExtractor
from deepfake.jobs.workers import Failure, read_in_workers
from deepfake.records import (
    CropSpec,
    Extraction,
    Landmarks,
    Sampling,
    Source,
    Status,
    Workers,
)


def iter_extractions(
    sources: Iterable[Source],
    spec: CropSpec,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    landmarks: Landmarks = "five",
    view_px: int = 0,
) -> Generator[tuple[Source, Extraction]]:
    """Extract the faces of every source, in the order given.

    Args:
        sources: Consumed lazily, a bounded window ahead of what is yielded.
        spec: The crop recipe.
        workers: How many processes do it, within which limits, on which device.
        sampling: Which frames of a video or animation are looked at.
        landmarks: ``mesh`` gives every crop the points of the face mesh.
        view_px: As of ``FaceExtractor``.

    Yields:
        Each source with its extraction.

    Raises:
        UsageError: If the device does not exist.
        JobError: If workers cannot be started.
    """
    check_detect_device(workers.detect_device)
    # Workers share the machine with each other; this process keeps the threads that it has.
    make = _make_in_worker if workers.processes else _make_extract
    settings = (spec, workers.max_pixels, sampling, workers.detect_device, landmarks, view_px)
    answers = read_in_workers(sources, partial(make, *settings), workers)
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
    n_devices = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(number or 0) >= n_devices:
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
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return FaceExtractor(spec, None, max_pixels, sampling, device, landmarks, view_px)


def _make_in_worker(
    spec: CropSpec,
    max_pixels: int,
    sampling: Sampling,
    device: str,
    landmarks: Landmarks,
    view_px: int,
) -> Callable[[Source], Extraction]:
    return make_worker_extractor(spec, max_pixels, sampling, device, landmarks, view_px).extract


def _make_extract(
    spec: CropSpec,
    max_pixels: int,
    sampling: Sampling,
    device: str,
    landmarks: Landmarks,
    view_px: int,
) -> Callable[[Source], Extraction]:
    return FaceExtractor(spec, None, max_pixels, sampling, device, landmarks, view_px).extract
