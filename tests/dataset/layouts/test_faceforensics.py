"""FaceForensics++ and DeepFakeDetection on tiny trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from tests.dataset.layouts.made_trees import by_name, groups, originals, splits, touch, write_pairs

REAL, FAKE = "original_sequences/youtube", "manipulated_sequences"
ACTORS, DFD = "original_sequences/actors", f"{FAKE}/DeepFakeDetection"
TREE = (
    *(f"{REAL}/{level}/videos/{clip}.mp4" for level in ("raw", "c23") for clip in ("000", "003")),
    f"{REAL}/c23/videos/010.mp4",
    f"{REAL}/c23/videos/011.mp4",
    f"{FAKE}/Deepfakes/c23/videos/000_003.mp4",
    f"{FAKE}/Deepfakes/c0/videos/003_000.mp4",
    f"{FAKE}/Face2Face/c40/videos/000_003.mp4",
    f"{FAKE}/NeuralTextures/c23/videos/010_011.mp4",
    f"{FAKE}/Deepfakes/masks/videos/000_003.mp4",
)
PAIRS = {"train": [["000", "003"]], "val": [["010", "011"]], "test": [["900", "901"]]}
DFD_TREE = (
    f"{ACTORS}/c23/videos/01__exit_phone_room.mp4",
    f"{ACTORS}/c23/videos/02__exit_phone_room.mp4",
    f"{ACTORS}/c23/videos/05__kitchen_pan.mp4",
    f"{DFD}/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4",
    f"{DFD}/c23/videos/01_02__walking_down_street_outside_angry__YVGY8LOK.mp4",
)


@pytest.mark.parametrize("folder", [".", "splits"])
def test_reads_the_tree_with_its_official_split(tmp_path: Path, folder: str) -> None:
    write_pairs(touch(tmp_path, *TREE) / folder, **PAIRS)
    labelled = label_sources(tmp_path, require_labels=True)
    assert (labelled.layout, labelled.notes) == (
        "faceforensics",
        ("1 fakes name an original that is not among the inputs",),
    )
    assert labelled.skipped == {"(masks)": 1} | ({".json": 3})
    found = by_name(labelled)
    assert {name: source.label for name, source in found.items()} == {
        name: int(name.startswith(FAKE)) for name in TREE if "masks" not in name
    }
    assert {name.split("/")[1]: source.method for name, source in found.items()} == {
        "youtube": None,
        "Deepfakes": "Deepfakes",
        "Face2Face": "Face2Face",
        "NeuralTextures": "NeuralTextures",
    }
    assert splits(labelled) == {
        name: "validation" if "01" in name.split("/")[-1] else "train" for name in found
    }


def test_a_fake_has_the_mask_of_its_method(tmp_path: Path) -> None:
    found = by_name(label_sources(touch(tmp_path, *TREE)))
    masks = {name: source.mask for name, source in found.items() if source.mask is not None}
    assert masks == {
        f"{FAKE}/Deepfakes/c23/videos/000_003.mp4": tmp_path
        / f"{FAKE}/Deepfakes/masks/videos/000_003.mp4"
    }


def test_a_video_shares_its_group_with_its_forgeries_at_every_compression(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, *TREE))
    pictures = {name for name in TREE if "masks" not in name}
    second = {name for name in pictures if "01" in name.split("/")[-1]}
    assert groups(labelled) == {frozenset(second), frozenset(pictures - second)}
    assert {source.group for source in labelled.sources} == {
        "youtube/000+003",
        "youtube/010+011",
    }


def test_an_original_is_of_the_same_compression(tmp_path: Path) -> None:
    assert originals(label_sources(touch(tmp_path, *TREE))) == {
        f"{FAKE}/Deepfakes/c23/videos/000_003.mp4": f"{REAL}/c23/videos/000.mp4",
        f"{FAKE}/Deepfakes/c0/videos/003_000.mp4": f"{REAL}/raw/videos/003.mp4",
        f"{FAKE}/NeuralTextures/c23/videos/010_011.mp4": f"{REAL}/c23/videos/010.mp4",
    }


def test_frames_in_folders_are_paired_frame_by_frame(tmp_path: Path) -> None:
    reals = [f"{REAL}/c23/images/000/{frame:04d}.png" for frame in (0, 1)]
    fakes = [f"{FAKE}/FaceSwap/c23/images/000_003/{frame:04d}.png" for frame in (0, 1)]
    labelled = label_sources(touch(tmp_path, *reals, *fakes))
    assert originals(labelled) == dict(zip(fakes, reals, strict=True))
    assert len(groups(labelled)) == 1


def test_without_pair_files_it_says_that_there_is_no_split(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, *TREE))
    assert set(splits(labelled).values()) == {None}
    assert labelled.notes[0].startswith("no official split: train.json, val.json and test.json are")


def test_a_fake_across_splits_belongs_to_none(tmp_path: Path) -> None:
    across = f"{FAKE}/FaceShifter/c23/videos/000_010.mp4"
    write_pairs(touch(tmp_path, *TREE, across), **PAIRS)
    labelled = label_sources(tmp_path)
    assert across not in by_name(labelled)
    assert labelled.skipped["(fake across splits)"] == 1
    # Nor does it tie the two sides together.
    assert len(groups(labelled)) == 2


@pytest.mark.parametrize(
    ("extra", "pairs", "message"),
    [
        pytest.param(
            [f"{REAL}/c23/videos/777.mp4"],
            PAIRS,
            r"1 of 12 files .* \(ids that are in none of train.json, val.json and test.json\), such"
            r" as 'original_sequences/youtube/c23/videos/777.mp4'; expected original_sequences/",
            id="unlisted",
        ),
        pytest.param(
            [f"{FAKE}/Deepfakes/c17/videos/000_003.mp4"], {}, r"1 of 12 .*/c17/", id="compression"
        ),
        pytest.param(["original_sequences/tv/c23/videos/000.mp4"], {}, "sequences/tv/", id="half"),
        pytest.param([f"{FAKE}/Deepfakes/000_003.mp4"], {}, "Deepfakes/000_003", id="depth"),
        pytest.param([f"{FAKE}/FaceSwap/c23/videos/zero.mp4"], {}, "zero.mp4", id="fake-name"),
        pytest.param([f"{REAL}/c23/videos/000_003.mp4"], {}, "c23/videos/000_003", id="real-name"),
        pytest.param(["stray.mp4"], {}, "'stray.mp4'", id="stray"),
        pytest.param(
            [], {"train": [], "val": [], "test": []}, "test.json hold no pair of ids", id="empty"
        ),
        pytest.param(
            [],
            {"train": [], "test": []},
            "has train.json, test.json but not val.json, .* take what is missing from"
            " dataset/splits/ of the repository ondyari/FaceForensics, or remove the others",
            id="file",
        ),
        pytest.param(
            [],
            PAIRS | {"val": [["000", "010"]]},
            r"val.json: id '000' is in train, too",
            id="twice",
        ),
        pytest.param(
            [], PAIRS | {"test": [["1"]]}, "test.json: expected a list of pairs", id="pair"
        ),
        pytest.param([], PAIRS | {"test": {"a": 1}}, "test.json: expected a list", id="no-list"),
    ],
)
def test_refuses(
    tmp_path: Path, extra: list[str], pairs: dict[str, list[list[str]]], message: str
) -> None:
    write_pairs(touch(tmp_path, *TREE, *extra), **pairs)
    with pytest.raises(UsageError, match=message):
        label_sources(tmp_path)


def test_refuses_pairs_that_are_no_json(tmp_path: Path) -> None:
    write_pairs(touch(tmp_path, *TREE), **PAIRS)
    (tmp_path / "val.json").write_text("[[")
    with pytest.raises(UsageError, match=r"val\.json: not JSON \(Expecting"):
        label_sources(tmp_path)


# DeepFakeDetection


def test_reads_deepfakedetection(tmp_path: Path) -> None:
    labelled = label_sources(touch(tmp_path, *DFD_TREE))
    assert labelled.layout == "dfd"
    assert "no official split" in labelled.notes[0]
    assert [source.label for source in labelled.sources] == [1, 1, 0, 0, 0]
    assert {source.method for source in labelled.sources} == {None, "DeepFakeDetection"}
    assert {source.group for source in labelled.sources} == {"dfd/01+02", "dfd/05"}
    assert originals(labelled) == {DFD_TREE[3]: DFD_TREE[0]}
    assert set(splits(labelled).values()) == {None}


def test_reads_deepfakedetection_as_it_is_packed_elsewhere(tmp_path: Path) -> None:
    real = "DFD_original sequences/01__exit_phone_room.mp4"
    fake = "DFD_manipulated_sequences/DFD_manipulated_sequences/01_02__exit_phone_room__X8.mp4"
    labelled = label_sources(touch(tmp_path, real, fake))
    assert labelled.layout == "dfd"
    assert originals(labelled) == {fake: real}


def test_beside_official_splits_deepfakedetection_trains(tmp_path: Path) -> None:
    write_pairs(touch(tmp_path, *TREE, *DFD_TREE), **PAIRS)
    labelled = label_sources(tmp_path)
    assert labelled.layout == "faceforensics"
    assert {splits(labelled)[name] for name in DFD_TREE} == {"train"}
    assert labelled.notes[0] == "DeepFakeDetection has no official split: its videos go to train"
    alone = label_sources(tmp_path, layout="dfd")
    assert set(by_name(alone)) == set(DFD_TREE)
    assert alone.skipped["(FaceForensics++)"] == len(TREE) - 1
    assert alone.skipped["(masks)"] == 1


@pytest.mark.parametrize(
    "name", [f"{ACTORS}/c23/videos/exit.mp4", f"{DFD}/c23/videos/01__x.mp4", "stray.mp4"]
)
def test_refuses_a_name_that_is_none_of_deepfakedetection(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *DFD_TREE, name)
    with pytest.raises(UsageError, match=r"1 of 6 files do not fit the layout dfd .*expected"):
        label_sources(tmp_path)
