"""A contest's sample: its rows and columns stay, only one column is filled."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UsageError
from deepfake.inference.submission import Sample, Submission, Value
from deepfake.records import Limits, Result
from tests.made_results import make_answer, make_no_answer

FALLBACK = 0.25


def parse(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def fill(
    table: Path, scores: Iterable[Result], fallback: float, value: Value = "p_fake"
) -> Submission:
    return Sample(table).fill(scores, fallback, value)


@pytest.fixture
def sample(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "sample.csv"
        path.write_bytes(text.encode())
        return path

    return write


SCORES = [
    make_answer("test/a.jpg", 0.9),
    make_answer("test/b.png", 0.125),
    make_no_answer("test/c.jpg"),
    make_answer("other/d.jpg", 0.75),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("test/a.jpg", "0.900000", id="path"),
        pytest.param("./test//a.jpg", "0.900000", id="path-spelt-otherwise"),
        pytest.param("test\\a.jpg", "0.900000", id="backslash"),
        pytest.param("b.png", "0.125000", id="name"),
        pytest.param("elsewhere/b.png", "0.125000", id="name-in-another-folder"),
        pytest.param("b", "0.125000", id="stem"),
        pytest.param("c.jpg", "0.250000", id="no-answer"),
        pytest.param("z", "0.250000", id="no-file"),
        pytest.param("b.jpg", "0.125000", id="another-suffix"),
        pytest.param("elsewhere/b.mp4", "0.125000", id="another-suffix-in-another-folder"),
        pytest.param("B", "0.250000", id="case-counts"),
        pytest.param("", "0.250000", id="empty"),
    ],
)
def test_finds_the_file_of_a_row(sample: Any, name: str, expected: str) -> None:
    filled = fill(sample(f"id,y\n{name},0\nd,0\n"), SCORES, FALLBACK)
    assert [row["y"] for row in parse(filled.text)] == [expected, "0.750000"]


def test_counts_every_row(sample: Any) -> None:
    rows = "".join(f"{name},9\n" for name in ("d", "c", "nobody", "a", "b.png", "no/one.jpg"))
    filled = fill(sample("id,y\n" + rows), SCORES, FALLBACK)
    assert (filled.answered, filled.without_answer, filled.without_file) == (3, 1, 2)
    assert [row["id"] for row in parse(filled.text)] == [
        "d",
        "c",
        "nobody",
        "a",
        "b.png",
        "no/one.jpg",
    ]


def test_keeps_other_columns_order_and_quoting(sample: Any) -> None:
    text = (
        "y,note,path,Unnamed: 0\r\n"
        '0,"say ""hi"", twice",d.jpg,007\r\n'
        ',"two\r\nlines",test/a.jpg, x \r\n'
        '1.5,"lone\rreturn",none,NA\r\n'
    )
    filled = fill(sample("\ufeff" + text), SCORES, FALLBACK)
    rows = parse(filled.text)
    assert list(rows[0]) == ["y", "note", "path", "Unnamed: 0"]
    assert [list(row.values()) for row in rows] == [
        ["0.750000", 'say "hi", twice', "d.jpg", "007"],
        ["0.900000", "two\r\nlines", "test/a.jpg", " x "],
        ["0.250000", "lone\rreturn", "none", "NA"],
    ]


def test_labels_are_at_even_odds_whatever_the_limits(sample: Any) -> None:
    strict, lax = Limits(0.1, (0.7,)), Limits(0.1, (0.2,))
    scores = [
        make_answer("a", 0.6, strict),  # unclear
        make_answer("b", 0.5, strict),
        make_answer("c", 0.3, lax),  # fake
        make_no_answer("d"),
    ]
    table = sample("id,y\n" + "".join(f"{name},\n" for name in "abcde"))
    for fallback, expected in ((0.0, "0"), (1.0, "1")):
        filled = fill(table, scores, fallback, "label")
        assert [row["y"] for row in parse(filled.text)] == ["1", "1", "0", expected, expected]
        assert filled.fallback == expected


def test_what_is_said_of_rows_without_an_answer_is_what_they_got(sample: Any) -> None:
    for fallback in (1e-9, 0.123456789, 1 / 3, 0.5):
        filled = fill(sample("id,y\nnobody,\n"), SCORES, fallback)
        assert [row["y"] for row in parse(filled.text)] == [filled.fallback]


@pytest.mark.parametrize(
    ("fallback", "value", "message"),
    [
        (float("nan"), "p_fake", "would get nan; give --no-answer a probability"),
        (float("inf"), "p_fake", "would get inf"),
        (-0.1, "p_fake", "would get -0.1"),
        (0.5, "label", "would get 0.5 among labels; give --no-answer 0 for real or 1 for fake"),
        (float("nan"), "label", "would get nan among labels"),
    ],
)
def test_no_row_gets_what_is_no_answer(
    sample: Any, fallback: float, value: Value, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fill(sample("id,y\nd,\n"), SCORES, fallback, value)


def test_an_ambiguous_name_is_an_error_with_its_line(sample: Any) -> None:
    scores = [make_answer("x/a.jpg", 0.1), make_answer("y/a.jpg", 0.2)]
    filled = fill(sample("id,y\ny/a.jpg,\n"), scores, FALLBACK)
    assert parse(filled.text)[0]["y"] == "0.200000"
    for name in ("a.jpg", "a", "a.mp4"):
        with pytest.raises(
            UsageError, match=rf"sample\.csv:2: '{name}' could be 'x/a.jpg' or 'y/a.jpg'"
        ):
            fill(sample(f"id,y\n{name},\n"), scores, FALLBACK)


def test_two_rows_are_not_filled_from_one_file_by_its_name_alone(sample: Any) -> None:
    scores = [make_answer("001.jpg", 0.9), make_answer("img.jpg", 0.7)]
    with pytest.raises(UsageError, match=r"csv:3: 'b/001.jpg' and 'a/001.jpg' would both be"):
        fill(sample("id,y\na/001.jpg,\nb/001.jpg,\n"), scores, FALLBACK)
    names = ("img.0002", "001.jpg", "./001.jpg", "001")
    filled = fill(sample("id,y\n" + "".join(f"{n},\n" for n in names)), scores, FALLBACK)
    assert [row["y"] for row in parse(filled.text)] == ["0.250000", *["0.900000"] * 3]
    assert filled.without_file == 1
    twice = fill(sample("id,y\na.jpg,\n"), [make_answer("a.jpg.png", 0.6)], FALLBACK)
    assert parse(twice.text)[0]["y"] == "0.600000"


def test_a_file_that_was_asked_for_twice_is_not_ambiguous(sample: Any) -> None:
    scores = [make_answer("x/a.jpg", 0.1), make_answer("./x/a.jpg", 0.1)]
    filled = fill(sample("id,y\na,\n"), scores, FALLBACK)
    assert parse(filled.text)[0]["y"] == "0.100000"


def test_the_path_column_comes_before_the_id(sample: Any) -> None:
    filled = fill(sample("id,path,y\na,d.jpg,\n"), SCORES, FALLBACK)
    assert parse(filled.text)[0]["y"] == "0.750000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("id,mark\na,0\n", "has columns id, mark; none of y, label.*value", id="no-y"),
        pytest.param("who,y\na,0\n", "columns who, y; none of path, id, .* file's", id="no-id"),
        pytest.param("id,y\n", "has no rows", id="no-rows"),
        pytest.param("id,y\na,0,1\n", r"sample\.csv:2: 3 fields", id="shifted"),
    ],
)
def test_refuses_a_sample(sample: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fill(sample(text), SCORES, FALLBACK)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        pytest.param("filename,label", None, id="kaggle-dfdc"),
        pytest.param("ID,Y", None, id="capitals"),
        pytest.param("clip,guess", ["clip", "guess"], id="named"),
        pytest.param("id,clip,y,guess", ["clip", "guess"], id="named-among-known"),
    ],
)
def test_columns_are_known_or_named(sample: Any, header: str, columns: list[str] | None) -> None:
    names = header.split(",")
    table = sample(f"{header}\n" + ",".join("a.mp4" for _ in names) + "\n")
    (row,) = parse(Sample(table, columns).fill(SCORES, FALLBACK).text)
    value = columns[1] if columns else names[1]
    assert row.pop(value) == "0.900000"
    assert set(row.values()) == {"a.mp4"}


@pytest.mark.parametrize("columns", [["id", "z"], ["id", "id"]], ids=["absent", "one-for-both"])
def test_named_columns_must_be_there(sample: Any, columns: list[str]) -> None:
    with pytest.raises(UsageError, match=r"no column 'z'|expected two: FILE VALUE"):
        Sample(sample("id,y\na,0\n"), columns)


@pytest.mark.data
def test_the_sample_of_dfdc_is_filled(shared_media: Path) -> None:
    table = shared_media / "cases" / "submission_columns" / "dfdc.csv"
    filled = fill(table, [make_answer("clips/aassnaulhq.mp4", 0.75)], FALLBACK)
    assert [row["label"] for row in parse(filled.text)] == ["0.750000", "0.250000"]
