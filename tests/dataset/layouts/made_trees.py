"""Tiny trees of empty files in the shape of known data sets: layouts read names, not pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from deepfake.dataset.layouts.labelling import Labelled
from deepfake.records import Source


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write_pairs(folder: Path, **pairs: Sequence[Sequence[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pairs.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def by_name(labelled: Labelled) -> dict[str, Source]:
    return {source.name: source for source in labelled.sources}


def originals(labelled: Labelled) -> dict[str, str]:
    """Name of the original of every input that has one."""
    names = {source.id: source.name for source in labelled.sources}
    return {one.name: names[one.original] for one in labelled.sources if one.original}


def groups(labelled: Labelled) -> set[frozenset[str]]:
    """The inputs that must stay together."""
    found: dict[str, set[str]] = {}
    for source in labelled.sources:
        found.setdefault(source.group or source.id, set()).add(source.name)
    return {frozenset(names) for names in found.values()}


def splits(labelled: Labelled) -> dict[str, str | None]:
    return {source.name: source.split for source in labelled.sources}


def write_table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def facts(labelled: Labelled) -> dict[str, tuple[int | None, str | None, str | None]]:
    return {source.name: (source.label, source.group, source.split) for source in labelled.sources}
