"""Another engine: the blocks of a job are filled by the workers of a Ray cluster.

Blocks go out one by one, each to a worker that keeps what it has loaded; the files that come back
are written by this process, as if it had made them. A block that is lost with its worker or node
goes out again. Nodes see the inputs, and whatever else the work names, under the same paths as this
process. Knows nothing of what a block holds. Imported only where Ray was asked for.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

# Read while Ray is imported. It tells its makers how it is used, writes about the cluster into our
# standard output, and tries for a quarter of an hour to reach a cluster that is gone.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SCHEDULER_EVENTS"] = "0"
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")

import ray
from ray.exceptions import RayError, RayTaskError

from deepfake.errors import DeepfakeError, JobError, UsageError, one_line
from deepfake.jobs.engine import Block, Work
from deepfake.jobs.workers import kept_workers

logger = logging.getLogger(__name__)

_MOST_LOSSES = 4  # of one block; nodes go, but not four times under the same one
_LOOK_S = 2.0  # between two looks at whether there are more nodes
_PATIENCE_S = 60.0  # with a cluster that has no room
_PART_BYTES = 2**24  # of the files of a block, together in one object of Ray's store
_Part = list[tuple[str, bytes | None]]
"""Paths in the folder of a block with their contents; ``None`` of a folder."""


@dataclass(frozen=True, slots=True)
class RayEngine:
    """An executor, see ``deepfake.jobs.engine.Executor``; blocks come back as they are done.

    Args:
        address: Of the cluster, ``host:port`` or ``auto``; ``None`` starts Ray on this machine, for
            this process alone and with all of its CPUs.
        cpus: Of each worker; the network has as many threads on a CPU.
        gpus: Of each worker; may be a part of one.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0

    def __call__(self, work: Work, blocks: Iterator[Block]) -> Iterator[Block]:
        """Have the work done; one block waits for room, all others that are open have a worker.

        Raises:
            UsageError: If there is no such cluster, or a node lacks the files or the packages.
            JobError: If a block was lost again and again, or Ray itself has failed.
        """
        _connect(self.address)
        fleet = _Fleet(self, work, blocks)
        try:
            yield from fleet.run()
        except RayError as error:
            raise JobError(
                f"Ray failed ({one_line(str(error))}); run the same command again to go on"
            ) from error
        finally:
            fleet.close()


