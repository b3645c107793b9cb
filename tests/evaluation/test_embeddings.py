"""Embeddings and sharpness: computed once, and kept."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import torch

from deepfake.errors import JobError
from deepfake.evaluation import embeddings as embedding_room
from deepfake.evaluation.embeddings import (
    Embeddings,
    embed_crops,
    embed_once,
    hash_network,
    measure_sharpness,
)
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.faces.extraction import decode_crop
from deepfake.learning.checkpoint import load_checkpoint
from tests.evaluation.conftest import CPU, Made
from tests.made_crops import draw_crop


def test_embeddings_are_computed_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    first = embed_once(data, made.checkpoint, tmp_path / "kept", CPU)
    assert same(first, embed_once(data, made.checkpoint, None, CPU))
    np.testing.assert_allclose(np.linalg.norm(first.vectors, axis=1), 1, atol=1e-5)
    (file,) = (tmp_path / "kept").iterdir()

    real = embed_crops

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a second pass of the network")

    monkeypatch.setattr(embedding_room, "embed_crops", refuse)
    assert same(embed_once(data, made.checkpoint, tmp_path / "kept"), first)
    monkeypatch.setattr(embedding_room, "embed_crops", real)
    whole = file.read_bytes()
    short = io.BytesIO()
    np.savez(short, vectors=first.vectors[:3], sharpness=first.sharpness[:3])
    lost, words = io.BytesIO(), io.BytesIO()
    np.savez(lost, vectors=first.vectors * np.nan, sharpness=first.sharpness)
    np.savez(words, vectors=first.vectors.astype(str), sharpness=first.sharpness)
    for damage, message in (
        (b"no array", "is damaged"),
        (whole[:-9], "is damaged"),
        (short.getvalue(), "holds other rows"),
        (lost.getvalue(), "or no numbers"),
        (words.getvalue(), "or no numbers"),
    ):
        file.write_bytes(damage)
        caplog.clear()
        again = embed_once(data, made.checkpoint, tmp_path / "kept", CPU)
        assert same(again, first)
        assert message in caplog.text
        assert file.read_bytes() == whole


def same(one: Embeddings, other: Embeddings) -> bool:
    return np.array_equal(one.vectors, other.vectors) and np.array_equal(
        one.sharpness, other.sharpness
    )


def test_sharpness_is_the_variance_of_opencvs_laplacian(made: Made) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    found = embed_crops(made.crops, data.faces, made.checkpoint, CPU).sharpness
    for row, value in zip(data.faces, found, strict=True):
        crop = decode_crop((made.crops / row.crop).read_bytes()).astype(np.float64)
        laplacian = cv2.Laplacian(crop @ [0.299, 0.587, 0.114], cv2.CV_64F)[1:-1, 1:-1]
        assert value == pytest.approx(laplacian.var(), rel=1e-4)


def test_blur_is_less_sharp_and_a_plain_crop_not_at_all() -> None:
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


def test_an_embedding_that_is_no_direction_names_its_crop(made: Made) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    embedder = copy.deepcopy(made.checkpoint.embedder)
    with torch.no_grad():
        embedder.projection.bias[0] = 3e38
        embedder.projection.bias[1] = torch.inf
    with pytest.raises(JobError, match=f"hold NaN, .* such as that of {data.faces[0].crop}"):
        embed_crops(made.crops, data.faces, replace(made.checkpoint, embedder=embedder), CPU)
