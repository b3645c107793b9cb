"""Worker processes that may die: a function reads many sources, in order, in processes of its own.

Decoders meet hostile files, so they run in processes of one thread each that can be killed and
replaced: a file that crashes its worker is tried once more and then has failed, one that runs into
its time limit has failed at once; the others do not notice. Knows nothing of what is read.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import TIMEOUT_MAX, Thread
from typing import Any, Generic, TypeVar

from deepfake.errors import JobError
from deepfake.records import Source, Workers

_WINDOW_PER_WORKER = 8  # how far the fastest worker may run ahead of the slowest: bounds memory
_START_TIMEOUT_S = 180.0  # importing torch takes seconds, on a busy machine many
_END_TIMEOUT_S = 5.0  # for a process that has closed its pipe, or was killed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker gave no answer: ``crashed: ...``, ``timeout: ...`` or ``cancelled: ...``."""

    reason: str


_CANCELLED = Failure("cancelled: nobody waits for it any more")


def read_in_workers(
    sources: Iterable[Source],
    make: Callable[[], Callable[[Source], T]],
    workers: Workers,
    on_progress: Callable[[Source, Any], None] = lambda source, progress: None,
) -> Generator[tuple[Source, T | Failure]]:
    """Have a function read every source, in the order given.

    Args:
        sources: Consumed lazily, a bounded window ahead of what is yielded.
        make: Makes the function, once in each process; can be pickled.
        workers: How many processes do it, and their time limit.
        on_progress: As of ``WorkerPool.run``.

    Yields:
        Each source with the answer of the function, or how its worker failed.

    Raises:
        JobError: If workers cannot be started.
    """
    if workers.processes == 0:
        read = make()
        for source in sources:
            yield source, read(source)
        return
    key = pickle.dumps((make, workers))
    kept = None if _kept is None else _kept.pop(key, None)
    pool: WorkerPool[T] = kept or WorkerPool(make, workers)
    is_idle = False
    try:
        yield from pool.run(iter(sources), on_progress)
        is_idle = True
    finally:
        if is_idle and _kept is not None:
            _kept[key] = pool
        else:
            pool.close()


_kept: dict[bytes, WorkerPool[Any]] | None = None  # idle, by what they are of; none are kept


@contextmanager
def kept_workers() -> Iterator[None]:
    """Within, processes that have read their sources stay for the next ones of the same kind.

    They take seconds to start: too long for who is given one short list of sources after another.
    """
    global _kept
    _kept = {}
    try:
        yield
    finally:
        for pool in _kept.values():
            pool.close()
        _kept = None


_spares: list[tuple[SpawnProcess, Connection]] = []  # started, and not yet of any pool


@contextmanager
def spare_worker(module: str) -> Iterator[None]:
    """Start a worker process at once; the first pool within takes it, or else it is ended.

    A worker takes seconds to import what it works with. So it does while this process still imports
    its own.

    Args:
        module: Is imported by it before it knows what to do.
    """
    spare = _start_process(_serve_later, module)
    _spares.append(spare)
    try:
        yield
    finally:
        if spare in _spares:
            _spares.remove(spare)
            process, connection = spare
            process.kill()
            process.join(_END_TIMEOUT_S)
            connection.close()


_parent: Connection | None = None  # of a worker
# The parent has closed the pipe, was killed (which resets it where something lay unread), or is
# being interrupted, too.
_ENDS = (EOFError, ConnectionError, KeyboardInterrupt)


def tell_progress(progress: object) -> None:
    """Within a worker, say how far it is with its source; elsewhere nobody listens."""
    if _parent is not None:
        _parent.send(_Progress(progress))


def _serve(connection: Connection, make: bytes) -> None:
    """A worker's life: announce readiness, then answer one source after another."""
    global _parent
    _parent = connection
    Thread(target=_end_with_parent, daemon=True).start()
    _mute_c_libraries()
    read = pickle.loads(make)()  # from the parent's own memory, never from a file
    try:
        connection.send(None)
        while True:
            connection.send(read(connection.recv()))
    except _ENDS:
        return


def _end_with_parent() -> None:
    """End where the parent was killed: nobody is left to stop a decoder that hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _serve_later(connection: Connection, module: str) -> None:
    """A worker's life, begun before there is a pool: import, then learn what to do."""
    try:
        import_module(module)
        make = connection.recv_bytes()
    except _ENDS:
        return
    _serve(connection, make)


def _start_process(target: Callable[..., None], told: object) -> tuple[SpawnProcess, Connection]:
    # spawn: a forked child would inherit torch's thread pools in an undefined state.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, told), daemon=True, name="deepfake-read")
    process.start()
    theirs.close()
    return process, ours


