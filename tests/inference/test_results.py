"""Answers as tables: one row per input, in order, and never a made-up score."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import pandas as pd  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.errors import UsageError
from deepfake.inference.results import (
    FACE_COLUMNS,
    SCORE_COLUMNS,
    Results,
    count,
    fill_submission,
    format_faces,
    format_scores,
)
from deepfake.records import FaceScore, MediaScore, Status

FALLBACK = 0.25


def answer(path: str, p_fake: float, threshold: float = 0.5, **facts: Any) -> MediaScore:
    label = "fake" if p_fake >= threshold else "real"
    return MediaScore(path, Status.OK, "", p_fake, label, threshold, 1, **facts)


def no_answer(path: str, status: Status = Status.NO_FACE) -> MediaScore:
    return MediaScore(path, status, f"{status.value}: so it is", None, None, 0.5, 0)


def parse(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@given(st.lists(st.sampled_from(Status), max_size=12))
def test_one_row_per_input_in_order(statuses: list[Status]) -> None:
    scores = [
        answer(f"{index}.jpg", index / 12)
        if status == Status.OK
        else no_answer(f"{index}.jpg", status)
        for index, status in enumerate(statuses)
    ]
    rows = parse("".join(format_scores(scores)))
    assert [row["path"] for row in rows] == [score.path for score in scores]
    assert [row["status"] for row in rows] == [status.value for status in statuses]
    assert all((row["p_fake"] == "") == (row["status"] != "ok") for row in rows)
    assert all((row["label"] == "") == (row["status"] != "ok") for row in rows)
    totals = count(scores)
    assert totals.inputs == len(scores)
    assert totals.answers == statuses.count(Status.OK)
    assert sum(totals.statuses.values()) == len(scores)


def test_cells_of_a_score() -> None:
    header, ok, bad = format_scores(
        [answer("a b.jpg", 0.75, 0.6, box_xyxy=(1, 2.5, 30.127, 40)), no_answer("c.jpg")]
    )
    assert header == ",".join(SCORE_COLUMNS) + "\n"
    assert ok == "a b.jpg,ok,,0.750000,fake,0.600000,1,1.00,2.50,30.13,40.00,a%20b.jpg\n"
    assert bad == "c.jpg,no_face,no_face: so it is,,,0.500000,0,,,,,c.jpg\n"


def test_tables_are_written_as_the_answers_come() -> None:
    given = []

    def scores() -> Iterator[MediaScore]:
        for number in range(100):
            given.append(number)
            yield answer(f"{number}.jpg", 0.5)

    lines = format_scores(scores())
    assert [next(lines) for _ in range(3)][-1].startswith("1.jpg,")
    assert given == [0, 1]


def test_odd_names_stay_one_row_and_can_be_restored() -> None:
    name = os.fsdecode(b'a\n"b",\r\xff\x1b.jpg')
    text = "".join(format_scores([answer(name, 0.1), answer("z.jpg", 0.2)]))
    text.encode("utf-8")
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text
    (row, _) = parse(text)
    assert row["path"] == r'a\n"b",\r\xff\x1b.jpg'
    assert os.fsdecode(unquote_to_bytes(row["path_uri"])) == name


def test_faces_have_a_row_each() -> None:
    faces = tuple(
        FaceScore(0, 0.0, index, (0, 1, 20, 30.5), 0.99, p) for index, p in enumerate((0.2, 0.8))
    )
    scores = [no_answer("x.jpg"), answer("a\n.jpg", 0.8, faces=faces), answer("b.jpg", 0.1)]
    header, *lines = "".join(format_faces(scores)).splitlines()
    assert header == ",".join(FACE_COLUMNS)
    assert lines == [
        r"a\n.jpg,0,0.000000,0,0,0.200000,0.990000,0.00,1.00,20.00,30.50",
        r"a\n.jpg,0,0.000000,1,0,0.800000,0.990000,0.00,1.00,20.00,30.50",
    ]


@pytest.mark.parametrize("level", ["file", "face"])
def test_a_frame_has_the_columns_and_rows_of_the_csv(level: Literal["file", "face"]) -> None:
    face = FaceScore(3, 0.25, 1, (0, 1, 20, 30.5), 0.99, 1 / 3, track=2)
    scores = [
        no_answer(os.fsdecode(b"x\xff.jpg")),
        answer("a\n.jpg", 2 / 3, faces=(face, face), box_xyxy=(1, 2.5, 3, 4)),
    ]
    frame = Results(scores).to_frame(level)
    text = "".join(format_scores(scores) if level == "file" else format_faces(scores))
    written = pd.read_csv(io.StringIO(text))
    if level == "file":
        written["reason"] = written["reason"].fillna("")  # an empty cell
    written = written.astype(frame.dtypes)
    pd.testing.assert_frame_equal(frame, written, rtol=0, atol=1e-6)
    counts = {"n_faces": "int64", "frame": "int64", "face": "int64", "track": "int64"}
    texts = dict.fromkeys(("path", "status", "reason", "label", "path_uri"), "string")
    kinds = {name: (counts | texts).get(name, "float64") for name in frame.columns}
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == kinds
    assert frame["p_fake"].iloc[-1] == (2 / 3 if level == "file" else 1 / 3)  # not rounded
    none = Results([]).to_frame(level)
    assert len(none) == 0
    assert none.dtypes.equals(frame.dtypes)


def test_results_come_one_by_one_and_can_be_ended() -> None:
    ended = []

    def scores() -> Iterator[MediaScore]:
        try:
            yield answer("a.jpg", 0.1)
            yield answer("b.jpg", 0.2)
        finally:
            ended.append(True)

    results = Results(scores())
    assert next(results).path == "a.jpg"
    results.close()
    assert ended
    assert list(results) == []
    Results([]).close()


def test_totals_add_up_in_words() -> None:
    totals = count([answer("a", 0.9), answer("b", 0.1), no_answer("c")])
    assert str(totals) == (
        "3 inputs = 2 ok + 1 no_face + 0 too_small + 0 unreadable; of the ok ones 1 are called fake"
    )
    assert (totals.inputs, totals.answers, totals.fakes) == (3, 2, 1)


# A contest's submission


@pytest.fixture
def sample(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "sample.csv"
        path.write_bytes(text.encode())
        return path

    return write


SCORES = [
    answer("test/a.jpg", 0.9),
    answer("test/b.png", 0.125),
    no_answer("test/c.jpg"),
    answer("other/d.jpg", 0.75),
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
        pytest.param("b.jpg", "0.250000", id="another-suffix-is-another-file"),
        pytest.param("B", "0.250000", id="case-counts"),
        pytest.param("", "0.250000", id="empty"),
    ],
)
def test_finds_the_file_of_a_row(sample: Any, name: str, expected: str) -> None:
    filled = fill_submission(sample(f"id,y\n{name},0\nd,0\n"), SCORES, FALLBACK)
    assert [row["y"] for row in parse(filled.text)] == [expected, "0.750000"]


def test_counts_every_row(sample: Any) -> None:
    rows = "".join(f"{name},9\n" for name in ("d", "c", "nobody", "a", "b.png", "no/one.jpg"))
    filled = fill_submission(sample("id,y\n" + rows), SCORES, FALLBACK)
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
    filled = fill_submission(sample("\ufeff" + text), SCORES, FALLBACK)
    rows = parse(filled.text)
    assert list(rows[0]) == ["y", "note", "path", "Unnamed: 0"]
    assert [list(row.values()) for row in rows] == [
        ["0.750000", 'say "hi", twice', "d.jpg", "007"],
        ["0.900000", "two\r\nlines", "test/a.jpg", " x "],
        ["0.250000", "lone\rreturn", "none", "NA"],
    ]


def test_labels_use_the_threshold_of_the_answer(sample: Any) -> None:
    scores = [answer("a", 0.6, 0.7), answer("b", 0.7, 0.7), answer("c", 0.3, 0.2), no_answer("d")]
    table = sample("id,y\n" + "".join(f"{name},\n" for name in "abcde"))
    for fallback, expected in ((0.4, "0"), (0.5, "1")):
        filled = fill_submission(table, scores, fallback, "label")
        assert [row["y"] for row in parse(filled.text)] == ["0", "1", "1", expected, expected]


def test_an_ambiguous_name_is_an_error_with_its_line(sample: Any) -> None:
    scores = [answer("x/a.jpg", 0.1), answer("y/a.jpg", 0.2)]
    filled = fill_submission(sample("id,y\ny/a.jpg,\n"), scores, FALLBACK)
    assert parse(filled.text)[0]["y"] == "0.200000"
    for name in ("a.jpg", "a"):
        with pytest.raises(
            UsageError, match=rf"sample\.csv:2: '{name}' could be 'x/a.jpg' or 'y/a.jpg'"
        ):
            fill_submission(sample(f"id,y\n{name},\n"), scores, FALLBACK)


def test_a_file_that_was_asked_for_twice_is_not_ambiguous(sample: Any) -> None:
    scores = [answer("x/a.jpg", 0.1), answer("./x/a.jpg", 0.1)]
    filled = fill_submission(sample("id,y\na,\n"), scores, FALLBACK)
    assert parse(filled.text)[0]["y"] == "0.100000"


def test_the_path_column_comes_before_the_id(sample: Any) -> None:
    filled = fill_submission(sample("id,path,y\na,d.jpg,\n"), SCORES, FALLBACK)
    assert parse(filled.text)[0]["y"] == "0.750000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("id,label\na,0\n", r"sample\.csv:1: no column 'y'", id="no-y"),
        pytest.param("who,y\na,0\n", "has columns who, y; one of path, id, .* name", id="no-id"),
        pytest.param("id,y\n", r"has columns \(no rows\)", id="no-rows"),
        pytest.param("id,y\na,0,1\n", r"sample\.csv:2: 3 fields", id="shifted"),
    ],
)
def test_refuses_a_sample(sample: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fill_submission(sample(text), SCORES, FALLBACK)
