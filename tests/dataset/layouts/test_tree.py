"""Plain trees: labels, groups and splits from the folders, or an error that names the file."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, facts, groups, touch, write_table


def test_a_split_below_the_label_keeps_persons_and_clips_apart(tmp_path: Path) -> None:
    touch(tmp_path, "vid1/real/train/a.jpg", "vid1/fake/train/b.jpg", "vid2/fake/test/c.jpg")
    labelled = label_sources(tmp_path)
    assert facts(labelled) == {
        "vid1/fake/train/b.jpg": (1, "vid1", "train"),
        "vid1/real/train/a.jpg": (0, "vid1", "train"),
        "vid2/fake/test/c.jpg": (1, "vid2", "test"),
    }
    assert labelled.notes == ()


def test_a_name_is_one_however_its_accents_are_stored(tmp_path: Path) -> None:
    joined, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert joined != apart
    touch(tmp_path, f"train/real/{joined}/a.jpg", f"test/fake/{apart}/b.jpg")
    labelled = label_sources(tmp_path)
    assert {source.group for source in labelled.sources} == {joined}
    assert labelled.notes[0].startswith("the split leaks: 1 groups")
    table = write_table(tmp_path, f"path,label,group,split\na,0,{joined},train\nb,1,{apart},test\n")
    labelled = label_sources(table)
    assert {source.group for source in labelled.sources} == {joined}
    assert labelled.notes[0].startswith("the split leaks: 1 groups")


def test_a_person_in_two_splits_below_the_label_leaks_aloud(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, "real/train/id1/a.jpg", "fake/test/id1/b.jpg"))
    assert labelled.notes[0].startswith(
        "the split leaks: 1 groups stand in more than one part (id1)"
    )


def test_a_split_that_is_not_taken_for_one_is_said(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, "real/id1/train/a.jpg", "fake/id2/b.jpg"))
    assert [note.partition(",")[0] for note in labelled.notes] == [
        "1 files lie in a folder named like a split that is neither above real/ or fake/ nor"
        " directly below"
    ]


def test_an_unlabelled_tree(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "train/b.jpg", "n.txt")
    labelled = label_sources(tmp_path)
    assert facts(labelled) == {"a.jpg": (None, None, None), "train/b.jpg": (None, None, None)}
    assert labelled.skipped == {".txt": 1}
    with pytest.raises(UsageError, match=r"2 of 2 files have no label, such as 'a.jpg', 'train/b"):
        label_sources(tmp_path, require_labels=True)


def test_shows_a_few_of_many_unlabelled_files(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}\x1b.jpg" for i in range(5)))
    with pytest.raises(
        UsageError, match=r"5 of 5 .*'0.*x1b\.jpg', .*, \.\.\.; expected a folder"
    ) as info:
        label_sources(tmp_path, require_labels=True)
    assert "\x1b" not in str(info.value)


@pytest.mark.parametrize("own", ["real", "Fake"])
def test_the_name_of_the_input_does_not_count(
    tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / own, "a.jpg")
    monkeypatch.chdir(tmp_path / own)
    for given in (tmp_path / own, "."):
        assert label_sources(given).sources[0].label is None
        with pytest.raises(UsageError, match=f"own name '{own}' does not count"):
            label_sources(given, require_labels=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(
            ["real/fake/a.jpg"], "'real/fake/a.jpg' is below a real/ and a fake/", id="both"
        ),
        pytest.param(
            ["real/a.jpg", "fake/b.jpg", "stray.jpg"],
            "1 of 3 files are in no real/ or fake/ folder .*: 'stray.jpg'; move them",
            id="stray",
        ),
        pytest.param(
            ["train/test/real/a.jpg"], r"folders of different splits \(test, train\)", id="splits"
        ),
        pytest.param(
            ["train/real/test/a.jpg"], r"folders of different splits \(test, train\)", id="around"
        ),
    ],
)
def test_refuses_a_tree_in_doubt(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        label_sources(touch(tmp_path, *names))


# Plain trees


def test_folders_above_real_and_fake_are_groups(tmp_path: Path) -> None:
    names = [
        f"data/vid{video}/{label}/{i}.jpg"
        for video in (1, 2)
        for label in ("real", "fake")
        for i in (0, 1)
    ]
    labelled = label_sources(touch(tmp_path, *names))
    assert {source.group for source in labelled.sources} == {"vid1", "vid2"}
    assert groups(labelled) == {
        frozenset(name for name in names if video in name) for video in ("vid1", "vid2")
    }
    assert labelled.notes == ()


def test_folders_of_all_files_and_above_a_split_are_no_group(tmp_path: Path) -> None:
    names = [
        "set/train/real/a.jpg",
        "set/test/fake/b.jpg",
        "set/train/vid1/real/c.jpg",
        "set/test/vid2/fake/d.jpg",
    ]
    labelled = label_sources(touch(tmp_path, *names))
    assert [by_name(labelled)[name].group for name in names] == [None, None, "vid1", "vid2"]
    assert labelled.notes[0].startswith("2 files lie directly in real/ or fake/ and are groups of")
