"""Splits follow from the seed alone; what leaks or cannot be learnt from is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.dataset.rows import CropRow
from deepfake.errors import UsageError
from deepfake.learning.batches import SampleKey, deduplicate, shard
from deepfake.learning.data import CropDataModule
from tests.made_crops import Edit, edited, write_crop_folder
from tests.made_data import COUNTS, change, make, make_data, stream


def no_split(row: CropRow) -> CropRow:
    return replace(row, split="")


def names(data: CropDataModule) -> dict[str, str]:
    return {row.crop: split for split, part in data.datasets.items() for row in part.rows}


def to_fit(root: Path, ckpt_path: str | None = None, **options: Any) -> CropDataModule:
    """As a training sets it up."""
    data = make_data(root, **options)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        ckpt_path=ckpt_path,
        is_global_zero=True,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    data.setup("fit")
    return data


@pytest.mark.parametrize("split", ["validation", "test", "train"])
def test_plain_loader_gives_every_crop_once_in_order(crops: Path, split: str) -> None:
    data = make(crops, batch_size=5, share=1.0)
    loader = {"validation": data.val_dataloader, "test": data.test_dataloader}.get(
        split, lambda: data.load(data.datasets["train"])
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


@pytest.mark.parametrize("split", ["auto", "given"])
def test_a_filled_column_is_taken(folder: Path, split: str) -> None:
    data = make(folder, by=split)
    assert names(data) == {row.crop: row.split for row in read_manifest(folder).rows}
    assert data.description is not None
    assert data.description.counts == {
        name: {"real": real, "fake": fake} for name, (real, fake) in COUNTS.items()
    }
    assert data.description.manifest == read_manifest(folder)


@pytest.mark.parametrize("split", ["auto", "group"])
def test_groups_are_divided_where_the_column_is_empty(folder: Path, split: str) -> None:
    edited(folder, no_split)
    data = make(folder, by=split, shares=(0.6, 0.2, 0.2))
    found: dict[str, set[str]] = {}
    for name, part in data.datasets.items():
        assert {row.label for row in part.rows} == {0, 1}
        for row in part.rows:
            found.setdefault(row.group, set()).add(name)
    assert all(len(where) == 1 for where in found.values())
    assert sum(len(part) for part in data.datasets.values()) == 40
    assert names(make(folder, by=split, shares=(0.6, 0.2, 0.2))) == names(data)
    again = [names(make(folder, by=split, shares=(0.6, 0.2, 0.2), seed=seed)) for seed in range(5)]
    assert any(other != names(data) for other in again)


def test_group_ignores_a_filled_column(folder: Path) -> None:
    divided = names(make(folder, by="group"))
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
            {"by": "given"},
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
            {"by": "given"},
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
        pytest.param({"batch_size": 1}, "batch_size=1; expected 2 or more", id="batch"),
        pytest.param({"num_workers": -1}, "num_workers=-1; expected 0 or more", id="workers"),
        pytest.param({"share": 1.5}, r"share=1\.5; expected 0 to 1", id="share"),
    ],
)
def test_refuses_settings_out_of_range(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        make_data("crops", **options)


def test_refuses_a_folder_without_crops(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a crop folder \(no job.json\)"):
        make(tmp_path)


def test_refuses_an_unfinished_crop_job(folder: Path) -> None:
    (folder / "manifest.csv").unlink()
    with pytest.raises(UsageError, match="holds an unfinished crop job"):
        make(folder)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_plain_shares_are_of_one_length_and_miss_nobody(crops: Path, world: int) -> None:
    data = make_data(crops, batch_size=3)
    data.setup()
    indices = []
    for rank in range(world):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
        batches = [batch["index"] for batch in data.val_dataloader()]
        indices.append((len(batches), torch.cat(batches)))
    assert len({(n_batches, len(part)) for n_batches, part in indices}) == 1
    together = torch.cat([part for _, part in indices])
    assert len(together) - 8 == -8 % world
    (once,) = deduplicate(together, together * 10)
    assert once.tolist() == [0, 10, 20, 30, 40, 50, 60, 70]


def test_the_state_names_epoch_and_batch(crops: Path) -> None:
    data = make(crops)
    assert data.state_dict() == {"epoch": 0, "batch": 0}
    data.load_state_dict({"epoch": 2, "batch": 1})
    loader: Any = data.train_dataloader()
    assert loader.sampler.done == (2, 1)
    data.load_state_dict({"epoch": 5})  # as checkpoints of ends of epochs once were
    assert data.train_dataloader().sampler.done == (5, 0)  # type: ignore[attr-defined]


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
        data = make(grouped, batch_size=6, share=0.5, **options)
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank,
            world_size=world,
            fit_loop=SimpleNamespace(
                epoch_progress=SimpleNamespace(current=SimpleNamespace(ready=0, processed=0))
            ),
        )
        data.load_state_dict({"epoch": epoch, "batch": done})
        return list(data.train_dataloader().sampler)

    for epoch in (0, 2):
        whole = batches(0, 1, epoch)
        parts = [batches(rank, world, epoch) for rank in range(world)]
        assert {len(part) for part in parts} == {len(whole)}
        for step, batch in enumerate(whole):
            together: list[SampleKey | None] = [None] * 6
            for rank, part in enumerate(parts):
                for place, key in zip(shard(6, rank, world), part[step], strict=True):
                    together[place] = key
            assert together == batch
        for rank in range(world):
            assert batches(rank, world, epoch, done=2) == parts[rank][2:]


@pytest.fixture(scope="module")
def tarred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crops of ``grouped`` in a tar."""
    folder = tmp_path_factory.mktemp("tarred") / "crops"
    return write_crop_folder(folder, COUNTS, size=32, group_size=3, originals=True, store="tar")


