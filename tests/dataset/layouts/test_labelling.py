"""How an input is recognised, and refused where labels would be lost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deepfake.dataset.layouts.labelling import label_sources, list_inputs
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import facts, touch, write_table
from tests.stores.made_stores import copy_tree, empty_memory


def test_what_cannot_be_read_does_not_upset_a_labelled_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "real/a.jpg", "fake/b.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "real" / "gone.jpg").symlink_to("nowhere")
    labelled = label_sources(tmp_path, require_labels=True, follow_links=True)
    assert {source.name: source.label for source in labelled.sources} == {
        "fake/b.jpg": 1,
        "fifo.jpg": None,
        "real/a.jpg": 0,
        "real/gone.jpg": 0,
    }


def test_the_output_is_not_part_of_the_tree(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg", "out/crop.jpg")
    assert facts(label_sources(tmp_path, exclude=tmp_path / "out")) == {
        "real/a.jpg": (0, None, None)
    }


def test_lists_patterns_and_files_carry_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(touch(tmp_path, "real/a.jpg"))
    Path("list.txt").write_text("real/a.jpg\n")
    for given in ("list.txt", "real/a.jpg", "*/*.jpg"):
        assert facts(label_sources(given)) == {"real/a.jpg": (None, None, None)}
        with pytest.raises(UsageError, match="1 of 1 files have no label"):
            label_sources(given, require_labels=True)


def test_swapping_the_folders_swaps_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg", "fake/b.jpg")
    before = {source.path.name: source.label for source in label_sources(tmp_path).sources}
    (tmp_path / "real").rename(tmp_path / "x")
    (tmp_path / "fake").rename(tmp_path / "real")
    (tmp_path / "x").rename(tmp_path / "fake")
    after = {source.path.name: source.label for source in label_sources(tmp_path).sources}
    assert before == {"a.jpg": 0, "b.jpg": 1}
    assert after == {"a.jpg": 1, "b.jpg": 0}


def test_inputs_of_a_prediction_are_every_file_and_every_line(tmp_path: Path) -> None:
    photos = touch(tmp_path / "photos", "real/a.jpg", "fake/b.jpg", "stray.jpg", "n.txt")
    sources, skipped = list_inputs(photos)
    # Folder names mean nothing here: training would refuse the stray.
    assert [source.name for source in sources] == ["fake/b.jpg", "real/a.jpg", "stray.jpg"]
    assert {source.label for source in sources} == {None}
    assert skipped == {".txt": 1}

    table = write_table(tmp_path, "path,extra\nphotos/stray.jpg,1\ngone,2\nphotos/stray.jpg,3\n")
    sources, skipped = list_inputs(table)
    assert [source.name for source in sources] == ["photos/stray.jpg", "gone", "photos/stray.jpg"]
    assert [source.problem for source in sources] == [None, "io_error: no such file", None]
    assert len({source.id for source in sources}) == 3
    assert skipped == {}

    listed = tmp_path / "list.txt"
    listed.write_text("photos/stray.jpg\nphotos/stray.jpg\n")
    assert [source.name for source in list_inputs(listed)[0]] == ["photos/stray.jpg"] * 2


def test_links_of_a_prediction_are_followed_if_wanted(tmp_path: Path) -> None:
    (touch(tmp_path, "a.jpg") / "b.jpg").symlink_to("a.jpg")
    assert [bool(source.problem) for source in list_inputs(tmp_path)[0]] == [False, True]
    followed, _ = list_inputs(tmp_path, follow_links=True)
    assert [source.problem for source in followed] == [None, None]


def test_a_prediction_needs_an_input(tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "none.csv", tmp_path / "none"):
        with pytest.raises(UsageError, match=r"no photo found|no such file"):
            list_inputs(given)


# Recognition


def test_names_that_nothing_gives_away_are_unlabelled(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, "x/a.jpg"))
    assert (labelled.layout, labelled.notes) == ("none", ())


def test_no_layout_means_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg", "fake/b.jpg", "stray.jpg")
    assert facts(label_sources(tmp_path, layout="none")) == dict.fromkeys(
        ("fake/b.jpg", "real/a.jpg", "stray.jpg"), (None, None, None)
    )


def test_two_data_sets_in_one_folder_are_ambiguous(tmp_path: Path) -> None:
    touch(tmp_path, "ffhq/train/a.png", "fake_train/0/1/1.png")
    with pytest.raises(UsageError, match="looks like wild-deepfake and like dffd; choose one with"):
        label_sources(tmp_path)


# A few files of every data set, and folders inside it that do not say what they belong to.


DATA_SETS = {
    "dacon": (
        ["real/CW/20200819/cw-0/v1/1.jpg", "fake/CW/20200819/cw-0/fsgan/v1/1.jpg"],
        ["real", "fake/CW", "fake/CW/20200819/cw-0/fsgan/v1"],
    ),
    "faceforensics": (
        [
            "original_sequences/youtube/c23/videos/000.mp4",
            "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4",
        ],
        ["original_sequences", "manipulated_sequences/Deepfakes", "original_sequences/youtube/c23"],
    ),
    "dfd": (
        ["manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit__YVGY8LOK.mp4"],
        ["manipulated_sequences", "manipulated_sequences/DeepFakeDetection/c23/videos"],
    ),
    "celeb-df": (
        ["Celeb-real/id0_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4"],
        ["Celeb-real", "Celeb-synthesis"],
    ),
    "dfdc": (["dfdc_train_part_0/frames/aa/0.png"], ["dfdc_train_part_0/frames"]),
    "deeper-forensics": (
        ["manipulated_videos/end_to_end/000_M101.mp4", "target_videos/000.mp4"],
        ["manipulated_videos", "manipulated_videos/end_to_end"],
    ),
    "wild-deepfake": (
        ["real_train/0/real/1/12.png", "fake_train/0/fake/1/12.png"],
        ["real_train", "fake_train/0"],
    ),
    "dffd": (
        ["ffhq/train/0.png", "stylegan_ffhq/test/0.png"],
        ["ffhq", "stylegan_ffhq/test"],
    ),
}


def make_data_set(root: Path, layout: str) -> list[str]:
    names, inside = DATA_SETS[layout]
    touch(root, *names)
    if layout == "dfdc":
        text = '{"aa.mp4": {"label": "FAKE", "split": "train", "original": "bb.mp4"}}'
        (root / "dfdc_train_part_0" / "metadata.json").write_text(text)
    return inside


@pytest.mark.parametrize("layout", DATA_SETS)
@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title])
def test_folders_count_in_any_case(
    tmp_path: Path, layout: str, spell: Callable[[str], str]
) -> None:
    make_data_set(tmp_path / "set", layout)
    # Last come the folders of clips, which the lists of some data sets name.
    names = DATA_SETS[layout][0]
    kept = {name: name.count("/") - 1 if name.endswith(".png") else 9 for name in names}

    def spelt(name: str) -> str:
        *folders, file = name.split("/")
        words = [spell(one) if i < kept[name] else one for i, one in enumerate(folders)]
        return "/".join((*words, file))

    other = tmp_path / "other"
    touch(other, *map(spelt, names))
    if layout == "dfdc":
        name = spelt(names[0]).partition("/")[0]
        (tmp_path / "set" / "dfdc_train_part_0" / "metadata.json").rename(
            other / name / "metadata.json"
        )
        make_data_set(tmp_path / "set", layout)

    def seen(folder: Path) -> list[object]:
        labelled = label_sources(folder)
        found = [
            (
                source.name.lower(),
                source.label,
                source.split,
                (source.method or "").lower(),
                (source.group or "").lower(),
                source.original is None,
            )
            for source in labelled.sources
        ]
        return [labelled.layout, sorted(found)]

    assert seen(other) == seen(tmp_path / "set")


@pytest.mark.parametrize("layout", DATA_SETS)
def test_a_photo_beside_the_data_does_not_spoil_it(tmp_path: Path, layout: str) -> None:
    make_data_set(tmp_path, layout)
    whole = label_sources(tmp_path)
    strays = ["teaser.png"] if layout == "dfdc" else ["docs/teaser.png", "teaser.png"]
    touch(tmp_path, *strays)
    labelled = label_sources(tmp_path)
    assert facts(labelled) == facts(whole)
    assert labelled.skipped == whole.skipped | {"(stray photo)": len(strays)}
    assert (
        f"{len(strays)} photos beside the folders of the data set are left out:"
        f" {', '.join(map(repr, strays))}"
    ) in labelled.notes


@pytest.mark.parametrize("layout", DATA_SETS)
@pytest.mark.parametrize("stray", ["teaser.mp4", "more/teaser.mp4", "more/frames/0/1.png"])
def test_a_video_or_frame_of_unknown_folders_is_an_error(
    tmp_path: Path, layout: str, stray: str
) -> None:
    make_data_set(tmp_path, layout)
    with pytest.raises(UsageError, match=f"1 of . files do not fit the layout {layout}.*'{stray}'"):
        label_sources(touch(tmp_path, stray), layout=layout)


@pytest.mark.parametrize("layout", DATA_SETS)
def test_a_folder_inside_a_data_set_is_not_read_without_labels(tmp_path: Path, layout: str) -> None:
    inside = make_data_set(tmp_path / "set", layout)
    assert label_sources(tmp_path / "set").layout == layout
    for folder in inside:
        given = tmp_path / "set" / folder
        with pytest.raises(UsageError) as info:
            label_sources(given)
        found = re.search(rf"a folder inside a data set: {layout} in '(.*)'; give", str(info.value))
        assert found
        # What the message says to give is what works.
        assert label_sources(found[1]).layout == layout
        assert label_sources(given, layout="none").layout == "none"


def test_a_tree_of_both_classes_is_whole_wherever_it_lies(tmp_path: Path) -> None:
    place = tmp_path / "manipulated_sequences"
    touch(place, "x/c23/real/a.jpg", "x/c23/fake/b.jpg")
    assert label_sources(place).layout == "tree"


@pytest.mark.parametrize("layout", [name for name in DATA_SETS if name != "dfdc"])
def test_a_data_set_a_folder_too_deep_is_not_read_as_a_tree(tmp_path: Path, layout: str) -> None:
    make_data_set(tmp_path / "more" / "deepfake", layout)
    for given, where in ((tmp_path / "more", "deepfake"), (tmp_path, "more/deepfake")):
        with pytest.raises(UsageError, match=f"further down: {layout} in '{where}'; give that"):
            label_sources(given)


@pytest.mark.parametrize("layout", ["auto", "celeb-df"])
def test_data_sets_further_down_are_not_read_without_their_split(
    tmp_path: Path, layout: str
) -> None:
    touch(tmp_path, "sets/cdf/Celeb-real/id0_0000.mp4", "sets/x/manipulated_videos/e/000_M101.mp4")
    message = {
        "auto": r"further down: celeb-df in 'sets/cdf', deeper-forensics in 'sets/x'; give that",
        "celeb-df": r"2 of 2 files do not fit .*'sets/cdf/Celeb-real/id0_0000\.mp4'.*; expected C",
    }[layout]
    with pytest.raises(UsageError, match=message):
        label_sources(tmp_path, layout=layout)


def test_words_of_data_sets_below_real_and_fake_mean_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "real/celeb-real/a.jpg", "fake/celeb-synthesis/b.jpg")
    assert label_sources(tmp_path).layout == "tree"


def test_a_named_layout_must_fit(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg")
    with pytest.raises(
        UsageError, match=r"none of 1 files fits the layout tree, such as 'x/a.jpg'"
    ):
        label_sources(tmp_path, layout="tree")
    touch(tmp_path / "ff", "manipulated_sequences/Deepfakes/masks/videos/000_003.mp4")
    with pytest.raises(UsageError, match=r"fits the layout faceforensics; passed over 1 \(masks\)"):
        label_sources(tmp_path / "ff", layout="faceforensics")


def test_layouts_are_of_folders(tmp_path: Path) -> None:
    photo = touch(tmp_path, "a.jpg") / "a.jpg"
    for given in (photo, write_table(tmp_path, "path,label\na.jpg,0\n")):
        with pytest.raises(
            UsageError, match=r"the layout dfdc is a kind of folder, and .* is none"
        ):
            label_sources(given, layout="dfdc")
    with pytest.raises(
        UsageError, match=r"no layout 'faces'; there are auto, tree, dacon, .*, none"
    ):
        label_sources(tmp_path, layout="faces")


def test_a_plain_tree_in_a_store_is_read_like_one_of_this_disk(tmp_path: Path) -> None:
    touch(tmp_path, "train/real/id1/a.jpg", "train/fake/id1/b.png", "test/fake/c.mp4", "x.md")
    with empty_memory() as memory:
        copy_tree(tmp_path, memory, "in")
        there = label_sources("memory://in")
        assert list_inputs(["memory://in", "memory://in/x.md"])[0][0].name == (
            "memory://in/test/fake/c.mp4"
        )
    here = label_sources(tmp_path)
    assert facts(there) == facts(here)
    assert (there.layout, there.skipped, there.notes) == ("tree", here.skipped, here.notes)


def test_of_a_data_set_in_a_store_no_list_would_be_read(tmp_path: Path) -> None:
    with empty_memory() as memory:
        memory.pipe_file("/in/Celeb-real/id0_0000.mp4", b"")
        memory.pipe_file("/in/Celeb-synthesis/id0_id1_0000.mp4", b"")
        with pytest.raises(UsageError, match="the layout celeb-df also by lists that lie in it"):
            label_sources("memory://in")
        with pytest.raises(UsageError, match=r"'memory://in/\*/\*.mp4' is none"):
            label_sources("memory://in/*/*.mp4", layout="tree")
        assert label_sources("memory://in", layout="none").layout == "none"
        memory.pipe_file("/in/job.json", b"{}")
        with pytest.raises(UsageError, match="memory://in is a crop folder"):
            label_sources("memory://in", layout="none")
