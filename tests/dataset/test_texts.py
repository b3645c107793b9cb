"""Texts come back as they were, and numbers of texts sort and match as the texts do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.dataset.texts import TextIndex, Texts, Words, find_first, number_texts

# Pieces of seven bytes, what only zeros or a longer character tell apart, and half a character.
SPECIAL = ["", "a", "a\0", "\0", "abcdefg", "abcdefgh", "abcdefg\0", "abcdefé", "\ud800", "\uffff"]
TEXTS = st.lists(st.one_of(st.sampled_from([*SPECIAL, "\U00010000"]), st.text()), max_size=20)


@given(TEXTS, st.data())
def test_texts_come_back(texts: list[str], data: st.DataObject) -> None:
    kept = Texts.of(texts)
    assert [*kept] == texts == [kept[place] for place in range(len(texts))]
    assert Texts.of(kept) is kept
    assert kept.are_empty().tolist() == [not text for text in texts]
    places = data.draw(st.lists(st.integers(0, len(texts) - 1))) if texts else []
    some = kept[np.array(places, np.int64)]
    assert [*some] == [texts[place] for place in places]
    assert [*some[1:]] == [texts[place] for place in places[1:]]
    assert some.are_empty().tolist() == [not texts[place] for place in places]
    with pytest.raises(IndexError, match=f"text {len(texts)} of {len(texts)}"):
        kept[len(texts)]


@given(TEXTS, TEXTS)
def test_an_index_finds_the_first_of_a_text(texts: list[str], more: list[str]) -> None:
    index = TextIndex(Texts.of(texts))
    assert [index.find(text) for text in texts] == [texts.index(text) for text in texts]
    for text in {*more} - {*texts}:
        with pytest.raises(KeyError):
            index.find(text)


@given(TEXTS, TEXTS)
def test_equal_texts_have_equal_numbers_in_order(one: list[str], two: list[str]) -> None:
    numbers = number_texts(one, two)
    known = sorted({*one, *two})
    assert [[known[number] for number in part] for part in numbers] == [one, two]


@given(st.lists(st.lists(st.sampled_from("abcd")), min_size=1, max_size=3), st.data())
def test_words_are_the_texts_of_all_parts(parts: list[list[str]], data: st.DataObject) -> None:
    known = data.draw(st.permutations("abcd"))  # a part has its own order, and texts unused
    words = Words.join(
        *((np.array([known.index(text) for text in part], np.int64), known) for part in parts)
    )
    texts = [text for part in parts for text in part]
    assert [*words.texts[words.numbers]] == texts
    assert [*words.texts] == sorted(known)
    assert words.are("b").tolist() == [text == "b" for text in texts]
    assert not words.are("e").any()
    assert words.list_used() == list(dict.fromkeys(texts))
    mask = np.array([text > "b" for text in texts], bool)
    assert words[mask].list_used() == list(dict.fromkeys(text for text in texts if text > "b"))
    assert words.is_same(Words.of(texts))
    assert not words.is_same(Words.of([*texts, "a"]))
    if texts:
        assert not words.is_same(Words.of(["e", *texts[1:]]))


def test_the_first_row_of_each_number() -> None:
    assert find_first(np.array([2, 0, 2, 0]), 4).tolist() == [1, -1, 0, -1]
