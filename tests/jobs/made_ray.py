"""A real Ray cluster in miniature, and work that shows where it is done."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster

from deepfake.jobs.engine import Block
from deepfake.jobs.workers import Failure, read_in_workers
from deepfake.records import Source, Workers

ROOT = Path(__file__).parents[2]
_NODE = {"num_cpus": 1, "object_store_memory": 200_000_000, "node_ip_address": "127.0.0.1"}


class Nodes:
    """A cluster of nodes with one CPU each."""

    def __init__(self) -> None:
        head = {"include_dashboard": False, **_NODE}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def engine(self) -> str:
        """As ``--engine`` names it."""
        return f"ray:{self.cluster.address}"

    def add(self, **resources: int) -> Any:
        """Another node."""
        return self.cluster.add_node(**{**_NODE, **resources})


@contextmanager
def start_nodes() -> Iterator[Nodes]:
    """A cluster of one node, to which others can be added."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        # All of it on the loopback, here and in other processes.
        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
        patch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0")
        nodes = Nodes()
        try:
            yield nodes
        finally:
            ray.shutdown()
            nodes.cluster.shutdown()


@dataclass(frozen=True)
class Upper:
    """Work whose result is the content in capitals, once a file ``open`` lets it go on.

    It notes the node that has begun a block in a file of the block's number.
    """

    folder: Path

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            if ray.is_initialized():
                with (self.folder / str(block.number)).open("a") as file:
                    file.write(f"{ray.get_runtime_context().get_node_id()}\n")
            while not (self.folder / "open").exists():
                time.sleep(0.05)
            for source in block.inputs:
                (block.folder / source.id).write_text(source.path.read_text().upper())
            yield block


def find_nodes(folder: Path) -> dict[int, list[str]]:
    """By block the nodes that have begun it, in order."""
    found = defaultdict(list)
    for path in folder.iterdir():
        if path.name.isdigit():
            found[int(path.name)] = path.read_text().split()
    return found


@dataclass(frozen=True)
class ShowGPUs:
    """Work that writes down which GPUs it may use, once four processes are at it."""

    folder: Path

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            (self.folder / str(os.getpid())).touch()
            while len(list(self.folder.iterdir())) < 4:
                time.sleep(0.05)
            (block.folder / "gpus").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            yield block


@dataclass(frozen=True)
class Reading:
    """Work that reads inputs in processes of its own, which one named ``deadly`` kills."""

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            for source, answer in read_in_workers(block.inputs, make_reader, Workers(1)):
                reason = answer.reason if isinstance(answer, Failure) else answer
                (block.folder / source.id).write_text(reason)
            yield block


def make_reader() -> Callable[[Source], str]:
    def read(source: Source) -> str:
        if source.name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return source.path.read_text()

    return read


@dataclass(frozen=True)
class Deadly:
    """Work that ends its process at an input named ``deadly``."""

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            for source in block.inputs:
                if source.name == "deadly":
                    os._exit(1)
                (block.folder / source.id).touch()
            yield block
