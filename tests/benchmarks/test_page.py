"""The page of figures says what the parts printed, which goals are met, and what it cannot know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page
from benchmarks.page import GOALS, PARTS, Goal, fill_page, find_figure
from benchmarks.parts import ROOT, Part

PAGE = """# Figures

<!-- figures: goals -->
old
<!-- end -->

Words that stay.

<!-- figures: one -->

<!-- end -->

More words.
"""


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A page with one part, which notes that it ran; the arguments that run it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, sys\n"
        "count = pathlib.Path(sys.argv[1])\n"
        "count.write_text(count.read_text() + '.' if count.exists() else '.')\n"
        "print('ratio x2.50 (2.1-2.9)')\n"
    )
    monkeypatch.setattr(page, "PARTS", {"one": Part(f"{program} {tmp_path / 'ran'}", 60)})
    goals = (Goal("one", "speed", r"ratio x([\d.]+)", 2), Goal("one", "more", r"io x([\d.]+)", 3))
    monkeypatch.setattr(page, "GOALS", goals)
    monkeypatch.setattr(page, "describe_code", lambda: "code")
    (tmp_path / "page.md").write_text(PAGE)
    return ["--output", str(tmp_path / "out"), "--page", str(tmp_path / "page.md")]


def test_a_page_is_filled_and_the_rest_of_it_stays(one: list[str], tmp_path: Path) -> None:
    assert page.main(one) == 0
    written = (tmp_path / "page.md").read_text()
    assert "| speed | 2.5 | 2 | met |" in written
    assert "| more | 2.5 | 3 | **missed** |" in written
    assert "```text\nratio x2.50 (2.1-2.9)\n```" in written
    assert re.search(r"\d{4}-\d\d-\d\d, \d+ s, machine otherwise|what else ran", written)
    assert "old" not in written
    assert "Words that stay." in written
    assert "More words." in written


def test_what_was_run_on_this_code_is_not_run_again(
    one: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        page.main(one)
    assert (tmp_path / "ran").read_text() == "."
    monkeypatch.setattr(page, "describe_code", lambda: "other code")
    page.main(one)
    assert (tmp_path / "ran").read_text() == ".."


def test_a_part_that_fails_is_said_and_run_again(
    one: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PARTS", {"one": Part("-c raise(SystemExit('why'))", 60)})
    assert page.main(one) == 1
    written = (tmp_path / "page.md").read_text()
    assert "**It failed** (exit code 1: why)." in written
    assert "| speed | not measured | 2 |  |" in written
    monkeypatch.setattr(page, "PARTS", {"one": Part("-c print('ratio\\x20x2')", 60)})
    assert page.main(one) == 0
    assert "| speed | 2 | 2 | met |" in (tmp_path / "page.md").read_text()


def test_what_was_not_run_since_stays_on_the_page(one: list[str], tmp_path: Path) -> None:
    page.main(one)
    before = (tmp_path / "page.md").read_text()
    assert fill_page(before, {}) == before


def test_a_part_without_a_place_is_refused() -> None:
    with pytest.raises(SystemExit, match="not one place for the figures of two"):
        fill_page(PAGE, {"two": result("x")})


def test_who_else_uses_the_machine_is_said() -> None:
    assert page.describe_others(result() | {"others_cores": 0.02}).endswith("idle (0.02 cores)")
    assert "NOT IDLE (0.70 cores)" in page.describe_others(result() | {"others_cores": 0.7})
    assert "not known" in page.describe_others(result())


def test_the_worst_of_several_figures_counts() -> None:
    goal = Goal("one", "words", r"x([\d.]+)", 2)
    assert find_figure(goal, {"one": result("a x3.1", "b x2.2", "c")}) == 2.2
    most = Goal("one", "words", r"x([\d.]+)", 2, at_most=True)
    assert find_figure(most, {"one": result("a x3.1", "b x2.2")}) == 3.1
    assert page.judge(most, 3.1) == "**missed**"
    assert page.judge(most, 1.9) == "met"
    assert find_figure(goal, {}) is None


def test_the_page_of_the_docs_has_a_place_for_every_part() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert re.findall("<!-- figures: (.*) -->", text) == ["goals", *PARTS]
    assert {goal.part for goal in GOALS} <= set(PARTS)


def result(*lines: str) -> dict[str, Any]:
    return {"rc": 0, "seconds": 1.0, "date": "d", "others_cores": None, "output": [*lines]}
