"""What is evaluated: which crops and files, and which are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deepfake.dataset.manifest import read_manifest, read_source_rows, read_sources
from deepfake.dataset.splits import split_by_group
from deepfake.errors import UsageError
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.records import Sampling
from tests.evaluation.conftest import Made
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.made_crops import write_crop_folder


def test_test_split_is_the_default_where_there_are_splits(made: Made) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    assert (data.split, len(data.faces), len(data.files)) == ("test", 20, 22)
    assert data.remarks == ()
    assert {file.split for file in data.files} == {"test"}
    everything = read_evaluation_set(made.crops, made.checkpoint, split="all")
    assert (len(everything.faces), len(everything.files)) == (60, 62)
    assert everything.sha256 != data.sha256
    assert everything.manifest_sha256 == data.manifest_sha256


def test_without_splits_everything_counts(made: Made, tmp_path: Path) -> None:
    bare = write_crop_folder(
        tmp_path / "bare", {"train": (3, 3)}, size=32, edit=lambda row: replace(row, split="")
    )
    assert read_evaluation_set(bare, made.checkpoint).split == "all"
    with pytest.raises(UsageError, match="no split 'dev'"):
        read_evaluation_set(made.crops, made.checkpoint, split="dev")


def test_a_split_that_is_not_there_is_the_one_that_a_training_makes(
    made: Made, tmp_path: Path
) -> None:
    bare = write_crop_folder(
        tmp_path / "bare", {"train": (20, 20)}, size=32, edit=lambda row: replace(row, split="")
    )
    before = read_evaluation_set(bare, made.checkpoint, split="test")
    assert before.remarks == (
        "the crops bring no split; divided as a training by default divides them",
    )
    trained = load_checkpoint(write_checkpoint(tmp_path / "a.ckpt", bare))
    after = read_evaluation_set(bare, trained)
    assert (after.split, after.faces, after.remarks) == ("test", before.faces, ())
    fakes = write_crop_folder(
        tmp_path / "fakes", {"train": (0, 6)}, size=32, edit=lambda row: replace(row, split="")
    )
    with pytest.raises(UsageError, match=r"no splits, and cannot split 0 real .*: use --split all"):
        read_evaluation_set(fakes, made.checkpoint, split="test")


def test_own_training_data_is_split_as_training_split_it(tmp_path: Path) -> None:
    counts = {"train": (20, 20)}
    crops = write_crop_folder(
        tmp_path / "crops", counts, size=32, edit=lambda row: replace(row, split="")
    )
    configuration = "data:\n  split: {by: group, shares: [0.5, 0.2, 0.3]}\n"
    path = write_checkpoint(tmp_path / "a.ckpt", crops, configuration=configuration)
    checkpoint = load_checkpoint(path)
    data = read_evaluation_set(crops, checkpoint)
    rows = read_manifest(crops).rows
    names = split_by_group(
        [row.group for row in rows], [row.label or 0 for row in rows], (0.5, 0.2, 0.3), seed=0
    )
    assert data.split == "test"
    assert [row.crop for row in data.faces] == [
        row.crop for row, name in zip(rows, names, strict=True) if name == "test"
    ]
    assert len(data.files) == len(data.faces)
    assert data.remarks == ()
    for split, words in (("train", "learnt from"), ("validation", "chose its limits on")):
        assert words in read_evaluation_set(crops, checkpoint, split=split).remarks[0]
    assert read_evaluation_set(crops, checkpoint, split="all").remarks[0].startswith("LEAK")
    broken = write_checkpoint(tmp_path / "b.ckpt", crops, configuration="{")
    assert read_evaluation_set(crops, load_checkpoint(broken)).split == "test"


def test_files_that_belong_to_no_split_are_told(tmp_path: Path) -> None:
    from tests.evaluation.conftest import add_unscored

    crops = write_crop_folder(
        tmp_path / "crops", {"train": (12, 12)}, size=32, edit=lambda row: replace(row, split="")
    )
    add_unscored(crops)
    text = (crops / "sources.csv").read_text().replace(",x,test,", ",x,,").replace(",y,test", ",y,")
    (crops / "sources.csv").write_text(text)
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "a.ckpt", crops))
    data = read_evaluation_set(crops, checkpoint)
    assert data.remarks == ("2 files without a face belong to no split and are not counted",)


def test_a_split_column_that_is_filled_in_part_divides_nothing(made: Made, tmp_path: Path) -> None:
    some = write_crop_folder(
        tmp_path / "some",
        {"train": (3, 3), "test": (4, 4)},
        size=32,
        edit=lambda row: replace(row, split="" if row.split == "train" else row.split),
    )
    with pytest.raises(UsageError, match=r"6 of 14 crops in .* have no split: fill .* --split all"):
        read_evaluation_set(some, made.checkpoint)
    assert len(read_evaluation_set(some, made.checkpoint, split="all").faces) == 14


@pytest.mark.parametrize("by", ["auto", "group"])
def test_files_without_a_face_are_where_training_put_their_group(tmp_path: Path, by: str) -> None:
    from tests.evaluation.conftest import add_unscored

    # What stands as train is divided, by group: into validation, too, and more.
    crops = write_crop_folder(tmp_path / "crops", {"train": (20, 20), "test": (6, 6)}, size=32)
    configuration = f"data: {{split: {{by: {by}}}}}\n"
    path = write_checkpoint(tmp_path / "a.ckpt", crops, configuration=configuration)
    before = load_checkpoint(path)
    group = next(
        row.group
        for row in read_evaluation_set(crops, before, split="validation").faces
        if row.split == "train"
    )
    add_unscored(crops)
    sources = crops / "sources.csv"
    text = (
        sources.read_text().replace(",x,test,", f",{group},train,").replace(",y,test", ",y,train")
    )
    sources.write_text(text)
    found = {
        split: read_evaluation_set(crops, load_checkpoint(path), split=split)
        for split in ("train", "validation", "test")
    }
    n_lost = {split: len(data.files) - len(data.faces) for split, data in found.items()}
    # Nobody knows where the group of the other would have gone.
    assert n_lost == {"train": 0, "validation": 1, "test": 0}
    for data in found.values():
        assert "1 files without a face belong to no split and are not counted" in data.remarks


def test_other_crops_are_refused(made: Made, tmp_path: Path) -> None:
    larger = write_crop_folder(tmp_path / "larger", {"test": (2, 2)}, size=64, jpeg_quality=90)
    with pytest.raises(
        UsageError,
        match=r"size 64 instead of 32, jpeg_quality 90 instead of 95\): crop again with deepfake "
        r"crop \.\.\. --preset square --size 32",
    ):
        read_evaluation_set(larger, made.checkpoint)
    unlabelled = write_crop_folder(
        tmp_path / "bare", {"test": (2, 2)}, size=32, edit=lambda row: replace(row, label=None)
    )
    with pytest.raises(UsageError, match="4 of 4 crops have no label"):
        read_evaluation_set(unlabelled, made.checkpoint)


def test_sources_are_read_as_they_were_written(made: Made) -> None:
    rows = read_sources(made.crops)
    assert rows[-2].status == "unreadable"
    assert (rows[0].label, rows[0].faces) == (0, 1)
    path = made.crops.parent / "copy"
    path.mkdir(exist_ok=True)
    text = (made.crops / "sources.csv").read_text()
    (path / "sources.csv").write_text(text.replace(",ok,", ",fine,", 1))
    with pytest.raises(UsageError, match=r"sources\.csv:2: 'fine' is not a valid Status"):
        read_source_rows(path)
    assert made.checkpoint.recipe.sampling == Sampling()
