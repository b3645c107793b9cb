"""What is known of a crop and of its input, and the words that tables have for it."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from deepfake.dataset.rows import (
    MANIFEST_COLUMNS,
    SOURCE_COLUMNS,
    format_manifest,
    format_sources,
    make_crop_row,
    make_source_row,
    require_label,
    require_labels,
)
from deepfake.errors import UsageError
from deepfake.records import Status
from tests.dataset.made_rows import CROP, ROW, SOURCE


def test_tables_are_plain_and_have_words_for_labels() -> None:
    text = "".join(format_manifest([ROW, replace(ROW, label=0), replace(ROW, label=None)]))
    header, *lines = text.splitlines()
    assert header == ",".join(MANIFEST_COLUMNS)
    assert "\r" not in text
    assert [line.split(",")[5] for line in lines] == ["fake", "real", ""]
    assert lines[0] == (
        "shards/00000/crops/0123456789abcdef_0_0.jpg,0123456789abcdef,3,1.250000,1,fake,face swap,"
        "id1,train,1.50,-2.25,30.00,40.75,0.987654,1.00 2.00 3.50 4.00 5.00 6.00 7.25 8.00 9.00 "
        "10.00,180,fedcba9876543210,-3 0 40 43"
    )


def test_crop_row_describes_source_and_face() -> None:
    source = replace(SOURCE, label=1, group="g", split="test", method="blend", original="0f")
    row = make_crop_row(source, CROP, "shards/00000/crops/x.jpg")
    assert (row.crop, row.source) == ("shards/00000/crops/x.jpg", source.id)
    assert (row.frame, row.time_s, row.face, row.rotation) == (2, 0.5, 1, 180)
    assert (row.method, row.group, row.split, row.original) == ("blend", "g", "test", "0f")
    assert make_source_row(source, Status.OK, "", 1).original == "0f"
    assert make_crop_row(SOURCE, CROP, "x").original == ""
    assert row.label == 1
    assert list(row.box_xyxy) == [10, 20, 50, 80]
    assert row.confidence == 0.75
    np.testing.assert_allclose(row.landmarks, CROP.face.landmarks.ravel())


def test_a_source_without_group_is_a_group_of_its_own() -> None:
    assert make_crop_row(SOURCE, CROP, "x").group == SOURCE.id
    assert make_source_row(SOURCE, Status.OK, "", 1).group == SOURCE.id


def test_sources_table_has_the_columns_and_words() -> None:
    row = make_source_row(SOURCE, Status.NO_FACE, "no_face: none", 0)
    header, line = csv.reader(format_sources([row]))
    cells = dict(zip(header, line, strict=True))
    assert tuple(header) == SOURCE_COLUMNS
    assert cells == {
        "path": "a.jpg",
        "status": "no_face",
        "reason": "no_face: none",
        "faces": "0",
        "label": "real",
        "method": "",
        "group": SOURCE.id,
        "split": "",
        "id": SOURCE.id,
        "path_uri": "a.jpg",
        "original": "",
    }


def test_no_label_is_never_taken_for_real() -> None:
    bare = replace(ROW, label=None, crop="b.jpg")
    assert require_labels([replace(ROW, label=0), replace(ROW, label=1)]).tolist() == [0, 1]
    assert require_labels([]).shape == (0,)
    assert require_label(replace(ROW, label=0)) == 0
    message = r"2 of 3 crops have no label, such as b\.jpg; crop from real/ and fake/ folders"
    with pytest.raises(UsageError, match=message):
        require_labels([replace(ROW, label=0), bare, replace(bare, crop="c.jpg")])
    with pytest.raises(UsageError, match=r"^b\.jpg has no label; crop from"):
        require_label(bare)
    source = make_source_row(replace(SOURCE, label=None), Status.OK, "", 1)
    with pytest.raises(UsageError, match=f"^{source.path} has no label"):
        require_label(source)
