"""Progress goes to standard error and lets the items through as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
        progress.advance()
        assert "frames" not in capsys.readouterr().err  # of a file that is done
    assert "clip .mp4: 7 frames searched" in shown
    with Progress(1, quiet=True) as silent:
        silent.note_frames(clip, 9)
    assert "9 frames" not in capsys.readouterr().err


def test_what_is_done_soon_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, delay_s=60) as progress:
        progress.note_frames(Source("0", Path("clip.mp4"), "clip.mp4"), 7)
        progress.advance()
    assert capsys.readouterr().err == ""


def test_a_notebook_has_one_bar_that_is_drawn_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, str]] = []

    def display(data: dict[str, str], **options: Any) -> SimpleNamespace:
        assert options == {"raw": True, "display_id": True}
        assert not drawn  # later ones are updates
        drawn.append(data)
        return SimpleNamespace(update=lambda data, raw: drawn.append(data))

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    with Progress(2) as progress:
        progress.advance()
        progress._noted_s = 0.0
        progress.note_frames(Source("0", Path("<b>.mp4"), "<b>.mp4"), 7)
        progress.advance()
    assert drawn[0]["text/plain"] == "0/2 files, 00:00 passed, ? left"
    assert "&lt;b&gt;.mp4: 7 frames searched" in drawn[-2]["text/html"]
    assert drawn[-1] == {
        "text/html": '<div><progress max="2" value="2"></progress> 2/2 files, 00:00 passed</div>',
        "text/plain": "2/2 files, 00:00 passed",
    }
    drawn.clear()
    with Progress(None) as unknown:
        unknown.advance(5)
    assert drawn[-1]["text/plain"] == "5 files, 00:00 passed"
    assert "<progress>" in drawn[0]["text/html"]
    assert "<progress" not in drawn[-1]["text/html"]
    assert capsys.readouterr() == ("", "")
