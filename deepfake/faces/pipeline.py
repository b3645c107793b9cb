"""Runs extraction over many sources, in order, in worker processes that may die.

Decoders meet hostile files, so they run in processes of one thread each that can be killed and
replaced: a file that crashes or hangs its worker is tried once more and then gets a status; the
job goes on. Knows nothing of what becomes of the extractions.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait

import cv2
import torch

from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import FaceExtractor
from deepfake.records import CropSpec, Extraction, Sampling, Source, Status, Workers

_WINDOW_PER_WORKER = 8  # how far the fastest worker may run ahead of the slowest: bounds memory
_START_TIMEOUT_S = 180.0  # importing torch takes seconds, on a busy machine many


def iter_extractions(
    sources: Iterable[Source],
    spec: CropSpec,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
) -> Generator[tuple[Source, Extraction]]:
    """Extract the faces of every source, in the order given.

    Args:
        sources: Consumed lazily, a bounded window ahead of what is yielded.
        spec: The crop recipe.
        workers: How many processes do it, within which limits, on which device.
        sampling: Which frames of a video or animation are looked at.

    Yields:
        Each source with its extraction.

    Raises:
        UsageError: If the device does not exist.
        JobError: If workers cannot be started.
    """
    check_detect_device(workers.detect_device)
    settings = (spec, workers.max_pixels, sampling, workers.detect_device)
    if workers.processes == 0:
        extractor = _make_extractor(settings)
        for source in sources:
            yield source, extractor.extract(source)
        return
    pool = _Pool(settings, workers.processes, workers.timeout_s)
    try:
        yield from pool.run(iter(sources))
    finally:
        pool.close()


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


_Settings = tuple[CropSpec, int, Sampling, str]


def _make_extractor(settings: _Settings) -> FaceExtractor:
    spec, max_pixels, sampling, device = settings
    return FaceExtractor(spec, max_pixels=max_pixels, sampling=sampling, device=device)


def _serve(connection: Connection, settings: _Settings) -> None:
    """A worker's life: announce readiness, then answer one source after another."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _mute_c_libraries()
    extractor = _make_extractor(settings)
    connection.send(None)
    while True:
        try:
            source = connection.recv()
            connection.send(extractor.extract(source))
        except (EOFError, BrokenPipeError, KeyboardInterrupt):
            return  # the parent has closed the pipe, is gone, or is being interrupted too


def _mute_c_libraries() -> None:
    """Drop what decoders written in C say on descriptor 2; Python's own errors stay visible."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class _Worker:
    """One process and the job that it has in hand."""

    def __init__(self, settings: _Settings) -> None:
        # spawn: a forked child would inherit torch's thread pools in an undefined state.
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(child, settings), daemon=True, name="deepfake-extract"
        )
        self.process.start()
        child.close()
        self.ready = False
        self.job: tuple[int, Source] | None = None
        self.deadline = time.monotonic() + _START_TIMEOUT_S

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Pool:
    def __init__(self, settings: _Settings, workers: int, timeout_s: float) -> None:
        self._settings, self._timeout_s = settings, timeout_s
        self._workers = [_Worker(settings) for _ in range(workers)]

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()

    def run(self, sources: Iterator[Source]) -> Iterator[tuple[Source, Extraction]]:
        window = _WINDOW_PER_WORKER * len(self._workers)
        numbered = enumerate(sources)
        waiting: deque[tuple[int, Source]] = deque()
        pending: dict[int, Source] = {}  # yielded soon, in order of their numbers
        done: dict[int, Extraction] = {}
        failed_once: set[int] = set()
        next_out = 0
        while True:
            for number, source in islice(numbered, window - len(pending)):
                pending[number] = source
                waiting.append((number, source))
            if not pending:
                return
            self._hand_out(waiting)
            for number, source, outcome in self._collect():
                if isinstance(outcome, Extraction):
                    done[number] = outcome
                elif number in failed_once:
                    done[number] = Extraction(Status.UNREADABLE, outcome)
                else:
                    failed_once.add(number)
                    waiting.appendleft((number, source))
            while next_out in done:
                yield pending.pop(next_out), done.pop(next_out)
                failed_once.discard(next_out)
                next_out += 1

    def _hand_out(self, waiting: deque[tuple[int, Source]]) -> None:
        for worker in self._workers:
            if worker.ready and worker.job is None and waiting:
                worker.job = waiting.popleft()
                worker.deadline = time.monotonic() + self._timeout_s
                try:
                    worker.connection.send(worker.job[1])
                except OSError:
                    continue  # died while idle: the closed pipe is seen by _collect

    def _collect(self) -> Iterator[tuple[int, Source, Extraction | str]]:
        """Wait for something to happen; yield answers, or the reason why there is none."""
        active = [w for w in self._workers if w.job is not None or not w.ready]
        nearest = min((w.deadline for w in active), default=time.monotonic())
        wait([w.connection for w in active], max(nearest - time.monotonic(), 0))
        for index, worker in enumerate(self._workers):
            if worker not in active:
                continue
            try:
                if worker.connection.poll():
                    answer = worker.connection.recv()
                    if worker.job is not None:
                        yield (*worker.job, answer)
                    worker.ready, worker.job = True, None
                elif time.monotonic() >= worker.deadline:
                    yield from self._replace(
                        index, f"timeout: gave no answer within {self._timeout_s:g} s"
                    )
            except (EOFError, OSError):  # OSError: it died in the middle of its answer
                worker.process.join()
                code = worker.process.exitcode
                yield from self._replace(index, f"crashed: its worker process ended ({code})")

    def _replace(self, index: int, reason: str) -> Iterator[tuple[int, Source, str]]:
        worker = self._workers[index]
        worker.kill()
        if not worker.ready:
            raise JobError(f"a worker process did not start ({reason}); see the messages above")
        self._workers[index] = _Worker(self._settings)
        if worker.job is not None:
            yield (*worker.job, reason)
