"""Rows in columns are the rows, whatever is in them, in a fraction of their memory."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.dataset import large_arrays
from deepfake.dataset.columns import MadeRows
from deepfake.dataset.rows import CropRow, pack_crops
from deepfake.dataset.texts import Texts
from deepfake.records import TurnedWindow

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
COUNTS = st.integers(0, 2**63 - 1)
ROWS = st.builds(
    CropRow,
    crop=WORDS,
    source=WORDS,
    frame=COUNTS,
    time_s=NUMBERS,
    face=COUNTS,
    label=st.sampled_from([0, 1, None]),
    method=WORDS,
    group=WORDS,
    split=st.sampled_from(["", "train", "test"]),
    box_xyxy=st.tuples(*[NUMBERS] * 4),
    confidence=NUMBERS,
    landmarks=st.lists(NUMBERS, max_size=6).map(tuple),
    rotation=COUNTS,
    original=WORDS,
    window=st.sampled_from([None, (-3, 0, 40, 43), TurnedWindow(-0.1, 0.5, 7.25, 9.0, -12.3456)]),
)
ROW = CropRow(
    crop="shards/00000/crops/0123456789abcdef_0_0.jpg",
    source="0123456789abcdef",
    frame=0,
    time_s=0.0,
    face=0,
    label=1,
    method="swap",
    group="person 12345",
    split="train",
    box_xyxy=(1.5, 2.25, 30.0, 40.75),
    confidence=0.987654,
    landmarks=(111.25, 122.75, 133.5, 144.0, 155.0, 166.0, 177.25, 188.0, 199.0, 110.5),
    rotation=0,
    original="fedcba9876543210",
    window=(-3, 0, 40, 43),
)


@given(st.lists(ROWS, max_size=6), st.data())
def test_every_row_comes_back(rows: list[CropRow], data: st.DataObject) -> None:
    packed = pack_crops(rows)
    assert packed == tuple(rows)
    assert [packed[place] for place in range(-len(rows), len(rows))] == rows + rows
    assert [*packed.values("window")] == [row.window for row in rows]
    some = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    chosen = packed.choose(np.array(some, np.int64))
    assert [*chosen] == [rows[place] for place in some]
    assert [*chosen[1::2]] == [rows[place] for place in some[1::2]]
    assert [*chosen.texts("group")] == [rows[place].group for place in some]
    for name in ("group", "split"):
        words = chosen.words(name)
        assert [*words.texts[words.numbers]] == [getattr(rows[place], name) for place in some]


def test_what_is_packed_is_not_packed_again() -> None:
    packed = pack_crops([ROW])
    assert pack_crops(packed) is packed
    assert pickle.loads(pickle.dumps(packed)) == (ROW,)
    assert packed != pack_crops([replace(ROW, face=1)])
    with pytest.raises(IndexError, match="row 1 of 1"):
        packed[1]
    with pytest.raises(TypeError, match="column face is not of texts"):
        packed.texts("face")
    with pytest.raises(TypeError, match="column crop is of texts"):
        packed.kept("crop")


def test_rows_of_many_lie_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_arrays, "_LARGE", 1 << 12)
    n_rows = 5_000
    # Texts of their own, as a reader makes them.
    rows = (
        replace(ROW, crop=f"{ROW.crop}{n:09d}", source=f"{n:016x}", group=f"person {n:08d}")
        for n in range(n_rows)
    )
    tracemalloc.start()
    packed = pack_crops(rows)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 20 * n_rows
    assert packed[n_rows - 1].source == f"{n_rows - 1:016x}"
    assert [*packed.values("frame")] == [0] * n_rows
    assert not packed.kept("confidence").flags.writeable
    copied = pickle.loads(pickle.dumps(packed))
    assert copied == packed
    assert not copied.kept("confidence").flags.writeable  # a loader process has them in files, too


def test_rows_are_made_when_they_are_asked_for() -> None:
    made: list[str] = []

    def make(text: str) -> int:
        made.append(text)
        return len(text)

    rows = MadeRows(Texts.of(["a", "bb", "", "dddd"]), make)
    assert (len(rows), made) == (4, [])
    assert (rows[1], rows[-1], rows[1:3]) == (2, 4, [2, 0])
    assert made == ["bb", "dddd", "bb", ""]
    assert [*rows] == [1, 2, 0, 4]
    with pytest.raises(IndexError, match="text 4 of 4"):
        rows[4]
