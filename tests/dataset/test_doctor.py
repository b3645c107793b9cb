"""The doctor on drawn crop folders: what a person reads, and what a machine does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepfake.dataset.manifest import MANIFEST_FILE, read_manifest
from deepfake.dataset.rows import format_manifest
from deepfake.errors import UsageError
from tests.dataset.made_faults import COUNTS, find, look
from tests.made_crops import edited, write_crop_folder, write_tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "crops", COUNTS, size=64)


def test_a_sound_folder_is_fit(folder: Path) -> None:
    report = look(folder)
    assert (report.leaks, report.damaged, report.n_crops, report.n_inputs) == (0, False, 40, 40)
    assert report.groups == {"train": 12, "validation": 4, "test": 4}
    assert {issue.kind: issue.severity for issue in report.issues} == {
        "splits": "ok",
        "groups": "ok",
        "look-alikes": "ok",
        "duplicates": "ok",
        "balance": "ok",
        "group sizes": "ok",
        "losses": "ok",
        "face size": "ok",
        # Drawn fakes have another grain, and it shows.
        "file size": "warning",
    }
    assert report.verdict == "fit for training, 1 warning"


def test_the_text_lines_up_and_ends_with_the_verdict(folder: Path) -> None:
    lines = str(look(folder)).splitlines()
    assert lines[0] == f"{folder}: 40 crops of 40 inputs, 64 px (square)"
    assert lines[2:6] == [
        "label  method  train  validation  test  all",
        "real   -          12           4     4   20",
        "fake   seam       12           4     4   20",
        "all               24           8     8   40",
    ]
    assert lines[7:9] == ["groups  train  validation  test", "           12           4     4"]
    assert lines[10:12] == ["inputs  real  fake", "ok        20    20"]
    assert lines[13:16] == [
        "face, shorter side in px  5 %  50 %  95 %",
        "real                       64    64    64",
        "fake                       64    64    64",
    ]
    assert lines[17] == "ok       splits       as the data bring them"
    assert lines[-1] == "verdict: fit for training, 1 warning"


def test_the_same_for_machines(folder: Path) -> None:
    content = json.loads(json.dumps(look(folder).to_dict()))
    assert (content["crops"], content["leak"], content["damaged"]) == (40, False, False)
    assert content["counts"][0] == {
        "label": "fake",
        "method": "seam",
        "split": "test",
        "crops": 4,
    }
    assert content["statuses"] == [
        {"label": "fake", "status": "ok", "inputs": 20},
        {"label": "real", "status": "ok", "inputs": 20},
    ]
    assert content["face_size_px"]["real"] == {"0.05": 64.0, "0.5": 64.0, "0.95": 64.0}
    assert [one["kind"] for one in content["issues"]][:4] == [
        "splits",
        "balance",
        "groups",
        "look-alikes",
    ]
    assert content["verdict"].startswith("fit for training")


def test_without_splits_it_looks_at_the_one_that_training_makes(folder: Path) -> None:
    edited(folder, lambda row: replace(row, split=""))
    report = look(folder)
    assert find(report, "splits")[0].message == "divided by group, as training does it (seed 0)"
    assert set(report.groups) == {"train", "validation", "test"}
    other = look(folder, seed=1)
    assert other.counts.counts.total() == 40
    assert look(folder, split="given").groups == {"no split": 20}


def test_a_validation_split_is_drawn_as_training_draws_it(folder: Path) -> None:
    edited(folder, lambda row: replace(row, split=row.split.replace("validation", "train")))
    report = look(folder)
    assert "validation drawn from train by group (seed 0)" in find(report, "splits")[0].message
    assert report.groups["validation"] > 0


def test_a_drawn_split_keeps_fakes_with_their_originals(tmp_path: Path) -> None:
    root = write_crop_folder(
        tmp_path / "c",
        {"train": (20, 20)},
        size=16,
        originals=True,
        edit=lambda row: replace(row, split="", group=f"{row.group}-{row.label}"),
    )
    report = look(root)
    (note,) = find(report, "originals")
    assert note.message == "20 of 20 fakes name their original; 20 have crops of both"
    assert set(report.groups) == {"train", "validation", "test"}


def test_what_training_would_refuse_is_said(folder: Path) -> None:
    edited(folder, lambda row: replace(row, split="", group="all"))
    report = look(folder)
    (issue,) = find(report, "splits")
    assert issue.severity == "unfit"
    assert issue.message.startswith("split validation got 0 real")
    assert report.verdict == "no leak, but training would refuse it (1 warning besides)"
    assert "100 % of the crops: hard to divide" in find(report, "group sizes")[0].message


def test_unlabelled_crops_cannot_train(folder: Path) -> None:
    edited(folder, lambda row: replace(row, label=None))
    report = look(folder)
    (issue,) = find(report, "labels")
    assert issue.severity == "unfit"
    assert issue.message.startswith("40 of 40 crops have no label, such as shards/")
    assert "no label" in str(report)


def test_refuses_what_is_no_crop_folder(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="is not a crop folder"):
        look(tmp_path)
    (folder / MANIFEST_FILE).write_text("".join(format_manifest([])), newline="")
    with pytest.raises(UsageError, match="holds no crops: no input had a face"):
        look(folder)


@pytest.mark.data
def test_the_shared_face_swaps_do_not_leak(tmp_path: Path, shared_media: Path) -> None:
    """A slice of the labelled set, with its pictures as crops: no look-alikes across splits."""
    from deepfake.tables import read_csv

    table = shared_media / "labelled" / "dfdc224.csv"
    listed = read_csv(table, ("path", "label", "group", "split"))[::40]
    root = write_crop_folder(tmp_path / "crops", {"train": (len(listed), 0)}, size=32)
    rows = []
    for row, known in zip(read_manifest(root).rows, listed, strict=True):
        (root / row.crop).write_bytes((table.parent / known["path"]).read_bytes())
        label = int(known["label"] == "fake")
        rows.append(replace(row, label=label, group=known["group"], split=known["split"]))
    write_tables(root, rows)
    report = look(root)
    assert report.n_crops == len(listed) > 250
    assert report.leaks == 0
    assert find(report, "face size")[0].severity == "ok"
