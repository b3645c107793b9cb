"""The contest's tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, touch

TREE = {
    "real/CW/20200819/cw-kim/a1/000.jpg": (0, None, "CW/cw-kim"),
    "real/CW/20200820/cw-kim/a2/000.jpg": (0, None, "CW/cw-kim"),
    "real/NC/20200819/nc-lee/b/000.jpg": (0, None, "NC/nc-lee"),
    "fake/CW/20200819/cw-kim/fsgan/a1/000.jpg": (1, "fsgan", "CW/cw-kim"),
    "fake/NC/20200819/nc-lee/dffs/b/000.jpg": (1, "dffs", "NC/nc-lee"),
}


def test_reads_site_date_person_and_method(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, *TREE), require_labels=True)
    assert (labelled.layout, labelled.notes) == ("dacon", ())
    found = {name: (s.label, s.method, s.group) for name, s in by_name(labelled).items()}
    assert found == TREE


@pytest.mark.parametrize(
    "name",
    [
        "real/CW/20200819/cw-kim/000.jpg",
        "fake/CW/20200819/cw-kim/a1/000.jpg",
        "real/CW/20200819/cw-kim/a/b/000.jpg",
        "stray.mp4",
    ],
)
def test_refuses_another_depth(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *TREE, name)
    with pytest.raises(
        UsageError, match=rf"1 of 6 .*dacon \(another depth\), such as '{name}'; exp"
    ):
        label_sources(tmp_path)


def test_refuses_the_entrys_random_validation_frames(tmp_path: Path) -> None:
    touch(tmp_path, *TREE, "validation/real/samples/image_00001.jpg")
    with pytest.raises(UsageError, match="the 1 files below validation/ are random frames of"):
        label_sources(tmp_path)


def test_a_tree_without_dates_is_a_plain_one(tmp_path: Path) -> None:
    assert label_sources(touch(tmp_path, "real/CW/kim/a/0.jpg", "fake/x.jpg")).layout == "tree"
