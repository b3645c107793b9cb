"""The rules of a divided folder: each fault alone, printed by doctor and raised by training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.dataset import audit, perceptual_hashes
from deepfake.dataset.audit import Issue, Severity, find_split_groups, raise_issues
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.rows import CropRow
from deepfake.errors import UsageError
from tests.dataset.made_faults import COUNTS, crop_of, find, look, name_of, paint
from tests.fakes import portrait
from tests.made_crops import edited, write_crop_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "crops", COUNTS, size=64)


def test_a_group_in_two_splits_leaks(folder: Path) -> None:
    edited(folder, lambda row: replace(row, group=row.group.replace("test-1", "train-1")))
    report = look(folder)
    (issue,) = find(report, "groups")
    assert issue.severity == "leak"
    assert issue.message.startswith("1 of 19 groups stand in more than one split")
    assert issue.examples == ("train-1 (2 train, 2 test)",)
    assert report.leaks == 1
    assert str(report).splitlines()[-1].startswith("verdict: LEAK: metrics from this folder would")


@pytest.mark.parametrize("change", ["copy", "jpeg", "brighter", "resized"], ids=str)
def test_a_picture_that_looks_alike_in_another_split_leaks(folder: Path, change: str) -> None:
    one, other = crop_of(folder, "train", 0), crop_of(folder, "test", 1)
    picture = portrait(0, 0, 64)
    paint(folder, one, picture)
    changed = {
        "copy": picture,
        "jpeg": picture,
        "brighter": cv2.convertScaleAbs(picture, alpha=1.1),
        "resized": cv2.resize(picture, (52, 52), interpolation=cv2.INTER_AREA),
    }[change]
    paint(folder, other, changed, 40 if change == "jpeg" else 95)  # type: ignore[arg-type]
    report = look(folder)
    (issue,) = find(report, "look-alikes")
    assert issue.severity == "leak"
    assert issue.message.startswith(
        "1 pairs of crops in two splits look alike (40 crops compared, up to 4 of 64 bits)"
    )
    assert issue.examples[0].startswith(
        f"train {name_of(folder, one)} (real) ~ test {name_of(folder, other)} (fake), correlation "
    )
    identical = [issue.severity for issue in find(report, "duplicates")]
    assert identical == (["leak", "note"] if change == "copy" else ["ok"])
    assert report.leaks == (2 if change == "copy" else 1)


def test_only_the_first_of_many_pairs_are_shown(folder: Path) -> None:
    sets: dict[str, list[CropRow]] = {}
    for row in read_manifest(folder).rows:
        sets.setdefault(row.split, []).append(row)
    rng = np.random.default_rng(1)
    for one, other in zip(sets["train"][:6], sets["test"][:6], strict=True):
        noise = cv2.resize(
            rng.integers(0, 256, (6, 6, 3)).astype(np.uint8),
            (64, 64),
            interpolation=cv2.INTER_CUBIC,
        ).astype(np.uint8)
        for row in (one, other):
            paint(folder, row, noise)
    (issue,) = find(look(folder), "look-alikes")
    assert issue.message.startswith("6 pairs of crops in two splits")
    assert len(issue.examples) == 6
    assert issue.examples[-1] == "... and 1 more"


def test_a_search_that_was_cut_short_is_no_clean_bill(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        for split in ("train", "test"):
            paint(folder, crop_of(folder, split, 0, number), portrait(number, 0, 64))
    monkeypatch.setattr(audit, "_MAX_PAIRS", 2)
    (issue,) = find(look(folder), "look-alikes")
    assert issue.message.startswith("2 or more pairs of crops in two splits")
    monkeypatch.setattr(perceptual_hashes, "MIN_CORRELATION", 2)
    (issue,) = find(look(folder), "look-alikes")
    assert issue.severity == "warning"
    assert issue.message.startswith("too many crops look somewhat alike to compare them all")


def test_a_missing_test_split_is_a_warning(tmp_path: Path) -> None:
    root = write_crop_folder(tmp_path / "c", {"train": (4, 4), "validation": (2, 2)}, size=16)
    report = look(root)
    (issue,) = find(report, "classes")
    assert issue.severity == "warning"
    assert issue.message == (
        "there is no test split (train: 4 real, 4 fake; validation: 2 real, 2 fake; test: 0 real, "
        "0 fake): no test metrics"
    )
    assert not report.unfit


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_class_that_training_needs(folder: Path, split: str) -> None:
    edited(folder, lambda row: replace(row, label=0) if row.split == split else row)
    report = look(folder)
    (issue,) = find(report, "classes")
    assert issue.severity == "unfit"
    assert issue.message.startswith(f"the {split} split needs both classes")
    assert f"{split}: {24 if split == 'train' else 8} real, 0 fake" in issue.message
    assert (report.unfit, report.leaks) == (True, 0)
    assert report.verdict.startswith("no leak, but training would refuse it")


def test_imbalance(tmp_path: Path) -> None:
    counts = {"train": (43, 2), "validation": (1, 21), "test": (2, 2)}
    train, validation = find(look(write_crop_folder(tmp_path / "c", counts, size=16)), "balance")
    assert train.severity == "warning"
    assert train.message.startswith("the train split is imbalanced (train: 43 real, 2 fake; ")
    assert train.remedy == "data.batches.balance true fills every batch half and half"
    # Batches are drawn from the training split only, and an AUC does not mind.
    assert (validation.severity, validation.remedy) == ("note", "")


def test_a_fake_apart_from_its_original_leaks(folder: Path) -> None:
    real, fake = crop_of(folder, "train", 0), crop_of(folder, "test", 1)
    name, original = name_of(folder, fake), name_of(folder, real)
    edited(folder, lambda row: replace(row, original=real.source) if row == fake else row)
    report = look(folder)
    leak, note = find(report, "originals")
    assert (leak.severity, note.severity, report.leaks) == ("leak", "note", 1)
    assert leak.message.startswith("1 fake crops stand in another split than their original")
    assert leak.examples == (f"test {name} was made from train {original}",)


def test_fakes_of_an_original_without_a_crop_leak(folder: Path) -> None:
    fakes = [crop_of(folder, split, 1).crop for split in ("train", "train", "test")]
    edited(folder, lambda row: replace(row, original="gone") if row.crop in fakes[:2] else row)
    assert look(folder).leaks == 0
    edited(folder, lambda row: replace(row, original="gone") if row.crop in fakes else row)
    report = look(folder)
    leak, _ = find(report, "originals")
    assert (leak.severity, leak.examples, report.leaks) == ("leak", ("gone",), 1)
    assert leak.message.startswith("1 originals without a crop have fakes in more than one split")
    # With a row of its own it is the fake that stands apart.
    real = crop_of(folder, "train", 0)
    edited(folder, lambda row: replace(row, original=real.source) if row.crop in fakes else row)
    assert find(look(folder), "originals")[0].message.startswith("1 fake crops stand in another")


def test_frames_are_named(folder: Path) -> None:
    one = crop_of(folder, "train", 0)
    other = crop_of(folder, "test", 0)
    (folder / other.crop).write_bytes((folder / one.crop).read_bytes())
    edited(folder, lambda row: replace(row, frame=7) if row == one else row)
    assert " frame 7 (real) ~ test " in find(look(folder), "look-alikes")[0].examples[0]


# What training does with it

LEAK = Issue("leak", "groups", "2 groups leak", "mend", ("a", "b", "c", "d"))


@pytest.mark.parametrize("severity", ["unfit", "damage"])
def test_what_is_unfit_is_raised_whatever_is_allowed(severity: Severity) -> None:
    for remedy, message in (("crop again", "broken; crop again$"), ("", "broken$")):
        with pytest.raises(UsageError, match=message):
            raise_issues([Issue(severity, "files", "broken", remedy)], allow_leak=True)


def test_a_leak_is_raised_with_a_way_out() -> None:
    message = "2 groups leak: a, b, c; mend, or go on with data.split.allow_leak true$"
    with pytest.raises(UsageError, match=message):
        raise_issues([LEAK])


def test_what_is_let_pass_is_said(caplog: pytest.LogCaptureFixture) -> None:
    calm = [Issue("ok", "groups", "fine"), Issue("note", "losses", "few")]
    raise_issues([*calm, Issue("warning", "balance", "skewed", "balance")])
    raise_issues([LEAK], allow_leak=True)
    assert [record.getMessage() for record in caplog.records] == [
        "skewed; balance",
        "2 groups leak: a, b, c; going on because data.split.allow_leak is true",
    ]


def test_finds_split_groups() -> None:
    groups = ["b", "a", "b", "c", "a", "c"]
    splits = ["train", "train", "test", "test", "validation", "test"]
    assert find_split_groups(groups, splits) == ["a", "b"]
    assert find_split_groups([], []) == []
