"""A crop folder is scored as it is: as its photos would be, and without another search."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

from deepfake import cli
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.manifest import is_crop_folder, read_manifest, read_sources
from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import FaceExtractor
from deepfake.inference.predictor import Predictor
from deepfake.inference.stored import StoredCrops
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Workers
from deepfake.tables import read_csv
from tests.conftest import Trained
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.fakes import write_photo, write_portraits


@pytest.fixture(scope="module")
def checkpoint(trained: Trained) -> Checkpoint:
    return load_checkpoint(trained.checkpoint)


@pytest.fixture(scope="module")
def photos(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some photos, and two files without a face."""
    folder = tmp_path_factory.mktemp("stored") / "photos"
    folder.mkdir()
    for number, path in enumerate(sorted(trained.photos.rglob("*.png"))[:5]):
        shutil.copy(path, folder / f"=p{number}.png")
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture
def crops(photos: Path, checkpoint: Checkpoint, tmp_path: Path) -> Path:
    root, recipe = tmp_path / "crops", checkpoint.recipe
    crop_media(
        str(photos), root, recipe.crop, workers=Workers(0), sampling=recipe.sampling, quiet=True
    )
    return root


def predict(source: Path, trained: Trained, output: Path, *more: object) -> int:
    words = [source, "--checkpoint", trained.checkpoint, "--output", output, "--quiet"]
    return cli.predict([str(word) for word in [*words, "--device", "cpu", "--workers", "0", *more]])


def test_crops_get_the_scores_of_their_photos_without_another_search(
    photos: Path, crops: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_crop_folder(crops)
    assert not is_crop_folder(photos)
    one, other = tmp_path / "photos.csv", tmp_path / "crops.csv"
    assert predict(photos, trained, one, "--faces", tmp_path / "faces1.csv") == 0

    def search(*_: object, **__: object) -> NoReturn:
        raise AssertionError("searched again")

    monkeypatch.setattr(FaceExtractor, "extract", search)
    assert predict(crops, trained, other, "--faces", tmp_path / "faces2.csv") == 0
    columns = ["path", "status", "reason", "p_fake", "verdict", "n_faces", "n_people", "path_uri"]
    rows = [[{c: row[c] for c in columns} for row in read_csv(t, columns)] for t in (one, other)]
    assert rows[0] == rows[1]
    assert [row["status"] for row in rows[1]] == ["ok"] * 5 + ["unreadable"]
    assert rows[1][0]["path"] == "=p0.png"
    faces = ["path", "frame", "time_s", "face", "person", "p_fake"]
    tables = [read_csv(tmp_path / f"faces{number}.csv", faces) for number in (1, 2)]
    assert [[row[c] for c in faces] for row in tables[0]] == [
        [row[c] for c in faces] for row in tables[1]
    ]


def test_crops_in_a_tar_get_the_same_answers(
    photos: Path, crops: Path, checkpoint: Checkpoint, trained: Trained, tmp_path: Path
) -> None:
    tar, recipe = tmp_path / "tar", checkpoint.recipe
    options: dict[str, Any] = {"workers": Workers(0), "sampling": recipe.sampling, "quiet": True}
    crop_media(str(photos), tar, recipe.crop, store="tar", **options)
    tables = []
    for number, root in enumerate((crops, tar)):
        names = [tmp_path / f"{number}.csv", tmp_path / f"faces{number}.csv"]
        assert predict(root, trained, names[0], "--faces", names[1]) == 0
        tables.append([name.read_bytes() for name in names])
    assert tables[0] == tables[1]
    files = next(tar.glob("shards/*/crops.tar"))
    (tmp_path / "link.csv").symlink_to(files)
    assert predict(tar, trained, tmp_path / "link.csv", "--overwrite") == 2
    stored = StoredCrops(tar, checkpoint)
    assert stored.n_crops == 5
    assert {path for path in stored.files if path.suffix == ".tar"} <= {*tar.rglob("*.tar")}


def test_an_animation_is_a_clip_whatever_it_is_called(
    photos: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    frames = [Image.open(sorted(photos.glob("*.png"))[1]).convert("RGB")]
    frames += [Image.new("RGB", frames[0].size, (shade, 9, 9)) for shade in (40, 200)]
    (tmp_path / "in").mkdir()
    frames[0].save(
        tmp_path / "in" / "a.webp", save_all=True, append_images=frames[1:], lossless=True
    )
    frames[0].save(tmp_path / "in" / "b.webp", lossless=True)
    recipe = checkpoint.recipe
    options: dict[str, Any] = {"workers": Workers(0), "sampling": recipe.sampling, "quiet": True}
    crop_media(str(tmp_path / "in"), tmp_path / "crops", recipe.crop, **options)
    stored = StoredCrops(tmp_path / "crops", checkpoint)
    found = [extraction for _, extraction in stored.iter_extractions(stored.sources)]
    assert [(one.is_clip, len(one.crops)) for one in found] == [(True, 1), (False, 1)]


def test_aligned_crops_get_the_scores_of_their_photos(tmp_path: Path) -> None:
    photos, crops = write_portraits(tmp_path / "photos", 4), tmp_path / "crops"
    spec = CropSpec.from_preset("aligned", size=32)
    crop_media(str(photos), crops, spec, workers=Workers(0), quiet=True)
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "a.ckpt", crops))
    assert checkpoint.recipe.crop == spec
    stored = StoredCrops(crops, checkpoint)
    one, other = (
        [result.p_fake for result in Predictor(checkpoint, "cpu", stored=made).score(sources)]
        for made, sources in ((None, discover(photos).sources), (stored, stored.sources))
    )
    assert one == other
    assert len(set(one)) == 4
    assert None not in one


