"""Splits by group: invariants over random tables, and refusals."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from deepfake.dataset.audit import find_split_groups, find_split_pairs
from deepfake.dataset.rows import CropRow
from deepfake.dataset.splits import (
    SPLITS,
    assign_splits,
    join_identities,
    split_by_group,
)
from deepfake.errors import UsageError

Rows = list[tuple[str, int]]
tables = st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(0, 1)), max_size=60)
goals = st.sampled_from(
    [(0.7, 0.15, 0.15), (0.34, 0.33, 0.33), (0.5, 0.5, 0.0), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0)]
)


def split(
    rows: Rows, shares: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0
) -> list[str]:
    return split_by_group([group for group, _ in rows], [label for _, label in rows], shares, seed)


@given(tables, goals, st.integers(0, 5), st.randoms(use_true_random=False))
def test_invariants(
    rows: Rows, shares: tuple[float, float, float], seed: int, rng: random.Random
) -> None:
    try:
        splits = split(rows, shares, seed)
    except UsageError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "both classes" in refusal or "cannot split" in refusal
        return
    assert len(splits) == len(rows)
    assert find_split_groups([group for group, _ in rows], splits) == []
    for name, share in zip(SPLITS, shares, strict=True):
        labels = {label for (_, label), chosen in zip(rows, splits, strict=True) if chosen == name}
        assert labels == ({0, 1} if share > 0 else set())
    assert split(rows, shares, seed) == splits
    shuffled = list(enumerate(rows))
    rng.shuffle(shuffled)
    again = split([row for _, row in shuffled], shares, seed)
    assert [splits[index] for index, _ in shuffled] == again


@given(st.integers(3, 30), goals, st.integers(0, 100))
def test_groups_with_both_classes_can_always_be_split(
    count: int, shares: tuple[float, float, float], seed: int
) -> None:
    rows = [(str(group), label) for group in range(count) for label in (0, 1)]
    assert set(split(rows, shares, seed)) == {
        name for name, share in zip(SPLITS, shares, strict=True) if share > 0
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pure", [True, False], ids=["one-class-groups", "mixed-groups"])
def test_shares_are_roughly_met(seed: int, pure: bool) -> None:
    rng = random.Random(seed)
    rows: Rows = []
    for group in range(200):
        of_group = group % 2
        for _ in range(rng.randint(1, 12)):
            rows.append((f"g{group}", of_group if pure else rng.randint(0, 1)))
    splits = split(rows, seed=seed)
    for label in (0, 1):
        chosen = Counter(s for (_, own), s in zip(rows, splits, strict=True) if own == label)
        for name, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
            assert chosen[name] / chosen.total() == pytest.approx(share, abs=0.03)


KINDS = [(0, 1), (1, 0), (0, 2), (1, 1), (1, 2), (5, 0)]  # real and fake crops of a group


@pytest.mark.parametrize("shares", [(0.7, 0.15, 0.15), (0.2, 0.0, 0.8)], ids="{}".format)
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_small_sets_are_divided_wherever_that_is_possible(
    size: int, shares: tuple[float, float, float]
) -> None:
    splits = [i for i in range(3) if shares[i] > 0]

    def is_possible(kinds: tuple[tuple[int, int], ...]) -> bool:
        for places in itertools.product(splits, repeat=size):
            held = {
                (place, label)
                for place, kind in zip(places, kinds, strict=True)
                for label in (0, 1)
                if kind[label]
            }
            if len(held) == 2 * len(splits):
                return True
        return False

    outcomes = Counter[bool]()
    for kinds in itertools.combinations_with_replacement(KINDS, size):
        rows = [
            (str(group), label)
            for group, kind in enumerate(kinds)
            for label in (0, 1)
            for _ in range(kind[label])
        ]
        try:
            found = split(rows, shares)
        except UsageError:
            found = []
        assert bool(found) == is_possible(kinds), kinds
        if found:
            held = {(name, label) for name, (_, label) in zip(found, rows, strict=True)}
            assert held == {(SPLITS[i], label) for i in splits for label in (0, 1)}
            assert find_split_groups([group for group, _ in rows], found) == []
        outcomes[bool(found)] += 1
    assert outcomes[False] > 0
    assert outcomes[True] > 0 or size < len(splits)


def test_divisions_that_worked_stay_as_they_are() -> None:
    rows = [(f"g{i % 7}", i % 2) for i in range(40)] + [("h", 0)] * 6 + [("i", 1)] * 3
    found = dict(zip((group for group, _ in rows), split(rows, seed=3), strict=True))
    train = dict.fromkeys(["g0", "g3", "g4", "g6", "h", "i"], "train")
    assert found == train | {"g1": "test", "g2": "validation", "g5": "validation"}


def test_the_seed_matters() -> None:
    rows = [(str(group), label) for group in range(30) for label in (0, 1)]
    assert len({tuple(split(rows, seed=seed)) for seed in range(4)}) == 4


@pytest.mark.parametrize(
    "shares",
    [(0.5, 0.5), (0.9, 0.2, -0.1), (0.5, 0.1, 0.1), (1, 1, 1)],
    ids=["two", "negative", "too-few", "too-many"],
)
def test_refuses_shares(shares: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match=r"split shares .*; expected three numbers >= 0 that sum"):
        split([("a", 0), ("b", 1)], shares)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([], "cannot split 0 real and 0 fake crops", id="nothing"),
        pytest.param([("a", 0), ("b", 0)], "cannot split 2 real and 0 fake crops", id="all-real"),
        pytest.param([("a", 1)], "cannot split 0 real and 1 fake crops", id="all-fake"),
        pytest.param(
            [("a", 0), ("a", 1), ("b", 0), ("b", 1)],
            "got 0 real and 0 fake crops out of 2 groups; every split needs both classes",
            id="two-groups-for-three",
        ),
        pytest.param(
            [("a", 0), ("b", 0), ("c", 0), ("d", 1)],
            "1 real and 0 fake crops out of 4 groups",
            id="one-fake-group",
        ),
    ],
)
def test_refuses_too_few_groups(rows: Rows, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(rows)


def test_rows_and_labels_must_match() -> None:
    with pytest.raises(ValueError, match="2 groups but 1 labels"):
        split_by_group(["a", "b"], [0])


def test_shares_are_nearer_than_those_of_equal_folds() -> None:
    """Why scikit-learn's folds are not used: a group larger than one of them spoils the shares."""
    rows = [("large", i % 2) for i in range(300)]
    rows += [(f"g{i // 10}", i % 2) for i in range(700)]
    groups, labels = zip(*rows, strict=True)
    folds = StratifiedGroupKFold(20, shuffle=True, random_state=0).split(rows, labels, groups)
    sizes = sorted(len(test) for _, test in folds)
    assert sizes[-1] == 300
    found = Counter(split(rows))
    for name, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
        assert found[name] / 1000 == pytest.approx(share, abs=0.01)
    # The best that 14, 3 and 3 of the folds can be.
    assert abs(sum(sizes[-14:]) / 1000 - 0.7) > 0.05


