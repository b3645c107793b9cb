"""Dividing a job: every input in exactly one part, and no part taken for another."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.errors import UsageError
from deepfake.jobs.folder import find_difference
from deepfake.jobs.parts import (
    LARGEST_BLOCK,
    WHOLE,
    JobPart,
    choose_block_size,
    sort_parts,
)


@given(st.integers(0, 3000), st.integers(1, 300), st.integers(1, 40))
def test_every_input_is_in_exactly_one_part_and_blocks_stay_whole(
    inputs: int, block_size: int, of: int
) -> None:
    ranges = [JobPart(number, of).inputs(inputs, block_size) for number in range(1, of + 1)]
    assert [index for part in ranges for index in part] == list(range(inputs))
    assert all(part.start % block_size == 0 for part in ranges if len(part))
    sizes = [
        len(JobPart(number, of).blocks(-(-inputs // block_size))) for number in range(1, of + 1)
    ]
    assert max(sizes) - min(sizes) <= 1
    assert WHOLE.inputs(inputs, block_size) == range(inputs)


@given(st.integers(1, 10**7))
def test_blocks_are_never_huge(inputs: int) -> None:
    assert 1 <= choose_block_size(inputs) <= choose_block_size(inputs + 1) <= LARGEST_BLOCK
    assert inputs < 1024 or -(-inputs // choose_block_size(inputs)) > 64


def test_words() -> None:
    assert JobPart.parse("2/4") == JobPart(2, 4)
    assert str(JobPart(2, 4)) == "2/4"


@pytest.mark.parametrize(
    "text",
    ["", "2", "/4", "2/", "0/4", "5/4", "-1/4", "1/0", "1.5/4", "a/b", "1/2/3", " 1/2", "²/4"],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected I/N with I from 1 to N, such as 1/4 or 4/4"):
        JobPart.parse(text)


def test_parts_come_in_any_order() -> None:
    parts = [(Path(f"p{number}"), JobPart(number, 12)) for number in range(12, 0, -1)]
    assert sort_parts(parts) == [Path(f"p{number}") for number in range(1, 13)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no parts; name all parts"),
        (["1/3", "3/3"], r"part 2/3 is missing; run the job's command with --shard 2/3"),
        (["2/20"], r"part 1/20, 3/20, 4/20, .* 11/20 and 9 more is missing"),
        (["1/2", "2/2", "1/2"], "p0 and p2 are both part 1/2; give one"),
        (["1/2", "2/3"], "p0 is part 1/2 and p1 is part 2/3; parts of one job have the same"),
    ],
    ids=["none", "missing", "many-missing", "twice", "another-number"],
)
def test_what_is_not_one_job_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sort_parts((Path(f"p{at}"), JobPart.parse(word)) for at, word in enumerate(words))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"c": 2}, "a": 1}, None),
        ({"a": 1}, {"a": 2}, ("a", 1, 2)),
        ({"a": 1}, {}, ("a", 1, None)),
        ({}, {"a": 1}, ("a", None, 1)),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ("c", 1, 2)),
        ({"a": {"b": 1}}, {"a": 1}, ("a", {"b": 1}, 1)),
    ],
)
def test_the_first_difference(
    old: dict[str, object], new: dict[str, object], expected: object
) -> None:
    assert find_difference(old, new) == expected