def _connect(address: str | None) -> None:
    """Join a cluster, or start one; at its end the process leaves it, and ends what it started."""
    if ray.is_initialized():
        return
    if address not in (None, "auto"):
        _check_reachable(address)
    if address is None:
        # Nothing else keeps Ray from listening on the machine's other addresses. By itself it
        # takes work only from who can read a token among this user's files.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    former = signal.getsignal(signal.SIGTERM)
    try:
        context = ray.init(address or "local", logging_level=logging.ERROR)
    except Exception as error:
        what = _no_cluster(address) if address else "Ray did not start"
        raise UsageError(f"{what}: {one_line(str(error))}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)  # Ray has put its own in the place of ours
    alive = sum(node["Alive"] for node in ray.nodes())
    page = f", dashboard at http://{context.dashboard_url}" if context.dashboard_url else ""
    logger.info("Ray %s, nodes: %d%s", ray.__version__, alive, page)


def _check_reachable(address: str) -> None:
    """Say at once what Ray says after minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"{_no_cluster(address)}: {error}; expected HOST:PORT or auto") from error


def _no_cluster(address: str) -> str:
    return f"the Ray cluster at {address} cannot be joined"


@dataclass(frozen=True, slots=True)
class _Worker:
    """An actor of Ray.

    Args:
        actor: A ``Filler``.
        began: The object that is there once Ray has found a place for it.
    """

    actor: Any
    began: Any

    def has_begun(self) -> bool:
        return bool(ray.wait([self.began], timeout=0)[0])

    def end(self) -> None:
        ray.kill(self.actor)


class _Fleet:
    """The workers of a job, and the blocks that they have in hand.

    A worker is started for a block that nobody has, where the cluster has room for one, and ended
    when none is left for it: whoever comes to the cluster or goes, no block waits for an idle one.
    One worker more waits for room: a node that comes is used at once, and a cluster that grows with
    what it is asked for grows.
    """

    def __init__(self, engine: RayEngine, work: Work, blocks: Iterator[Block]) -> None:
        self._engine, self._blocks = engine, blocks
        options = {"num_cpus": engine.cpus, "num_gpus": engine.gpus, "max_restarts": 0}
        self._actor = ray.remote(**options)(Filler)
        versions = _find_versions(_name_packages())
        self._told = (ray.put(pickle.dumps(work)), Path.cwd(), versions, engine.cpus)
        self._running: dict[Any, tuple[Block, _Worker]] = {}  # by the answer that will come
        self._again: deque[Block] = deque()
        self._losses: Counter[int] = Counter()

    def run(self) -> Iterator[Block]:
        patient_until: float | None = time.monotonic() + _PATIENCE_S
        while True:
            is_sent = len(self._running) <= self._count_places() and self._send_to_another()
            if not self._running:
                return
            answers, _ = ray.wait([*self._running], timeout=0 if is_sent else _LOOK_S)
            if patient_until is not None and any(w.has_begun() for _, w in self._running.values()):
                patient_until = None
            if patient_until is not None and time.monotonic() > patient_until:
                patient_until = None
                logger.warning(
                    "no node of the Ray cluster has had room for a worker of %d CPUs and %g GPUs; "
                    "waiting for one",
                    self._engine.cpus,
                    self._engine.gpus,
                )
            for answer in answers:
                block, worker = self._running.pop(answer)
                if self._take_in(answer, block, worker):
                    yield block

    def _count_places(self) -> int:
        """How many workers the nodes have room for, were there no other jobs."""
        needed = {"CPU": float(self._engine.cpus), "GPU": self._engine.gpus}
        return sum(
            min(int(node["Resources"].get(name, 0) / n + 1e-9) for name, n in needed.items() if n)
            for node in ray.nodes()
            if node["Alive"]
        )

    def _send_to_another(self) -> bool:
        """Start a worker for a block that nobody has; whether there was such a block."""
        block = self._find_block()
        if block is None:
            return False
        actor = self._actor.remote(*self._told)
        self._send(block, _Worker(actor, actor.begin.remote()))
        return True

    def _send(self, block: Block, worker: _Worker) -> None:
        # What cannot be read here is a row of the result; what only a node cannot read is a fault.
        seen = [source.stored is None and source.path.exists() for source in block.inputs]
        self._running[worker.actor.fill.remote(block, seen)] = block, worker

    def _find_block(self) -> Block | None:
        return self._again.popleft() if self._again else next(self._blocks, None)

    def _take_back(self) -> Block | None:
        """A block whose worker still waits for its place; that one is given up."""
        for answer, (block, worker) in self._running.items():
            if not worker.has_begun():
                del self._running[answer]
                worker.end()
                return block
        return None

    def _take_in(self, answer: Any, block: Block, worker: _Worker) -> bool:
        """Write the files of a block that is done, its worker at the next one; not if it is lost.

        Raises:
            Exception: What the work raised.
        """
        following = None
        try:
            parts = ray.get(answer)
            following = self._find_block() or self._take_back()
            if following is not None:
                self._send(following, worker)
            for part in parts:
                _write(block.folder, ray.get(part))
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            self._lose(block, error)
            return False
        finally:
            if following is None:
                worker.end()
        return True

    def _lose(self, block: Block, error: RayError) -> None:
        self._losses[block.number] += 1
        why = one_line(str(error), 400)
        if self._losses[block.number] == _MOST_LOSSES:
            names = ", ".join(one_line(source.name) for source in block.inputs[:3])
            more = f" and {len(block.inputs) - 3} more" if len(block.inputs) > 3 else ""
            raise JobError(
                f"the Ray worker that had {names}{more} in hand ended {_MOST_LOSSES} times "
                f"({why}); see that all nodes have this package and memory enough, or leave these "
                "inputs out, and run the same command again to go on"
            )
        logger.warning("shard %05d was lost with its Ray worker and is made again", block.number)
        logger.debug("%s", why)
        shutil.rmtree(block.folder)
        block.folder.mkdir()
        self._again.append(block)

    def close(self) -> None:
        """End all workers."""
        for _, worker in self._running.values():
            worker.end()


class Filler:
    """Within a worker of Ray: fills blocks, one after another, with what it loads once.

    Args:
        work: Pickled.
        started_in: Folder of the process whose job it is; paths may be relative to it.
        versions: Of the packages there.
        threads: Of the network.
    """

    def __init__(
        self, work: bytes, started_in: Path, versions: Mapping[str, str], threads: int
    ) -> None:
        # The last digits of a network on a CPU depend on them; torch asks when it is imported.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._told = (work, started_in, versions)
        self._work: Work | None = None
        self._stack = ExitStack()  # ends with the process

    def begin(self) -> None:
        """Say that there was a place for this worker."""

    def fill(self, block: Block, seen: Sequence[bool]) -> list[Any]:
        """Fill a block in a folder of this node.

        Args:
            block: Which one.
            seen: Of each input, whether the process whose job it is can see it.

        Returns:
            Objects of Ray: the files, each object a ``_Part``.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="deepfake-") as name:
                there = self.fill_in(replace(block, folder=Path(name)), seen)
                return [ray.put(part) for part in _iter_parts(there)]
        except DeepfakeError:
            raise
        except OSError as error:
            raise JobError(f"on node {socket.gethostname()}: {error}") from error

    def fill_in(self, block: Block, seen: Sequence[bool]) -> Path:
        """Fill a block in its folder.

        Raises:
            UsageError: If something is other on this node than where the job was started.
        """
        if self._work is None:
            self._work = self._load()
        for source, is_seen in zip(block.inputs, seen, strict=True):
            if is_seen and not source.path.exists():
                raise UsageError(
                    f"node {socket.gethostname()} does not see {source.path}; nodes of the Ray "
                    "cluster must see the inputs under the same paths as the machine of the command"
                )
        # What cannot be used again, because it is not seen here, is made again.
        kept = {id_: shard for id_, shard in block.kept.items() if shard.is_dir()}
        (filled,) = self._work(iter([replace(block, kept=kept)]))
        return filled.folder

    def _load(self) -> Work:
        work, started_in, versions = self._told
        node = f"node {socket.gethostname()} of the Ray cluster"
        try:
            os.chdir(started_in)
        except OSError as error:
            raise UsageError(
                f"{node} has no folder {started_in}; run the command in one that all nodes see"
            ) from error
        here = _find_versions(versions)
        other = [name for name in versions if versions[name] != here[name]]
        if other:
            raise UsageError(
                f"{node} has {other[0]} {here[other[0]]}, the machine of the "
                f"command {versions[other[0]]}; results would differ: install the same on all"
            )
        self._stack.enter_context(kept_workers())
        loaded: Work = pickle.loads(work)  # of the cluster that runs our code anyway
        return loaded


def _name_packages() -> list[str]:
    """This package and those that it cannot do without."""
    lines = [line for line in requires("deepfake") or () if "extra ==" not in line]
    return ["deepfake", *(match[0] for line in lines if (match := re.match(r"[\w.-]+", line)))]


def _find_versions(names: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not at all"
    return versions


def _iter_parts(folder: Path) -> Iterator[_Part]:
    part: _Part = []
    size = 0
    for path in sorted(folder.rglob("*")):
        content = None if path.is_dir() else path.read_bytes()
        part.append((path.relative_to(folder).as_posix(), content))
        size += len(content or b"")
        if size >= _PART_BYTES:
            yield part
            part, size = [], 0
    yield part


def _write(folder: Path, part: _Part) -> None:
    for name, content in part:
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
