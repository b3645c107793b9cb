"""Another engine, as strange as one may be: it shares neither memory nor folders nor the order."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from deepfake.jobs.engine import Block, Work


def work_elsewhere(work: Work, blocks: Iterator[Block]) -> Iterator[Block]:
    """An executor: every block is filled in a process of its own kind, the last one first."""
    pickled = pickle.dumps(work)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        sent = [(block, pool.submit(_fill, pickled, pickle.dumps(block))) for block in blocks]
        for block, filled in reversed(sent):
            for name, data in filled.result().items():
                (block.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (block.folder / name).write_bytes(data)
            yield block


def _fill(work: bytes, block: bytes) -> dict[str, bytes]:
    """Fill one block in a folder that nobody else knows; its files."""
    with tempfile.TemporaryDirectory() as name:
        there = replace(pickle.loads(block), folder=Path(name), kept={})
        (filled,) = pickle.loads(work)(iter([there]))
        return {
            path.relative_to(filled.folder).as_posix(): path.read_bytes()
            for path in filled.folder.rglob("*")
            if path.is_file()
        }
