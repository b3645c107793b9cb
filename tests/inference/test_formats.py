"""Every suffix holds the same answers, written as they come; any other is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import pytest

from deepfake.errors import UsageError
from deepfake.inference import formats
from deepfake.inference.formats import check_format, encode_table
from deepfake.inference.results import Level, Results
from deepfake.media.discovery import list_sources
from deepfake.records import Result
from tests.inference.made_answers import NAMES, answer

SETTINGS: dict[str, Any] = {
    "checkpoint_sha256": "c0ffee",
    "sampling": {"frames": 16},
    "aggregation": {"policy": "mean"},
    "versions": {"deepfake": "0.1.0"},
}


def made() -> list[Result]:
    return [answer(source) for source in list_sources(NAMES, Path())]


def encode(suffix: str, level: Level = "file") -> bytes:
    return b"".join(encode_table(Path(f"t{suffix}"), made, SETTINGS, level))


def read(suffix: str, level: Level) -> pd.DataFrame:
    data = encode(suffix, level)
    if suffix == ".parquet":
        return pd.read_parquet(io.BytesIO(data))
    if suffix == ".csv":
        return pd.read_csv(io.BytesIO(data), keep_default_na=False, na_values={"p_fake": [""]})
    if suffix == ".jsonl":
        return pd.read_json(io.BytesIO(data), lines=True)
    return pd.DataFrame(json.loads(data)[f"{level}s"])


@pytest.mark.parametrize("level", ["file", "face"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl", ".JSONL"])
def test_every_suffix_holds_the_answers(suffix: str, level: Level) -> None:
    table = read(suffix.lower(), level)
    expected = Results(made()).to_frame(level)
    assert len(table) == len(expected)
    for column in ("path", "p_fake", "path_uri" if level == "file" else "time_s"):
        pd.testing.assert_series_equal(
            table[column], expected[column], check_dtype=False, rtol=0, atol=1e-6
        )
    assert encode(suffix, level) == encode(suffix.lower(), level)


def test_parquet_has_the_columns_of_the_table_of_pandas_and_what_they_depend_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "_GROUP_ROWS", 7)
    file = pyarrow.parquet.ParquetFile(io.BytesIO(encode(".parquet")))
    assert file.metadata.num_row_groups == 5  # 30 rows
    expected = Results(made()).to_frame()
    pd.testing.assert_frame_equal(file.read().to_pandas(), expected, check_dtype=False)
    assert json.loads(file.schema_arrow.metadata[b"deepfake"]) == SETTINGS
    empty = encode_table(Path("t.parquet"), list, SETTINGS)
    assert len(pd.read_parquet(io.BytesIO(b"".join(empty)))) == 0


def test_json_tells_everything_that_is_known_and_what_it_depends_on() -> None:
    content = json.loads(encode(".json"))
    assert content["settings"] == SETTINGS
    lines = [json.loads(line) for line in encode(".jsonl").splitlines()]
    assert content["files"] == lines
    for line, result in zip(lines, made(), strict=True):
        assert line == json.loads(json.dumps(asdict(result))) | {"path_uri": result.path}
    assert json.loads(b"".join(encode_table(Path("t.json"), list, {}))) == {
        "settings": {},
        "files": [],
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_tables_are_written_as_the_answers_come(
    suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_GROUP_ROWS", 3)
    given = 0

    def results() -> Iterator[Result]:
        nonlocal given
        for result in made():
            given += 1
            yield result

    pieces = encode_table(Path(f"t{suffix}"), results, SETTINGS)
    assert next(pieces)
    assert next(pieces)
    assert given <= 6


@pytest.mark.parametrize("name", ["scores.xlsx", "scores", "scores.csv.gz", ".csv", "scores.txt"])
def test_any_other_suffix_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"--faces .*no table is written as .*name it \.csv, "):
        check_format("faces", Path(name))


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_format("output", Path("t.parquet"))
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    check_format("output", Path("t.csv"))
    with pytest.raises(UsageError, match=r"needs pyarrow.*pip install 'deepfake\[parquet\]'"):
        check_format("output", Path("t.parquet"))
