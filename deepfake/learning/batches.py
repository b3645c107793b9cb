"""Which crops come when: one endless row of them, cut into batches, epochs and processes.

A sample is named by ``(epoch, row, augment, blend)``, and the names of a batch follow from the
seed, the epoch and the number of the batch: the number of processes and a resume change nothing.
Knows rows by label, group and original alone, neither manifest nor pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DistributedSampler

from deepfake.errors import UsageError

_CHUNK = 1 << 16  # places of a pass that are Python numbers at a time


class SampleKey(NamedTuple):
    """Names one sample of one epoch.

    Args:
        epoch: Pass over the training data that drew it; where ``steps_per_epoch`` cuts passes into
            epochs, that is another number than the epoch's.
        row: Of the data set.
        augment: Whether it is changed at random.
        blend: Whether it is the fake that is made of a real row by blending it with itself.
        repeat: How often the pass has brought the row before; it is changed otherwise then.
    """

    epoch: int
    row: int
    augment: bool
    blend: bool = False
    repeat: int = 0


class EpochOrder:
    """Rows in an order that follows from (seed, epoch) alone.

    ``MPerClassSampler`` of pytorch-metric-learning balances and draws groups too, but from NumPy's
    global generator: it has no epoch to go on from, no originals, and every process would draw
    batches of its own.

    Args:
        labels: Label of each row.
        seed: Same seed and epoch, same order.
        balance: Repeat rows of the smaller class until both are equally frequent, and alternate
            the classes, so that every batch is half fake.
        groups: Group of each row, for ``per_group``.
        per_group: So many rows of a group come together (of each class, where they alternate);
            what is left of a group comes together too.
        originals: For every row, the row that it was made from, or -1. If given, classes
            alternate: every fake comes with its own original just before it. Reals that no fake
            was made from come once, before fakes without original, and where these run out,
            before a fake that comes again. Any real stands in where no such real is left.
        strangers: Rows of the reals of no fake; by default those that ``originals`` does not name.
        self_blend: Share of the pairs of a real and a fake that are a real and its own blend,
            evenly spread over the others, which come as they would without. Reals of no fake are
            then no part of the pairs that ``originals`` makes. With 1 there are no other pairs,
            and a pass brings every source once.
        sources: Rows of the reals that may be blended; needed for ``self_blend``.

    Attributes:
        is_blend: Of every place of a pass, ``(len(self),)``, whether it is a blend of its row.
    """

    def __init__(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        seed: int,
        balance: bool = False,
        groups: Sequence[str] | None = None,
        per_group: int = 1,
        originals: NDArray[np.int64] | None = None,
        strangers: NDArray[np.int64] | None = None,
        self_blend: float = 0.0,
        sources: NDArray[np.int64] | None = None,
    ) -> None:
        self.labels, self.seed, self.balance = np.asarray(labels), seed, balance
        self.per_group, self.originals = per_group, originals
        self._unpaired_reals = np.empty(0, np.int64)
        self._n_unpaired_fakes = 0
        if originals is not None and not self_blend:
            reals = np.flatnonzero(self.labels == 0)
            self._unpaired_reals = (
                np.setdiff1d(reals, originals) if strangers is None else strangers
            )
            self._n_unpaired_fakes = int((originals[self.labels == 1] < 0).sum())
        self._group_numbers: NDArray[np.int64] | None = None
        if per_group > 1:
            if groups is None:
                raise ValueError(f"per_group={per_group} needs groups")
            names = np.asarray(groups, dtype=object)
            _, self._group_numbers = np.unique(names, return_inverse=True)
        self._n_others, self._n_blends = self._count_others(), 0
        self._sources = np.empty(0, np.int64) if sources is None else sources
        if self_blend and not len(self._sources):
            raise ValueError(f"self_blend={self_blend} needs sources")
        if self_blend == 1:
            self._n_others, self._n_blends = 0, len(self._sources)
        elif self_blend:
            self._n_blends = round(self._n_others / 2 * self_blend / (1 - self_blend))
        self.is_blend = np.zeros(len(self), bool)
        if self_blend:
            # Both kinds of pairs evenly spread, so that every batch has its share of blends.
            numbers = (self._n_others // 2, self._n_blends)
            places = [(np.arange(n) + 0.5) / max(n, 1) for n in numbers]
            self._pair_order = np.argsort(np.concatenate(places), kind="stable")
            self.is_blend[1::2] = self._pair_order >= numbers[0]

    def __len__(self) -> int:
        return self._n_others + 2 * self._n_blends

    def _count_others(self) -> int:
        """Places of a pass that are no part of a pair of a real and its blend."""
        counts = np.bincount(self.labels, minlength=2)
        if self.originals is not None:
            return 2 * (int(counts[1]) + max(0, len(self._unpaired_reals) - self._n_unpaired_fakes))
        return 2 * int(counts.max()) if self.balance else len(self.labels)

    def arrange(self, epoch: int) -> NDArray[np.int64]:
        """One pass over the data, ``(len(self),)``."""
        others = self._arrange_others(epoch) if self._n_others else np.empty(0, np.int64)
        if not self._n_blends:
            return others
        # A generator of its own: blends leave the order of the others as it was.
        generator = np.random.default_rng((self.seed, epoch, 1))
        drawn = self._repeat(self._sources, self._n_blends, generator)
        pairs = np.concatenate([others.reshape(-1, 2), np.stack([drawn, drawn], axis=1)])
        return pairs[self._pair_order].ravel()

    def _arrange_others(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng((self.seed, epoch))
        if self.originals is not None:
            return self._pair_up(self.originals, generator)
        if not self.balance:
            return self._shuffle(np.arange(len(self.labels)), generator)
        columns = [
            self._repeat(np.flatnonzero(self.labels == label), self._n_others // 2, generator)
            for label in (0, 1)
        ]
        return np.stack(columns, axis=1).ravel()

    def _pair_up(
        self, originals: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """A real and a fake in turns. A pair is named by its fake, or by a real of no fake."""
        all_fakes = np.flatnonzero(self.labels == 1)
        unpaired = generator.permutation(self._unpaired_reals)
        n_taken = min(len(unpaired), self._n_unpaired_fakes)
        pairs = self._shuffle(np.r_[all_fakes, unpaired[n_taken:]], generator)
        by_fake = self.labels[pairs] == 1
        reals = np.where(by_fake, originals[pairs], pairs)
        without_original = np.flatnonzero(reals < 0)
        # One is drawn for every pair, needed or not: published runs have their order from it.
        stand_ins = generator.choice(np.flatnonzero(self.labels == 0), len(pairs))
        reals[without_original] = stand_ins[without_original]
        reals[without_original[:n_taken]] = unpaired[:n_taken]
        fakes = pairs.copy()
        fakes[~by_fake] = self._repeat(all_fakes, int((~by_fake).sum()), generator)
        return np.stack([reals, fakes], axis=1).ravel()

    def _repeat(
        self, rows: NDArray[np.int64], length: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """So many rows: every one in random order, then every one again, and so on."""
        passes = [self._shuffle(rows, generator) for _ in range(-(-length // len(rows)))]
        return np.concatenate([rows[:0], *passes])[:length]

    def _shuffle(
        self, rows: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Every row once, in random order; with groups, in random order of their parts."""
        shuffled: NDArray[np.int64] = generator.permutation(rows)
        if self._group_numbers is None:
            return shuffled
        numbers = self._group_numbers[shuffled]
        by_group = np.argsort(numbers, kind="stable")
        shuffled, numbers = shuffled[by_group], numbers[by_group]
        first = np.flatnonzero(np.r_[True, np.diff(numbers) != 0])
        place = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
        part = np.cumsum(place % self.per_group == 0) - 1
        return shuffled[np.argsort(generator.permutation(part[-1] + 1)[part], kind="stable")]


