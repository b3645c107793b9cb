"""An array in a file is the array, and a temporary folder without room is an error that says so."""

from __future__ import annotations

import errno
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfake.dataset import large_arrays
from deepfake.dataset.large_arrays import GrowingArray
from deepfake.errors import JobError

PARTS = [np.arange(part * 100, part * 100 + part).reshape(-1, 1) * [1, -1] for part in range(9)]


def grow() -> GrowingArray:
    growing = GrowingArray(np.int64, (2,))
    for part in PARTS:
        growing.append(part)
    return growing


def test_an_array_in_a_file_is_the_array(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    small = grow().finish()
    monkeypatch.setattr(large_arrays, "_LARGE", 200)
    large = grow().finish()
    assert [*tmp_path.iterdir()] == []  # it has no name
    assert small.flags.writeable
    assert not large.flags.writeable
    np.testing.assert_array_equal(np.concatenate(PARTS), small)
    np.testing.assert_array_equal(large, small)
    np.testing.assert_array_equal(large_arrays.lay(small), small)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(large)), small)
    assert GrowingArray(np.int32, (3,)).finish().shape == (0, 3)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_no_room_is_an_error_that_says_what_to_do(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def writelines(self, lines: Any) -> None:
            raise OSError(code, "cannot")

    monkeypatch.setattr(large_arrays, "_LARGE", 200)
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(JobError, match=r"temporary folder, and has none .*cannot.*TMPDIR"):
        grow()


def test_no_temporary_folder_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(large_arrays, "_LARGE", 200)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(JobError, match="TMPDIR"):
        grow()
