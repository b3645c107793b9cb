"""WildDeepfake's four folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, touch

TREE = {
    "real_train/0/real/1/12.png": (0, "train", "real_train/0"),
    "real_train/0/real/2/13.png": (0, "train", "real_train/0"),
    "real_test/0/1/12.png": (0, "test", "real_test/0"),
    "fake_train/extracted/7/3/12.png": (1, "train", "fake_train/7"),
    "fake_test/7/fake/3/12.png": (1, "test", "fake_test/7"),
}


@pytest.mark.parametrize("spell", ["", "space", "wrapped"])
def test_reads_the_four_folders(tmp_path: Path, spell: str) -> None:
    def place(name: str) -> str:
        if spell == "space":
            return name.replace("_", " ", 1)
        return f"deepfake_in_the_wild/{name}" if spell else name

    labelled = label_sources(touch(tmp_path, *map(place, TREE)), require_labels=True)
    assert labelled.layout == "wild-deepfake"
    assert labelled.notes[0].startswith("no official validation split")
    found = {name: (s.label, s.split, s.group) for name, s in by_name(labelled).items()}
    assert found == {place(name): facts for name, facts in TREE.items()}


@pytest.mark.parametrize("name", ["real_val/0/1/1.png", "real_train/a.png", "a.mp4"])
def test_refuses_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"1 of 6 files do not fit the layout wild.*'{name}'; exp"):
        label_sources(touch(tmp_path, *TREE, name))
