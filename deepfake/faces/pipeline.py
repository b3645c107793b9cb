"""Runs extraction over many sources, in order, in worker processes that may die.

Decoders meet hostile files, so they run in processes of one thread each that can be killed and
replaced: a file that crashes its worker is tried once more and then gets a status, one that runs
into its time limit gets it at once; the job goes on. Knows nothing of what becomes of the
extractions.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection
from threading import Thread

import cv2
import torch

from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import FaceExtractor
from deepfake.records import (
    CropSpec,
    Extraction,
    Landmarks,
    Sampling,
    Source,
    Status,
    Workers,
)

_WINDOW_PER_WORKER = 8  # how far the fastest worker may run ahead of the slowest: bounds memory
_START_TIMEOUT_S = 180.0  # importing torch takes seconds, on a busy machine many
_END_TIMEOUT_S = 5.0  # for a process that has closed its pipe, or was killed


def iter_extractions(
    sources: Iterable[Source],
    spec: CropSpec,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    landmarks: Landmarks = "five",
) -> Generator[tuple[Source, Extraction]]:
    """Extract the faces of every source, in the order given.

    Args:
        sources: Consumed lazily, a bounded window ahead of what is yielded.
        spec: The crop recipe.
        workers: How many processes do it, within which limits, on which device.
        sampling: Which frames of a video or animation are looked at.
        landmarks: ``mesh`` gives every crop the points of the face mesh.

    Yields:
        Each source with its extraction.

    Raises:
        UsageError: If the device does not exist.
        JobError: If workers cannot be started.
    """
    check_detect_device(workers.detect_device)
    settings = (spec, workers.max_pixels, sampling, workers.detect_device, landmarks)
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


_Settings = tuple[CropSpec, int, Sampling, str, Landmarks]


def _make_extractor(settings: _Settings) -> FaceExtractor:
    spec, max_pixels, sampling, device, landmarks = settings
    return FaceExtractor(
        spec, max_pixels=max_pixels, sampling=sampling, device=device, landmarks=landmarks
    )


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


class _Gone:
    """Said of a worker whose pipe has closed."""


_Message = None | Extraction | type[_Gone]
"""What a worker says: that it is ready, an answer, or nothing any more."""


class _Worker:
    """One process and the job that it has in hand.

    Args:
        settings: What it extracts by.
        inbox: Where its messages go.
        is_second: Whether it stands for one that died while it started.
    """

    def __init__(self, settings: _Settings, inbox: _Inbox, is_second: bool = False) -> None:
        # spawn: a forked child would inherit torch's thread pools in an undefined state.
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(child, settings), daemon=True, name="deepfake-extract"
        )
        self.process.start()
        child.close()
        self.ready, self.is_second = False, is_second
        self.job: tuple[int, Source] | None = None
        self.deadline = time.monotonic() + _START_TIMEOUT_S
        # A thread may wait for the rest of an answer that never comes; the pool must not.
        Thread(target=self._listen, args=(inbox,), daemon=True, name="deepfake-listen").start()

    @property
    def is_active(self) -> bool:
        """Whether there is something to wait for."""
        return self.job is not None or not self.ready

    def _listen(self, inbox: _Inbox) -> None:
        with self.connection:
            try:
                while True:
                    inbox.put((self, self.connection.recv()))
            except (EOFError, OSError, pickle.UnpicklingError):
                inbox.put((self, _Gone))

    def ask(self, job: tuple[int, Source], timeout_s: float) -> None:
        self.job, self.deadline = job, time.monotonic() + timeout_s
        with suppress(OSError):  # died while idle: the closed pipe is heard of
            self.connection.send(job[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.join(_END_TIMEOUT_S)


_Inbox = queue.SimpleQueue[tuple[_Worker, _Message]]


class _Pool:
    def __init__(self, settings: _Settings, size: int, timeout_s: float) -> None:
        self._settings, self._size, self._timeout_s = settings, size, timeout_s
        self._workers: list[_Worker] = []
        self._inbox: _Inbox = queue.SimpleQueue()

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.kill()

    def run(self, sources: Iterator[Source]) -> Iterator[tuple[Source, Extraction]]:
        window = _WINDOW_PER_WORKER * self._size
        numbered = enumerate(sources)
        waiting: deque[tuple[int, Source]] = deque()
        pending: dict[int, Source] = {}  # yielded soon, in order of their numbers
        done: dict[int, Extraction] = {}
        crashed_once: set[int] = set()
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
                elif number in crashed_once:
                    done[number] = Extraction(Status.UNREADABLE, outcome)
                else:
                    crashed_once.add(number)
                    waiting.appendleft((number, source))
            while next_out in done:
                yield pending.pop(next_out), done.pop(next_out)
                crashed_once.discard(next_out)
                next_out += 1

    def _hand_out(self, waiting: deque[tuple[int, Source]]) -> None:
        free = sum(worker.job is None for worker in self._workers)
        # A worker takes seconds to start; there is no use in more of them than sources.
        for _ in range(min(self._size - len(self._workers), len(waiting) - free)):
            self._workers.append(_Worker(self._settings, self._inbox))
        for worker in self._workers:
            if not worker.is_active and waiting:
                worker.ask(waiting.popleft(), self._timeout_s)

    def _collect(self) -> Iterator[tuple[int, Source, Extraction | str]]:
        """Wait for something to happen; yield answers, or how a worker crashed instead."""
        nearest = min((w.deadline for w in self._workers if w.is_active), default=0.0)
        messages = []
        with suppress(queue.Empty):
            messages.append(self._inbox.get(timeout=max(nearest - time.monotonic(), 0)))
            # Whoever takes our results may have been long about it: what came counts as in time.
            while True:
                messages.append(self._inbox.get_nowait())
        for worker, message in messages:
            job = worker.job
            if worker not in self._workers:
                continue  # it was killed in the meantime
            if message is _Gone:
                worker.process.join(_END_TIMEOUT_S)
                worker.kill()
                reason = f"crashed: its worker process ended ({worker.process.exitcode})"
                self._replace(worker, reason, again=not worker.is_second)
                if job is not None:
                    yield (*job, reason)
            elif isinstance(message, Extraction) and job is not None:
                worker.job = None
                yield (*job, message)
            else:
                worker.ready = True
        for worker in [w for w in self._workers if w.is_active and time.monotonic() >= w.deadline]:
            reason, job = f"timeout: gave no answer within {self._timeout_s:g} s", worker.job
            worker.kill()
            self._replace(worker, reason, again=False)
            if job is not None:
                yield (*job, Extraction(Status.UNREADABLE, reason))

    def _replace(self, worker: _Worker, reason: str, again: bool) -> None:
        """Have another worker; one that never got ready has a second chance at most."""
        if not (worker.ready or again):
            raise JobError(f"a worker process did not start ({reason}); see the messages above")
        place = self._workers.index(worker)
        self._workers[place] = _Worker(self._settings, self._inbox, is_second=not worker.ready)
