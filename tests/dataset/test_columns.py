"""Rows in columns are the rows, whatever is in them, in a fraction of their memory."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.dataset.columns import TEXTS, Words, number_texts
from deepfake.dataset.manifest import CropRow, pack_crops
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
    assert chosen.texts("split").tolist() == [rows[place].split for place in some]
    assert chosen.texts("group").tolist() == [rows[place].group for place in some]


def test_what_is_packed_is_not_packed_again() -> None:
    packed = pack_crops([ROW])
    assert pack_crops(packed) is packed
    assert pickle.loads(pickle.dumps(packed)) == (ROW,)
    assert packed != pack_crops([replace(ROW, face=1)])
    with pytest.raises(IndexError, match="row 1 of 1"):
        packed[1]


def test_a_row_takes_250_to_350_bytes() -> None:
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
    assert len(packed) == n_rows
    assert 250 * n_rows < taken < 350 * n_rows


@given(st.lists(st.lists(st.sampled_from("abcd")), min_size=1, max_size=3), st.data())
def test_words_are_the_texts_of_all_parts(parts: list[list[str]], data: st.DataObject) -> None:
    known = data.draw(st.permutations("abcd"))  # a part has its own order, and texts unused
    words = Words.of(
        *((np.array([known.index(text) for text in part], np.int64), known) for part in parts)
    )
    texts = [text for part in parts for text in part]
    assert words.texts[words.numbers].tolist() == texts
    assert words.texts.tolist() == sorted(known)
    assert words.are("b").tolist() == [text == "b" for text in texts]
    assert not words.are("e").any()
    assert words.list_used() == list(dict.fromkeys(texts))
    mask = np.array([text > "b" for text in texts], bool)
    assert words[mask].list_used() == list(dict.fromkeys(text for text in texts if text > "b"))
    assert words.is_same(Words.of((np.arange(len(texts)), texts)))
    assert not words.is_same(Words.of((np.arange(len(texts) + 1), [*texts, "a"])))
    if texts:
        assert not words.is_same(Words.of((np.arange(len(texts)), ["e", *texts[1:]])))


@given(st.lists(WORDS), st.lists(WORDS))
def test_equal_texts_have_equal_numbers_in_order(one: list[str], two: list[str]) -> None:
    numbers, texts = number_texts(np.array(one, TEXTS), np.array(two, TEXTS))
    assert texts.tolist() == sorted({*one, *two})
    assert [[texts[n] for n in part] for part in numbers] == [one, two]


def test_texts_are_numbered_in_any_order_that_they_come_in() -> None:
    rising = [f"{number:06d}" for number in range(1000)]
    # Rising and falling again: numpy's own sort of such texts ends the process with a signal.
    for texts in ([*rising, *rising[::-1]], rising[::-1], ["b"] * 1000, []):
        (numbers, more), known = number_texts(np.array(texts, TEXTS), np.array(["", "a"], TEXTS))
        assert known.tolist() == sorted({*texts, "", "a"})
        assert known[numbers].tolist() == texts
        assert known[more].tolist() == ["", "a"]
