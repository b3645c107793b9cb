"""The doctor on drawn crop folders: each fault alone, and what a person reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.dataset import doctor, looks
from deepfake.dataset.doctor import Finding, Report, examine
from deepfake.dataset.manifest import (
    MANIFEST_FILE,
    SOURCES_FILE,
    CropRow,
    SourceRow,
    format_manifest,
    format_sources,
    read_manifest,
    read_sources,
)
from deepfake.errors import UsageError
from tests.fakes import portrait
from tests.made_crops import edited, write_crop_folder, write_tables

COUNTS = {"train": (12, 12), "validation": (4, 4), "test": (4, 4)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "crops", COUNTS, size=64)


def look(root: Path, **options: object) -> Report:
    return examine(root, quiet=True, **options)  # type: ignore[arg-type]


def find(report: Report, topic: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.topic == topic]


def crop_of(root: Path, split: str, label: int, number: int = 0) -> CropRow:
    rows = [row for row in read_manifest(root).rows if (row.split, row.label) == (split, label)]
    return rows[number]


def name_of(root: Path, row: CropRow) -> str:
    return next(source.path for source in read_sources(root) if source.id == row.source)


def paint(root: Path, row: CropRow, picture: NDArray[np.uint8], quality: int = 95) -> None:
    assert cv2.imwrite(str(root / row.crop), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def test_a_sound_folder_is_fit(folder: Path) -> None:
    report = look(folder)
    assert (report.leaks, report.damaged, report.n_crops, report.n_inputs) == (0, False, 40, 40)
    assert report.groups == {"train": 12, "validation": 4, "test": 4}
    assert {finding.topic: finding.level for finding in report.findings} == {
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
    assert [one["topic"] for one in content["findings"]][:3] == ["splits", "groups", "look-alikes"]
    assert content["verdict"].startswith("fit for training")


def test_threads_change_nothing(folder: Path) -> None:
    assert look(folder, workers=3) == look(folder)


# Leaks


def test_a_group_in_two_splits_leaks(folder: Path) -> None:
    edited(folder, lambda row: replace(row, group=row.group.replace("test-1", "train-1")))
    report = look(folder)
    (finding,) = find(report, "groups")
    assert finding.level == "leak"
    assert finding.text.startswith("1 of 19 stand in two splits")
    assert finding.examples == ("train-1: 2 train, 2 test",)
    assert report.leaks == 1
    assert str(report).splitlines()[-1].startswith("verdict: LEAK: figures from this folder would")


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
    (finding,) = find(report, "look-alikes")
    assert finding.level == "leak"
    assert finding.text.startswith("1 pairs across splits (40 crops compared, up to 4 of 64 bits)")
    assert finding.examples[0].startswith(
        f"train {name_of(folder, one)} (real) ~ test {name_of(folder, other)} (fake), correlation "
    )
    identical = [finding.level for finding in find(report, "duplicates")]
    assert identical == (["leak", "note"] if change == "copy" else ["ok"])
    assert report.leaks == (2 if change == "copy" else 1)


def test_alike_pictures_of_one_split_are_by_construction(folder: Path) -> None:
    one, other = crop_of(folder, "train", 0), crop_of(folder, "train", 1)
    (folder / other.crop).write_bytes((folder / one.crop).read_bytes())
    report = look(folder)
    assert report.leaks == 0
    assert find(report, "look-alikes")[0].level == "ok"
    (torn,) = find(report, "labels")
    assert (torn.level, torn.text) == (
        "warning",
        "1 sets of identical crops are called both real and fake",
    )
    assert set(torn.examples[0].split(" = ")) == {
        f"{name_of(folder, one)} (real)",
        f"{name_of(folder, other)} (fake)",
    }
    (note,) = find(report, "duplicates")
    assert (note.level, note.text) == ("note", "1 crops repeat another one byte for byte")


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
    (finding,) = find(look(folder), "look-alikes")
    assert finding.text.startswith("6 pairs across splits")
    assert len(finding.examples) == 6
    assert finding.examples[-1] == "... and 1 more"


def test_a_search_that_was_cut_short_is_no_clean_bill(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        for split in ("train", "test"):
            paint(folder, crop_of(folder, split, 0, number), portrait(number, 0, 64))
    monkeypatch.setattr(doctor, "_MAX_PAIRS", 2)
    (finding,) = find(look(folder), "look-alikes")
    assert finding.text.startswith("2 or more pairs across splits")
    monkeypatch.setattr(looks, "MIN_CORRELATION", 2)
    (finding,) = find(look(folder), "look-alikes")
    assert finding.level == "warning"
    assert finding.text.startswith("none among the first 2 pairs that could be some")


# Splits


def test_without_splits_it_looks_at_the_one_that_training_makes(folder: Path) -> None:
    edited(folder, lambda row: replace(row, split=""))
    report = look(folder)
    assert find(report, "splits")[0].text == "divided by group, as training does it (seed 0)"
    assert set(report.groups) == {"train", "validation", "test"}
    other = look(folder, seed=1)
    assert other.census.counts.total() == 40
    assert look(folder, split="given").groups == {"no split": 20}


def test_a_validation_split_is_drawn_as_training_draws_it(folder: Path) -> None:
    edited(folder, lambda row: replace(row, split=row.split.replace("validation", "train")))
    report = look(folder)
    assert "validation drawn from train by group (seed 0)" in find(report, "splits")[0].text
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
    assert note.text == "20 of 20 fakes name their original; 20 have crops of both"
    assert set(report.groups) == {"train", "validation", "test"}


def test_what_training_would_refuse_is_said(folder: Path) -> None:
    edited(folder, lambda row: replace(row, split="", group="all"))
    report = look(folder)
    (finding,) = find(report, "splits")
    assert finding.level == "unfit"
    assert finding.text.startswith("split validation got 0 real")
    assert report.verdict == "no leak, but training would refuse it (1 warning besides)"
    assert "100 % of the crops: hard to divide" in find(report, "group sizes")[0].text


def test_unlabelled_crops_cannot_train(folder: Path) -> None:
    edited(folder, lambda row: replace(row, label=None))
    report = look(folder)
    assert find(report, "labels")[0].text == "40 crops have none"
    assert "no label" in str(report)


def test_a_missing_test_split_is_a_warning(tmp_path: Path) -> None:
    root = write_crop_folder(tmp_path / "c", {"train": (4, 4), "validation": (2, 2)}, size=16)
    report = look(root)
    (finding,) = find(report, "classes")
    assert finding.level == "warning"
    assert finding.text == "test has 0 real and 0 fake crops: no test figures"
    assert not report.unfit


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_class_that_training_needs(folder: Path, split: str) -> None:
    edited(folder, lambda row: replace(row, label=0) if row.split == split else row)
    report = look(folder)
    (finding,) = find(report, "classes")
    assert finding.level == "unfit"
    assert " real and 0 fake crops: it needs both" in finding.text
    assert (report.unfit, report.leaks) == (True, 0)
    assert report.verdict.startswith("no leak, but training would refuse it")


def test_few_crops_tell_nothing(tmp_path: Path) -> None:
    report = look(write_crop_folder(tmp_path / "c", {"train": (30, 19)}, size=16), split="given")
    assert find(report, "face size") == find(report, "file size") == []


def test_imbalance(tmp_path: Path) -> None:
    root = write_crop_folder(tmp_path / "c", {"train": (43, 2), "validation": (2, 2)}, size=16)
    topics = {finding.topic: finding for finding in look(root).findings}
    assert topics["balance"].text.startswith("train has 43 real and 2 fake crops; data.balance")
    assert topics["classes"].text.startswith("test has 0 real and 0 fake crops")


# Groups, losses, what tells the classes apart


def test_groups_of_one_are_warned_of(folder: Path) -> None:
    edited(folder, lambda row: replace(row, group=row.source))
    (finding,) = find(look(folder), "group sizes")
    assert finding.level == "warning"
    assert finding.text.startswith("every group holds one input: if several show one person")


@pytest.mark.parametrize(
    ("lost", "level", "text"),
    [
        ({0: 1, 1: 1}, "note", "2 of 42 inputs gave no crop (4.8 %)"),
        ({0: 5, 1: 5}, "warning", "10 of 50 inputs gave no crop (20.0 %); see sources.csv"),
        ({1: 2}, "warning", "0.0 % of the real and 9.1 % of the fake ones: the classes are not"),
    ],
)
def test_inputs_without_a_crop(folder: Path, lost: dict[int, int], level: str, text: str) -> None:
    rows = list(read_sources(folder))
    for label, count in lost.items():
        rows += [
            SourceRow(
                f"{label}{i}.jpg",
                "no_face",
                "no_face: no face",
                0,
                label,
                "",
                "g",
                "",
                f"{label}{i}",
                "u",
            )
            for i in range(count)
        ]
    (folder / SOURCES_FILE).write_text("".join(format_sources(rows)), newline="")
    report = look(folder)
    (finding,) = find(report, "losses")
    assert finding.level == level
    assert text in finding.text
    assert f"without a crop: {sum(lost.values())} no_face" in str(report)


def test_a_face_size_that_tells_the_classes_apart(folder: Path) -> None:
    edited(
        folder,
        lambda row: replace(row, box_xyxy=(0.0, 0.0, 90.0, 80.0 if row.label else 120.0)),
    )
    report = look(folder)
    assert report.face_sizes == {"real": (90.0,) * 3, "fake": (80.0,) * 3}
    (finding,) = find(report, "face size")
    assert finding.level == "warning"
    assert "with AUC 1.00" in finding.text
    assert "reals are larger" in finding.text


def test_originals_are_counted(folder: Path) -> None:
    edited(folder, lambda row: replace(row, original=row.source if row.label else ""))
    write_sources = [
        replace(row, original="gone" if i else row.id) if row.label else row
        for i, row in enumerate(read_sources(folder))
    ]
    (folder / SOURCES_FILE).write_text("".join(format_sources(write_sources)), newline="")
    text = find(look(folder), "originals")[0].text
    assert text == "20 of 20 fakes name their original; 0 have crops of both"


def test_a_fake_apart_from_its_original_leaks(folder: Path) -> None:
    real, fake = crop_of(folder, "train", 0), crop_of(folder, "test", 1)
    name, original = name_of(folder, fake), name_of(folder, real)
    edited(folder, lambda row: replace(row, original=real.source) if row == fake else row)
    report = look(folder)
    leak, note = find(report, "originals")
    assert (leak.level, note.level, report.leaks) == ("leak", "note", 1)
    assert leak.text.startswith("1 fake crops stand in another split than their original")
    assert leak.examples == (f"test {name} was made from train {original}",)


# Damage


def test_damaged_and_blank_crops(folder: Path) -> None:
    gone, cut, empty, flat = (crop_of(folder, "train", 0, i) for i in range(4))
    (folder / gone.crop).unlink()
    (folder / cut.crop).write_bytes(b"no picture")
    (folder / empty.crop).write_bytes(b"")
    paint(folder, flat, np.full((64, 64, 3), 90, np.uint8))
    report = look(folder)
    assert report.damaged
    (finding,) = find(report, "files")
    assert finding.text == "3 crops cannot be read: run the crop command again"
    assert set(finding.examples) == {
        f"{gone.crop}: No such file or directory",
        f"{cut.crop}: cannot be decoded",
        f"{empty.crop}: cannot be decoded",
    }
    assert find(report, "blank")[0].examples == (flat.crop,)
    assert report.verdict == "damaged: run the crop command again"


@pytest.mark.parametrize("size", [64, 128, 256])
def test_finds_look_alikes_at_every_decoding_scale(tmp_path: Path, size: int) -> None:
    root = write_crop_folder(tmp_path / "c", {"train": (2, 2), "test": (2, 2)}, size=size)
    one, other = crop_of(root, "train", 0), crop_of(root, "test", 0)
    paint(root, one, portrait(0, 0, size))
    paint(root, other, portrait(0, 0, size), quality=70)
    report = look(root, split="given")
    assert find(report, "look-alikes")[0].text.startswith("1 pairs")


def test_frames_are_named(folder: Path) -> None:
    one = crop_of(folder, "train", 0)
    other = crop_of(folder, "test", 0)
    (folder / other.crop).write_bytes((folder / one.crop).read_bytes())
    edited(folder, lambda row: replace(row, frame=7) if row == one else row)
    assert " frame 7 (real) ~ test " in find(look(folder), "look-alikes")[0].examples[0]


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
    assert find(report, "face size")[0].level == "ok"
