"""Which files make a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UsageError
from deepfake.training.presets import choose_configs, find_config, merge_configs, read_config
from tests.training.made_runs import CONFIGS

SHIPPED = {path.stem: path for path in CONFIGS.glob("*.yaml")}


@pytest.mark.parametrize(
    ("names", "files"),
    [
        pytest.param([], ["default"], id="bare"),
        pytest.param(["default"], ["default"], id="default"),
        pytest.param(["dacon"], ["dacon"], id="preset-inherits-nothing"),
        pytest.param(["cpu"], ["default", "cpu"], id="overlay-on-default"),
        pytest.param(["dacon", "cpu"], ["dacon", "cpu"], id="overlay-on-preset"),
        pytest.param(["cpu", "dacon"], ["dacon", "cpu"], id="overlay-named-first"),
        pytest.param(["default", "smoke", "dacon"], ["dacon", "smoke"], id="last-preset"),
        pytest.param(["cpu", "smoke"], ["default", "cpu", "smoke"], id="overlays-in-order"),
    ],
)
def test_a_preset_replaces_and_an_overlay_adds(names: list[str], files: list[str]) -> None:
    assert choose_configs(names) == [SHIPPED[name] for name in files]
    paths = [SHIPPED[name] for name in names]
    assert choose_configs(paths) == choose_configs(names), "a path is as good as a name"


def test_a_file_of_ones_own_is_an_overlay_unless_it_says_otherwise(tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("data:\n  batch_size: 6\n")
    assert choose_configs([mine]) == [SHIPPED["default"], mine]
    assert choose_configs(["dacon", str(mine)]) == [SHIPPED["dacon"], mine]
    mine.write_text("preset: true\ndata:\n  batch_size: 6\n")
    assert choose_configs([mine]) == [mine]
    assert choose_configs(["dacon", "cpu", mine]) == [mine, SHIPPED["cpu"]]
    mine.write_text("# data:\n#   batch_size: 6\n")
    assert choose_configs(["dacon", mine]) == [SHIPPED["dacon"]], "there is nothing to add"


def test_whole_recipes_are_presets_and_all_else_adds_to_one() -> None:
    presets = {name for name in SHIPPED if read_config(name).get("preset")}
    assert presets == {"default", "dacon", "foundation"}


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {batch_size: 6, num_workers: 1}\nweights: last\n")
    (tmp_path / "b.yaml").write_text("data: {batch_size: 8}\n")
    merged = merge_configs([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert merged == {"data": {"batch_size": 8, "num_workers": 1}, "weights": "last"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(None, r"my\.yaml: there is no such file", id="missing"),
        pytest.param("model: [\n", r"configuration .*my\.yaml: .*line 2", id="broken"),
        pytest.param("- a list\n", "holds no settings", id="list"),
        pytest.param("model: {}\ndata: {a: 1, a: 2}\n", "a stands twice .*line 2", id="twice"),
        pytest.param("data: none\n", "no settings, or none under model or data", id="word"),
    ],
)
def test_refuses_what_is_no_configuration(tmp_path: Path, text: str | None, problem: str) -> None:
    mine = tmp_path / "my.yaml"
    if text is not None:
        mine.write_text(text)
    with pytest.raises(UsageError, match=problem) as caught:
        choose_configs([mine])
    assert "\n" not in str(caught.value)


def test_a_name_in_the_way_does_not_hide_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_config("cpu") == SHIPPED["cpu"]
    assert find_config("cpu.yaml") == Path("cpu.yaml")
