"""Divides groups into train, validation and test, so that no group is in two of them.

A group is whatever must not stand on both sides: here identities that some file ties together.

scikit-learn's ``StratifiedGroupKFold`` makes folds of one size, of which 14, 3 and 3 of 20 would be
the splits. It misses the wanted shares where a group is larger than a fold (by 17 points on the
10,596 labelled crops of 206 groups at hand, where ``split_by_group`` misses them by 0.1), refuses
sets of less than 20 groups of a class, and leaves splits without a class on small ones. So the
groups are divided here; a test compares the two.

Knows labels and group names only, no image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.rows import CropRow, CropRows, pack_crops, require_labels
from deepfake.dataset.texts import Words, find_first, number_texts
from deepfake.errors import UsageError

SPLITS = ("train", "validation", "test")
Numbers = NDArray[np.int64]


def split_by_group(
    groups: Sequence[str] | Words,
    labels: Sequence[int] | NDArray[np.int64],
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> list[str]:
    """Assign every row to a split: whole groups only, both classes in each, shares near the goal.

    Groups go, in a seeded order with the largest first, to the split that is furthest from its
    share of that group's classes. Where that leaves a split without a class, every split first gets
    the small groups that it cannot do without. The result depends on the rows' content, not on
    their order.

    Args:
        groups: Group of each row.
        labels: 1 = fake, 0 = real, of each row.
        shares: Wanted shares of train, validation and test; they sum to 1.
        seed: Same seed, same split.

    Returns:
        Name of the split of each row.

    Raises:
        UsageError: If the shares are off, or there are too few groups to give every split both
            classes.

    Example:
        >>> split_by_group(["a", "a", "b", "b", "c", "c"], [0, 1] * 3, (0.34, 0.33, 0.33))
        ['validation', 'validation', 'test', 'test', 'train', 'train']
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UsageError(f"split shares {shares}; expected three numbers >= 0 that sum to 1")
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups but {len(labels)} labels")
    words = groups if isinstance(groups, Words) else Words.of(groups)
    of_row, names = words.numbers, words.texts
    is_fake = np.asarray(labels) == 1
    counts = np.stack(
        [np.bincount(of_row[mask], minlength=len(names)) for mask in (~is_fake, is_fake)], axis=1
    )
    totals = counts.sum(axis=0)
    if totals.min() == 0:
        raise UsageError(f"cannot split {totals[0]:.0f} real and {totals[1]:.0f} fake crops")
    order = np.random.default_rng(seed).permutation(len(names))
    by_size = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    chosen = _share_out(by_size, counts, shares, {})
    given = _count_splits(chosen, counts)
    if _lacks_class(given, shares):
        chosen = _share_out(by_size, counts, shares, _find_core(by_size, counts, shares))
        given = _count_splits(chosen, counts)
    for split, share, got in zip(SPLITS, shares, given, strict=True):
        if share > 0 and got.min() == 0:
            raise UsageError(
                f"split {split} got {got[0]:.0f} real and {got[1]:.0f} fake crops out of "
                f"{len(names)} groups; every split needs both classes: bring more groups, other "
                "shares, or a 'split' column"
            )
    return [SPLITS[number] for number in chosen[of_row].tolist()]


def _share_out(
    by_size: Numbers, counts: Numbers, shares: Sequence[float], core: Mapping[int, int]
) -> NDArray[np.int8]:
    """Number of the split of every group, ``(G,)``; those of the core have theirs."""
    chosen = np.full(len(counts), -1, np.int8)
    for group, split in core.items():
        chosen[group] = split
    wanted = np.outer(shares, counts.sum(axis=0)).tolist()
    given = _count_splits(chosen, counts).tolist()
    # Plain numbers: there may be as many groups as rows.
    open_splits = [number for number, share in enumerate(shares) if share > 0]
    ordered = by_size[chosen[by_size] < 0]
    for group, count in zip(ordered.tolist(), counts[ordered].tolist(), strict=True):
        target, most = -1, 0.0
        for split in open_splits:
            need, starved = 0.0, False
            for there, goal, own in zip(given[split], wanted[split], count, strict=True):
                if own > 0:
                    need += (goal - there) / max(goal, 1e-9)
                    starved = starved or there == 0
            # A split that still lacks a whole class comes before one that only lacks numbers.
            need += 1e3 * shares[split] if starved else 0.0
            if target < 0 or need > most:
                target, most = split, need
        chosen[group] = target
        given[target] = [there + own for there, own in zip(given[target], count, strict=True)]
    return chosen


def _find_core(by_size: Numbers, counts: Numbers, shares: Sequence[float]) -> dict[int, int]:
    """For every split a group of both classes, or one of each: without these no division works.

    Small groups, so that the large ones can still go where numbers are missing; empty if there
    are too few.
    """
    largest_first = sorted((i for i in range(3) if shares[i] > 0), key=lambda i: -shares[i])

    def find_small(holds: NDArray[np.bool_]) -> Iterator[int]:
        return islice((group for group in by_size[::-1].tolist() if holds[group]), 3)

    both = [[group] for group in find_small(counts.min(axis=1) > 0)]
    reals, fakes = (find_small(counts[:, 1 - label] == 0) for label in (0, 1))
    pairs = [list(pair) for pair in zip(reals, fakes, strict=False)]
    parts = (both + pairs)[: len(largest_first)]
    if len(parts) < len(largest_first):
        return {}
    parts.sort(key=lambda part: -int(counts[part].sum()))
    return {
        group: split for split, part in zip(largest_first, parts, strict=True) for group in part
    }


