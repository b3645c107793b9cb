"""Runs a job: finds out which blocks are left, has them filled, seals them.

What is there already counts only if its checksums are right and its inputs are what they were; of a
block that has to be done again, what belongs to unchanged inputs is handed over to be used again.
Knows no file of media and no result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfake.jobs.folder import JobFolder, Shard, hash_file
from deepfake.jobs.parts import WHOLE, JobPart
from deepfake.records import Source

_LOST_FILE = "lost.txt"  # in the folder of a block, until it is sealed


@dataclass(frozen=True, slots=True)
class Block:
    """A run of inputs whose shard is being made.

    Args:
        number: Which one.
        first: Number of its first input in the job.
        inputs: What to work on, in order.
        folder: Where to write the files of the shard.
        kept: For inputs that have not changed since they were last worked on: the shard, by id of
            the input, that holds what came of them.
    """

    number: int
    first: int
    inputs: Sequence[Source]
    folder: Path
    kept: Mapping[str, Path] = field(default_factory=dict)

    def lose(self, source: Source) -> None:
        """Note that an input could not be had this time, so that the same command tries it again.

        It is noted in the folder, for the block may be filled anywhere.
        """
        with (self.folder / _LOST_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{source.id}\n")


Stands = Callable[[Sequence[Source], Shard], bool]
"""Whether what a shard says of its inputs, which have not changed, still holds."""

Work = Callable[[Iterable[Block]], Iterator[Block]]
"""Takes blocks, lazily, and gives each back, in order, once its folder is filled.

It takes a stream of them, so that a pool of processes does not run dry at the end of each. What it
writes for a block depends on the block and on what the work itself holds, on nothing else: not on
the other blocks, a clock, or memory that is shared with whoever made it. It can be pickled.
"""

Executor = Callable[[Work, Iterator[Block]], Iterator[Block]]
"""Has a work done on blocks, lazily, and gives each back, in any order, once its folder is filled.

