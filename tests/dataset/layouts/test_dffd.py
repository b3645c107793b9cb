"""DFFD's folders: a source, then a split; masks are no pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, touch

TREE = {
    "ffhq/train/0.png": (0, None, "train"),
    "celeba/validation/1.png": (0, None, "validation"),
    "faceapp/train/2.png": (1, "faceapp", "train"),
    "stylegan_ffhq/test/3.png": (1, "stylegan_ffhq", "test"),
    "pggan_v2/val/4.png": (1, "pggan_v2", "validation"),
}


def test_reads_sources_and_splits(tmp_path: Path) -> None:
    labelled = label_sources(
        touch(tmp_path, *TREE, "faceapp/train_mask/2.png"), require_labels=True
    )
    assert (labelled.layout, labelled.skipped) == ("dffd", {"(mask)": 1})
    found = {name: (s.label, s.method, s.split) for name, s in by_name(labelled).items()}
    assert found == TREE
    assert {source.group for source in labelled.sources} == {None}
    masks = {name: source.mask for name, source in by_name(labelled).items() if source.mask}
    assert masks == {"faceapp/train/2.png": tmp_path / "faceapp/train_mask/2.png"}


@pytest.mark.parametrize(
    "name", ["stylegan9/train/0.png", "ffhq/0.png", "ffhq/more/0.png", "0.mp4"]
)
def test_refuses_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UsageError, match=rf"1 of 6 .*'{name}'; expected a folder of celeba, .*real"
    ):
        label_sources(touch(tmp_path, *TREE, name))


def test_its_names_in_a_plain_tree_are_groups(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, "real/ffhq/a.png", "fake/stylegan_ffhq/b.png"))
    assert labelled.layout == "tree"