@pytest.mark.parametrize(
    "options",
    [*SAMPLINGS.values(), {"balance": True, "self_blend": 0.5}],
    ids=[*SAMPLINGS, "blends"],
)
def test_crops_in_a_tar_make_the_same_batches(
    grouped: Path, tarred: Path, options: dict[str, Any]
) -> None:
    files, tar = (make(root, batch_size=6, share=0.5, **options) for root in (grouped, tarred))
    batches = stream(files.train_dataloader())
    assert len(batches) > 6
    assert stream(tar.train_dataloader()) == batches
    assert stream(tar.val_dataloader()) == stream(files.val_dataloader())


@pytest.mark.parametrize(
    ("edit", "options"),
    [
        ({"window": None}, {"extra": ["pattern", "blind_face"]}),
        ({"landmarks": ()}, {"extra": ["blind_face"]}),
        ({"landmarks": (1.0,) * 12}, {"extra": ["blind_face"]}),
        ({"window": None}, {"self_blend": 0.5, "balance": True}),
    ],
    ids=["no-window", "no-landmarks", "twelve-numbers", "blend"],
)
def test_landmarks_must_be_there(
    pairs: Path, edit: dict[str, Any], options: dict[str, Any]
) -> None:
    edited(pairs, change(lambda row: row.group == "train-1", **edit))
    name = r"augmentation\.extra blind_face" if "extra" in options else r"batches\.self_blend"
    with pytest.raises(UsageError, match=rf"data\.{name} needs landmarks, but 2 of 24 training"):
        make(pairs, **options)
    assert len(make(pairs, extra=["pattern", "downscale"]).datasets["train"]) == 24


def test_blends_stand_beside_their_reals(pairs: Path) -> None:
    data = make(pairs, share=1.0, paired=True, self_blend=0.5)
    dataset = data.datasets["train"]
    for batch in data.train_dataloader():
        assert batch["label"].tolist() == [0, 1] * 4
        rows = batch["index"].reshape(-1, 2).tolist()
        assert sum(real == fake for real, fake in rows) == 2
        for real, fake in rows:
            assert real == fake or dataset.originals[fake] == real


def test_blends_among_nothing_are_refused(pairs: Path) -> None:
    edited(pairs, lambda row: replace(row, original=""))
    with pytest.raises(
        UsageError, match=r"puts pairs among pairs, but too few .* set data\.batches"
    ):
        make(pairs, paired="auto", self_blend=0.5)
    assert make(pairs, paired="auto", balance=True, self_blend=0.5).description is not None


def test_a_method_is_repeated(pairs: Path) -> None:
    edited(pairs, change(lambda row: row.group == "train-1", method="rare"))
    once = make(pairs).datasets["train"].rows
    data = make(pairs, batch_size=5, repeat={"rare": 3})
    rare = sum(row.method == "rare" for row in once)
    found = Counter(data.datasets["train"].rows)
    assert rare == 2
    assert found == {row: 3 if row.method == "rare" else 1 for row in once}
    assert data.description is not None
    assert sum(data.description.counts["train"].values()) == len(once)
    indices = [index for _, _, index in stream(data.train_dataloader())]
    assert len(set(indices)) == len(indices) == (len(once) + 2 * rare) // 5 * 5


@pytest.mark.parametrize(
    ("repeat", "message"),
    [
        ({"rare": 0}, r"data\.batches\.repeat=\{'rare': 0\}; expected 1 or more of each"),
        ({"stylegan": 2}, r"repeat names stylegan, but the training crops in .* are of seam, swap"),
    ],
)
def test_repeats_that_cannot_be(pairs: Path, repeat: dict[str, int], message: str) -> None:
    edited(pairs, change(lambda row: row.group == "train-1", method="swap"))
    with pytest.raises(UsageError, match=message):
        make(pairs, repeat=repeat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"self_blend": 1.5}, r"data\.batches\.self_blend=1\.5; expected 0 to 1"),
        ({"self_blend": 0.5}, r"self_blend=0\.5 puts pairs among pairs: set data\.batches\.paired"),
        ({"self_blend": 1.0, "batch_size": 7}, r"7 is odd; data\.batches\.self_blend needs pairs"),
    ],
)
def test_blends_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_data("nowhere", **options)
