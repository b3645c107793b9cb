"""Samples and splits follow from the seed alone, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from deepfake.augment.recipes import EXTRAS, Augmentation, sample_seed
from deepfake.augment.self_blending import self_blend
from deepfake.dataset.manifest import CropRow, read_manifest
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.errors import JobError, UsageError
from deepfake.learning.batches import SampleKey, deal, each_once
from deepfake.learning.data import CropDataModule, find_originals
from tests.made_crops import Edit, edited, write_crop_folder

COUNTS = {"train": (14, 10), "validation": (4, 4), "test": (4, 4)}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("data") / "crops", COUNTS, size=32)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fakes with their originals, in groups of several; fewer fakes than reals."""
    folder = tmp_path_factory.mktemp("grouped") / "crops"
    return write_crop_folder(folder, COUNTS, size=32, group_size=3, originals=True)


def make(root: Path, **options: Any) -> CropDataModule:
    data = CropDataModule(str(root), **({"batch_size": 8} | options))
    data.setup()
    return data


def at_epoch(loader: DataLoader[Any], epoch: int) -> DataLoader[Any]:
    """What Lightning does before an epoch."""
    loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return loader


def stream(loader: DataLoader[Any]) -> list[tuple[bytes, int, int]]:
    return [
        (image.numpy().tobytes(), int(label), int(index))
        for batch in loader
        for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True)
    ]


# Loader


EVERYTHING = {"extra": list(EXTRAS), "self_blend": 0.5}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"paired": True, "steps_per_epoch": 3} | EVERYTHING, id="paired"),
        pytest.param({"balance": True, "per_group": 2}, id="balanced-groups"),
    ],
)
def test_the_stream_does_not_depend_on_workers(grouped: Path, options: dict[str, Any]) -> None:
    streams = []
    for workers in (0, 1, 3):
        data = make(grouped, num_workers=workers, augment_share=0.5, batch_size=6, **options)
        loader = data.train_dataloader()
        streams.append([stream(at_epoch(loader, epoch)) for epoch in (0, 1, 2)])
    assert streams[0] == streams[1] == streams[2]
    orders = {tuple(index for _, _, index in epoch) for epoch in streams[0]}
    assert len(orders) == 3
    # Nor does a crop that comes again look as it did.
    looks = [{(index, image) for image, _, index in epoch} for epoch in streams[0]]
    assert len(looks[0] | looks[1] | looks[2]) > len(looks[0]) + 6


def test_the_seed_reaches_order_and_augmentation(crops: Path) -> None:
    first, again, other = (
        stream(make(crops, seed=seed, augment_share=1.0).train_dataloader()) for seed in (1, 1, 2)
    )
    assert first == again
    assert [row[2] for row in first] != [row[2] for row in other]
    images = {index: image for image, _, index in first}
    assert any(images[index] != image for image, _, index in other if index in images)


@pytest.mark.parametrize("recipe", ["entry", "light"])
def test_samples_are_the_files_augmented_by_name(crops: Path, recipe: str) -> None:
    data = make(crops, augment_share=0.5, augmentation=recipe, seed=7)
    loader = at_epoch(data.train_dataloader(), 3)
    dataset, augment = data.datasets["train"], Augmentation(recipe)
    for batch in loader:
        for place, index in enumerate(batch["index"].tolist()):
            plain = dataset[index]["image"]
            if place < 4:
                pixels = plain.permute(1, 2, 0).numpy()
                changed = augment(np.ascontiguousarray(pixels), sample_seed(7, 3, index))
                plain = torch.from_numpy(changed).permute(2, 0, 1)
            assert torch.equal(batch["image"][place], plain)
            assert int(batch["label"][place]) == dataset.rows[index].label


def test_a_batch_is_bytes_and_integers(crops: Path) -> None:
    batch = next(iter(make(crops).train_dataloader()))
    assert (batch["image"].dtype, tuple(batch["image"].shape)) == (torch.uint8, (8, 3, 32, 32))
    for name in ("label", "index"):
        assert (batch[name].dtype, tuple(batch[name].shape)) == (torch.int64, (8,))


def test_crops_reach_the_network_in_rgb(tmp_path: Path) -> None:
    root = write_crop_folder(tmp_path / "crops", COUNTS, size=32, jpeg_quality=None)
    import cv2

    data = make(root)
    path = root / data.datasets["train"].rows[0].crop
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 2] = 200  # OpenCV writes BGR
    cv2.imwrite(str(path), red)
    assert data.datasets["train"][0]["image"].float().mean(dim=(1, 2)).tolist() == [200, 0, 0]