Where that happens is its own affair. Another engine pickles the work once and each block as it
comes, fills a folder of its own there (``replace(block, folder=...)``), and brings the files back
into the block's. It must provide there what the paths of ``inputs`` name, and the folders of
``kept``; with ``kept={}`` instead, the same is made again.
"""


def run_here(work: Work, blocks: Iterator[Block]) -> Iterator[Block]:
    """The executor that works in this process, with whatever processes the work itself starts."""
    return work(blocks)


Digest = Callable[[Sequence[Source]], dict[str, str]]
"""What each input holds, by id and in order: a digest, or nothing where it cannot be read."""


class Job:
    """The inputs of a job, cut into blocks, and the folder that holds their shards.

    Args:
        folder: Of the job.
        sources: All inputs, in order, those of other parts too.
        block_size: Inputs per block.
        part: Do only this part of the blocks.
        digest: How to tell that an input has changed; by default by the bytes of its file.
    """

    def __init__(
        self,
        folder: JobFolder,
        sources: Sequence[Source],
        block_size: int,
        part: JobPart | None = None,
        digest: Digest | None = None,
    ) -> None:
        self.folder, self.sources, self.block_size, self.part = folder, sources, block_size, part
        self.digest = digest or hash_inputs
        self.n_blocks = -(-len(sources) // block_size)
        self.blocks = (part or WHOLE).blocks(self.n_blocks)

    def inputs_of(self, block: int) -> Sequence[Source]:
        """The inputs of a block."""
        return self.sources[block * self.block_size : (block + 1) * self.block_size]

    def count_inputs(self, blocks: Iterable[int] | None = None) -> int:
        """Inputs of some blocks, none of which is made; by default of all of this part."""
        chosen = self.blocks if blocks is None else blocks
        size, total = self.block_size, len(self.sources)
        return sum(min(size, total - block * size) for block in chosen)

    def begin(
        self, plan: Iterable[str], settings: Mapping[str, Any], anew: bool | None = None
    ) -> None:
        """Begin the job in its folder, or go on with it; arguments as of ``JobFolder.begin``."""
        division = {
            "inputs": len(self.sources),
            "block_size": self.block_size,
            "part": None if self.part is None else str(self.part),
        }
        self.folder.begin(plan, {**settings, **division}, anew)

    def find_todo(self, stands: Stands = lambda inputs, shard: True) -> list[int]:
        """Set aside what no longer stands; the blocks that are left to do."""
        self.folder.drop_beyond(self.n_blocks)
        todo = []
        for block in self.blocks:
            shard = self.folder.read_shard(block)
            if shard is None or not self._is_of(shard, self.inputs_of(block), stands):
                self.folder.set_aside(block)
                todo.append(block)
        return todo

    def _is_of(self, shard: Shard, inputs: Sequence[Source], stands: Stands) -> bool:
        """Whether a shard holds what would be made of these inputs again."""
        return (
            list(shard.inputs) == [source.id for source in inputs]
            and shard.inputs == self.digest(inputs)
            and stands(inputs, shard)
        )

    def run(self, todo: Sequence[int], work: Work, execute: Executor = run_here) -> Generator[int]:
        """Have the blocks that are left filled, and seal them.

        Args:
            todo: Their numbers.
            work: Fills them.
            execute: Who does the work.

        Yields:
            The number of each block that is sealed, as it is.
        """
        old: dict[bytes, Path] = {}
        for shard in self.folder.iter_old():
            old |= dict.fromkeys((_shorten(*item) for item in shard.inputs.items()), shard.folder)
        digests: dict[int, dict[str, str]] = {}

        def open_blocks() -> Iterator[Block]:
            for number in todo:
                inputs = self.inputs_of(number)
                digests[number] = self.digest(inputs)
                kept = {
                    source: old[_shorten(source, digest)]
                    for source, digest in digests[number].items()
                    # Nothing is known of what could not be read but that it could not.
                    if digest and _shorten(source, digest) in old
                }
                aside = self.folder.open_block(number)
                yield Block(number, number * self.block_size, inputs, aside, kept)

        for block in execute(work, open_blocks()) if todo else ():
            # Of what could not be had, nothing is known but that.
            read = digests.pop(block.number) | dict.fromkeys(_take_lost(block.folder), "")
            self.folder.seal(block.number, block.folder, read)
            yield block.number
        self.folder.forget_old()


def _take_lost(folder: Path) -> list[str]:
    """Ids of the inputs that are noted as lost; the note goes, it is no part of the shard."""
    path = folder / _LOST_FILE
    if not path.exists():
        return []
    lost = path.read_text(encoding="utf-8").split()
    path.unlink()
    return lost


def _shorten(source: str, digest: str) -> bytes:
    """An input as it was, in few bytes: where all blocks have moved there is one for each input."""
    return hashlib.blake2b(f"{source} {digest}".encode(), digest_size=16).digest()


def hash_inputs(sources: Sequence[Source]) -> dict[str, str]:
    """SHA-256 of each input by id; empty for what cannot be read.

    Of an object of a store, the version that it was seen in: it is not read for that.
    """
    return {source.id: _hash_input(source) for source in sources}


def _hash_input(source: Source) -> str:
    if source.stored is None:
        return hash_file(copy_path(source.path))
    version = source.stored.version if source.problem is None else ""
    return version and hashlib.sha256(version.encode()).hexdigest()


def count_bytes(source: Source) -> int | str:
    """Size of an input, for a plan; empty where it is not known."""
    if source.stored is not None:
        return "" if source.stored.size is None or source.problem else source.stored.size
    try:
        return copy_path(source.path).stat().st_size
    except OSError:
        return ""


def copy_path(path: Path) -> Path:
    """The same path, to be opened: pathlib keeps the text of one that was, and there are many."""
    return path / ""
