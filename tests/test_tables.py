"""The strict CSV reader: what it accepts, and how it refuses the rest."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import IO

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.errors import UsageError
from deepfake.tables import (
    CsvRow,
    format_json,
    format_table,
    iter_csv,
    parse_json,
    read_csv,
    shield,
    unshield,
)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
# A spreadsheet of the field computes what begins so.
SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NAMES = st.builds(str.__add__, st.sampled_from(("", "'", "''", *SIGNS)), TEXTS)


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"path,label\na,real\n", [(2, "a", "real")], id="plain"),
        pytest.param(b"path,label\na,real", [(2, "a", "real")], id="no-last-newline"),
        pytest.param(b"\xef\xbb\xbfpath,label\r\na,real\r\n", [(2, "a", "real")], id="bom-crlf"),
        pytest.param(b"path,label\ra,real\r", [(2, "a", "real")], id="cr"),
        pytest.param(
            b"\n path , label \n\n   \na,real\n\nb,fake\n\n",
            [(5, "a", "real"), (7, "b", "fake")],
            id="blank-lines",
        ),
        pytest.param(
            b'path,label\n"a,b",real\n"c""d",fake\n',
            [(2, "a,b", "real"), (3, 'c"d', "fake")],
            id="quoted-comma",
        ),
        pytest.param(
            b'path,label\n"a\nb",real\nc,fake\n',
            [(2, "a\nb", "real"), (4, "c", "fake")],
            id="quoted-newline",
        ),
        pytest.param(b"path,label\nNA,\nnull,0\n", [(2, "NA", ""), (3, "null", "0")], id="na"),
        pytest.param("path,label\nü.jpg,1\n".encode(), [(2, "ü.jpg", "1")], id="utf-8"),
        pytest.param(b"path,label\n a ,1\n", [(2, " a ", "1")], id="spaces-kept"),
        pytest.param(b"path,label\n", [], id="header-only"),
    ],
)
def test_reads(tmp_path: Path, data: bytes, expected: list[tuple[int, str, str]]) -> None:
    rows = read_csv(write(tmp_path, data), ("path", "label"))
    assert [(row.line, row["path"], row["label"]) for row in rows] == expected


def test_row_answers_for_columns_that_are_not_there() -> None:
    row = CsvRow(3, {"path": "a"})
    assert (row.get("path"), row.get("group"), row.get("group", "g")) == ("a", "", "g")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "empty; expected a header line with 'path', 'label'", id="empty"),
        pytest.param(b"\n\n", "empty; expected a header", id="blank"),
        pytest.param(
            b"path,label\na,real\nb,0,9\n",
            r":3: 3 fields where the header has 2 \('path', 'label'\): \['b', '0', '9'\]",
            id="extra-field",
        ),
        pytest.param(
            b"path,label\n\n\na\n",
            r":4: 1 fields where the header has 2.*\['a'\]",
            id="missing-field",
        ),
        pytest.param(
            b'path,label\na,real\n"b,fake\nc,real\n', ":3: unexpected end of data", id="open-quote"
        ),
        pytest.param(b'path,label\n"a"b,real\n', ":2: ',' expected after '\"'", id="stray-quote"),
        pytest.param(
            b"path,label\na,real\n\xe4.jpg,fake\n", ":3: byte 0xe4 is not UTF-8", id="latin-1"
        ),
        pytest.param("path,label\n".encode("utf-16"), "UTF-16 text; save it as UTF-8", id="utf-16"),
        pytest.param(b"path,label\na\0,real\n", ":2: NUL byte", id="nul"),
        pytest.param(b"path,label,path\n", ":1: column 'path' appears more than once", id="twice"),
        pytest.param(
            b"file,label\n", ":1: no column 'path'; the columns are 'file', 'label'", id="missing"
        ),
        pytest.param(
            b"path;label\na;0\n", "no column .*the file looks ;-separated", id="semicolon"
        ),
        pytest.param(b"path\tlabel\na\t0\n", "the file looks tab-separated", id="tab"),
    ],
)
def test_refuses(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(UsageError, match=f"table.csv.*{message}"):
        read_csv(path, ("path", "label"))


def test_a_missing_column_is_told_with_its_other_names(tmp_path: Path) -> None:
    path = write(tmp_path, b"name,label\n")
    others = {"path": ("filename", "image_path"), "label": ("class",)}
    message = r"no column 'path' \(nor 'filename', 'image_path'\); the columns are 'name', 'label'"
    with pytest.raises(UsageError, match=message):
        read_csv(path, ("path", "label"), other_names=others)


@pytest.mark.timeout(20)
def test_refuses_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_csv(tmp_path / "none.csv", ())
    with pytest.raises(UsageError, match="not a regular file"):
        read_csv(tmp_path, ())
    os.mkfifo(tmp_path / "fifo.csv")
    with pytest.raises(UsageError, match="not a regular file"):
        read_csv(tmp_path / "fifo.csv", ())

    path = write(tmp_path, b"path\n")

    def deny(path: Path, *_: object, **__: object) -> IO[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(UsageError, match=r"cannot be read .*Permission denied"):
        read_csv(path, ())


def test_rows_are_read_when_their_turn_comes(tmp_path: Path) -> None:
    rows = iter_csv(write(tmp_path, b"path,label\na,real\nb\n"), ("path",))
    assert next(rows)["path"] == "a"
    with pytest.raises(UsageError, match=":3: 1 fields where the header has 2"):
        next(rows)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1))
def test_every_table_reads_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "every.csv"
    rows = [(first, second, -index) for index, (first, second) in enumerate(cells)]
    text = format_table(["a", "b", "n"], rows, ["a"])
    path.write_bytes(text.encode())
    literal = [(row["a"], row["b"], int(row["n"])) for row in read_csv(path, ["a"], literal=True)]
    assert literal == [(shield(first), second, number) for first, second, number in rows]
    assert [row["a"] for row in read_csv(path, ["a"])] == [first for first, _, _ in rows]


@pytest.mark.parametrize("row", [[], ["a"], ["a", 1, 2]])
def test_a_row_of_another_length_is_not_written(row: list[object]) -> None:
    with pytest.raises(ValueError, match=f"{len(row)} cells for 2 columns"):
        format_table(["path", "n"], [row])


@given(NAMES)
def test_no_text_is_a_formula_and_each_can_be_had_back(name: str) -> None:
    shielded = shield(name)
    assert not shielded.startswith(SIGNS)
    assert unshield(shielded) == name
    assert unshield(name) == name or name.startswith("'")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "'=1"])
def test_a_shielded_name_is_text_to_other_readers_and_numbers_stay_numbers(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(format_table(["path", "x0"], [[name, -1.5], ["b.jpg", 2]], ["path"]))
    table = pd.read_csv(path)
    assert table["path"].tolist() == [f"'{name}", "b.jpg"]
    assert table["x0"].tolist() == [-1.5, 2]
    with path.open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["path"] == f"'{name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "Expecting", id="cut"),
        pytest.param('{"a": NaN}', "nan is no finite|NaN is no finite", id="nan"),
        pytest.param("[-Infinity]", "-Infinity is no finite number", id="infinite"),
        pytest.param("[1e999]", "1e999 is no finite number", id="overflow"),
        pytest.param("9" * 5000, "Exceeds the limit", id="digits"),
        pytest.param("[" * 100_000, "nested too deeply", id="lists"),
        pytest.param('{"a":' * 100_000, "nested too deeply", id="objects"),
    ],
)
def test_json_of_others_is_refused_without_a_traceback(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_of_ours_is_read_by_all() -> None:
    told = format_json({"auc": float("nan"), "rows": (1, float("-inf"), {"p": 0.5})})
    assert parse_json(told) == {"auc": None, "rows": [1, None, {"p": 0.5}]}


def test_json_of_others_is_read() -> None:
    assert parse_json('{"a": [1, 2.5, null, true, "NaN"]}') == {"a": [1, 2.5, None, True, "NaN"]}
