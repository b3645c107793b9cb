"""Work on crop folders in stores, wherever it is done: each machine reads them through a cache.

Knows no engine, and nothing of what the work does.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfake.dataset.crop_mirror import Opening, Pack, find_mirror, open_crops
from deepfake.errors import JobError
from deepfake.jobs.engine import Block, Executor, Work


@dataclass(frozen=True, slots=True)
class WithMirrors:
    """An executor whose processes open those crop folders of a work that lie in stores.

    They do so in the same place. On another machine that is a cache of its own, of the same size.

    Args:
        execute: Has the work done; it pickles it for processes elsewhere.
        roots: Of crop folders, as ``open_crops`` gave them.
    """

    execute: Executor
    roots: Sequence[Path]

    def __call__(self, work: Work, blocks: Iterator[Block]) -> Iterator[Block]:
        """See ``deepfake.jobs.engine.Executor``."""
        return self.execute(MirroredWork(work, self.roots), blocks)


class MirroredWork:
    """Work that, where it is unpickled, finds these crop folders opened.

    Args:
        work: Which one.
        roots: As of ``WithMirrors``.
    """

    def __init__(self, work: Work, roots: Sequence[Path]) -> None:
        self._work, self._roots = work, roots

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """See ``deepfake.jobs.engine.Work``."""
        return self._work(blocks)

    def __reduce__(self) -> tuple[Any, ...]:
        """The work by itself: what it holds of a crop folder is looked for when it is loaded."""
        mirrors = filter(None, map(find_mirror, self._roots))
        opened = [(mirror.opening, mirror.packs) for mirror in mirrors]
        return _load, (opened, pickle.dumps(self._work))


def _load(opened: Sequence[tuple[Opening, Mapping[str, Pack]]], work: bytes) -> Work:
    """Open the crop folders, and then load the work.

    Raises:
        JobError: If one of them is not what it was where the job was begun.
    """
    for opening, packs in opened:
        mirror = find_mirror(open_crops(*opening))
        if mirror is None or mirror.packs != packs:
            raise JobError(
                f"the crops in {opening.root} are not what they were when the job began; run the "
                "same command again"
            )
    loaded: Work = pickle.loads(work)  # it was pickled together with this
    return loaded
