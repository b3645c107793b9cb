"""Embeddings and sharpness: computed once, and kept."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from deepfake.errors import JobError, UsageError
from deepfake.evaluation import embeddings as embedding_room
from deepfake.evaluation.embeddings import (
    EmbedBlocks,
    Embeddings,
    embed_crops,
    embed_once,
    hash_network,
    measure_sharpness,
)
from deepfake.evaluation.sets import EvaluationSet, read_evaluation_set
from deepfake.faces.extraction import decode_crop
from deepfake.jobs.engine import Block, Job, run_here
from deepfake.jobs.folder import JobFolder
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.learning.crops import CropDataset, Sample
from deepfake.records import Source
from deepfake.storage import exclusive
from tests.evaluation.conftest import CPU, Made
from tests.fakes import tree_hashes
from tests.jobs.made_executor import work_elsewhere
from tests.made_crops import draw_crop, write_crop_folder


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Crops that pass the network, in blocks of four."""
    seen: list[str] = []
    plain = CropDataset.__getitem__

    def note(dataset: CropDataset, key: Any) -> Sample:
        sample = plain(dataset, key)
        seen.append(dataset.rows[int(sample["index"])].crop)
        return sample

    monkeypatch.setattr(CropDataset, "__getitem__", note)
    monkeypatch.setattr(embedding_room, "_BLOCK_SIZE", 4)
    return seen


def embed_all(data: EvaluationSet, checkpoint: Checkpoint, cache: Path | None) -> Embeddings:
    parts = embed_once(data, checkpoint, cache, CPU)
    return Embeddings.join(parts, len(data.faces), checkpoint.head.embedding_dim)


def job_files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*.npy"))


def test_embeddings_are_computed_once_and_mended(
    made: Made, tmp_path: Path, embedded: list[str]
) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    crops = [face.crop for face in data.faces]
    parts = embed_once(data, made.checkpoint, tmp_path / "kept", CPU)
    assert [len(part.vectors) for part in parts] == [4, 4, 4, 4, 4]  # not all at once
    assert embedded == crops
    first = embed_all(data, made.checkpoint, tmp_path / "kept")
    assert embedded == crops
    assert same(first, embed_all(data, made.checkpoint, None))
    np.testing.assert_allclose(np.linalg.norm(first.vectors, axis=1), 1, atol=1e-5)
    before = tree_hashes(tmp_path / "kept")
    for place, damage in ((0, b"no array"), (-1, None)):
        file = job_files(tmp_path / "kept")[place]
        block = int(file.parent.name)
        file.write_bytes(damage or file.read_bytes()[:-9])
        embedded.clear()
        assert same(embed_all(data, made.checkpoint, tmp_path / "kept"), first)
        assert embedded == crops[4 * block : 4 * block + 4]
        assert tree_hashes(tmp_path / "kept") == before