def test_faces_that_were_not_cropped_are_said(
    crops: Path, trained: Trained, tmp_path: Path
) -> None:
    note = "only the largest face of each frame was cropped"
    for choice, said in (("all", True), ("largest", False)):
        output = tmp_path / f"{choice}.csv"
        assert predict(crops, trained, output, "--faces-per-frame", choice) == 0
        rows = read_csv(output, ["status", "remarks"])
        assert all((note in row["remarks"]) == (said and row["status"] == "ok") for row in rows)


def test_crops_of_another_recipe_are_refused(
    photos: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop_media(str(photos), tmp_path / "other", CropSpec(size=80), workers=Workers(0), quiet=True)
    assert predict(tmp_path / "other", trained, tmp_path / "s.csv") == 2
    error = capsys.readouterr().err
    assert "were cut by another recipe" in error
    assert "size 80 instead of 64" in error
    assert not (tmp_path / "s.csv.job").exists()


def test_a_folder_of_another_job_is_no_crop_folder(crops: Path, trained: Trained) -> None:
    output = crops.parent / "s.csv"
    assert predict(crops, trained, output) == 0
    assert predict(output.with_name("s.csv.job"), trained, crops.parent / "t.csv") == 2


@pytest.mark.parametrize(
    "options",
    [["--every", "7"], ["--max-frames", "3"], ["--follow-links"], ["--detect-every", "2"]],
)
def test_what_only_photos_and_videos_have_is_refused(
    crops: Path, trained: Trained, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(crops, trained, crops.parent / "s.csv", *options) == 2
    error = capsys.readouterr().err
    assert "is a crop folder, whose crops are scored as they are" in error
    assert "needs the photos and videos themselves" in error


@pytest.mark.parametrize("name", ["manifest.csv", "sources.csv", "a crop"])
def test_no_file_of_the_folder_is_replaced(
    crops: Path, trained: Trained, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = crops / name if name.endswith(".csv") else crops / read_manifest(crops).rows[0].crop
    output = crops.parent / "link.csv"
    output.symlink_to(target)
    before = target.read_bytes()
    assert predict(crops, trained, output, "--overwrite") == 2
    assert "would destroy the input" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_a_garbled_crop_is_never_scored(
    crops: Path, trained: Trained, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_manifest(crops).rows
    first, second = (crops / row.crop for row in rows[:2])
    shutil.copy(second, first)  # a sound photo, but another one
    assert predict(crops, trained, crops.parent / "s.csv") == 1
    assert "is not as it was written (its checksum is another)" in capsys.readouterr().err
    first.unlink()
    stored = StoredCrops(crops, checkpoint)
    with pytest.raises(JobError, match=r"cannot be read .*run the crop command again to mend it"):
        list(stored.iter_extractions(stored.sources))


def test_only_files_whose_crops_changed_are_scored_again(
    photos: Path, crops: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(photos, own)
    shutil.rmtree(crops)

    def crop_again() -> None:
        recipe = load_checkpoint(trained.checkpoint).recipe
        crop_media(
            str(own), crops, recipe.crop, workers=Workers(0), sampling=recipe.sampling, quiet=True
        )

    crop_again()
    asked: list[str] = []
    plain = StoredCrops._read

    def note(stored: StoredCrops, row: object) -> object:
        asked.append(row.source)  # type: ignore[attr-defined]
        return plain(stored, row)  # type: ignore[arg-type]

    monkeypatch.setattr(StoredCrops, "_read", note)
    assert predict(crops, trained, tmp_path / "s.csv") == 0
    assert len(asked) == 5
    shutil.copy(own / "=p0.png", own / "=p3.png")
    crop_again()
    asked.clear()
    assert predict(crops, trained, tmp_path / "s.csv") == 0
    assert asked == [row.id for row in read_sources(crops) if row.path == "=p3.png"]


def test_a_predictor_of_stored_crops_can_be_sent_elsewhere(
    crops: Path, checkpoint: Checkpoint
) -> None:
    stored = StoredCrops(crops, checkpoint)
    predictor = Predictor(checkpoint, "cpu", stored=stored, backend="torch")
    again = pickle.loads(pickle.dumps(predictor))
    results = [list(one.score(stored.sources)) for one in (predictor, again)]
    assert results[0] == results[1]
    assert np.isfinite([one.p_fake for one in results[0] if one.p_fake is not None]).all()


def test_elsewhere_a_predictor_may_have_other_settings(trained: Trained) -> None:
    predictor = Predictor.from_checkpoint(trained.checkpoint, "cpu", backend="torch")
    predictor.elsewhere = {"workers": Workers(3, max_pixels=9), "device": "meta"}
    again = pickle.loads(pickle.dumps(predictor))
    assert (again.workers, again.devices) == (Workers(3, max_pixels=9), (torch.device("meta"),))
    assert (predictor.workers, predictor.devices) == (Workers(0), (torch.device("cpu"),))


def test_a_checkpoint_that_has_changed_since_is_refused_elsewhere(
    trained: Trained, tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    shutil.copy(trained.checkpoint, path)
    pickled = pickle.dumps(Predictor.from_checkpoint(path, "cpu", backend="torch"))
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    with pytest.raises(UsageError, match=r"is another checkpoint here|is damaged|no checkpoint"):
        pickle.loads(pickled)


def test_face_crops_of_others_are_trained_on_and_scored_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)  # nobody would find a face
        write_photo(tmp_path / "data" / ("real", "fake")[number % 2] / f"{number}.png", picture)
    crops = tmp_path / "crops"
    spec = CropSpec.from_preset("whole", size=64)
    crop_media(str(tmp_path / "data"), crops, spec, workers=Workers(0), quiet=True)
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "model.ckpt", crops))
    assert checkpoint.recipe.crop == spec
    stored = StoredCrops(crops, checkpoint)
    one, other = (
        [*Predictor(checkpoint, "cpu", stored=made).score(sources)]
        for made, sources in ((None, discover(tmp_path / "data").sources), (stored, stored.sources))
    )
    assert [result.p_fake for result in one] == [result.p_fake for result in other]
    assert {(result.status, result.n_people) for result in one} == {("ok", 1)}
    assert [result.remarks for result in one] == [result.remarks for result in other]
    words = ["--checkpoint", str(checkpoint.path), "--data", str(crops), "--split", "all"]
    assert cli.evaluate([*words, "--output", str(tmp_path / "evaluation"), "--quiet"]) == 0
