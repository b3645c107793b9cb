"""The challenge's part folders and tables on a tiny tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, groups, originals, splits, touch

PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "dfdc_train_part_0": {
        "aa.mp4": {"label": "FAKE", "split": "train", "original": "bb.mp4"},
        "bb.mp4": {"label": "REAL", "split": "train"},
        "cc.mp4": {"label": "FAKE", "split": "train", "original": "bb.mp4"},
    },
    "dfdc_train_part_1": {
        "dd.mp4": {"label": "FAKE", "split": "train", "original": "gone.mp4"},
        "ee.mp4": {"label": "REAL", "split": "train", "original": None},
    },
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, entries in PARTS.items():
        touch(tmp_path / part, *entries)
        write(tmp_path, entries, part)
    return tmp_path


def write(root: Path, content: object, part: str = "dfdc_train_part_0") -> None:
    (root / part / "metadata.json").write_text(json.dumps(content))


def test_reads_parts(root: Path) -> None:
    labelled = label_sources(root, require_labels=True)
    assert labelled.layout == "dfdc"
    assert {Path(name).stem: one.label for name, one in by_name(labelled).items()} == {
        "aa": 1,
        "bb": 0,
        "cc": 1,
        "dd": 1,
        "ee": 0,
    }
    part = "dfdc_train_part_0"
    assert originals(labelled) == {
        f"{part}/aa.mp4": f"{part}/bb.mp4",
        f"{part}/cc.mp4": f"{part}/bb.mp4",
    }
    assert {frozenset(Path(name).stem for name in group) for group in groups(labelled)} == {
        frozenset({"aa", "bb", "cc"}),
        frozenset({"dd"}),
        frozenset({"ee"}),
    }
    # "train" on every video is no split.
    assert set(splits(labelled).values()) == {None}
    assert labelled.notes == (
        "no official split: every video is 'train'; training will divide the groups",
        "1 fakes name an original that is not among the inputs",
    )


def test_a_single_part_can_be_given(root: Path) -> None:
    labelled = label_sources(root / "dfdc_train_part_0")
    assert (labelled.layout, len(labelled.sources)) == ("dfdc", 3)


@pytest.mark.parametrize(
    ("table", "videos", "split"),
    [("test/labels.csv", "test/videos/", "test"), ("labels.csv", "videos/", None)],
)
def test_reads_a_table_of_labels(
    tmp_path: Path, table: str, videos: str, split: str | None
) -> None:
    touch(tmp_path, f"{videos}x.mp4", f"{videos}y.mp4")
    (tmp_path / table).write_text("filename,label\nx.mp4,1\ny.mp4,0\nz.mp4,0\n")
    # Such a table may be anybody's, with 1 for real: only a user can say that it is not.
    assert label_sources(tmp_path).layout == "none"
    labelled = label_sources(tmp_path, layout="dfdc")
    assert {Path(name).stem: one.label for name, one in by_name(labelled).items()} == {
        "x": 1,
        "y": 0,
    }
    assert set(splits(labelled).values()) == {split}


def test_with_a_test_set_the_parts_are_train(root: Path) -> None:
    touch(root, "test/videos/x.mp4")
    (root / "test" / "labels.csv").write_text("filename,label\nx.mp4,1\n")
    found = splits(label_sources(root))
    assert found.pop("test/videos/x.mp4") == "test"
    assert set(found.values()) == {"train"}


def test_a_split_of_another_kind_is_refused(root: Path) -> None:
    odd = {"aa.mp4": {"label": "FAKE", "split": ["train"], "original": "bb.mp4"}}
    write(root, odd, "dfdc_train_part_0")
    with pytest.raises(UsageError, match=r"has split \['train'\]; expected"):
        label_sources(root / "dfdc_train_part_0")


TEST_SET = {"x.mp4": {"is_fake": 1, "cluster": 3}, "y.mp4": {"is_fake": 0}}


@pytest.mark.parametrize("folder", ["test", "Test/videos", "dfdc_test"])
@pytest.mark.parametrize("labels", [None, "x.mp4,1\ny.mp4,0\n", "y.mp4,0\n"])
def test_the_test_set_may_bring_its_own_metadata(
    root: Path, folder: str, labels: str | None
) -> None:
    touch(root, f"{folder}/x.mp4", f"{folder}/y.mp4")
    table = root / folder.partition("/")[0]
    write(root, TEST_SET, table.name)
    if labels is not None:
        (table / "labels.csv").write_text(f"filename,label\n{labels}")
    labelled = label_sources(root, require_labels=True)
    assert labelled.layout == "dfdc"
    found = {Path(name).stem: one.label for name, one in by_name(labelled).items()}
    assert (found["x"], found["y"]) == (1, 0)
    expected = {name: "test" if name.startswith(folder) else "train" for name in by_name(labelled)}
    assert splits(labelled) == expected
    alone = label_sources(table)
    assert alone.layout == "dfdc"
    assert set(splits(alone).values()) == {"test"}


def test_the_table_may_name_videos_that_the_metadata_leaves_out(tmp_path: Path) -> None:
    touch(tmp_path, "test/x.mp4", "test/y.mp4", "test/z.mp4")
    write(tmp_path, TEST_SET, "test")
    (tmp_path / "test" / "labels.csv").write_text("filename,label\nz.mp4,1\n")
    assert [source.label for source in label_sources(tmp_path).sources] == [1, 0, 1]


def test_refuses_two_tables_that_contradict_each_other(tmp_path: Path) -> None:
    touch(tmp_path, "test/x.mp4", "test/y.mp4")
    write(tmp_path, TEST_SET, "test")
    (tmp_path / "test" / "labels.csv").write_text("filename,label\nx.mp4,0\ny.mp4,0\n")
    with pytest.raises(
        UsageError, match=r"test/metadata\.json: 'x' is fake, and real in labels\.csv \(1 = fake\)"
    ):
        label_sources(tmp_path)


def test_a_table_of_ones_own_beside_a_part_says_nothing(root: Path) -> None:
    (root / "dfdc_train_part_0" / "labels.csv").write_text("mine\n1\n")
    assert len(label_sources(root).sources) == 5


def test_frames_in_folders(root: Path) -> None:
    part = root / "dfdc_train_part_0"
    for video in part.glob("*.mp4"):
        video.unlink()
        touch(part / "frames" / video.stem, "000.png", "001.png")
    labelled = label_sources(part)
    assert originals(labelled)["frames/aa/001.png"] == "frames/bb/001.png"
    assert len(groups(labelled)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"aa.mp4": {"label": "MAYBE"}}, r"metadata\.json: 'aa\.mp4' has .*; expected \"label\""),
        ({"aa.mp4": {"label": ["REAL"]}}, "'aa.mp4' has"),
        ({"aa.mp4": {"is_fake": 2}}, '"is_fake": 0 or 1'),
        ({"aa.mp4": {"label": "REAL", "is_fake": 1}}, "'aa.mp4' has .*expected"),
        ({"aa.mp4": {"label": "REAL", "split": "x"}}, "'aa.mp4' has split 'x'; expected train"),
        ({"aa.mp4": {"label": "REAL"}}, r"2 of 3 files .*not in the folder's table.*'bb\.mp4'"),
    ],
)
def test_refuses_a_table(root: Path, content: object, message: str) -> None:
    write(root, content)
    with pytest.raises(UsageError, match=message):
        label_sources(root / "dfdc_train_part_0", layout="dfdc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ("[" * 100_000, "not JSON .it is nested"),
    ],
)
def test_refuses_damaged_metadata(root: Path, text: str, message: str) -> None:
    (root / "dfdc_train_part_1" / "metadata.json").write_text(text)
    with pytest.raises(UsageError, match=f"part_1/metadata.json: {message}"):
        label_sources(root, layout="dfdc")


@pytest.mark.parametrize("part", ["dfdc_train_part_0", "renamed"])
def test_metadata_that_is_cut_short_is_not_passed_over(root: Path, part: str) -> None:
    folder = (root / "dfdc_train_part_0").rename(root.parent / part)
    metadata = folder / "metadata.json"
    metadata.write_text(metadata.read_text()[:-20])
    with pytest.raises(UsageError, match=f"{part}/metadata.json: not JSON"):
        label_sources(folder)
    metadata.write_text("")
    if part == "dfdc_train_part_0":
        with pytest.raises(UsageError, match=f"{part}/metadata.json: not JSON"):
            label_sources(folder)
    else:
        # Nothing says whose this was.
        assert label_sources(folder).layout == "none"


def test_metadata_that_cannot_be_opened_is_not_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match=r"metadata\.json"):
        label_sources(root / "dfdc_train_part_0")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"name": "set"}', '{"a": {"size": 1}}', "[" * 100_000]
)
def test_metadata_of_others_is_not_the_challenges(tmp_path: Path, text: str) -> None:
    (touch(tmp_path, "real/a.mp4", "fake/b.mp4") / "metadata.json").write_text(text)
    assert label_sources(tmp_path).layout == "tree"


def test_refuses_a_label_that_is_none(root: Path) -> None:
    touch(root, "test/x.mp4")
    (root / "test" / "labels.csv").write_text("filename,label\nx.mp4,2\n")
    with pytest.raises(UsageError, match=r"labels\.csv:2: label '2'; expected 0 or 1 = fake"):
        label_sources(root)


def test_refuses_a_folder_without_a_table(root: Path) -> None:
    touch(root, "test_videos/x.mp4")
    with pytest.raises(UsageError, match=r"1 of 6 .*no metadata\.json or labels\.csv in or above"):
        label_sources(root)
