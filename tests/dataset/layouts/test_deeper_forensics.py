"""DeeperForensics on a tiny tree: the studio videos are not the real part."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, groups, originals, splits, touch

FAKES = (
    "manipulated_videos/end_to_end/000_M101.mp4",
    "manipulated_videos/end_to_end_level_5/000_M101.mp4",
    "manipulated_videos/end_to_end/001_M101.mp4",
    "manipulated_videos/end_to_end/002_W006.mp4",
)
STUDIO = "source_videos/M101/light_down/happy/camera_front/M101_light_down_happy_camera_front.mp4"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, *FAKES, STUDIO, *(f"target_videos/{i:03d}.mp4" for i in range(3)))
    write_lists(tmp_path, train="000_M101.mp4\n001_M101.mp4\n", val="", test="002_W006.mp4\n")
    return tmp_path


def write_lists(root: Path, **lists: str) -> None:
    (root / "lists" / "splits").mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (root / "lists" / "splits" / f"{name}.txt").write_text(text)


def test_reads_the_tree(root: Path) -> None:
    labelled = label_sources(root, require_labels=True)
    assert (labelled.layout, labelled.notes) == ("deeper-forensics", ())
    assert labelled.skipped == {"(source_videos)": 1, ".txt": 3}
    found = by_name(labelled)
    assert STUDIO not in found
    assert {name: source.label for name, source in found.items()} == {
        name: int(name in FAKES) for name in found
    }
    assert found[FAKES[1]].method == "end_to_end_level_5"
    assert splits(labelled) == {name: "test" if "002" in name else "train" for name in found}


def test_an_actor_ties_all_targets_and_distortions_together(root: Path) -> None:
    labelled = label_sources(root)
    second = frozenset({FAKES[3], "target_videos/002.mp4"})
    assert groups(labelled) == {second, frozenset(by_name(labelled)) - second}
    assert originals(labelled)[FAKES[1]] == "target_videos/000.mp4"


def test_originals_of_faceforensics_may_keep_their_folders(root: Path) -> None:
    (root / "original_sequences" / "youtube" / "c23").mkdir(parents=True)
    (root / "target_videos").rename(root / "original_sequences" / "youtube" / "c23" / "videos")
    labelled = label_sources(root)
    assert labelled.layout == "deeper-forensics"
    assert sum(source.label == 0 for source in labelled.sources) == 3


def test_says_that_the_real_part_and_the_split_are_missing(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, *FAKES, STUDIO))
    assert [note.partition(":")[0] for note in labelled.notes] == [
        "no real videos",
        "no official split",
        "4 fakes name an original that is not among the inputs",
    ]
    assert set(splits(labelled).values()) == {None}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"val": "000_M101.mp4\n"}, r"val\.txt:1: '000_M101' is in the list of train, too"),
        ({"test": "\nM101_000.mp4\n"}, r"test\.txt:2: 'M101_000\.mp4'; expected names such as"),
        ({"test": ""}, r"2 of 8 files .*in none of lists/splits.*'manip.*/002_W006\.mp4', 'target"),
    ],
)
def test_refuses_lists(root: Path, lists: dict[str, str], message: str) -> None:
    write_lists(root, **lists)
    with pytest.raises(UsageError, match=message):
        label_sources(root)


def test_refuses_when_a_list_is_missing(root: Path) -> None:
    (root / "lists" / "splits" / "val.txt").unlink()
    with pytest.raises(UsageError, match=r"splits has train\.txt, test\.txt but not val\.txt"):
        label_sources(root)


@pytest.mark.parametrize(
    "name",
    ["manipulated_videos/000_M101.mp4", "manipulated_videos/end_to_end/000.mp4", "real/000.mp4"],
)
def test_refuses_a_file(root: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"1 of 9 files do not fit .*'{name}'; expected manip"):
        label_sources(touch(root, name))