def _mute_c_libraries() -> None:
    """Drop what decoders written in C say on descriptor 2; Python's own errors stay visible."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@dataclass(frozen=True, slots=True)
class _Progress:
    """Said in the middle of a source."""

    value: object


class _Gone:
    """Said of a worker whose pipe has closed."""


class _Crash(Failure):
    """One that may not happen again."""


class _Worker:
    """One process and the job that it has in hand.

    Args:
        make: Pickled: makes what it reads with.
        inbox: Where its messages go.
        is_second: Whether it stands for one that died while it started.
    """

    def __init__(self, make: bytes, inbox: _Inbox, is_second: bool = False) -> None:
        if _spares:
            self.process, self.connection = _spares.pop()
            with suppress(OSError):  # died meanwhile: the closed pipe is heard of
                self.connection.send_bytes(make)
        else:
            self.process, self.connection = _start_process(_serve, make)
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


_Inbox = queue.SimpleQueue[tuple[_Worker, Any] | None]
"""What workers say: first that they are ready, then answers, at last ``_Gone``."""


class WorkerPool(Generic[T]):
    """Worker processes that stay between one run and the next.

    Args:
        make: Makes the function that reads, once in each process; can be pickled.
        workers: How many processes, one at least, and their time limit.
    """

    def __init__(self, make: Callable[[], Callable[[Source], T]], workers: Workers) -> None:
        # Pickled here: whatever its room imports, the worker imports, and nobody else.
        self._make = pickle.dumps(make)
        self._size, self._timeout_s = workers.processes, workers.timeout_s
        self._workers: list[_Worker] = []
        self._inbox: _Inbox = queue.SimpleQueue()
        self._cancelled: set[str] = set()

    def start(self) -> None:
        """Start all workers now; by default each starts when there is a source for it."""
        while len(self._workers) < self._size:
            self._workers.append(_Worker(self._make, self._inbox))

    def cancel(self, source_id: str) -> None:
        """Give up a source of this run or of a later one, from any thread; kills its worker."""
        self._cancelled.add(source_id)
        self._inbox.put(None)  # wakes whoever waits

    def forget(self, source_id: str) -> None:
        """A source that is done may be asked for again, whoever has given it up since."""
        self._cancelled.discard(source_id)

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.kill()

    def run(
        self,
        sources: Iterator[Source],
        on_progress: Callable[[Source, Any], None] = lambda source, progress: None,
    ) -> Iterator[tuple[Source, T | Failure]]:
        """Have every source read, in the order given.

        It must be walked to its end, or the pool be closed.

        Args:
            sources: Consumed lazily, a bounded window ahead of what is yielded.
            on_progress: Handed what ``tell_progress`` was given in the worker.

        Yields:
            Each source with its answer, or how its worker failed: ``cancelled: ...``, too.

        Raises:
            JobError: If workers cannot be started.
        """
        window = _WINDOW_PER_WORKER * self._size
        numbered = enumerate(sources)
        waiting: deque[tuple[int, Source]] = deque()
        pending: dict[int, Source] = {}  # yielded soon, in order of their numbers
        done: dict[int, T | Failure] = {}
        crashed_once: set[int] = set()
        next_out = 0
        while True:
            for number, source in islice(numbered, window - len(pending)):
                pending[number] = source
                waiting.append((number, source))
            if not pending:
                return
            self._hand_out(waiting)
            given_up = [job for job in waiting if job[1].id in self._cancelled]
            for job in given_up:
                waiting.remove(job)
                done[job[0]] = _CANCELLED
            for number, source, outcome in () if given_up else self._collect(on_progress):
                if isinstance(outcome, _Crash) and number not in crashed_once:
                    crashed_once.add(number)
                    waiting.appendleft((number, source))
                else:
                    done[number] = outcome
            while next_out in done:
                source, outcome = pending.pop(next_out), done.pop(next_out)
                self.forget(source.id)
                yield source, outcome
                crashed_once.discard(next_out)
                next_out += 1

    def _hand_out(self, waiting: deque[tuple[int, Source]]) -> None:
        free = sum(worker.job is None for worker in self._workers)
        # A worker takes seconds to start; there is no use in more of them than sources.
        for _ in range(min(self._size - len(self._workers), len(waiting) - free)):
            self._workers.append(_Worker(self._make, self._inbox))
        for worker in self._workers:
            if not worker.is_active and waiting:
                worker.ask(waiting.popleft(), self._timeout_s)

    def _collect(
        self, on_progress: Callable[[Source, Any], None]
    ) -> Iterator[tuple[int, Source, T | Failure]]:
        """Wait for something to happen; yield answers, or how a worker failed instead."""
        nearest = min((w.deadline for w in self._workers if w.is_active), default=0.0)
        messages = []
        with suppress(queue.Empty):
            messages.append(
                self._inbox.get(timeout=min(max(nearest - time.monotonic(), 0), TIMEOUT_MAX))
            )
            # Whoever takes our results may have been long about it: what came counts as in time.
            while True:
                messages.append(self._inbox.get_nowait())
        for worker, message in filter(None, messages):
            job = worker.job
            if worker not in self._workers:
                continue  # it was killed in the meantime
            if message is _Gone:
                worker.process.join(_END_TIMEOUT_S)
                worker.kill()
                reason = f"crashed: its worker process ended ({worker.process.exitcode})"
                self._replace(worker, reason, again=not worker.is_second)
                if job is not None:
                    yield (*job, _Crash(reason))
            elif not worker.ready:
                worker.ready = True
            elif job is not None and isinstance(message, _Progress):
                on_progress(job[1], message.value)
            elif job is not None:
                worker.job = None
                yield (*job, message)
        for worker in list(self._workers):
            if (job := worker.job) is not None and job[1].id in self._cancelled:
                worker.kill()
                self._replace(worker, _CANCELLED.reason, again=False)
                yield (*job, _CANCELLED)
        for worker in [w for w in self._workers if w.is_active and time.monotonic() >= w.deadline]:
            limit_s = self._timeout_s if worker.ready else _START_TIMEOUT_S
            reason, job = f"timeout: gave no answer within {limit_s:g} s", worker.job
            worker.kill()
            self._replace(worker, reason, again=False)
            if job is not None:
                yield (*job, Failure(reason))

    def _replace(self, worker: _Worker, reason: str, again: bool) -> None:
        """Have another worker; one that never got ready has a second chance at most."""
        if not (worker.ready or again):
            raise JobError(f"a worker process did not start ({reason}); see the messages above")
        place = self._workers.index(worker)
        self._workers[place] = _Worker(self._make, self._inbox, is_second=not worker.ready)
