"""Which files make the configuration of a training: shipped names, presets, overlays.

A file that says ``preset: true`` is a preset: a whole recipe, which inherits nothing. Every other
file is an overlay: it adds to a preset, which is ``default`` unless another one is named. Knows no
setting but this one, and imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from deepfake.errors import UsageError, one_line

RECOMMENDED = "default"


def find_config(name: str | Path) -> Path:
    """A shipped configuration by its name, such as ``dacon``; anything else is a path."""
    return _shipped().get(str(name), Path(name))


def _shipped() -> dict[str, Path]:
    package = Path(__file__).parents[1]
    # A wheel has them inside; a checkout beside the package.
    folders = (package / "configs", package.parent / "configs")
    return {file.stem: file for folder in folders for file in folder.glob("*.yaml")}


def choose_configs(names: Sequence[str | Path]) -> list[Path]:
    """The files to read, in order: one preset, then the overlays.

    The last preset that is named counts, wherever it stands. A file without any setting adds none.

    Raises:
        UsageError: If a file cannot be read.
    """
    files = [find_config(name) for name in names]
    settings = {file: read_config(file) for file in files}
    presets = [file for file in files if settings[file].get("preset")]
    overlays = [file for file in files if settings[file] and file not in presets]
    return [(presets or [find_config(RECOMMENDED)])[-1], *overlays]


def merge_configs(names: Sequence[str | Path]) -> dict[str, Any]:
    """The settings of several files; later ones win, key by key.

    Raises:
        UsageError: If a file cannot be read.
    """
    settings: dict[str, Any] = {}
    for name in names:
        _update(settings, read_config(name))
    return settings


def read_config(name: str | Path) -> dict[str, Any]:
    """The settings of one file.

    Raises:
        UsageError: If it cannot be read, or holds something else.
    """
    try:
        content = yaml.load(find_config(name).read_text(encoding="utf-8"), _NamesOnce)
    except FileNotFoundError as error:
        raise UsageError(
            f"configuration {name}: there is no such file, and none is shipped by that name: "
            f"{', '.join(sorted(_shipped()))}"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"configuration {name}: {one_line(str(error), 400)}") from error
    settings: dict[str, Any] = {} if content is None else content
    if not isinstance(content, dict | None) or not all(
        isinstance(settings.get(part), dict | None) for part in ("model", "data")
    ):
        raise UsageError(f"configuration {name} holds no settings, or none under model or data")
    return settings


class _NamesOnce(yaml.SafeLoader):
    """YAML in which a name that stands twice is a mistake: the first would be passed over."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _update(settings: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        before = settings.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if before.get("class_path") != value.get("class_path"):
                before.pop("init_args", None)  # of another class
            _update(before, value)
        else:
            settings[key] = value
