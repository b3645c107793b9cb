"""What is evaluated, and that its scores are those of a prediction."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import torch

from deepfake.dataset.manifest import read_manifest, read_sources
from deepfake.dataset.splits import split_by_group
from deepfake.errors import UsageError
from deepfake.evaluation import predictions as material
from deepfake.evaluation.predictions import (
    Embeddings,
    embed_crops,
    embed_once,
    hash_network,
    measure_sharpness,
    open_crops,
    read_material,
    score_material,
)
from deepfake.faces.extraction import decode_crop
from deepfake.inference.predictor import Predictor
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.records import Aggregation, Sampling
from tests.evaluation.conftest import Made
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.fakes import portrait
from tests.made_crops import draw_crop, write_crop_folder


def test_media_scores_as_a_prediction_does(made: Made, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, word in enumerate(["real", "fake", "fake"]):
        (photos / word).mkdir(parents=True, exist_ok=True)
        picture = cv2.cvtColor(portrait(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(photos / word / f"{number}.png"), picture)
    (photos / "real" / "broken.jpg").write_bytes(b"\xff\xd8 no")
    root = open_crops(str(photos), made.checkpoint, tmp_path / "crops")
    data = read_material(root, made.checkpoint)
    embeddings = embed_crops(root, data.faces, made.checkpoint, device="cpu")
    scored = score_material(data, embeddings, made.checkpoint, Aggregation())
    answers = {file.path: scored.file_p_fake.get(file.id) for file in data.files}

    predictor = Predictor(made.checkpoint, device="cpu")
    expected = {name: next(predictor.predict([photos / name])).p_fake for name in answers}
    assert len(answers) == 4
    assert answers["real/broken.jpg"] is expected["real/broken.jpg"] is None
    for name, p_fake in expected.items():
        assert answers[name] == pytest.approx(p_fake, abs=1e-6), name
    assert data.split == "all"
    # A crop folder is taken as it is.
    assert open_crops(str(root), made.checkpoint, tmp_path / "unused") == root
    assert not (tmp_path / "unused").exists()


def test_frames_of_a_file_make_tracks_and_one_score(made: Made) -> None:
    data = read_material(made.crops, made.checkpoint, split="all")
    left, right = (0.0, 0.0, 20.0, 20.0), (100.0, 0.0, 120.0, 20.0)
    shape: list[tuple[int, int, tuple[float, float, float, float]]] = [
        *((0, 0, left), (0, 1, right), (5, 0, right), (5, 1, left)),
    ]
    faces = tuple(
        # Landmarks move with their box.
        replace(row, source="clip", frame=frame, face=face, box_xyxy=box, landmarks=box[:2] * 5)
        for row, (frame, face, box) in zip(data.faces, shape, strict=False)
    )
    data = replace(data, faces=faces)
    embeddings = embed_crops(made.crops, faces, made.checkpoint, device="cpu")
    scored = score_material(data, embeddings, made.checkpoint, Aggregation())
    assert scored.tracks == (0, 1, 1, 0)
    p = scored.p_fake
    assert scored.file_p_fake["clip"] == pytest.approx((max(p[0], p[1]) + max(p[2], p[3])) / 2)
    best = score_material(data, embeddings, made.checkpoint, Aggregation("tracks"))
    assert best.file_p_fake["clip"] == pytest.approx(max(p[0] + p[3], p[1] + p[2]) / 2)


def test_test_split_is_the_default_where_there_are_splits(made: Made) -> None:
    data = read_material(made.crops, made.checkpoint)
    assert (data.split, len(data.faces), len(data.files)) == ("test", 20, 22)
    assert data.remarks == ()
    assert {file.split for file in data.files} == {"test"}
    everything = read_material(made.crops, made.checkpoint, split="all")
    assert (len(everything.faces), len(everything.files)) == (60, 62)
    assert everything.sha256 != data.sha256
    assert everything.manifest_sha256 == data.manifest_sha256


def test_without_splits_everything_counts(made: Made, tmp_path: Path) -> None:
    bare = write_crop_folder(
        tmp_path / "bare", {"train": (3, 3)}, size=32, edit=lambda row: replace(row, split="")
    )
    assert read_material(bare, made.checkpoint).split == "all"
    with pytest.raises(UsageError, match="holds no crop of split 'test'; it has no splits"):
        read_material(bare, made.checkpoint, split="test")
    with pytest.raises(UsageError, match="no split 'dev'"):
        read_material(made.crops, made.checkpoint, split="dev")


def test_own_training_data_is_split_as_training_split_it(tmp_path: Path) -> None:
    counts = {"train": (20, 20)}
    crops = write_crop_folder(
        tmp_path / "crops", counts, size=32, edit=lambda row: replace(row, split="")
    )
    configuration = "data:\n  split: {by: group, shares: [0.5, 0.2, 0.3]}\n"
    path = write_checkpoint(tmp_path / "a.ckpt", crops, configuration=configuration)
    checkpoint = load_checkpoint(path)
    data = read_material(crops, checkpoint)
    rows = read_manifest(crops).rows
    names = split_by_group(
        [row.group for row in rows], [row.label or 0 for row in rows], (0.5, 0.2, 0.3), seed=0
    )
    assert data.split == "test"
    assert [row.crop for row in data.faces] == [
        row.crop for row, name in zip(rows, names, strict=True) if name == "test"
    ]
    assert len(data.files) == len(data.faces)
    assert data.remarks == ()
    for split, words in (("train", "learnt from"), ("validation", "chose its threshold on")):
        assert words in read_material(crops, checkpoint, split=split).remarks[0]
    assert read_material(crops, checkpoint, split="all").remarks[0].startswith("LEAK")
    broken = write_checkpoint(tmp_path / "b.ckpt", crops, configuration="{")
    assert read_material(crops, load_checkpoint(broken)).split == "test"


def test_files_that_belong_to_no_split_are_told(tmp_path: Path) -> None:
    from tests.evaluation.conftest import add_unanswered

    crops = write_crop_folder(
        tmp_path / "crops", {"train": (12, 12)}, size=32, edit=lambda row: replace(row, split="")
    )
    add_unanswered(crops)
    text = (crops / "sources.csv").read_text().replace(",x,test,", ",x,,").replace(",y,test", ",y,")
    (crops / "sources.csv").write_text(text)
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "a.ckpt", crops))
    data = read_material(crops, checkpoint)
    assert data.remarks == ("2 files without a face belong to no split and are not counted",)


def test_other_crops_are_refused(made: Made, tmp_path: Path) -> None:
    larger = write_crop_folder(tmp_path / "larger", {"test": (2, 2)}, size=64, jpeg_quality=90)
    with pytest.raises(
        UsageError,
        match=r"size 64 instead of 32, jpeg_quality 90 instead of 95\): crop again with deepfake "
        r"crop \.\.\. --preset square --size 32",
    ):
        read_material(larger, made.checkpoint)
    unlabelled = write_crop_folder(
        tmp_path / "bare", {"test": (2, 2)}, size=32, edit=lambda row: replace(row, label=None)
    )
    with pytest.raises(UsageError, match=r"4 of 4 crops in .* have no label"):
        read_material(unlabelled, made.checkpoint)


def test_embeddings_are_computed_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = read_material(made.crops, made.checkpoint)
    first = embed_once(data, made.checkpoint, tmp_path / "kept", device="cpu")
    assert same(first, embed_once(data, made.checkpoint, None, device="cpu"))
    np.testing.assert_allclose(np.linalg.norm(first.vectors, axis=1), 1, atol=1e-5)
    (file,) = (tmp_path / "kept").iterdir()

    real = embed_crops

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a second pass of the network")

    monkeypatch.setattr(material, "embed_crops", refuse)
    assert same(embed_once(data, made.checkpoint, tmp_path / "kept"), first)
    monkeypatch.setattr(material, "embed_crops", real)
    whole = file.read_bytes()
    short = io.BytesIO()
    np.savez(short, vectors=first.vectors[:3], sharpness=first.sharpness[:3])
    for damage, message in (
        (b"no array", "is damaged"),
        (whole[:-9], "is damaged"),
        (short.getvalue(), "holds other rows"),
    ):
        file.write_bytes(damage)
        caplog.clear()
        again = embed_once(data, made.checkpoint, tmp_path / "kept", device="cpu")
        assert same(again, first)
        assert message in caplog.text
        assert file.read_bytes() == whole


def same(one: Embeddings, other: Embeddings) -> bool:
    return np.array_equal(one.vectors, other.vectors) and np.array_equal(
        one.sharpness, other.sharpness
    )


def test_sharpness_is_the_variance_of_opencvs_laplacian(made: Made) -> None:
    data = read_material(made.crops, made.checkpoint)
    found = embed_crops(made.crops, data.faces, made.checkpoint, device="cpu").sharpness
    for row, value in zip(data.faces, found, strict=True):
        crop = decode_crop((made.crops / row.crop).read_bytes()).astype(np.float64)
        laplacian = cv2.Laplacian(crop @ [0.299, 0.587, 0.114], cv2.CV_64F)[1:-1, 1:-1]
        assert value == pytest.approx(laplacian.var(), rel=1e-4)


def test_blur_is_less_sharp_and_a_plain_picture_not_at_all() -> None:
    crop = draw_crop(np.random.default_rng(0), 64, fake=False)
    blurred = [crop, *(cv2.GaussianBlur(crop, (0, 0), sigma) for sigma in (1, 2, 4))]
    plain = np.full_like(crop, 77)
    images = torch.from_numpy(np.stack([*blurred, plain])).permute(0, 3, 1, 2)
    found = measure_sharpness(images)
    assert found.diff().max() < 0
    assert found[-1] == pytest.approx(0, abs=1e-6)


def test_network_hash_is_of_the_network_alone(made: Made) -> None:
    before = hash_network(made.checkpoint)
    other = load_checkpoint(made.path)
    other.head.offset_ += 1
    assert hash_network(other) == before
    next(other.embedder.parameters()).data.mul_(1.5)
    assert hash_network(other) != before


def test_sources_are_read_as_they_were_written(made: Made) -> None:
    rows = read_sources(made.crops)
    assert rows[-2].status == "unreadable"
    assert (rows[0].label, rows[0].faces) == (0, 1)
    path = made.crops.parent / "copy"
    path.mkdir(exist_ok=True)
    text = (made.crops / "sources.csv").read_text()
    (path / "sources.csv").write_text(text.replace(",ok,", ",fine,", 1))
    with pytest.raises(UsageError, match=r"sources\.csv:2: 'fine' is not a valid Status"):
        read_sources(path)
    assert made.checkpoint.sampling == Sampling()
