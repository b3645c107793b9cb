"""One call after the other loads a detector once, and never an old one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepfake import Predictor
from deepfake.inference import once
from deepfake.records import Workers
from tests.conftest import Trained


def test_the_detector_of_the_last_call_is_kept_until_its_file_changes(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "_kept", [])
    path = tmp_path / "model.ckpt"
    path.write_bytes(trained.checkpoint.read_bytes())

    def borrow() -> Predictor:
        with once._borrow(path, "cpu", Workers(0)) as kept:
            return kept

    first = borrow()
    assert borrow() is first
    with once._borrow(path, "cpu", Workers(0)) as one, once._borrow(path, "cpu", Workers(0)) as two:
        assert one is first, "of two threads"
        assert two is not one
    assert len(once._kept) == 1, "one is kept, not one of each call"
    os.utime(path, (1, 1))
    assert borrow() not in (one, two)
