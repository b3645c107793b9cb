"""Progress goes to standard error and lets the items through as they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deepfake.progress import track


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
