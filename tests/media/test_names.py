"""Names of files survive a table and a terminal, whatever bytes they are made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.media.discovery import display_name, path_uri


@given(st.binary(min_size=1).filter(lambda data: b"\0" not in data))
def test_path_uri_round_trips(data: bytes) -> None:
    uri = path_uri(os.fsdecode(data))
    assert uri.isascii()
    assert uri.isprintable()
    assert unquote_to_bytes(uri) == data


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("ä b/c.jpg", "ä b/c.jpg", id="plain"),
        pytest.param("a\nb\r\t", r"a\nb\r\t", id="newline"),
        pytest.param("\x1b[2J\x7f", r"\x1b[2J\x7f", id="escape"),
        pytest.param(os.fsdecode(b"\xff\xe4"), r"\xff\xe4", id="bytes"),
        pytest.param("\x85", r"\u0085", id="c1"),
        pytest.param("gpj.\u202eexe", r"gpj.\u202eexe", id="direction"),
        pytest.param("\ud800", r"\ud800", id="surrogate"),
        pytest.param(r"a\nb", r"a\\nb", id="backslash"),
        pytest.param("👩\u200d🚀", "👩\u200d🚀", id="emoji"),
    ],
)
def test_display_name(name: str, shown: str) -> None:
    assert display_name(name) == shown


@given(st.sets(st.binary(min_size=1, max_size=6), min_size=2, max_size=6))
def test_display_names_are_safe_and_distinct(data: set[bytes]) -> None:
    shown: Iterator[str] = (display_name(os.fsdecode(item)) for item in data)
    texts = set(shown)
    assert len(texts) == len(data)
    assert all(text.encode() and "\n" not in text and "\x1b" not in text for text in texts)
