"""Several checkpoints become one file: the mean of both, and what is known of each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.dataset.manifest import read_manifest
from deepfake.errors import CheckpointError
from deepfake.evaluation.embeddings import embed_crops
from deepfake.evaluation.origins import was_trained_on
from deepfake.evaluation.refit import calibrate_checkpoint, fit_new_head
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.heads.calibration import fit_sigmoid
from deepfake.learning.checkpoint import load_checkpoint, read_info
from deepfake.learning.checkpoint_copy import to_safetensors
from deepfake.learning.checkpoint_file import KEY, seal
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.ensemble import combine, load_detector
from deepfake.learning.joined import Tta
from deepfake.learning.task import EmbeddingTask
from deepfake.records import Limits
from tests.evaluation.conftest import CPU, Made
from tests.evaluation.made_checkpoint import DIM, write_checkpoint
from tests.evaluation.made_refits import LOOSE, scores_of


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_calibrate_makes_one_file_of_several(made: Made, tmp_path: Path, tta: Tta) -> None:
    other = tmp_path / "other.ckpt"
    network = EmbeddingModel("test_resnet", 32, DIM, dropout=0.0, levels=2)
    write_checkpoint(
        other, made.crops, embedder=network, manifest_sha256="0" * 64, limits=Limits(0.2, (0.7,))
    )
    members = [made.checkpoint, load_checkpoint(other)]
    several = combine(members, tta)
    output = tmp_path / "both.safetensors"
    calibrate_checkpoint(several, made.crops, output, **LOOSE)
    saved, new = load_checkpoint(output), load_detector(output)
    assert (saved.tta, saved.chosen_tta, new.tta) == ("none", tta, tta)
    assert new.differences == []
    assert new.error_rates is not None
    assert saved.recipe == made.checkpoint.recipe
    assert read_info(output)["counts"]["train"] == several.info["counts"]["train"]
    assert [one["file_sha256"] for one in saved.info["members"]] == [m.sha256 for m in members]
    # What stands in the file is what they are together, or nothing; that of each stands with it.
    (event,) = saved.info["history"]
    assert event["replaced"]["limits"] == several.info["limits"] != members[0].info["limits"]
    assert event["replaced"]["error_rates"] is None
    assert (saved.info["seed"], saved.info["normalisation"]) == (None, None)
    assert [one["seed"] for one in saved.info["members"]] == [m.info["seed"] for m in members]
    assert [one["labels"] for one in saved.info["members"]] == [saved.info["labels"]] * 2
    assert (event["what"], event["from_sha256"]) == ("calibrate", combine(members).sha256)

    # The mean of both, then a sigmoid of its own, fitted on each look; the mean of the looks.
    labels, scores = scores_of(new, made.crops, "validation")
    data = read_evaluation_set(made.crops, new, split="validation")
    looks = [[scores_of(one, made.crops, "validation")[1] for one in members]]
    if tta == "flip":
        both = [embed_crops(made.crops, data.faces, combine([m], tta), CPU) for m in members]
        mirrored = [one.vectors[:, one.vectors.shape[1] // 2 :] * 2**0.5 for one in both]
        rows = [torch.from_numpy(vectors.astype(np.float32)) for vectors in mirrored]
        looks.append([m.head(row).numpy() for m, row in zip(members, rows, strict=True)])
    means = np.mean(looks, axis=1)
    decisions = np.log(means / (1 - means)).reshape(-1)
    slope, offset = fit_sigmoid(decisions, np.tile(labels, len(looks)))
    each = 1 / (1 + np.exp(slope * decisions + offset)).reshape(len(looks), -1)
    np.testing.assert_allclose(scores, each.mean(axis=0), atol=1e-5)

    # Whose crops it was taught with is still known, of both.
    manifests = [
        replace(read_manifest(made.crops), sha256=m.info["manifest_sha256"]) for m in members
    ]
    for manifest in manifests:
        assert was_trained_on(new, manifest)
    assert not was_trained_on(new, replace(manifests[0], sha256="1" * 64))

    # It is calibrated, half as large, and fitted anew like any other.
    again, half = tmp_path / "again.ckpt", tmp_path / "half.safetensors"
    calibrate_checkpoint(new, made.crops, again, **LOOSE)
    np.testing.assert_allclose(
        scores_of(load_detector(again), made.crops, "validation")[1], scores, atol=1e-3
    )
    half.write_bytes(to_safetensors(output, half=True))
    assert half.stat().st_size < output.stat().st_size
    np.testing.assert_allclose(
        scores_of(load_detector(half), made.crops, "validation")[1], scores, atol=1e-2
    )
    third = tmp_path / "third.ckpt"
    fit_new_head(saved, made.crops, third, **LOOSE)
    assert load_checkpoint(third).head.embedding_dim == 2 * DIM


def test_a_file_of_several_in_other_hands(made: Made, tmp_path: Path) -> None:
    other, output = tmp_path / "other.ckpt", tmp_path / "both.ckpt"
    network = EmbeddingModel("test_resnet", 32, DIM, dropout=0.0)
    write_checkpoint(other, made.crops, embedder=network)
    calibrate_checkpoint(
        combine([made.checkpoint, load_checkpoint(other)]), made.crops, output, **LOOSE
    )
    with pytest.raises(CheckpointError, match="holds 2 networks, and a task has one"):
        EmbeddingTask.load_from_checkpoint(output)
    taken = EmbeddingModel("test_resnet", 32, DIM, pretrained=str(output))
    wanted = network.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in taken.state_dict().items())
    with pytest.raises(CheckpointError, match="has backbone 'test_efficientnet' and 'test_resnet'"):
        EmbeddingModel("test_vit", 32, DIM, pretrained=str(output))
    content = torch.load(output, weights_only=True)
    nested: dict[str, Any] = {}
    for _ in range(100):
        nested = {"members": [nested]}
    for members, told in (
        ([], "it holds no network"),
        ("ab", "its hyper_parameters have odd members"),
        ([7], "its hyper_parameters have odd members"),
        (None, "its hyper_parameters have odd members"),
        ([{"members": 7}], "its hyper_parameters have odd members"),
        ([nested], "does not fit this version|nested too deeply"),
        ([content["hyper_parameters"]["members"][0]], "holds 1 networks and does not tell of as"),
    ):
        content["hyper_parameters"]["members"] = members
        seal(content)
        torch.save(content, output)
        with pytest.raises(CheckpointError, match=told):
            load_checkpoint(output)
    # Refused as well where no head is asked for, as by `--model.pretrained`.
    content["hyper_parameters"]["members"] = 7
    seal(content)
    torch.save(content, output)
    for read in (EmbeddingTask.load_from_checkpoint, partial(EmbeddingModel, "test_resnet", 32)):
        with pytest.raises(CheckpointError, match="odd members"):
            read(pretrained=str(output)) if isinstance(read, partial) else read(output)


def test_a_small_file_takes_no_memory_for_networks_that_it_does_not_hold(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(made.path, weights_only=True)
    hyper = content["hyper_parameters"]
    content["hyper_parameters"] = {"members": [hyper] * 3}
    content[KEY]["members"] = [{"name": "a", "manifest_sha256": "b"}] * 3
    seal(content)
    torch.save(content, tmp_path / "many.ckpt")
    monkeypatch.setattr("deepfake.learning.checkpoint_parts.EmbeddingModel", None)
    with pytest.raises(CheckpointError, match="holds no weights of one of its 3 networks"):
        load_checkpoint(tmp_path / "many.ckpt")


def test_a_file_of_several_tells_of_each(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "both.ckpt"
    other = write_checkpoint(
        tmp_path / "other.ckpt",
        made.crops,
        embedder=EmbeddingModel("test_resnet", 32, DIM, dropout=0.0),
    )
    both = combine([made.checkpoint, load_checkpoint(other)])
    calibrate_checkpoint(both, made.crops, output, **LOOSE)
    content = torch.load(output, weights_only=True)
    hostile: tuple[Any, ...] = (None, 7, [], [{}, {}], [{"name": "a"}, 3], "ab")
    for told in hostile:
        content[KEY] |= {"members": told}
        seal(content)
        torch.save(content, output)
        with pytest.raises(CheckpointError, match=r"does not fit this version|have odd members"):
            load_checkpoint(output)


def test_several_of_several_are_known(made: Made, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.ckpt" for name in "abcd"]
    for number, path in enumerate(paths[:2]):
        network = EmbeddingModel("test_resnet", 32, DIM, dropout=0.0)
        write_checkpoint(path, made.crops, embedder=network, manifest_sha256=str(number) * 64)
    members = [load_checkpoint(path) for path in paths[:2]]
    calibrate_checkpoint(combine(members), made.crops, paths[2], **LOOSE)
    inner = load_checkpoint(paths[2])
    calibrate_checkpoint(combine([made.checkpoint, inner]), made.crops, paths[3], **LOOSE)
    manifest = read_manifest(made.crops)
    for sha256 in ("0" * 64, "1" * 64, made.checkpoint.info["manifest_sha256"]):
        assert was_trained_on(load_checkpoint(paths[3]), replace(manifest, sha256=sha256))
    assert not was_trained_on(load_checkpoint(paths[3]), replace(manifest, sha256="2" * 64))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    outer = load_checkpoint(paths[3])
    with torch.no_grad():
        scores = outer.head.heads[1](inner.embedder(images))  # type: ignore[operator,index]
        torch.testing.assert_close(scores, inner.head(inner.embedder(images)))
        assert outer.embedder(images).shape == (3, outer.head.embedding_dim)