@pytest.mark.parametrize("split", ["validation", "test", "train"])
def test_plain_loader_gives_every_crop_once_in_order(crops: Path, split: str) -> None:
    data = make(crops, batch_size=5, augment_share=1.0)
    loader = {"validation": data.val_dataloader, "test": data.test_dataloader}.get(
        split, lambda: data.plain_dataloader("train")
    )()
    found = stream(loader)
    dataset = data.datasets[split]
    assert [index for _, _, index in found] == list(range(sum(COUNTS[split])))
    assert found == [
        (dataset[i]["image"].numpy().tobytes(), dataset.rows[i].label, i)
        for i in range(len(dataset))
    ]


def test_balanced_batches_are_half_fake(crops: Path) -> None:
    loader = make(crops, balance=True).train_dataloader()
    assert [int(batch["label"].sum()) for batch in loader] == [4, 4, 4]


# Splits


def no_split(row: CropRow) -> CropRow:
    return replace(row, split="")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "crops", COUNTS, size=16, group_size=2)


def names(data: CropDataModule) -> dict[str, str]:
    return {row.crop: split for split, part in data.datasets.items() for row in part.rows}


@pytest.mark.parametrize("split", ["auto", "given"])
def test_a_filled_column_is_taken(folder: Path, split: str) -> None:
    data = make(folder, split=split)
    assert names(data) == {row.crop: row.split for row in read_manifest(folder).rows}
    assert data.description is not None
    assert data.description.counts == {
        name: {"real": real, "fake": fake} for name, (real, fake) in COUNTS.items()
    }
    assert data.description.manifest == read_manifest(folder)


@pytest.mark.parametrize("split", ["auto", "group"])
def test_groups_are_divided_where_the_column_is_empty(folder: Path, split: str) -> None:
    edited(folder, no_split)
    data = make(folder, split=split, shares=(0.6, 0.2, 0.2))
    found: dict[str, set[str]] = {}
    for name, part in data.datasets.items():
        assert {row.label for row in part.rows} == {0, 1}
        for row in part.rows:
            found.setdefault(row.group, set()).add(name)
    assert all(len(where) == 1 for where in found.values())
    assert sum(len(part) for part in data.datasets.values()) == 40
    assert names(make(folder, split=split, shares=(0.6, 0.2, 0.2))) == names(data)
    again = [
        names(make(folder, split=split, shares=(0.6, 0.2, 0.2), seed=seed)) for seed in range(5)
    ]
    assert any(other != names(data) for other in again)


def test_group_ignores_a_filled_column(folder: Path) -> None:
    divided = names(make(folder, split="group"))
    assert divided != {row.crop: row.split for row in read_manifest(folder).rows}


def test_setup_reads_once(folder: Path) -> None:
    data = make(folder)
    first = data.description
    data.setup()
    assert data.description is first


