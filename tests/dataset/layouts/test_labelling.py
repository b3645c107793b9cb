"""Labels from tables and folder trees: explicit, or an error that names the line or file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from deepfake.dataset.layouts import (
    LABEL_WORDS,
    SPLIT_WORDS,
    Labelled,
    label_sources,
    list_inputs,
)
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, groups, originals, touch


def write_table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def facts(labelled: Labelled) -> dict[str, tuple[int | None, str | None, str | None]]:
    return {source.name: (source.label, source.group, source.split) for source in labelled.sources}


def test_reads_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "d/b.dat")
    table = write_table(
        tmp_path,
        "path,label,group,split,method,more\r\n"
        "a.jpg,real,p1,train,,x\r\n"
        f"{tmp_path}/d/b.dat, FAKE , p2 ,Val,faceswap,y\r\n"
        "\r\n"
        "gone.jpg,1,,,,\r\n",
    )
    labelled = label_sources(table, require_labels=True)
    assert facts(labelled) == {
        "a.jpg": (0, "p1", "train"),
        f"{tmp_path}/d/b.dat": (1, "p2", "validation"),
        "gone.jpg": (1, None, None),
    }
    assert [source.method for source in labelled.sources] == [None, "faceswap", None]
    assert [source.problem for source in labelled.sources] == [None, None, "io_error: no such file"]
    assert labelled.sources[0].path == tmp_path / "a.jpg"
    assert (labelled.skipped, labelled.duplicates) == ({}, 0)
    assert len({source.id for source in labelled.sources}) == 3


def test_paths_may_leave_the_folder_of_the_table(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "t/x")
    table = write_table(tmp_path / "t", "path,label\n../photos/a.jpg,0\n")
    assert label_sources(table).sources[0].problem is None


@pytest.mark.parametrize(("word", "label"), LABEL_WORDS.items())
def test_maps_labels_in_any_case(tmp_path: Path, word: str, label: int) -> None:
    table = write_table(tmp_path, f"path,label\na,{word}\nb,{word.upper()}\nc, {word.title()}\n")
    assert [source.label for source in label_sources(table).sources] == [label] * 3


def test_label_words_point_the_right_way() -> None:
    assert {word for word, label in LABEL_WORDS.items() if label == 1} == {
        "fake",
        "1",
        "manipulated",
        "synthetic",
        "deepfake",
    }
    assert LABEL_WORDS["real"] == LABEL_WORDS["0"] == 0


@pytest.mark.parametrize(("word", "split"), SPLIT_WORDS.items())
def test_maps_splits_in_any_case(tmp_path: Path, word: str, split: str) -> None:
    table = write_table(tmp_path, f"path,label,split\na,0,{word}\nb,0,{word.upper()}\n")
    assert [source.split for source in label_sources(table).sources] == [split] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "path,label\na,real\n\nb,maybe\n",
            r"data\.csv:4: label 'maybe'; expected real \(real, 0, genuine, original, pristine\) or"
            r" fake \(fake, 1, manipulated, synthetic, deepfake\)",
            id="label",
        ),
        pytest.param("path,label\na,1.0\n", r":2: label '1\.0'", id="float-label"),
        pytest.param("path,label\na,\n", r":2: label ''; expected real", id="no-label"),
        pytest.param(
            "path,label,split\na,0,holdout\n", ":2: split 'holdout'; expected", id="split"
        ),
        pytest.param("path,label\n ,0\n", ":2: empty path", id="empty-path"),
        pytest.param("path,label\n", "no rows below the header", id="no-rows"),
        pytest.param("path\na\n", "no column 'label'", id="no-label-column"),
        pytest.param("file,label\na,0\n", "no column 'path'", id="no-path-column"),
        pytest.param("path,label\na,0,9\n", ":2: 3 fields where the header has 2", id="shifted"),
        pytest.param(
            "path,label\na,real\nb,0\n./a,fake\n",
            r":4: './a' is listed twice with another label: line 2 says 'real' and line 4 says"
            r" 'fake'",
            id="conflict",
        ),
        pytest.param(
            "path,label,split\na,0,train\na,0,test\n",
            "listed twice with another split: line 2 says 'train' and line 3 says 'test'",
            id="split-conflict",
        ),
        pytest.param(
            "path,label,group\na,0,g\na,0,\n",
            "another group: line 2 says 'g' and line 3 says 'nothing'",
            id="group-conflict",
        ),
    ],
)
def test_refuses_a_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        label_sources(write_table(tmp_path, text), require_labels=True)


def test_a_table_for_prediction_needs_no_labels(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,label\na,\nb,fake\n")
    assert [source.label for source in label_sources(table).sources] == [None, 1]
    table = write_table(tmp_path, "path\na\nb\n")
    assert [source.label for source in label_sources(table).sources] == [None, None]


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.CSV: no such file"):
        label_sources(tmp_path / "none.CSV")


def test_repeated_rows_count_once_unless_each_needs_an_answer(tmp_path: Path) -> None:
    table = write_table(tmp_path, f"path,label\na,0\nb,1\n./a,real\n{tmp_path}/a,0\na,0\n")
    labelled = label_sources(table)
    assert [source.name for source in labelled.sources] == ["a", "b"]
    assert labelled.duplicates == 3
    kept = label_sources(table, keep_duplicates=True)
    assert [source.name for source in kept.sources] == ["a", "b", "./a", f"{tmp_path}/a", "a"]
    assert len({source.id for source in kept.sources}) == 5
    assert kept.duplicates == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("real/a.jpg", (0, None, None), id="real"),
        pytest.param("fake/a.jpg", (1, None, None), id="fake"),
        pytest.param("FAKE/a.jpg", (1, None, None), id="case"),
        pytest.param("x/y/real/a.jpg", (0, None, None), id="any-depth"),
        pytest.param("real/id1/a.jpg", (0, "id1", None), id="group"),
        pytest.param("fake/id1/a.jpg", (1, "id1", None), id="group-shared"),
        pytest.param("fake/m/id1/a.jpg", (1, "m/id1", None), id="group-path"),
        pytest.param("set/real/id1/a.jpg", (0, "set/id1", None), id="group-around"),
        pytest.param("train/real/a.jpg", (0, None, "train"), id="train"),
        pytest.param("Val/fake/id1/a.jpg", (1, "id1", "validation"), id="val"),
        pytest.param("valid/fake/a.jpg", (1, None, "validation"), id="valid"),
        pytest.param("validation/fake/a.jpg", (1, None, "validation"), id="validation"),
        pytest.param("s/test/x/fake/id1/a.jpg", (1, "s/x/id1", "test"), id="test"),
        pytest.param("Training/real/id1/a.jpg", (0, "id1", "train"), id="training"),
        pytest.param("testing/fake/a.jpg", (1, None, "test"), id="testing"),
        pytest.param("real/train/a.jpg", (0, None, "train"), id="split-below"),
        pytest.param("fake/TEST/id1/a.jpg", (1, "id1", "test"), id="split-below-and-group"),
        pytest.param("set/real/testing/x/a.jpg", (0, "set/x", "test"), id="split-below-around"),
        pytest.param("fake/fake/valid/a.jpg", (1, None, "validation"), id="split-below-twice"),
        pytest.param("train/fake/Train/a.jpg", (1, None, "train"), id="split-said-twice"),
        pytest.param("real/id1/train/a.jpg", (0, "id1/train", None), id="split-further-down"),
        pytest.param("dev/real/a.jpg", (0, None, None), id="dev-is-no-split"),
        pytest.param("real/real/a.jpg", (0, None, None), id="twice"),
        pytest.param("real/fakes/a.jpg", (0, "fakes", None), id="whole-words"),
        pytest.param("real/fake.jpg", (0, None, None), id="file-names-do-not-count"),
    ],
)
def test_labels_a_tree(
    tmp_path: Path, name: str, expected: tuple[int | None, str | None, str | None]
) -> None:
    labelled = label_sources(touch(tmp_path / "fake", name), require_labels=True)
    assert facts(labelled) == {name: expected}


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


# Originals


def test_a_fake_of_a_table_names_its_original_by_path_or_stem(tmp_path: Path) -> None:
    table = write_table(
        tmp_path,
        "path,label,original\n"
        "real/a.jpg,real,a\n"
        "real/b.jpg,real,\n"
        "fake/c.jpg,fake,a\n"
        f"fake/d.jpg,fake,{tmp_path}/real/b.jpg\n"
        "fake/e.jpg,fake,./real/b.jpg\n"
        "fake/f.jpg,fake,gone\n"
        "fake/g.jpg,fake,\n"
        "fake/h.jpg,fake,c\n",
    )
    labelled = label_sources(table)
    assert originals(labelled) == {
        "fake/c.jpg": "real/a.jpg",
        "fake/d.jpg": "real/b.jpg",
        "fake/e.jpg": "real/b.jpg",
    }
    assert labelled.layout == "csv"
    assert labelled.notes == ("2 fakes name an original that is not among the inputs",)


def test_a_fake_of_a_table_without_a_group_takes_that_of_its_original(tmp_path: Path) -> None:
    table = write_table(
        tmp_path,
        "path,label,group,original\n"
        "a.jpg,real,ann,\nb.jpg,real,,\n"
        "c.jpg,fake,,a\nd.jpg,fake,,b\ne.jpg,fake,eve,a\nf.jpg,fake,,gone\ng.jpg,fake,,\n",
    )
    sources = {source.name: source for source in label_sources(table).sources}
    found = {name: source.group or source.id for name, source in sources.items()}
    assert found["c.jpg"] == "ann"
    assert found["d.jpg"] == found["b.jpg"] == sources["b.jpg"].id
    assert found["e.jpg"] == "eve"
    assert len(set(found.values())) == 5


def test_a_stem_that_several_reals_have_is_no_name(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,label,original\n1/a.jpg,0,\n2/a.jpg,0,\nc.jpg,1,a\n")
    with pytest.raises(UsageError, match=r":4: original 'a' could be any of 2 real files"):
        label_sources(table)


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
def test_a_picture_beside_the_data_does_not_spoil_it(tmp_path: Path, layout: str) -> None:
    make_data_set(tmp_path, layout)
    whole = label_sources(tmp_path)
    strays = ["teaser.png"] if layout == "dfdc" else ["docs/teaser.png", "teaser.png"]
    touch(tmp_path, *strays)
    labelled = label_sources(tmp_path)
    assert facts(labelled) == facts(whole)
    assert labelled.skipped == whole.skipped | {"(stray picture)": len(strays)}
    assert (
        f"{len(strays)} pictures beside the folders of the data set are left out:"
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