class EpochBatches(DistributedSampler[list[SampleKey]]):
    """Batches for one process out of the global batches that all processes share.

    The first ``augment_share * batch_size`` samples of each global batch (rounded down) are
    augmented: the order is random, so that is an exact number of random samples, as the contest
    entry had it. A ``DistributedSampler``, so that Lightning knows that the processes' shares are
    divided already.

    Args:
        order: Order of the rows.
        batch_size: Size of the *global* batch; an incomplete last one is dropped, unless it is
            the only one.
        augment_share: Share of each batch that is augmented.
        rank: Number of this process.
        world_size: Number of processes; they take equal parts of each global batch, and of
            balanced batches each takes both classes.
        steps: Batches of an epoch. The passes over the data then form one endless row, an epoch
            is a piece of it, and nothing is dropped: the next epoch goes on where it ended.

    Attributes:
        epoch: Epoch whose batches come next; Lightning sets it by ``set_epoch``.
        done: Batches of one epoch that a resumed run has behind it, as ``(epoch, number)``.

    Raises:
        UsageError: If batches or crops cannot be divided among the processes.
    """

    def __init__(
        self,
        order: EpochOrder,
        batch_size: int,
        augment_share: float,
        rank: int = 0,
        world_size: int = 1,
        steps: int | None = None,
    ) -> None:
        if batch_size % world_size:
            raise UsageError(
                f"data.batch_size={batch_size} cannot be divided among {world_size} processes; it "
                f"counts all of them together, so take {-(-batch_size // world_size) * world_size}"
            )
        if len(order) < world_size:
            raise UsageError(
                f"{len(order)} crops to train on cannot be divided among {world_size} processes"
            )
        rows: Any = order  # all that it is asked for is a length
        super().__init__(rows, world_size, rank)
        self.order = order
        self.batch_size, self.steps = batch_size, steps
        if steps is None:
            self.batch_size = min(batch_size, len(order) - len(order) % world_size)
        self.n_augmented = int(augment_share * self.batch_size + 1e-9)
        if order.is_blend.any():  # a real and its blend have one fate
            self.n_augmented -= self.n_augmented % 2
        self.world_size = world_size
        self.done = (0, 0)

    def __len__(self) -> int:
        return self.steps or len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        first = self.done[1] if epoch == self.done[0] else 0
        draws = self._draw(epoch, first)
        for _ in range(first, len(self)):
            batch = [
                SampleKey(number, row, place < self.n_augmented, blend, repeat)
                for place, (number, row, blend, repeat) in enumerate(islice(draws, self.batch_size))
            ]
            yield [batch[place] for place in shard(len(batch), self.rank, self.world_size)]

    def _draw(self, epoch: int, first: int) -> Iterator[tuple[int, int, bool, int]]:
        """Pass, row, blend and repeat of the samples of an epoch, from its ``first`` batch on."""
        length = len(self.order)
        # Without mini-epochs each epoch is a pass of its own, whose remainder is dropped.
        begin = epoch * (length if self.steps is None else self.steps * self.batch_size)
        number, place = divmod(begin + first * self.batch_size, length)
        while True:
            rows, blends = self.order.arrange(number), self.order.is_blend
            repeats = count_repeats(rows, blends)
            for start in range(place, len(rows), _CHUNK):
                columns = (column[start : start + _CHUNK] for column in (rows, blends, repeats))
                for row, blend, repeat in zip(*(one.tolist() for one in columns), strict=True):
                    yield number, row, blend, repeat
            number, place = number + 1, 0