def test_a_validation_split_is_drawn_from_train_where_there_is_none(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edited(folder, change(lambda row: row.split == "validation", split="test"))
    given = {row.crop: row.split for row in read_manifest(folder).rows}
    with caplog.at_level("INFO", "deepfake"):
        data = make(folder)
    drawn = names(data)
    assert {crop for crop in given if drawn[crop] == "test"} == {
        crop for crop, split in given.items() if split == "test"
    }
    validation = data.datasets["validation"].rows
    assert {row.label for row in validation} == {0, 1}
    assert {row.split for row in validation} == {"train"}
    assert "no validation split; one was drawn from train" in caplog.text
    assert names(make(folder, seed=1)) != drawn


def test_a_leak_can_be_let_pass_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edited(folder, change(lambda row: row.group in ("train-0", "test-0"), group="shared"))
    data = make(folder, allow_leak=True)
    assert len(data.datasets["train"]) == sum(COUNTS["train"])
    assert "every metric worthless: shared (" in caplog.text
    assert "going on because data.split.allow_leak is true" in caplog.text


def to_fit(root: Path, ckpt_path: str | None = None, **options: Any) -> CropDataModule:
    """As a training sets it up."""
    data = CropDataModule(str(root), batch_size=8, **options)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        ckpt_path=ckpt_path,
        is_global_zero=True,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    data.setup("fit")
    return data


def test_look_alikes_in_two_splits(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    to_fit(folder)
    rows = [row for row in read_manifest(folder).rows if row.label == 0]
    one, other = (next(r for r in rows if r.split == split) for split in ("train", "validation"))
    (folder / other.crop).write_bytes((folder / one.crop).read_bytes())
    message = (
        rf"1 pairs .* train {one.source}\.jpg .* ~ validation {other.source}\.jpg .*; give both"
    )
    with pytest.raises(UsageError, match=message):
        to_fit(folder)
    to_fit(folder, ckpt_path="last.ckpt")  # was looked at when the run began
    to_fit(folder, find_look_alikes=False)
    assert not caplog.text
    to_fit(folder, allow_leak=True)
    assert "look alike" in caplog.text
    assert "going on because data.split.allow_leak is true" in caplog.text


def test_a_search_for_look_alikes_that_was_cut_short_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PerceptualHashes, "find_look_alikes", lambda *_: ([], True))
    to_fit(folder)
    assert "too many crops look somewhat alike" in caplog.text


def test_a_drawn_split_keeps_fakes_with_their_originals(pairs: Path) -> None:
    edited(pairs, lambda row: replace(row, split="", group=f"{row.group}-{row.label}"))
    data = make(pairs)  # not refused
    for split in ("train", "validation", "test"):
        rows = data.datasets[split].rows
        sources = {row.source for row in rows}
        assert rows
        assert all(row.original in sources for row in rows if row.label)


def change(condition: Callable[[CropRow], bool], **values: Any) -> Edit:
    return lambda row: replace(row, **values) if condition(row) else row


@pytest.mark.parametrize(
    ("edit", "options", "problem"),
    [
        pytest.param(
            change(lambda row: row.split == "test", label=None),
            {},
            r"8 of 40 crops have no label, such as .*; crop from real/ and fake/",
            id="unlabelled",
        ),
        pytest.param(
            change(lambda row: row.split == "train", label=1),
            {},
            "the train split needs both classes, but .* train: 0 real, 24 fake",
            id="train-of-one-class",
        ),
        pytest.param(
            change(lambda row: row.split == "validation", label=0),
            {},
            "the validation split needs both classes",
            id="validation-of-one-class",
        ),
        pytest.param(
            change(lambda row: row.split == "test", label=1),
            {},
            "the test split needs both classes or no crops, .* test: 0 real, 8 fake; crop these",
            id="test-of-one-class",
        ),
        pytest.param(
            change(lambda row: row.split == "validation", split="test"),
            {"split": "given"},
            "the validation split needs both classes, but .* validation: 0 real, 0 fake",
            id="no-validation",
        ),
        pytest.param(
            change(lambda row: row.split == "test", split=""),
            {},
            "8 of 40 crops have no split; fill the split column",
            id="partly-filled",
        ),
        pytest.param(
            change(lambda row: True, split=""),
            {"split": "given"},
            "40 of 40 crops have no split",
            id="given-but-empty",
        ),
        pytest.param(
            change(lambda row: row.split == "test", split="val"),
            {},
            "split 'val'.*train, validation, test",
            id="unknown-split",
        ),
        pytest.param(
            change(lambda row: row.group in ("train-0", "test-0"), group="shared"),
            {},
            r"1 of .* groups stand in more than one split, .*: shared \(.*; mend .*allow_leak true",
            id="leak",
        ),
        pytest.param(
            change(lambda row: True, split="", label=1),
            {},
            "cannot split 0 real and 40 fake crops",
            id="one-class-to-divide",
        ),
        pytest.param(
            change(lambda row: True, split="", group="all"),
            {},
            "out of 1 groups; every split needs both classes",
            id="one-group-to-divide",
        ),
        pytest.param(
            change(lambda row: True, split=""),
            {"shares": (0.5, 0.5, 0.5)},
            "expected three numbers >= 0 that sum to 1",
            id="shares",
        ),
        pytest.param(
            lambda row: row,
            {"crop_preset": "dacon"},
            "cut with crop preset 'square', this configuration is for 'dacon'",
            id="preset",
        ),
    ],
)
def test_refuses_data_that_cannot_be_learned_from(
    folder: Path, edit: Edit, options: dict[str, Any], problem: str
) -> None:
    edited(folder, edit)
    with pytest.raises(UsageError, match=problem):
        make(folder, **options)


def test_the_right_preset_is_welcome(tmp_path: Path) -> None:
    root = write_crop_folder(tmp_path / "crops", COUNTS, size=16, preset="dacon")
    assert len(make(root, crop_preset="dacon").datasets["train"]) == 24


def test_a_missing_test_split_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = {split: COUNTS[split] for split in ("train", "validation")}
    root = write_crop_folder(tmp_path / "crops", counts, size=16)
    assert len(make(root).datasets["test"]) == 0
    assert "there is no test split (train: 14 real, 10 fake" in caplog.text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param({"batch_size": 1}, "batch_size=1; triplets need 2 or more", id="batch"),
        pytest.param({"augment_share": 1.5}, r"augment_share=1\.5; expected 0 to 1", id="share"),
    ],
)
def test_refuses_settings_out_of_range(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        CropDataModule("crops", **options)


def test_refuses_a_folder_without_crops(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a crop folder \(no job.json\)"):
        make(tmp_path)


def test_refuses_an_unfinished_crop_job(folder: Path) -> None:
    (folder / "manifest.csv").unlink()
    with pytest.raises(UsageError, match="holds an unfinished crop job"):
        make(folder)


@pytest.mark.parametrize(
    ("content", "workers", "problem"),
    [
        pytest.param(None, 0, "cannot be read .*No such file", id="missing"),
        pytest.param(b"", 0, "cannot be read .*decode_error", id="empty"),
        pytest.param(b"no picture", 0, "cannot be read .*run the crop command again", id="text"),
        pytest.param(b"no picture", 1, "cannot be read .*decode_error", id="text-in-a-worker"),
        pytest.param("other", 0, r"shape \(24, 24, 3\); its job.json says 16 x 16", id="size"),
    ],
)
def test_a_broken_crop_stops_the_training(
    folder: Path, content: bytes | str | None, workers: int, problem: str
) -> None:
    data = make(folder, num_workers=workers)
    path = folder / data.datasets["validation"].rows[2].crop
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        other = write_crop_folder(folder / "other", {"train": (1, 1)}, size=24)
        path.write_bytes(next(other.rglob("*.jpg")).read_bytes())
    with pytest.raises(JobError, match=problem):
        list(data.val_dataloader())


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_plain_shares_are_of_one_length_and_miss_nobody(crops: Path, world: int) -> None:
    data = CropDataModule(str(crops), batch_size=3)
    data.setup()
    indices = []
    for rank in range(world):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
        batches = [batch["index"] for batch in data.val_dataloader()]
        indices.append((len(batches), torch.cat(batches)))
    assert len({(n_batches, len(part)) for n_batches, part in indices}) == 1
    together = torch.cat([part for _, part in indices])
    assert len(together) - 8 == -8 % world
    (once,) = each_once(together, together * 10)
    assert once.tolist() == [0, 10, 20, 30, 40, 50, 60, 70]


# Going on in mid-epoch, and batches in memory


def test_the_state_names_epoch_and_batch(crops: Path) -> None:
    data = make(crops)
    assert data.state_dict() == {"epoch": 0, "batch": 0}
    data.load_state_dict({"epoch": 2, "batch": 1})
    loader: Any = data.train_dataloader()
    assert loader.batch_sampler.done == (2, 1)
    data.load_state_dict({"epoch": 5})  # as checkpoints of ends of epochs once were
    assert data.train_dataloader().batch_sampler.done == (5, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_interleaved_in_memory(crops: Path, workers: int) -> None:
    data = make(crops, num_workers=workers)
    batch = next(iter(data.train_dataloader()))
    images = batch["image"]
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    rows = data.datasets["train"]
    plain = next(iter(data.plain_dataloader("train")))
    for i in range(8):
        assert torch.equal(plain["image"][i], rows[i]["image"])


# Pairs, and all ways of sampling


def pair_up(row: CropRow) -> CropRow:
    """The n-th fake of a split was made from its n-th real."""
    group = row.group
    return replace(row, source=f"{group}-{row.label}", original=f"{group}-0" if row.label else "")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "pairs", COUNTS, size=16, edit=pair_up)


def test_paired_batches_hold_pairs(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = make(pairs, paired=True, batch_size=4)
    assert "4 of 14 training reals are no fake's original; each comes once in a pass" in caplog.text
    rows = data.datasets["train"].rows
    own: list[tuple[str, str]] = []
    strange: list[tuple[str, str]] = []
    for batch in data.train_dataloader():
        reals, fakes = batch["index"][::2].tolist(), batch["index"][1::2].tolist()
        for real, fake in zip(reals, fakes, strict=True):
            of_pair = rows[real].source == rows[fake].original
            (own if of_pair else strange).append((rows[real].group, rows[fake].group))
    names = [f"train-{number}" for number in range(14)]
    assert sorted(real for real, _ in own) == sorted(names[:10])
    assert sorted(real for real, _ in strange) == sorted(names[10:])


def test_every_real_is_trained_on_where_few_have_a_fake(tmp_path: Path) -> None:
    counts = {"train": (60, 6), "validation": (2, 2)}
    root = write_crop_folder(tmp_path / "crops", counts, size=16, originals=True)
    data = make(root, batch_size=40, paired="auto", balance=True)
    assert data.pairs_up
    loader = data.train_dataloader()
    drawn = [key.row for batch in loader.batch_sampler for key in batch]  # type: ignore[union-attr]
    assert set(drawn) == set(range(66))


def test_the_nearest_frame_of_the_original_is_taken() -> None:
    base = CropRow(
        *("a.jpg", "s", 0, 0.0, 0, 0, "", "g", "train", (0.0, 0.0, 1.0, 1.0), 1.0, (), 0)
    )
    reals = [replace(base, frame=frame, face=face) for frame in (0, 10, 20) for face in (0, 1)]
    fake = replace(base, source="f", label=1, original="s")
    rows = [
        *reals,
        replace(fake, frame=13),
        replace(fake, frame=19, face=1),
        replace(fake, original="x"),
        replace(base, source="f", label=0, original="s"),
    ]
    assert find_originals(rows).tolist() == [-1] * 6 + [2, 5, -1, -1]


def test_pairs_must_be_there(folder: Path, pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="needs the original of fakes"):
        make(folder, paired=True)
    with pytest.raises(UsageError, match=r"data\.batch_size=9 is odd; data\.paired"):
        make(pairs, paired=True, batch_size=9)
    edited(pairs, change(lambda row: row.group == "train-3", original=""))
    make(pairs, paired=True)
    assert "1 of 10 training fakes have no original" in caplog.text


def test_pairs_are_made_by_themselves_where_most_can_be(
    folder: Path, pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    order = [batch["index"].tolist() for batch in make(pairs, paired=True).train_dataloader()]
    data = make(pairs, paired="auto")
    assert [batch["index"].tolist() for batch in data.train_dataloader()] == order
    assert not make(pairs, paired="auto", batch_size=9).pairs_up
    assert "no pairs, 10 of 10 training fakes have their original" in caplog.text
    plain = [batch["index"].tolist() for batch in make(folder, balance=True).train_dataloader()]
    data = make(folder, paired="auto", balance=True)
    assert [batch["index"].tolist() for batch in data.train_dataloader()] == plain
    assert "no pairs, 0 of" in caplog.text


SAMPLINGS: dict[str, dict[str, Any]] = {
    "mini-epochs": {"steps_per_epoch": 5},
    "paired": {"paired": True},
    "balanced": {"balance": True},
    "per-group": {"per_group": 2},
    "balanced groups": {"balance": True, "per_group": 2, "steps_per_epoch": 5},
    "paired groups": {"paired": True, "per_group": 2, "steps_per_epoch": 5},
}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("options", SAMPLINGS.values(), ids=SAMPLINGS)
def test_processes_and_a_resume_see_the_same_batches(
    grouped: Path, world: int, options: dict[str, Any]
) -> None:
    def batches(rank: int, world: int, epoch: int, done: int = 0) -> list[list[SampleKey]]:
        data = make(grouped, batch_size=6, augment_share=0.5, **options)
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank,
            world_size=world,
            fit_loop=SimpleNamespace(
                epoch_progress=SimpleNamespace(current=SimpleNamespace(ready=0, processed=0))
            ),
        )
        data.load_state_dict({"epoch": epoch, "batch": done})
        return list(data.train_dataloader().batch_sampler)  # type: ignore[arg-type]

    for epoch in (0, 2):
        whole = batches(0, 1, epoch)
        parts = [batches(rank, world, epoch) for rank in range(world)]
        assert {len(part) for part in parts} == {len(whole)}
        for step, batch in enumerate(whole):
            together: list[SampleKey | None] = [None] * 6
            for rank, part in enumerate(parts):
                for place, key in zip(deal(6, rank, world), part[step], strict=True):
                    together[place] = key
            assert together == batch
        for rank in range(world):
            assert batches(rank, world, epoch, done=2) == parts[rank][2:]


# Landmarks and self-blended reals


def test_self_blended_reals_take_the_place_of_fakes(pairs: Path) -> None:
    plain = make(pairs, augment_share=1.0).datasets["train"]
    data = make(pairs, augment_share=1.0, self_blend=1.0).datasets["train"]
    augment = Augmentation("entry")
    for index, row in enumerate(data.rows):
        sample = data[SampleKey(2, index, True)]
        same = torch.equal(sample["image"], plain[SampleKey(2, index, True)]["image"])
        assert same == (row.label == 0)
        assert int(sample["label"]) == row.label
        assert torch.equal(data[SampleKey(2, index, False)]["image"], plain[index]["image"])
        if row.label:
            # The picture comes from the fake's own original.
            seed = sample_seed(0, 2, index)
            rng = np.random.default_rng((seed, 0))
            rng.random()
            rng.choice(data._reals, 8)
            real = data.rows[int(data.pairs[index])]
            points = data.points(real)
            assert points is not None
            blended = augment(self_blend(data.read(real), points, rng), seed, points)
            assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), blended)


def test_half_of_the_fakes_are_blended(crops: Path) -> None:
    options = {"augment_share": 1.0, "self_blend": 0.5, "extra": ["blind_face", "pattern"]}
    half = stream(make(crops, **options).train_dataloader())
    unblended = stream(make(crops, **(options | {"self_blend": 0.0})).train_dataloader())
    changed = [one != other for one, other in zip(half, unblended, strict=True)]
    fakes = [label == 1 for _, label, _ in unblended]
    assert not any(blended and not fake for blended, fake in zip(changed, fakes, strict=True))
    assert 0 < sum(changed) < sum(fakes)


def test_a_fake_stays_where_no_real_has_a_face(pairs: Path) -> None:
    edited(pairs, change(lambda row: row.label == 0, landmarks=(3.0,) * 10))
    plain = make(pairs, augment_share=1.0).datasets["train"]
    data = make(pairs, augment_share=1.0, self_blend=1.0).datasets["train"]
    for index in range(len(data)):
        key = SampleKey(0, index, True)
        assert torch.equal(data[key]["image"], plain[key]["image"])


@pytest.mark.parametrize("count", [5, 68])
def test_landmarks_in_pixels_of_the_crop(pairs: Path, count: int) -> None:
    values = tuple(float(n) for n in range(2 * count))
    edited(pairs, change(lambda row: True, landmarks=values, window=(0, 0, 32, 32)))
    dataset = make(pairs, extra=["blind_face"]).datasets["train"]
    points = dataset.points(dataset.rows[0])
    assert points is not None
    np.testing.assert_allclose(points.ravel(), (np.arange(2 * count) + 0.5) / 2 - 0.5)


@pytest.mark.parametrize(
    ("edit", "options"),
    [
        ({"window": None}, {"extra": ["pattern", "blind_face"]}),
        ({"landmarks": ()}, {"extra": ["blind_face"]}),
        ({"landmarks": (1.0,) * 12}, {"extra": ["blind_face"]}),
        ({"window": None}, {"self_blend": 0.5}),
    ],
    ids=["no-window", "no-landmarks", "twelve-numbers", "blend"],
)
def test_landmarks_must_be_there(
    pairs: Path, edit: dict[str, Any], options: dict[str, Any]
) -> None:
    edited(pairs, change(lambda row: row.group == "train-1", **edit))
    name = "extra blind_face" if "extra" in options else "self_blend"
    with pytest.raises(UsageError, match=rf"data\.{name} needs landmarks, but 2 of 24 training"):
        make(pairs, **options)
    assert len(make(pairs, extra=["pattern", "downscale"]).datasets["train"]) == 24


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"self_blend": 1.5}, r"self_blend=1\.5; expected 0 to 1"),
        ({"per_group": 0}, "per_group=0; expected 1 or more"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0; expected 1 or more, or null"),
    ],
    ids=["blend", "group", "steps"],
)
def test_refuses_sampling_out_of_range(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        CropDataModule("crops", **options)
