"""Celeb-DF on a tiny tree: the list says 1 for real, and shares people with the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.dataset.audit import find_split_groups
from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, originals, splits, touch

TREE = (
    "Celeb-real/id0_0000.mp4",
    "Celeb-real/id0_0001.mp4",
    "Celeb-real/id1_0000.mp4",
    "Celeb-real/id7_0000.mp4",
    "YouTube-real/00170.mp4",
    "YouTube-real/00171.mp4",
    "Celeb-synthesis/id0_id1_0000.mp4",
    "Celeb-synthesis/id1_id0_0000.mp4",
    "Celeb-synthesis/id7_id8_0000.mp4",
)
LIST = "1 YouTube-real/00170.mp4\n1 Celeb-real/id0_0001.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (touch(tmp_path, *TREE) / "List_of_testing_videos.txt").write_text(LIST)
    return tmp_path


def test_one_means_real_in_the_list(root: Path) -> None:
    labelled = label_sources(root, require_labels=True)
    assert labelled.layout == "celeb-df"
    assert {name: source.label for name, source in by_name(labelled).items()} == {
        name: int("synthesis" in name) for name in TREE
    }
    listed = {line.split()[1] for line in LIST.splitlines()}
    assert splits(labelled) == {name: "test" if name in listed else "train" for name in TREE}
    assert labelled.notes[0] == (
        "no official validation split: training will take one from train, by group"
    )


def test_groups_are_people_and_originals_are_videos(root: Path) -> None:
    labelled = label_sources(root)
    assert {name: source.group for name, source in by_name(labelled).items()} == {
        **{name: "celeb/id0+id1" for name in TREE if "id0" in name or "id1" in name},
        **{name: "celeb/id7+id8" for name in TREE if "id7" in name},
        "YouTube-real/00170.mp4": "youtube/00170",
        "YouTube-real/00171.mp4": "youtube/00171",
    }
    assert originals(labelled) == {
        "Celeb-synthesis/id0_id1_0000.mp4": "Celeb-real/id0_0000.mp4",
        "Celeb-synthesis/id1_id0_0000.mp4": "Celeb-real/id1_0000.mp4",
        "Celeb-synthesis/id7_id8_0000.mp4": "Celeb-real/id7_0000.mp4",
    }


def test_the_official_split_leaks_and_is_not_hidden(root: Path) -> None:
    labelled = label_sources(root)
    sources = labelled.sources
    assert labelled.notes[-1].startswith(
        "the split leaks: 1 groups stand in more than one part (celeb/id0+id1); training refuses"
    )
    groups = [source.group or source.id for source in sources]
    assert find_split_groups(groups, [source.split or "" for source in sources]) == [
        "celeb/id0+id1"
    ]


def test_folders_of_frames_and_videos_in_any_case(tmp_path: Path) -> None:
    fake = "Celeb-synthesis/frames/id0_id1_0000/007.png"
    real = "Celeb-real/frames/id0_0000/007.png"
    labelled = label_sources(touch(tmp_path, fake, real, "Youtube-real/videos/00001.mp4"))
    assert [source.label for source in labelled.sources] == [0, 1, 0]
    assert originals(labelled) == {fake: real}
    assert labelled.notes[0].startswith("no official split: there is no List_of_testing_videos.txt")


def test_says_how_much_of_the_list_is_there(root: Path) -> None:
    (root / "YouTube-real" / "00170.mp4").unlink()
    assert (
        label_sources(root).notes[1] == "2 of the 3 videos of List_of_testing_videos.txt are here"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "1 Celeb-synthesis/id0_id1_0000.mp4",
            r":2: .* contradicts its folder; in this list 1 mea",
        ),
        ("0 YouTube-real/00170.mp4", ":2: .* contradicts its folder"),
        ("2 YouTube-real/00170.mp4", ":2: .*; expected lines such as '1 YouTube-real/00170.mp4'"),
        ("YouTube-real/00170.mp4", ":2: 'YouTube-real/00170.mp4'; expected lines"),
        ("1 Other/00170.mp4", ":2: .*expected lines"),
        # The name of one folder's video below another would put the wrong one into the test.
        ("1 Celeb-real/00170.mp4", ":2: '1 Celeb-real/00170.mp4'; expected lines"),
        ("1 YouTube-real/id0_0001.mp4", ":2: .*expected lines"),
        ("0 Celeb-synthesis/id0_0000.mp4", ":2: .*expected lines"),
        ("1", ":2: '1'; expected lines"),
    ],
)
def test_refuses_a_list(root: Path, line: str, message: str) -> None:
    (root / "List_of_testing_videos.txt").write_text(f"\n{line}\n")
    with pytest.raises(UsageError, match=message):
        label_sources(root)


def test_refuses_an_empty_list(root: Path) -> None:
    (root / "List_of_testing_videos.txt").write_text("\n")
    with pytest.raises(UsageError, match=r"videos\.txt: empty; expected lines"):
        label_sources(root)


@pytest.mark.parametrize(
    "name",
    ["Celeb-real/0000.mp4", "Celeb-synthesis/id0_0000.mp4", "FaceReenact/id0_0000.mp4", "a.mp4"],
)
def test_refuses_a_file(root: Path, name: str) -> None:
    touch(root, name)
    with pytest.raises(
        UsageError, match=f"1 of 10 files do not fit the layout celeb-df .*'{name}'"
    ):
        label_sources(root)
