"""Errors that are also standard ones, and that travel between processes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from deepfake.errors import (
    CheckpointError,
    DeepfakeError,
    JobError,
    MediaError,
    UsageError,
    one_line,
)


@pytest.mark.parametrize(
    ("kind", "standard"),
    [
        pytest.param(UsageError, ValueError, id="usage"),
        pytest.param(CheckpointError, UsageError, id="checkpoint"),
        pytest.param(JobError, RuntimeError, id="job"),
        pytest.param(MediaError, OSError, id="media"),
    ],
)
def test_each_is_ours_and_a_standard_error(kind: type, standard: type) -> None:
    assert issubclass(kind, DeepfakeError)
    assert issubclass(kind, standard)


def test_media_error_tells_file_code_and_detail() -> None:
    error = MediaError("a/b.jpg", "truncated", "12 of 90 rows")
    assert str(error) == "a/b.jpg: truncated: 12 of 90 rows"
    assert error.reason == "truncated: 12 of 90 rows"
    assert (error.path, error.code, error.detail) == ("a/b.jpg", "truncated", "12 of 90 rows")


@pytest.mark.parametrize("path", ["a.jpg", Path("a.jpg"), "caf\udce9.jpg"], ids=ascii)
def test_media_error_survives_pickling(path: object) -> None:
    error = MediaError(path, "io_error", "no such file")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is MediaError
        assert str(twin) == str(error)
        assert (twin.path, twin.reason) == (path, "io_error: no such file")


@pytest.mark.parametrize("kind", [UsageError, CheckpointError, JobError])
def test_the_others_survive_pickling(kind: type[Exception]) -> None:
    twin = pickle.loads(pickle.dumps(kind("what to do")))
    assert type(twin) is kind
    assert str(twin) == "what to do"


def test_a_message_steers_no_terminal_and_fills_no_screen() -> None:
    assert one_line("bad\x1b[2J\n  value\u202e") == "bad [2J value"
    assert one_line("x" * 160) == "x" * 160
    assert one_line("x" * 161) == "x" * 157 + "..."
