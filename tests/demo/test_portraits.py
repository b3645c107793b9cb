"""The drawn data set: repeatable, complete, found by the real detector, not trivially split."""

from __future__ import annotations

import csv
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from deepfake.demo.people import portrait_geometry
from deepfake.demo.portraits import (
    blend_fake,
    draw_portrait,
    write_dataset,
)

IDENTITIES, SHOTS = 12, 2
Row = dict[str, str]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    root = tmp_path_factory.mktemp("portraits") / "new" / "set"
    return root, write_dataset(root, identities=IDENTITIES, shots=SHOTS)


@pytest.fixture(scope="module")
def rows(written: tuple[Path, int]) -> list[Row]:
    with (written[0] / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_portrait_has_the_promised_shape() -> None:
    for size in (128, 256):
        picture = draw_portrait(1, 2, size=size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 20


def test_same_arguments_give_same_bytes_in_another_process() -> None:
    here = sha256(draw_portrait(3, 1, seed=7, size=96).tobytes()).hexdigest()
    code = (
        "from hashlib import sha256; from deepfake.demo.portraits import draw_portrait; "
        "print(sha256(draw_portrait(3, 1, seed=7, size=96).tobytes()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert there.stdout.strip() == here


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_identity_shot_and_seed_each_change_the_picture(other: tuple[int, int, int]) -> None:
    base = draw_portrait(0, 0, 0, 96).astype(int)
    assert np.abs(base - draw_portrait(*other, 96)).mean() > 3


def test_blend_changes_the_face_and_nothing_outside() -> None:
    target, donor = draw_portrait(0, 0), draw_portrait(1, 0)
    before = target.copy(), donor.copy()
    ours, theirs = portrait_geometry(0, 0), portrait_geometry(1, 0)
    fake = blend_fake(target, donor, ours, theirs, seed=5)
    assert fake.shape == target.shape
    assert fake.dtype == np.uint8
    x0, y0, x1, y1 = (round(edge) for edge in ours.box)
    change = np.abs(fake.astype(int) - target).max(axis=-1)
    assert change[y0:y1, x0:x1].mean() > 4
    outside = np.ones(change.shape, bool)
    outside[max(y0 - 8, 0) : y1 + 8, max(x0 - 8, 0) : x1 + 8] = False
    assert not change[outside].any()
    np.testing.assert_array_equal(fake, blend_fake(target, donor, ours, theirs, seed=5))
    assert (fake != blend_fake(target, donor, ours, theirs, seed=6)).any()
    np.testing.assert_array_equal(target, before[0])
    np.testing.assert_array_equal(donor, before[1])


def test_labels_add_up(written: tuple[Path, int], rows: list[Row]) -> None:
    root, count = written
    assert count == len(rows) == IDENTITIES * SHOTS * 2
    assert list(rows[0]) == ["path", "label", "group", "method"]
    assert {row["path"] for row in rows} == {
        path.relative_to(root).as_posix() for path in root.glob("*/*/*.png")
    }
    assert len({row["path"] for row in rows}) == count
    for row in rows:
        assert row["path"].startswith(row["label"] + "/id")
        assert row["method"] == {"real": "original", "fake": "blend"}[row["label"]]
    assert sum(row["label"] == "fake" for row in rows) == IDENTITIES * SHOTS


def test_file_holds_the_picture_in_rgb(written: tuple[Path, int]) -> None:
    with Image.open(written[0] / "real" / "id003" / "01.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw_portrait(3, 1))


def test_group_ties_target_and_donor(rows: list[Row]) -> None:
    for row in rows:
        identity = int(row["path"].split("/")[1].removeprefix("id"))
        assert row["group"] == f"pair{identity // 2:02d}"


def test_fake_wears_the_face_of_its_pair(tmp_path: Path) -> None:
    write_dataset(tmp_path, identities=2, shots=1)
    with Image.open(tmp_path / "fake" / "id000" / "00.png") as picture:
        fake = np.asarray(picture).astype(float)
    ours, theirs = portrait_geometry(0, 0), portrait_geometry(1, 0)

    def likeness(donor: int) -> float:
        other = blend_fake(
            draw_portrait(0, 0), draw_portrait(donor, 0), ours, portrait_geometry(donor, 0)
        )
        x0, y0, x1, y1 = (round(edge) for edge in ours.box)
        inner = np.s_[y0:y1, x0:x1]
        return float(np.corrcoef(fake[inner].ravel(), other[inner].ravel())[0, 1])

    assert theirs.box != ours.box
    assert likeness(1) > max(likeness(donor) for donor in (0, 2, 3, 4, 5))


def test_writing_twice_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, identities=2, shots=2, seed=3, size=96)
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in files}
        for name in ("a", "b")
        for files in [[p for p in (tmp_path / name).rglob("*") if p.is_file()]]
    )
    assert len(first) == 9
    assert first == second


@pytest.mark.parametrize("identities", [-2, 0, 1, 5])
def test_odd_identities_are_refused(tmp_path: Path, identities: int) -> None:
    with pytest.raises(ValueError, match=f"must be even and at least 2.*{identities}"):
        write_dataset(tmp_path, identities=identities)
    assert not list(tmp_path.iterdir())


def test_no_shots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shots must be at least 1"):
        write_dataset(tmp_path, identities=2, shots=0)


def _overlap(a: np.ndarray, b: tuple[float, float, float, float]) -> float:
    wide = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    high = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(wide * high / (both - wide * high))


def test_real_detector_finds_real_and_fake_faces(written: tuple[Path, int]) -> None:
    mtcnn = pytest.importorskip("facenet_pytorch").MTCNN(min_face_size=40, keep_all=True)
    for label in ("real", "fake"):
        for identity in range(IDENTITIES):
            shot = identity % SHOTS
            path = written[0] / label / f"id{identity:03d}" / f"{shot:02d}.png"
            with Image.open(path) as picture:
                boxes, chances = mtcnn.detect(picture.convert("RGB"))
            assert boxes is not None, path
            assert len(boxes) == 1, path
            assert chances[0] > 0.9, path
            assert _overlap(boxes[0], portrait_geometry(identity, shot).box) > 0.5, path


def test_trivial_statistics_do_not_separate(written: tuple[Path, int], rows: list[Row]) -> None:
    labels = [row["label"] == "fake" for row in rows]
    values: dict[str, list[float]] = {"bytes": [], "red": [], "green": [], "blue": [], "mean": []}
    for row in rows:
        path = written[0] / row["path"]
        values["bytes"].append(path.stat().st_size)
        with Image.open(path) as picture:
            red, green, blue = np.asarray(picture).mean(axis=(0, 1))
        for name, value in zip(("red", "green", "blue"), (red, green, blue), strict=True):
            values[name].append(value)
        values["mean"].append((red + green + blue) / 3)
    for name, column in values.items():
        assert 0.35 < roc_auc_score(labels, column) < 0.65, name