def _count_splits(chosen: NDArray[np.int8], counts: Numbers) -> NDArray[np.float64]:
    """Real and fake crops of each split, ``(3, 2)``; groups of -1 are in none."""
    return np.array([counts[chosen == split].sum(axis=0) for split in range(3)], np.float64)


def _lacks_class(given: NDArray[np.float64], shares: Sequence[float]) -> bool:
    return any(share > 0 and got.min() == 0 for share, got in zip(shares, given, strict=True))


def assign_splits(
    rows: Sequence[CropRow],
    mode: str = "auto",
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> list[str]:
    """The split of every crop, as training uses it and ``doctor`` looks at it.

    Where groups are divided, a fake ties its own to that of its original.

    Args:
        rows: The crops.
        mode: ``given`` takes their splits as the data bring them; ``group`` ignores these and
            divides the groups; ``auto`` takes them if there are any, draws a validation split from
            the groups of train where the data bring only train and test, and divides the groups
            if there are none.
        shares: Wanted shares of train, validation and test where something is divided.
        seed: Seed of what is divided.

    Raises:
        UsageError: If crops have no label, only some have a split or one of another name, or the
            groups cannot be divided.
    """
    packed = pack_crops(rows)
    labels = require_labels(packed)

    given = [*packed.values("split")]
    counts = Counter(given)
    if mode == "group" or (mode == "auto" and counts[""] == len(given)):
        return split_by_group(_tie_originals(packed), labels, shares, seed)
    if counts[""]:
        raise UsageError(
            f"{counts['']} of {len(given)} crops have no split; fill the split column, or set"
            " data.split.by to group"
        )
    unknown = next((split for split in given if split not in SPLITS), None)
    if unknown is not None:
        raise UsageError(f"the manifest names a split {unknown!r}; there are {', '.join(SPLITS)}")
    if mode == "given" or counts["validation"] or not counts["train"]:
        return given
    train = np.flatnonzero([split == "train" for split in given])
    share = shares[1] / (shares[0] + shares[1])
    splits = list(given)
    groups = _tie_originals(packed.choose(train))
    divided = split_by_group(groups, labels[train], (1 - share, share, 0.0), seed)
    for i, split in zip(train.tolist(), divided, strict=True):
        splits[i] = split
    return splits


def number_splits(splits: Sequence[str]) -> NDArray[np.int32]:
    """A number for each different split, ``(N,)``."""
    numbers = {split: number for number, split in enumerate(dict.fromkeys(splits))}
    return np.fromiter(map(numbers.__getitem__, splits), np.int32, len(splits))


def _tie_originals(rows: CropRows) -> Words:
    """Groups, those joined that show one input or were made from it, be it there or not."""
    groups = rows.words("group")
    sources, originals = rows.texts("source"), rows.texts("original")
    source, original = number_texts(sources, originals)
    is_named = np.concatenate([~sources.are_empty(), ~originals.are_empty()])
    named = np.concatenate([source, original])[is_named]
    beside = np.concatenate([groups.numbers, groups.numbers])[is_named]
    # The group where an input is first named.
    home = beside[find_first(named, named.max(initial=-1) + 1)[named]]
    is_apart = home != beside
    ties = np.unique(np.stack([home[is_apart], beside[is_apart]], axis=1), axis=0)
    # Most groups have no tie, and keep their name.
    joined = join_identities([groups.texts[one], groups.texts[two]] for one, two in ties.tolist())
    if not joined:
        return groups
    return Words.join((groups.numbers, (joined.get(name, name) for name in groups.texts)))


def join_identities(ties: Iterable[Sequence[str]]) -> dict[str, str]:
    """Name the group of every identity; those of one tie, and all that follows, share one.

    Args:
        ties: Identities that some file shows together.

    Returns:
        Group by identity. A group is named after its first members.

    Example:
        >>> join_identities([["id/a", "id/c"], ["id/d"], ["id/c", "id/b"]])["id/b"]
        'id/a+b+c'
    """
    above: dict[str, str] = {}

    def find(name: str) -> str:
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    for tie in ties:
        for name in tie:
            above.setdefault(name, name)
            above[find(name)] = find(tie[0])
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(above):
        members[find(name)].append(name)
    names = {root: _name_group(group) for root, group in members.items()}
    return {name: names[find(name)] for name in above}


def _name_group(members: Sequence[str]) -> str:
    """``id/a+b``: the first member is in no other group, so the name is in no other, too."""
    first, *rest = members
    prefix = first[: first.rfind("/") + 1]
    if len(rest) > 3:
        return f"{first}+{len(rest)} more"
    return "+".join([first, *(name.removeprefix(prefix) for name in rest)])