def count_repeats(rows: NDArray[np.int64], is_blend: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How often each place's row has come before, ``(N,)``; of a blend it is that of its real.

    Example:
        >>> count_repeats(np.array([7, 7, 5, 8, 7, 7]), np.array([0, 1, 0, 0, 0, 1], bool)).tolist()
        [0, 0, 0, 0, 1, 1]
    """
    reals = np.where(is_blend, -1 - np.arange(len(rows)), rows)  # a blend counts for nobody
    order = np.argsort(reals, kind="stable")
    is_first = np.r_[True, np.diff(reals[order]) != 0]
    starts = np.flatnonzero(is_first)
    repeats = np.empty(len(rows), np.int64)
    repeats[order] = np.arange(len(rows)) - starts[np.cumsum(is_first) - 1]
    # A real stands just before its blend, and has its fate.
    blends = np.flatnonzero(is_blend)
    repeats[blends] = repeats[blends - 1]
    return repeats


def shard(n_places: int, rank: int, world_size: int) -> list[int]:
    """Places of a batch that one process takes; ``gather`` puts them together again.

    The processes take turns. Of an even number each turn begins one process later: where the
    classes alternate, every second place would give each of two processes one class only. An odd
    number of them alternates by itself.

    Example:
        >>> [shard(8, rank, world_size=2) for rank in range(2)]
        [[0, 3, 4, 7], [1, 2, 5, 6]]
    """
    later = 1 - world_size % 2
    turns = range(n_places // world_size)
    return [turn * world_size + (rank + later * turn) % world_size for turn in turns]


def deduplicate(index: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Columns in the order of the samples that ``index`` names, each sample once.

    Example:
        >>> deduplicate(torch.tensor([2, 0, 1, 0]), torch.tensor([7, 5, 6, 5]))
        (tensor([5, 6, 7]),)
    """
    _, places = np.unique(index.numpy(), return_index=True)
    return tuple(column[torch.from_numpy(places)] for column in columns)
