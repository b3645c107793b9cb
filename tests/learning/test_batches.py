"""Orders against what they promise; batches against the one row that all of them are cut from."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.errors import UsageError
from deepfake.learning.batches import EpochBatches, EpochOrder, SampleKey, shard

# Order


@pytest.mark.parametrize("balance", [False, True], ids=["plain", "balanced"])
def test_order_follows_from_seed_and_epoch_alone(balance: bool) -> None:
    labels = [0] * 30 + [1] * 20
    order = EpochOrder(labels, seed=3, balance=balance)
    seen = []
    for epoch in (0, 1, 2):
        seen.append(order.arrange(epoch).tolist())
        assert order.arrange(epoch).tolist() == seen[-1]
    fresh = EpochOrder(labels, seed=3, balance=balance)
    torch.manual_seed(99)
    np.random.seed(99)
    assert fresh.arrange(2).tolist() == seen[2]
    assert len({tuple(indices) for indices in seen}) == 3
    other = EpochOrder(labels, seed=4, balance=balance)
    assert other.arrange(0).tolist() != seen[0]


def test_every_row_once_in_random_order() -> None:
    order = EpochOrder([0, 1] * 50, seed=0)
    assert len(order) == 100
    rows = order.arrange(0).tolist()
    assert sorted(rows) == list(range(100))
    assert rows != list(range(100))


@pytest.mark.parametrize(
    ("n_real", "n_fake"), [(30, 7), (3, 50), (20, 20), (1, 4)], ids="{}".format
)
def test_balance_gives_half_and_half(n_real: int, n_fake: int) -> None:
    labels = np.repeat([0, 1], [n_real, n_fake])
    order = EpochOrder(labels.tolist(), seed=1, balance=True)
    indices = order.arrange(0).tolist()
    assert len(indices) == len(order) == 2 * max(n_real, n_fake)
    assert [int(labels[i]) for i in indices] == [0, 1] * max(n_real, n_fake)
    for label, number in ((0, n_real), (1, n_fake)):
        times = Counter(i for i in indices if labels[i] == label)
        assert len(times) == number
        assert max(times.values()) - min(times.values()) <= 1


# Groups and pairs


def runs_of(values: list[Any]) -> list[int]:
    """Lengths of runs of equal values."""
    return [len(list(run)) for _, run in groupby(values)]


@pytest.mark.parametrize("balance", [False, True], ids=["plain", "balanced"])
@pytest.mark.parametrize("per_group", [2, 3, 4])
def test_rows_of_a_group_come_together(balance: bool, per_group: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).tolist()
    groups = [f"g{n}" for n in rng.integers(0, 12, 200)]
    order = EpochOrder(labels, 1, balance, groups, per_group)
    seen = []
    for epoch in (0, 1):
        rows = order.arrange(epoch).tolist()
        seen.append(rows)
        assert len(rows) == len(order)
        columns = [rows]
        if balance:
            columns = [rows[label::2] for label in (0, 1)]
            assert [labels[row] for row in rows] == [0, 1] * (len(rows) // 2)
        else:
            assert sorted(rows) == list(range(200))
        for column in columns:
            lengths = runs_of([groups[row] for row in column])
            # Two parts of one group may meet; what is left of a group is shorter.
            assert np.mean(lengths) > 0.7 * per_group
    assert seen[0] != seen[1]
    single, plain = EpochOrder(labels, 1, balance, groups, 1), EpochOrder(labels, 1, balance)
    assert np.array_equal(single.arrange(0), plain.arrange(0))


def test_a_group_in_parts_is_spread_over_the_pass() -> None:
    order = EpochOrder([0, 1] * 50, 0, groups=["a"] * 100, per_group=4)
    assert sorted(order.arrange(0)) == list(range(100))
    order = EpochOrder([0, 1] * 50, 0, groups=["a"] * 60 + ["b"] * 40, per_group=4)
    lengths = runs_of([row < 60 for row in order.arrange(0).tolist()])
    assert all(length % 4 == 0 for length in lengths)
    assert max(lengths) < 60
    with pytest.raises(ValueError, match="per_group=2 needs groups"):
        EpochOrder([0, 1], 0, per_group=2)


def test_a_fake_comes_with_its_original() -> None:
    labels = [0, 0, 0, 1, 1, 1, 1, 1]
    originals = np.array([-1, -1, -1, 0, 0, 2, -1, 1])
    order = EpochOrder(labels, 0, originals=originals)
    stand_ins = set()
    for epoch in range(20):
        rows = order.arrange(epoch).tolist()
        assert len(rows) == len(order) == 10
        reals, fakes = rows[::2], rows[1::2]
        assert sorted(fakes) == [3, 4, 5, 6, 7]
        for real, fake in zip(reals, fakes, strict=True):
            if fake == 6:
                stand_ins.add(real)
            else:
                assert real == originals[fake]
    assert stand_ins == {0, 1, 2}


@pytest.mark.parametrize("per_group", [1, 3])
@pytest.mark.parametrize(
    ("n_real", "n_fake", "n_covered", "n_without"),
    [(60, 6, 6, 0), (20, 30, 15, 0), (20, 30, 15, 3), (9, 20, 3, 11), (1, 1, 1, 0), (40, 2, 1, 1)],
    ids="{}".format,
)
def test_pairs_leave_no_crop_out(
    n_real: int, n_fake: int, n_covered: int, n_without: int, per_group: int
) -> None:
    rng = np.random.default_rng(n_real)
    covered = np.r_[range(n_covered), rng.integers(0, n_covered, n_fake - n_without - n_covered)]
    originals = np.r_[[-1] * n_real, covered, [-1] * n_without].astype(np.int64)
    labels = [0] * n_real + [1] * n_fake
    groups = [f"g{n}" for n in rng.integers(0, 4, len(labels))]
    order = EpochOrder(labels, 5, groups=groups, per_group=per_group, originals=originals)
    passes = []
    for epoch in range(3):
        passes.append(order.arrange(epoch).tolist())
        assert len(passes[-1]) == len(order)
        assert set(passes[-1]) == set(range(n_real + n_fake))
        reals, fakes = passes[-1][::2], passes[-1][1::2]
        assert {labels[row] for row in reals} == {0}
        assert {labels[row] for row in fakes} == {1}
        # Each fake has its place beside its own original, each other real has one of its own.
        own = Counter(
            fake for real, fake in zip(reals, fakes, strict=True) if real == originals[fake]
        )
        assert set(own) == {row for row in range(n_real + n_fake) if originals[row] >= 0}
        times = Counter(reals)
        unpaired = range(n_covered, n_real)
        if len(unpaired) >= n_without:
            assert {times[row] for row in unpaired} <= {1}
        assert len(order) == 2 * (n_fake + max(0, len(unpaired) - n_without))
        # A fake that comes again does so no more often than others.
        again = Counter(fakes).values()
        assert max(again) - min(again) <= 1
    if n_real > 1:
        assert len({tuple(rows) for rows in passes}) == 3


def test_the_order_of_pairs_without_unpaired_reals_is_that_of_published_runs() -> None:
    labels = [0, 0, 0, 1, 1, 1, 1, 1]
    order = EpochOrder(labels, 3, originals=np.array([-1, -1, -1, 0, 2, 1, -1, 2]))
    assert order.arrange(0).tolist() == [2, 7, 1, 5, 2, 4, 1, 6, 0, 3]
    assert order.arrange(1).tolist() == [2, 4, 2, 7, 0, 3, 1, 5, 1, 6]


# Batches


@pytest.mark.parametrize(
    ("share", "size", "expected"),
    [
        pytest.param(8 / 28, 28, 8, id="entry"),
        pytest.param(0.2857142857142857, 28, 8, id="entry-as-configured"),
        pytest.param(0.3, 28, 8, id="entry-as-written"),
        pytest.param(0.0, 28, 0, id="none"),
        pytest.param(1.0, 28, 28, id="all"),
        pytest.param(0.5, 9, 4, id="half-of-nine"),
    ],
)
def test_exact_number_of_augmented_samples(share: float, size: int, expected: int) -> None:
    batches = list(EpochBatches(EpochOrder([0, 1] * 100, seed=0), size, share))
    assert [sum(key.augment for key in batch) for batch in batches] == [expected] * (200 // size)
    augmented = {key.row for batch in batches for key in batch if key.augment}
    assert len(augmented) == expected * len(batches)


def test_an_incomplete_batch_is_dropped() -> None:
    batches = EpochBatches(EpochOrder([0, 1] * 13, seed=0), 8, 0.5)
    found, rows = list(batches), batches.order.arrange(0).tolist()
    assert [len(batch) for batch in found] == [8, 8, 8]
    assert len(batches) == 3
    assert found == [
        [SampleKey(0, row, place < 4) for place, row in enumerate(rows[start : start + 8])]
        for start in (0, 8, 16)
    ]


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    batches = EpochBatches(EpochOrder([0, 1] * 5, seed=0), 48, 0.5)
    (batch,) = batches
    assert sorted(key.row for key in batch) == list(range(10))
    assert sum(key.augment for key in batch) == 5


@pytest.mark.parametrize(
    ("rows", "size", "world"), [(50, 8, 2), (50, 12, 4), (11, 48, 2), (9, 6, 3)], ids="{}".format
)
def test_processes_divide_the_global_batch(rows: int, size: int, world: int) -> None:
    def make_batches(rank: int, world: int) -> list[list[SampleKey]]:
        order = EpochOrder([i % 2 for i in range(rows)], seed=5)
        batches = EpochBatches(order, size, 0.5, rank, world)
        batches.set_epoch(2)
        return list(batches)

    parts = [make_batches(rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    for step in range(len(parts[0])):
        assert len({len(part[step]) for part in parts}) == 1
        together = [key for part in parts for key in part[step]]
        assert len({key.row for key in together}) == len(together)
        if rows >= size:
            (whole,) = make_batches(0, 1)[step : step + 1]
            assert sorted(together) == sorted(whole)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("turns", [1, 2, 8])
def test_sharding_gives_every_place_to_one_process(world: int, turns: int) -> None:
    parts = [shard(world * turns, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {turns}
    assert sorted(place for part in parts for place in part) == list(range(world * turns))


@pytest.mark.parametrize("world", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("turns", [2, 4])
def test_of_balanced_batches_every_process_takes_both_classes(world: int, turns: int) -> None:
    labels = [0] * 70 + [1] * 70
    for rank in range(world):
        order = EpochOrder(labels, seed=0, balance=True)
        for batch in EpochBatches(order, turns * world, 0.5, rank, world):
            assert sum(labels[key.row] for key in batch) == turns // 2
            assert 0 < sum(key.augment for key in batch) < turns


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"balance": True},
        {"balance": True, "self_blend": 0.5, "sources": np.arange(3)},
        {"self_blend": 1.0, "sources": np.arange(3)},
        {"originals": np.array([-1, -1, -1, *[0, 0, 1, 2] * 3])},
    ],
    ids=["balance", "blends", "blends-alone", "pairs"],
)
def test_a_row_that_comes_again_in_a_pass_is_another_sample(
    options: dict[str, Any], steps: int | None
) -> None:
    order = EpochOrder([0] * 3 + [1] * 12, seed=0, **options)
    batches = EpochBatches(order, 6, 1.0, steps=steps)
    keys = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        keys += [key for batch in batches for key in batch]
    of_reals = [key for key in keys if not key.blend]
    assert len(set(of_reals)) == len(of_reals)
    assert max(key.repeat for key in of_reals) > 0 or options.get("self_blend") == 1.0
    for real, blend in pairwise(keys):
        if blend.blend:  # they have one fate
            assert blend == real._replace(blend=True)
    # A resume brings the same.
    batches.set_epoch(2)
    whole = list(batches)
    batches.done = (2, 1)
    assert list(batches) == whole[1:]


def test_refuses_fewer_crops_than_processes() -> None:
    with pytest.raises(UsageError, match="2 crops to train on cannot be divided among 3"):
        EpochBatches(EpochOrder([0, 1], seed=0), 6, 0.5, 0, 3)


def test_refuses_a_batch_that_processes_cannot_divide() -> None:
    with pytest.raises(UsageError, match=r"batch_size=7 .* 2 processes"):
        EpochBatches(EpochOrder([0, 1] * 10, seed=0), 7, 0.5, 0, 2)


# Going on, and mini-epochs


def test_a_resumed_epoch_begins_where_it_was_left() -> None:
    batches = EpochBatches(EpochOrder([0, 1] * 20, seed=0), 8, 0.5)
    batches.set_epoch(3)
    whole = list(batches)
    batches.done = (3, 2)
    assert list(batches) == whole[2:]
    assert len(batches) == 5  # Lightning counts the whole epoch
    batches.set_epoch(4)
    assert len(list(batches)) == 5


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_mini_epochs_are_pieces_of_an_endless_row(steps: int) -> None:
    order = EpochOrder([0, 1] * 13, seed=0)
    passes = [(number, int(row)) for number in range(60) for row in order.arrange(number)]
    batches = EpochBatches(order, 8, 0.5, steps=steps)
    drawn = []
    for epoch in range(7):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches) == steps
        assert all([key.augment for key in batch] == [True] * 4 + [False] * 4 for batch in found)
        drawn += [(key.epoch, key.row) for batch in found for key in batch]
    assert drawn == passes[: len(drawn)]


# Pairs of a real and its own blend


@pytest.mark.parametrize("share", [0.25, 0.5, 2 / 3])
@pytest.mark.parametrize("paired", [False, True], ids=["balanced", "paired"])
def test_every_batch_has_its_share_of_blends(share: float, paired: bool) -> None:
    labels = np.array([0] * 30 + [1] * 24)
    originals = np.r_[np.full(30, -1), np.arange(24)] if paired else None
    sources = np.arange(2, 30)
    order = EpochOrder(
        labels, 1, not paired, originals=originals, self_blend=share, sources=sources
    )
    for batch in EpochBatches(order, 12, 1.0, steps=7):
        pairs = list(zip(batch[::2], batch[1::2], strict=True))
        blends = [pair for pair in pairs if pair[1].blend]
        assert abs(len(blends) - 6 * share) <= 0.5
        for real, fake in pairs:
            assert labels[real.row] == 0
            assert not real.blend
            if fake.blend:  # of the very real before it, in the same pass: augmented alike
                assert (fake.epoch, fake.row, fake.augment) == real[:3]
                assert fake.row in sources
            else:
                assert labels[fake.row] == 1
                assert not paired or originals is None or originals[fake.row] == real.row


def test_blends_leave_the_other_pairs_as_they_were() -> None:
    labels = [0, 1] * 20
    plain = EpochOrder(labels, 3, balance=True)
    mixed = EpochOrder(labels, 3, True, self_blend=0.5, sources=np.arange(0, 40, 2))
    for epoch in (0, 4):
        pairs = mixed.arrange(epoch).reshape(-1, 2)
        is_blend = mixed.is_blend[1::2]
        assert np.array_equal(pairs[~is_blend].ravel(), plain.arrange(epoch))
        assert sorted(pairs[is_blend][:, 0]) == list(range(0, 40, 2))
    assert not plain.is_blend.any()


def test_reals_of_no_fake_come_with_their_blends_alone() -> None:
    labels = np.array([0] * 12 + [1] * 6)
    originals = np.r_[np.full(12, -1), np.arange(6)]
    order = EpochOrder(labels, 0, originals=originals, self_blend=0.5, sources=np.arange(12))
    seen = set()
    for epoch in range(8):
        pairs = order.arrange(epoch).reshape(-1, 2)
        is_blend = order.is_blend[1::2]
        assert set(pairs[~is_blend][:, 0]) == set(range(6))
        seen |= set(pairs[is_blend][:, 0].tolist())
    assert seen == set(range(12))


def test_blends_alone_bring_every_source_once() -> None:
    order = EpochOrder([0] * 9 + [1] * 3, 0, self_blend=1.0, sources=np.arange(8))
    assert len(order) == 16
    assert order.is_blend.tolist() == [False, True] * 8
    pairs = order.arrange(5).reshape(-1, 2)
    assert np.array_equal(pairs[:, 0], pairs[:, 1])
    assert sorted(pairs[:, 0]) == list(range(8))


def test_a_share_of_a_batch_never_parts_a_real_from_its_blend() -> None:
    order = EpochOrder([0, 1] * 20, 0, True, self_blend=0.5, sources=np.arange(0, 40, 2))
    for batch in EpochBatches(order, 8, 0.4):  # three of eight, but pairs are two
        assert [key.augment for key in batch] == [True] * 2 + [False] * 6
    with pytest.raises(ValueError, match=r"self_blend=0\.5 needs sources"):
        EpochOrder([0, 1], 0, True, self_blend=0.5)
