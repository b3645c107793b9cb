"""What misleads or wastes in a crop folder: each fault alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepfake.dataset.manifest import SOURCES_FILE, read_manifest, read_sources
from deepfake.dataset.rows import SourceRow, format_sources
from deepfake.faces.extraction import encode_crop
from tests.dataset.made_faults import COUNTS, crop_of, find, look, name_of, paint
from tests.made_crops import edited, write_crop_folder, write_tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "crops", COUNTS, size=64)


def test_alike_pictures_of_one_split_are_by_construction(folder: Path) -> None:
    one, other = crop_of(folder, "train", 0), crop_of(folder, "train", 1)
    (folder / other.crop).write_bytes((folder / one.crop).read_bytes())
    report = look(folder)
    assert report.leaks == 0
    assert find(report, "look-alikes")[0].severity == "ok"
    (torn,) = find(report, "labels")
    assert (torn.severity, torn.message) == (
        "warning",
        "1 sets of identical crops are called both real and fake",
    )
    assert set(torn.examples[0].split(" = ")) == {
        f"{name_of(folder, one)} (real)",
        f"{name_of(folder, other)} (fake)",
    }
    (note,) = find(report, "duplicates")
    assert (note.severity, note.message) == ("note", "1 crops repeat another one byte for byte")


def test_few_crops_tell_nothing(tmp_path: Path) -> None:
    report = look(write_crop_folder(tmp_path / "c", {"train": (30, 19)}, size=16), split="given")
    assert find(report, "face size") == find(report, "file size") == []


def test_groups_of_one_are_warned_of(folder: Path) -> None:
    edited(folder, lambda row: replace(row, group=row.source))
    (issue,) = find(look(folder), "group sizes")
    assert issue.severity == "warning"
    assert issue.message.startswith("every group holds one input")


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
    (issue,) = find(report, "losses")
    assert issue.severity == level
    assert text in str(issue)
    assert f"without a crop: {sum(lost.values())} no_face" in str(report)


def test_a_face_size_that_tells_the_classes_apart(folder: Path) -> None:
    edited(
        folder,
        lambda row: replace(row, box_xyxy=(0.0, 0.0, 90.0, 80.0 if row.label else 120.0)),
    )
    report = look(folder)
    assert report.face_sizes == {"real": (90.0,) * 3, "fake": (80.0,) * 3}
    (issue,) = find(report, "face size")
    assert issue.severity == "warning"
    assert "with AUC 1.00" in issue.message
    assert "reals are larger" in issue.message


def test_originals_are_counted(folder: Path) -> None:
    edited(folder, lambda row: replace(row, original=row.source if row.label else ""))
    write_sources = [
        replace(row, original="gone" if i else row.id) if row.label else row
        for i, row in enumerate(read_sources(folder))
    ]
    (folder / SOURCES_FILE).write_text("".join(format_sources(write_sources)), newline="")
    text = find(look(folder), "originals")[0].message
    assert text == "20 of 20 fakes name their original; 0 have crops of both"


def test_damaged_and_blank_crops(folder: Path) -> None:
    gone, cut, empty, flat = (crop_of(folder, "train", 0, i) for i in range(4))
    (folder / gone.crop).unlink()
    (folder / cut.crop).write_bytes(b"no picture")
    (folder / empty.crop).write_bytes(b"")
    paint(folder, flat, np.full((64, 64, 3), 90, np.uint8))
    report = look(folder)
    assert report.damaged
    (issue,) = find(report, "files")
    assert issue.message == "3 crops cannot be read"
    assert set(issue.examples) == {
        f"{gone.crop}: No such file or directory",
        f"{cut.crop}: cannot be decoded",
        f"{empty.crop}: cannot be decoded",
    }
    assert find(report, "blank")[0].examples == (flat.crop,)
    assert report.verdict == "damaged: run the crop command again"


def test_a_row_that_comes_twice_is_damage(folder: Path) -> None:
    rows = list(read_manifest(folder).rows)
    write_tables(folder, [*rows, rows[0], replace(rows[1], crop=rows[2].crop)])
    report = look(folder)
    assert report.damaged
    (issue,) = find(report, "rows")
    assert issue.message == "4 crops have two rows"
    assert rows[0].crop in issue.examples


@pytest.mark.parametrize("quality", [95, None], ids=["jpeg", "png"])
def test_a_crop_of_another_size_is_damage(quality: int | None, tmp_path: Path) -> None:
    root = write_crop_folder(tmp_path / "crops", COUNTS, size=64, jpeg_quality=quality)
    row = crop_of(root, "train", 0)
    other = np.full((63, 64, 3), 90, np.uint8)
    other[:30, 20:40] = 200
    (root / row.crop).write_bytes(encode_crop(other, quality))
    report = look(root)
    assert report.damaged
    (issue,) = find(report, "files")
    assert issue.examples == (f"{row.crop}: 64 x 63 pixels, expected 64 x 64",)
