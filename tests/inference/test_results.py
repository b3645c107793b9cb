"""Answers as tables: one row per input, in order, and never a made-up score."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from typing import Literal
from urllib.parse import unquote_to_bytes

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.inference.results import (
    FACE_COLUMNS,
    SCORE_COLUMNS,
    Results,
    count,
    describe_results,
    format_faces,
    format_scores,
)
from deepfake.records import FaceQuality, FaceScore, Limits, Result, Status
from tests.made_results import make_answer, make_no_answer


def parse(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@given(st.lists(st.sampled_from(Status), max_size=12))
def test_one_row_per_input_in_order(statuses: list[Status]) -> None:
    scores = [
        make_answer(f"{index}.jpg", index / 12)
        if status == Status.OK
        else make_no_answer(f"{index}.jpg", status)
        for index, status in enumerate(statuses)
    ]
    rows = parse("".join(format_scores(scores)))
    assert [row["path"] for row in rows] == [score.path for score in scores]
    assert [row["status"] for row in rows] == [status.value for status in statuses]
    assert all((row["p_fake"] == "") == (row["status"] != "ok") for row in rows)
    assert all((row["verdict"] == "") == (row["status"] != "ok") for row in rows)
    totals = count(scores)
    assert totals.inputs == len(scores)
    assert totals.answers == statuses.count(Status.OK)
    assert sum(totals.statuses.values()) == len(scores)


def test_a_line_for_a_person_says_verdict_score_limits_people_and_remarks() -> None:
    limits = Limits(0.25, (0.75, 0.875))
    results = [
        make_answer("a.jpg", 0.5, limits),
        make_answer("b.mp4", 0.9, limits, n_people=2, remarks=("small faces", "\x1b[2Jcut")),
        make_no_answer("c\n.jpg"),
        Result("d.jpg", Status.UNREADABLE),
    ]
    assert list(describe_results(results)) == [
        "a.jpg: unclear, p_fake 0.500 (real up to 0.250, fake from 0.750)\n",
        "b.mp4: fake, p_fake 0.900 (real up to 0.250, fake from 0.875); 2 people; small faces; "
        "\\x1b[2Jcut\n",
        "c\\n.jpg: no_face: so it is\n",
        "d.jpg: unreadable\n",
    ]


def test_cells_of_a_score() -> None:
    box = (1, 2.5, 30.127, 40)
    limits = Limits(0.4, (0.6, 0.7))
    header, ok, bad = format_scores(
        [
            make_answer(
                "a b.jpg",
                0.65,
                limits,
                quality=FaceQuality(29.127, 350.126, 99.0, 1.5),
                n_people=2,
                n_too_small=3,
                box_xyxy=box,
                remarks=("small", "dark"),
            ),
            make_no_answer("c.jpg"),
        ]
    )
    assert header == ",".join(SCORE_COLUMNS) + "\n"
    assert ok == (
        "a b.jpg,ok,,small; dark,0.650000,unclear,0.400000,0.700000,1,1,3,2,"
        "1.00,2.50,30.13,40.00,29.13,350.13,99.00,1.50,a%20b.jpg\n"
    )
    assert bad == "c.jpg,no_face,no_face: so it is,,,,,,0,0,0,0,,,,,,,,,c.jpg\n"


def test_tables_are_written_as_the_answers_come() -> None:
    given = []

    def scores() -> Iterator[Result]:
        for number in range(100):
            given.append(number)
            yield make_answer(f"{number}.jpg", 0.5)

    lines = format_scores(scores())
    assert [next(lines) for _ in range(3)][-1].startswith("1.jpg,")
    assert given == [0, 1]


def test_odd_names_stay_one_row_and_can_be_restored() -> None:
    name = os.fsdecode(b'a\n"b",\r\xff\x1b.jpg')
    text = "".join(format_scores([make_answer(name, 0.1), make_answer("z.jpg", 0.2)]))
    text.encode("utf-8")
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text
    (row, _) = parse(text)
    assert row["path"] == r'a\n"b",\r\xff\x1b.jpg'
    assert os.fsdecode(unquote_to_bytes(row["path_uri"])) == name


def test_faces_have_a_row_each() -> None:
    faces = tuple(
        FaceScore(0, 0.0, index, (0, 1, 20, 30.5), 0.99, p, quality=quality)
        for index, (p, quality) in enumerate(((0.2, None), (0.8, FaceQuality(20, 350.126))))
    )
    scores = [
        make_no_answer("x.jpg"),
        make_answer("a\n.jpg", 0.8, faces=faces),
        make_answer("b.jpg", 0.1),
    ]
    header, *lines = "".join(format_faces(scores)).splitlines()
    assert header == ",".join(FACE_COLUMNS)
    assert lines == [
        r"a\n.jpg,0,0.000000,0,0,0.200000,0.990000,0.00,1.00,20.00,30.50,,,,",
        r"a\n.jpg,0,0.000000,1,0,0.800000,0.990000,0.00,1.00,20.00,30.50,20.00,350.13,,",
    ]


@pytest.mark.parametrize("level", ["file", "face"])
def test_a_frame_has_the_columns_and_rows_of_the_csv(level: Literal["file", "face"]) -> None:
    face = FaceScore(3, 0.25, 1, (0, 1, 20, 30.5), 0.99, 1 / 3, person=2)
    scores = [
        make_no_answer(os.fsdecode(b"x\xff.jpg")),
        make_answer("a\n.jpg", 2 / 3, faces=(face, face), box_xyxy=(1, 2.5, 3, 4)),
    ]
    frame = Results(scores).to_frame(level)
    text = "".join(format_scores(scores) if level == "file" else format_faces(scores))
    written = pd.read_csv(io.StringIO(text))
    if level == "file":
        for name in ("reason", "remarks"):
            written[name] = written[name].astype("string").fillna("")  # an empty cell
    written = written.astype(frame.dtypes)
    pd.testing.assert_frame_equal(frame, written, rtol=0, atol=1e-6)
    names = ("n_found", "n_faces", "n_too_small", "n_people", "frame", "face", "person")
    counts = dict.fromkeys(names, "int64")
    texts = dict.fromkeys(("path", "status", "reason", "remarks", "verdict", "path_uri"), "string")
    kinds = {name: (counts | texts).get(name, "float64") for name in frame.columns}
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == kinds
    assert frame["p_fake"].iloc[-1] == (2 / 3 if level == "file" else 1 / 3)  # not rounded
    none = Results([]).to_frame(level)
    assert len(none) == 0
    assert none.dtypes.equals(frame.dtypes)


def test_results_come_one_by_one_and_can_be_ended() -> None:
    ended = []

    def scores() -> Iterator[Result]:
        try:
            yield make_answer("a.jpg", 0.1)
            yield make_answer("b.jpg", 0.2)
        finally:
            ended.append(True)

    results = Results(scores())
    assert next(results).path == "a.jpg"
    results.close()
    assert ended
    assert list(results) == []
    Results([]).close()


def test_totals_add_up_in_words() -> None:
    totals = count([make_answer("a", 0.9), make_answer("b", 0.1), make_no_answer("c")])
    assert str(totals) == (
        "3 inputs = 2 ok + 1 no_face + 0 too_small + 0 unreadable; 1 of the ok ones fake, 0 unclear"
    )
    assert (totals.inputs, totals.answers, totals.fakes) == (3, 2, 1)
