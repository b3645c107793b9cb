"""The tables beside the crops: what is written is read back, and damage is named."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from deepfake.dataset.manifest import (
    JOB_FILE,
    MANIFEST_FILE,
    SOURCES_FILE,
    Manifest,
    read_job,
    read_manifest,
    read_source_rows,
)
from deepfake.dataset.rows import (
    MANIFEST_COLUMNS,
    SOURCE_COLUMNS,
    format_manifest,
    format_sources,
    make_crop_row,
    make_source_row,
    pack_crops,
)
from deepfake.errors import UsageError
from deepfake.records import CropSpec, Sampling, Status, TurnedWindow
from deepfake.tables import read_csv
from tests.dataset.made_rows import CROP, ROW, SOURCE


def write_folder(
    root: Path, text: str, spec: CropSpec | None = None, versions: dict[str, str] | None = None
) -> Path:
    job = {
        "crop_spec": (spec or CropSpec()).to_dict(),
        "sampling": Sampling().to_dict(),
        "versions": versions or {"torch": "2"},
    }
    (root / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")
    (root / MANIFEST_FILE).write_text(text, encoding="utf-8", newline="")
    return root


def test_round_trip(tmp_path: Path) -> None:
    spec = CropSpec.from_preset("dacon", size=96)
    bare = replace(ROW, label=None, method="", split="", rotation=0, landmarks=())
    turned = replace(ROW, window=TurnedWindow(-3.07, 0.5, 40.93, 44.5, -12.3456))
    rows = (ROW, bare, turned)
    text = "".join(format_manifest(rows))
    manifest = read_manifest(write_folder(tmp_path, text, spec))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert manifest == Manifest(
        tmp_path, pack_crops(rows), spec, Sampling(), {"torch": "2"}, digest
    )


@pytest.mark.parametrize(
    "odd",
    [
        "a,b",
        'say "cheese"',
        "a\nb",
        "a\r\nb",
        "a\rb",
        " leading",
        "trailing ",
        "naïve 山",
        "=1+1",
        "-1",
        "'=1+1",
        "\u2028\x85",
        "\ufeff",
        "\x1b[2J",
    ],
    ids=ascii,
)
def test_odd_characters_survive(tmp_path: Path, odd: str) -> None:
    row = replace(ROW, crop=odd, method=odd, group=odd, split=odd)
    assert read_manifest(write_folder(tmp_path, "".join(format_manifest([row, ROW])))).rows == (
        row,
        ROW,
    )


def test_a_table_from_before_windows_were_noted(tmp_path: Path) -> None:
    lines = "".join(format_manifest([ROW])).splitlines()
    text = "".join(f"{line.rsplit(',', 1)[0]}\n" for line in lines)
    assert read_manifest(write_folder(tmp_path, text)).rows == (replace(ROW, window=None),)


def test_an_empty_manifest_is_a_manifest(tmp_path: Path) -> None:
    assert read_manifest(write_folder(tmp_path, "".join(format_manifest([])))).rows == ()


def test_names_that_are_not_text_can_be_written_and_restored(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff\n\x1b,.jpg")
    odd = os.fsdecode(b"id\xfe\r1")
    source = replace(SOURCE, name=name, group=odd, method=odd)
    row = make_source_row(source, Status.UNREADABLE, f"decode_error: {name}", 0)
    (tmp_path / SOURCES_FILE).write_bytes("".join(format_sources([row])).encode())
    (read,) = read_csv(tmp_path / SOURCES_FILE, SOURCE_COLUMNS)
    assert os.fsdecode(unquote_to_bytes(read["path_uri"])) == name
    assert read["path"] == r"a\xff\n\x1b,.jpg"
    assert read["reason"] == r"decode_error: a\xff\n\x1b,.jpg"
    assert (read["group"], read["method"]) == (r"id\xfe\r1", r"id\xfe\r1")
    crop = make_crop_row(source, CROP, "x.jpg")
    assert read_manifest(write_folder(tmp_path, "".join(format_manifest([crop])))).rows[
        0
    ].group == (r"id\xfe\r1")


def test_sources_table_survives_the_way_to_the_disk(tmp_path: Path) -> None:
    fake = replace(SOURCE, label=1, group="g", split="test", method="blend", original="0f")
    rows = (
        make_source_row(SOURCE, Status.NO_FACE, "no_face: none, at all", 0),
        make_source_row(fake, Status.OK, "", 3),
        make_source_row(replace(SOURCE, label=None), Status.UNREADABLE, "x", 0),
    )
    (tmp_path / SOURCES_FILE).write_text("".join(format_sources(rows)), newline="")
    assert read_source_rows(tmp_path) == rows


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "no_face,",
            "lost,",
            r"sources\.csv:2: 'lost' is not a valid Status; was the table edited",
        ),
        (",0,real", ",many,real", r"sources\.csv:2: .*'many'"),
        (",real,", ",1,", r"sources\.csv:2: label '1'; expected real or fake"),
        ("status", "state", r"sources\.csv:1: no column 'status'"),
    ],
)
def test_an_edited_sources_table_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = "".join(format_sources([make_source_row(SOURCE, Status.NO_FACE, "", 0)]))
    (tmp_path / SOURCES_FILE).write_text(text.replace(old, new, 1), newline="")
    with pytest.raises(UsageError, match=message):
        read_source_rows(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        pytest.param("frame", "x", r"manifest\.csv:3: .*'x'; was the table edited", id="frame"),
        pytest.param("label", "maybe", r"manifest\.csv:3: .*; was the table edited", id="label"),
        pytest.param("label", "1", r"manifest\.csv:3: .*; was the table edited", id="label-number"),
        pytest.param("x0", "", r"manifest\.csv:3: could not convert .* float", id="box"),
        pytest.param("landmarks", "1 a", r"manifest\.csv:3: could not .*'a'", id="landmarks"),
        pytest.param("confidence", "1,5", r"manifest\.csv:3: .*'1,5'", id="confidence"),
        pytest.param("confidence", "nan", r"csv:3: confidence 'nan'; expected a f", id="nan"),
        pytest.param("confidence", "1.01", r"confidence '1.01'; expected 0 to 1", id="sure"),
        pytest.param("time_s", "inf", r"csv:3: time_s 'inf'; expected a finite", id="infinite"),
        pytest.param("y1", "-Infinity", r"y1 '-Infinity'; expected a finite", id="infinite-box"),
        pytest.param("landmarks", "1 nan", r"landmarks 'nan'; expected a finite", id="nan-points"),
        pytest.param("x0", "1e999", r"x0 '1e999'; expected a finite", id="overflow"),
        pytest.param("frame", "-1", r"csv:3: frame '-1'; expected a count", id="negative"),
        pytest.param("face", "9" * 30, r"face '9999.*; expected a count", id="huge"),
        pytest.param("face", "9" * 5000, r"csv:3: Exceeds the limit", id="endless"),
        pytest.param("window", "1 2 3", r"manifest\.csv:3: not enough values", id="window"),
        pytest.param("window", "5 0 5 9", r"window '5 0 5 9' has no area", id="empty-window"),
        pytest.param("window", "1 2 3.5 9", r"csv:3: invalid literal .*'3.5'", id="half-pixels"),
        pytest.param("window", "1 2 3 nan 0", r"window 'nan'; expected a finite", id="nan-window"),
        pytest.param("window", "5 0 5 9 30", r"window .* has no area", id="empty-turned-window"),
    ],
)
def test_an_edited_cell_is_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    cells = "".join(format_manifest([ROW])).splitlines()[1].split(",")
    cells[MANIFEST_COLUMNS.index(column)] = f'"{value}"'
    write_folder(tmp_path, "".join(format_manifest([ROW])) + ",".join(cells) + "\n")
    with pytest.raises(UsageError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", r"manifest\.csv: empty", id="empty"),
        pytest.param(
            "".join(format_manifest([ROW])).replace("rotation", "turn", 1),
            r"manifest\.csv:1: no column 'rotation'",
            id="column",
        ),
        pytest.param(
            "".join(format_manifest([ROW]))[:-20], r"manifest\.csv:2: 17 fields", id="cut"
        ),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_manifest(write_folder(tmp_path, text))


def test_an_unfinished_folder(tmp_path: Path) -> None:
    (write_folder(tmp_path, "") / MANIFEST_FILE).unlink()
    with pytest.raises(UsageError, match=r"holds an unfinished crop job \(no manifest\.csv\)"):
        read_manifest(tmp_path)


def test_no_crop_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UsageError, match=r"is not a crop folder \(no job\.json\)"):
            read_manifest(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", r"job\.json cannot be read", id="not-json"),
        pytest.param("[]", r"job\.json holds no settings; was it edited", id="list"),
        pytest.param('{"crop_spec": {}}', r"job\.json lacks", id="no-versions"),
    ],
)
def test_a_damaged_job_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / JOB_FILE).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_job(tmp_path)


def test_a_recipe_of_another_version(tmp_path: Path) -> None:
    write_folder(tmp_path, "".join(format_manifest([])))
    job = read_job(tmp_path)
    del job["crop_spec"]["faces"]
    (tmp_path / JOB_FILE).write_text(json.dumps(job | {"crop_spec": job["crop_spec"] | {"x": 1}}))
    with pytest.raises(UsageError, match=r"unknown \['x'\], missing \['faces'\]"):
        read_manifest(tmp_path)
