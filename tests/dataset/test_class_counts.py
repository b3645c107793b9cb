"""Counts as a table that lines up."""

from __future__ import annotations

from deepfake.dataset.class_counts import ClassCounts
from deepfake.tables import align


def test_counts_per_label_method_and_split() -> None:
    rows = [(0, "", "train")] * 1200 + [(1, "swap", "train"), (1, "swap", "test"), (1, "a\n", "")]
    assert str(ClassCounts.count([*rows, (None, "", "")])).splitlines() == [
        "label     method  train  test  no split    all",
        "real      -       1,200     0         0  1,200",
        "fake      a\\n         0     0         1      1",
        "fake      swap        1     1         0      2",
        "no label  -           0     0         1      1",
        "all               1,201     1         2  1,204",
    ]


def test_a_single_kind_needs_no_sum() -> None:
    assert str(ClassCounts.count([(0, "", "")])).splitlines() == [
        "label  method  no split  all",
        "real   -              1    1",
    ]


def test_many_methods_are_cut_short() -> None:
    lines = str(ClassCounts.count([(1, f"m{i:03d}", "test") for i in range(40)])).splitlines()
    assert len(lines) == 28
    assert lines[-2].split(None, 1) == ["...", "15 more methods"]
    assert lines[-1].split() == ["all", "40", "40"]


def test_rows_may_be_short() -> None:
    assert align([["a", "b", 3], ["long"], []]) == ["a     b  3", "long", ""]
    assert align([]) == []