def test_embedding_goes_on_where_it_stopped(
    made: Made, tmp_path: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    first = embed_all(data, made.checkpoint, tmp_path / "whole")
    seal = JobFolder.seal

    def stop(folder: JobFolder, block: int, *rest: Any) -> None:
        if block == 2:
            raise KeyboardInterrupt
        seal(folder, block, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobFolder, "seal", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_all(data, made.checkpoint, tmp_path / "kept")
    embedded.clear()
    assert same(embed_all(data, made.checkpoint, tmp_path / "kept"), first)
    assert embedded == [face.crop for face in data.faces[8:]]
    assert tree_hashes(tmp_path / "kept") == tree_hashes(tmp_path / "whole")


def test_fewer_crops_in_other_blocks_are_not_embedded_again(
    made: Made, tmp_path: Path, embedded: list[str]
) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    first = embed_all(data, made.checkpoint, tmp_path)
    embedded.clear()
    fewer = replace(data, faces=data.faces[1:])
    assert same(
        embed_all(fewer, made.checkpoint, tmp_path),
        first.where(np.arange(len(data.faces)) > 0),
    )
    assert embedded == []
    # One crop alone passes the network otherwise than four do, in the last digits.
    again = embed_all(data, made.checkpoint, tmp_path)
    np.testing.assert_allclose(again.vectors, first.vectors, atol=1e-6)
    assert embedded == [data.faces[0].crop]


def test_crops_in_a_tar_are_embedded_alike(made: Made, tmp_path: Path, embedded: list[str]) -> None:
    counts = {"train": (8, 8), "validation": (12, 12), "test": (10, 10)}
    tar = write_crop_folder(tmp_path / "tar", counts, size=32, store="tar")
    data = read_evaluation_set(tar, made.checkpoint)
    found = embed_all(data, made.checkpoint, tmp_path / "kept")
    folder = read_evaluation_set(made.crops, made.checkpoint)
    assert same(found, embed_all(folder, made.checkpoint, tmp_path / "other"))
    embedded.clear()
    # A crop is known by its bytes, wherever it lies.
    there = replace(data, root=made.crops)
    assert same(embed_all(there, made.checkpoint, tmp_path / "kept"), found)
    assert embedded == []


def test_two_at_once_are_refused(made: Made, tmp_path: Path) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    embed_all(data, made.checkpoint, tmp_path)
    (root,) = tmp_path.iterdir()
    with exclusive(root), pytest.raises(UsageError, match="is in use by process"):
        embed_all(data, made.checkpoint, tmp_path)


@pytest.mark.slow
def test_another_engine_embeds_to_the_same_bytes(made: Made, tmp_path: Path) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    sources = [Source(face.crop, made.crops / face.crop, face.crop) for face in data.faces]
    work = EmbedBlocks(made.crops, data.faces, made.checkpoint, CPU, None)
    for name, execute in (("here", run_here), ("there", work_elsewhere)):
        (tmp_path / name).mkdir()
        job = Job(JobFolder(tmp_path / name, "embedding"), sources, 8)
        job.begin([], {})
        assert len(list(job.run(job.find_todo(), work, execute))) == job.n_blocks
    assert tree_hashes(tmp_path / "here") == tree_hashes(tmp_path / "there")


def same(one: Embeddings, other: Embeddings) -> bool:
    return np.array_equal(one.vectors, other.vectors) and np.array_equal(
        one.sharpness, other.sharpness
    )


def test_parts_that_are_too_few_are_no_whole() -> None:
    part = Embeddings(np.ones((2, 3), np.float32), np.ones(2, np.float32))
    with pytest.raises(ValueError, match="4 embeddings of 5 crops"):
        Embeddings.join([part, part], 5, 3)


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


@pytest.mark.parametrize("order", [1, -1])
def test_of_old_parts_each_crop_is_taken_from_the_one_that_has_it_as_it_is(
    tmp_path: Path, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run that was killed has left two parts with one crop, before and after it changed.
    names = ["a", "b"]

    def write(name: str, digests: list[str], values: list[float]) -> Path:
        folder = JobFolder(tmp_path, "embedding").open_block(len(name))
        np.save(folder / "vectors.npy", np.array(values, np.float32)[:, None])
        np.save(folder / "sharpness.npy", np.array(values, np.float32))
        (tmp_path / "shards").mkdir(exist_ok=True)
        JobFolder(tmp_path, "embedding").seal(
            len(name), folder, dict(zip(names, digests, strict=True))
        )
        return JobFolder(tmp_path, "embedding").folder_of(len(name))

    old, new = write("1", ["x", "y"], [10, 20]), write("22", ["z", "y"], [11, 20])
    ordered = lambda values: sorted(values)[::order]  # noqa: E731 - whatever order a set has
    monkeypatch.setattr(embedding_room, "set", ordered, raising=False)
    sources = [Source(name, tmp_path / name, name) for name in names]
    block = Block(0, 0, sources, tmp_path / "block", {"a": new, "b": old})
    (tmp_path / "block").mkdir()
    head = SimpleNamespace(embedding_dim=1)
    work: Any = SimpleNamespace(checkpoint=SimpleNamespace(head=head))
    EmbedBlocks._fill(work, block, [])
    assert np.load(tmp_path / "block" / "vectors.npy").ravel().tolist() == [11, 20]


def test_embeddings_of_other_versions_are_made_anew(
    made: Made, tmp_path: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint)
    embed_all(data, made.checkpoint, tmp_path)
    embedded.clear()
    monkeypatch.setattr(
        "deepfake.evaluation.embeddings.describe_versions", lambda: {"deepfake": "another"}
    )
    embed_all(data, made.checkpoint, tmp_path)
    assert len(embedded) == len(data.faces)
