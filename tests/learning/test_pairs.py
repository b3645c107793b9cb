"""Fakes and their own originals come together, where they can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepfake.dataset.rows import CropRow
from deepfake.errors import UsageError
from deepfake.learning.pairs import find_originals, find_strangers
from tests.made_crops import edited, write_crop_folder
from tests.made_data import change, make


def test_paired_batches_hold_pairs(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = make(pairs, paired=True, batch_size=4)
    assert "10 of 10 training fakes have their original" in caplog.text
    assert "4 of 14 training reals are no fake's original and come with the fakes" in caplog.text
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
    assert data.is_paired
    loader = data.train_dataloader()
    drawn = [key.row for batch in loader.sampler for key in batch]
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
    with pytest.raises(UsageError, match=r"data\.batch_size=9 is odd; data\.batches\.paired"):
        make(pairs, paired=True, batch_size=9)
    edited(pairs, change(lambda row: row.group == "train-3", original=""))
    make(pairs, paired=True)
    assert "9 of 10 training fakes have their original" in caplog.text


def test_pairs_are_made_by_themselves_where_most_can_be(
    folder: Path, pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    order = [batch["index"].tolist() for batch in make(pairs, paired=True).train_dataloader()]
    data = make(pairs, paired="auto")
    assert [batch["index"].tolist() for batch in data.train_dataloader()] == order
    assert not make(pairs, paired="auto", batch_size=9).is_paired
    assert "10 of 10 training fakes have their original among the training crops: no pairs" in (
        caplog.text
    )
    plain = [batch["index"].tolist() for batch in make(folder, balance=True).train_dataloader()]
    data = make(folder, paired="auto", balance=True)
    assert [batch["index"].tolist() for batch in data.train_dataloader()] == plain
    assert "0 of 10 training fakes have their original among the training crops: no" in caplog.text


def test_a_real_that_comes_again_is_no_stranger_where_it_has_a_fake(pairs: Path) -> None:
    data = make(pairs, paired=True, batch_size=4)
    rows = data.datasets["train"].rows
    again = rows.choose(np.repeat(np.arange(len(rows)), 3))
    found = find_strangers(again, find_originals(again))
    strangers = {rows[row].crop for row in data.datasets["train"].strangers.tolist()}
    assert len(strangers) == 4
    assert {again[row].crop for row in found.tolist()} == strangers
    assert len(found) == 12