# Splits that the data bring

GROUPS = [str(i // 2) for i in range(24)]
LABELS = [i % 2 for i in range(24)]
OFFICIAL = ["train"] * 18 + ["test"] * 6


BLANK = CropRow(
    crop="a.jpg",
    source="",
    frame=0,
    time_s=0,
    face=0,
    label=None,
    method="",
    group="",
    split="",
    box_xyxy=(0, 0, 1, 1),
    confidence=1,
    landmarks=(),
    rotation=0,
)


def make_rows(
    groups: list[str],
    labels: Sequence[int | None],
    sources: list[str],
    originals: list[str],
    given: list[str],
) -> list[CropRow]:
    columns = zip(groups, labels, sources, originals, given, strict=True)
    return [
        replace(BLANK, group=group, label=label, source=source, original=original, split=split)
        for group, label, source, original, split in columns
    ]


def assign(given: list[str], *options: Any, **named: Any) -> list[str]:
    rows = make_rows(GROUPS, LABELS, [f"s{i}" for i in range(24)], [""] * 24, given)
    return assign_splits(rows, *options, **named)


def test_no_label_is_no_real() -> None:
    rows = make_rows(["a", "b"], [0, None], ["s", "t"], ["", ""], ["train", "test"])
    with pytest.raises(UsageError, match=r"1 of 2 crops have no label, such as a\.jpg; crop"):
        assign_splits(rows)


def test_a_filled_column_is_taken() -> None:
    given = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
    for mode in ("auto", "given"):
        assert assign(given, mode) == given
    assert assign(given, "group") == split_by_group(GROUPS, LABELS)


def test_an_empty_column_is_divided() -> None:
    assert assign([""] * 24, seed=3) == split_by_group(GROUPS, LABELS, seed=3)


@pytest.mark.parametrize("seed", range(3))
def test_validation_is_drawn_from_the_groups_of_train(seed: int) -> None:
    splits = assign(OFFICIAL, shares=(0.6, 0.3, 0.1), seed=seed)
    assert splits[18:] == ["test"] * 6
    assert Counter(splits[:18]) == {"train": 12, "validation": 6}
    assert find_split_groups(GROUPS, splits) == []
    assert assign(OFFICIAL, "given", seed=seed) == OFFICIAL


def test_a_set_for_testing_only_stays_one() -> None:
    assert assign(["test"] * 24) == ["test"] * 24


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["train"] * 23 + [""], "1 of 24 crops have no split; fill the split column, or set data"),
        (["train"] * 23 + ["val"], "the manifest names a split 'val'; there are train, validation"),
        (["train"] * 2 + ["test"] * 22, "got 0 real and 0 fake crops out of 1 groups"),
    ],
)
def test_refuses_a_column(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assign(given)


def apart(n: int) -> dict[str, Any]:
    """A real and a fake of it each, all in groups of their own."""
    return {
        "groups": [f"{word}{i}" for i in range(n) for word in ("person", "fake")],
        "labels": [0, 1] * n,
        "sources": [f"{word}{i}.jpg" for i in range(n) for word in ("person", "fake")],
        "originals": [word for i in range(n) for word in ("", f"person{i}.jpg")],
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("given", ["", "train"], ids=["divided", "validation-drawn"])
@pytest.mark.parametrize("mode", ["auto", "group"])
def test_a_fake_is_drawn_with_its_original(seed: int, given: str, mode: str) -> None:
    rows = apart(20)
    splits = assign_splits(make_rows(**rows, given=[given] * 40), mode, seed=seed)
    assert not len(find_split_pairs(rows["sources"], rows["originals"], splits))
    assert splits[::2] == splits[1::2]
    drawn = {"train", "validation"} if given and mode == "auto" else set(SPLITS)
    assert set(splits) == drawn
    without = rows | {"originals": [""] * 40}
    untied = assign_splits(make_rows(**without, given=[""] * 40), seed=seed)
    assert len(find_split_pairs(rows["sources"], rows["originals"], untied))


def test_fakes_of_one_original_stay_together_even_without_it() -> None:
    rows = apart(20)
    rows["originals"][1::2] = [f"absent{i // 4}" for i in range(20)]
    splits = assign_splits(make_rows(**rows, given=[""] * 40))
    assert find_split_groups(rows["originals"][1::2], splits[1::2]) == []
    assert set(splits) == set(SPLITS)


def test_what_the_test_split_shows_ties_nothing_of_train_together() -> None:
    rows = apart(6)
    rows["groups"] += ["test"] * 7
    rows["labels"] += [0] + [1] * 6
    rows["sources"] += [f"t{i}" for i in range(7)]
    rows["originals"] += [""] + [f"person{i}.jpg" for i in range(6)]
    splits = assign_splits(make_rows(**rows, given=["train"] * 12 + ["test"] * 7))
    assert set(splits[:12]) == {"train", "validation"}
    assert splits[12:] == ["test"] * 7
    assert len(find_split_pairs(rows["sources"], rows["originals"], splits)) == 6


# Identities

ties = st.lists(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=3), max_size=12)


@given(ties)
def test_groups_are_the_connected_components(ties: list[list[str]]) -> None:
    names = join_identities(ties)
    assert set(names) == {name for tie in ties for name in tie}
    # The obvious way: spread the smallest name until nothing changes.
    smallest = {name: name for name in names}
    for _ in names:
        for tie in ties:
            least = min(smallest[name] for name in tie)
            smallest.update(dict.fromkeys(tie, least))
    for one in names:
        for other in names:
            assert (names[one] == names[other]) == (smallest[one] == smallest[other])
    assert join_identities(reversed(ties)) == names


def test_a_group_is_named_after_its_first_members() -> None:
    names = join_identities([["v/9"], ["v/1", "v/2"], ["a/1", "b/2", "b/3", "b/4", "b/5"]])
    assert set(names.values()) == {"v/9", "v/1+2", "a/1+4 more"}
