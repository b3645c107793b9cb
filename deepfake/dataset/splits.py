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
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.manifest import CropRow, require_labels
from deepfake.errors import UsageError

SPLITS = ("train", "validation", "test")


def split_by_group(
    groups: Sequence[str],
    labels: Sequence[int],
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
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for group, label in zip(groups, labels, strict=True):
        counts[group][label] += 1
    totals = np.sum(list(counts.values()), axis=0) if counts else np.zeros(2)
    if totals.min() == 0:
        raise UsageError(f"cannot split {totals[0]:.0f} real and {totals[1]:.0f} fake crops")
    names = sorted(counts)
    order = np.random.default_rng(seed).permutation(len(names))
    by_size = sorted((names[i] for i in order), key=lambda name: -sum(counts[name]))
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
    return [SPLITS[chosen[group]] for group in groups]


def _share_out(
    by_size: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    shares: Sequence[float],
    core: Mapping[str, int],
) -> dict[str, int]:
    """Number of the split of every group; those of the core have theirs."""
    chosen = dict(core)
    wanted = np.outer(shares, np.sum(list(counts.values()), axis=0))
    given = _count_splits(chosen, counts)
    for name in by_size:
        if name in chosen:
            continue
        count = np.array(counts[name])
        missing = (wanted - given) / np.maximum(wanted, 1e-9)
        # A split that still lacks a whole class comes before one that only lacks numbers.
        starved = ((given == 0) & (count > 0)).any(axis=1) & (np.array(shares) > 0)
        need = (missing * (count > 0)).sum(axis=1) + 1e3 * starved * np.array(shares)
        target = int(np.argmax(np.where(np.array(shares) > 0, need, -np.inf)))
        chosen[name] = target
        given[target] += count
    return chosen


def _find_core(
    by_size: Sequence[str], counts: Mapping[str, Sequence[int]], shares: Sequence[float]
) -> dict[str, int]:
    """For every split a group of both classes, or one of each: without these no division works.

    Small groups, so that the large ones can still go where numbers are missing; empty if there
    are too few.
    """
    small_first = by_size[::-1]
    both = [[name] for name in small_first if min(counts[name]) > 0]
    reals, fakes = (
        [name for name in small_first if counts[name][1 - label] == 0] for label in (0, 1)
    )
    largest_first = sorted((i for i in range(3) if shares[i] > 0), key=lambda i: -shares[i])
    parts = (both + [list(pair) for pair in zip(reals, fakes, strict=False)])[: len(largest_first)]
    if len(parts) < len(largest_first):
        return {}
    parts.sort(key=lambda part: -sum(sum(counts[name]) for name in part))
    return {name: split for split, part in zip(largest_first, parts, strict=True) for name in part}


def _count_splits(
    chosen: Mapping[str, int], counts: Mapping[str, Sequence[int]]
) -> NDArray[np.float64]:
    """Real and fake crops of each split, ``(3, 2)``."""
    given = np.zeros((3, 2))
    for name, split in chosen.items():
        given[split] += counts[name]
    return given


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
    labels = require_labels(rows).tolist()

    def divide(places: Sequence[int], shares: tuple[float, float, float]) -> list[str]:
        groups = _tie_originals([rows[i] for i in places])
        return split_by_group(groups, [labels[i] for i in places], shares, seed)

    given = [row.split for row in rows]
    counts = Counter(given)
    if mode == "group" or (mode == "auto" and counts[""] == len(given)):
        return divide(range(len(given)), shares)
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
    train = [i for i, split in enumerate(given) if split == "train"]
    share = shares[1] / (shares[0] + shares[1])
    splits = list(given)
    for i, split in zip(train, divide(train, (1 - share, share, 0.0)), strict=True):
        splits[i] = split
    return splits


def _tie_originals(rows: Sequence[CropRow]) -> list[str]:
    """Groups, those joined that show one input or were made from it, be it there or not."""
    homes: dict[str, str] = {}
    ties = {(row.group, row.group) for row in rows}
    for name, group in chain(
        ((row.source, row.group) for row in rows), ((row.original, row.group) for row in rows)
    ):
        if name:
            ties.add((group, homes.setdefault(name, group)))
    names = join_identities(ties)
    return [names[row.group] for row in rows]


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
