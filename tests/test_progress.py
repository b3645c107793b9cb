"""Progress goes to standard error and lets the items through as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake.progress import Progress, track
from deepfake.records import Source


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "loud"])
def test_items_pass_unchanged_and_lazily(quiet: bool) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    tracked = track(items(), total=5, quiet=quiet)
    assert next(tracked) == 0
    assert taken == [0]
    assert list(tracked) == [1, 2, 3, 4]


def test_shows_counts_on_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("ab", total=10, initial=8, unit="photo")) == ["a", "b"]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "10/10" in shown.err
    assert "photo" in shown.err
    assert shown.err.isascii()  # a log, not a terminal


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    list(track(range(3), total=3, quiet=True))
    assert capsys.readouterr() == ("", "")


def test_errors_of_the_items_pass() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(track(items(), total=2))


def test_the_frames_of_one_file_are_told_while_they_are_searched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.progress._LOG_INTERVAL_S", 0.0)
    clip = Source("0", Path("clip\x1b.mp4"), "folder/clip\x1b.mp4")
    with Progress(1) as progress:
        progress.note_frames(clip, 1)  # a photo is one frame, and done at once
        assert "frames" not in capsys.readouterr().err
        progress.note_frames(clip, 7)
        shown = capsys.readouterr().err
    assert "clip .mp4: 7 frames searched" in shown
    with Progress(1, quiet=True) as silent:
        silent.note_frames(clip, 9)
    assert "9 frames" not in capsys.readouterr().err


def test_what_is_done_soon_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, delay_s=60) as progress:
        progress.note_frames(Source("0", Path("clip.mp4"), "clip.mp4"), 7)
        progress.advance()
    assert capsys.readouterr().err == ""
