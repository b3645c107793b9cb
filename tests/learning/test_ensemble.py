"""Several checkpoints, or two looks at a face, as one: exactly the mean, and honest limits."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepfake.dataset.manifest import read_manifest
from deepfake.errors import CheckpointError, UsageError
from deepfake.evaluation.embeddings import EmbedOptions
from deepfake.evaluation.job import EvaluationOptions, run_evaluation
from deepfake.evaluation.origins import divide_as_trained, was_trained_on
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.inference.backend import make_scorers
from deepfake.inference.export import compare, make_crops, make_graph
from deepfake.inference.predictor import Predictor
from deepfake.inference.scoring import OnnxScorer, TorchScorer
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.ensemble import combine, load_detector
from deepfake.records import Limits
from deepfake.reports.evaluation_page import format_report
from tests.conftest import Trained
from tests.evaluation.made_checkpoint import DIM, write_checkpoint
from tests.made_crops import write_crop_folder

Crops = NDArray[np.uint8]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("ensemble") / "crops", size=32)


@pytest.fixture(scope="module")
def members(crops: Path) -> list[Checkpoint]:
    """Two networks of two kinds with other limits; the second one never saw the folder."""
    paths = [crops.parent / f"{name}.ckpt" for name in "ab"]
    other = EmbeddingModel("test_resnet", 32, DIM, dropout=0.0)
    write_checkpoint(paths[0], crops, limits=Limits(0.2, (0.6, 0.7)))
    limits = Limits(0.4, (0.8, 0.8, 0.9))
    write_checkpoint(paths[1], crops, limits=limits, embedder=other, manifest_sha256="0" * 64)
    return [load_checkpoint(path) for path in paths]


def score(checkpoint: Checkpoint, images: Crops) -> NDArray[np.float64]:
    return np.array(TorchScorer(checkpoint, torch.device("cpu"), 8).score(images))


def test_the_score_is_the_mean_of_all_looks(members: list[Checkpoint]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    plain = [score(one, images) for one in members]
    flipped = [score(one, mirrored) for one in members]
    assert np.abs(plain[0] - plain[1]).max() > 1e-3
    assert np.abs(plain[0] - flipped[0]).max() > 1e-6
    for detector, looks in (
        (combine(members), plain),
        (combine(members[:1], "flip"), [plain[0], flipped[0]]),
        (combine(members, "flip"), [*plain, *flipped]),
    ):
        np.testing.assert_allclose(score(detector, images), np.mean(looks, axis=0), atol=1e-6)
        vectors = TorchScorer(detector, torch.device("cpu"), 8).run(images)[1]
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert vectors.shape[1] == detector.head.embedding_dim == len(looks) * DIM


def test_what_is_known_of_it(members: list[Checkpoint]) -> None:
    detector = combine(members, "flip")
    assert detector.limits.real == pytest.approx(0.3)
    assert detector.limits.fake == pytest.approx((0.7, 0.75, 0.8))
    assert detector.error_rates is None
    assert detector.differences == ["averaged over 2 checkpoints", "averaged over a mirrored look"]
    assert detector.name == f"{members[0].name} + {members[1].name} (flip)"
    assert detector.info["counts"]["train"] == {"real": 2, "fake": 2}
    assert detector.recipe == members[0].recipe
    every = [*members, combine(members), combine(members[::-1]), combine(members[:1], "flip")]
    assert len({one.sha256 for one in [*every, detector]}) == 6
    assert combine(members[:1]) is members[0]
    assert members[0].differences == []


def test_evaluate_measures_the_mean(crops: Path, members: list[Checkpoint], tmp_path: Path) -> None:
    detector = combine([members[1], members[0]])
    options = EvaluationOptions(split="all", n_resamples=0)
    cpu = EmbedOptions(device="cpu")
    evaluations = [
        run_evaluation(one, [str(crops)], tmp_path / name, options, cpu, render=format_report)
        for name, one in zip("abc", [*members, detector], strict=True)
    ]
    found = [np.concatenate([one.p_fake for one in e.sets]) for e in evaluations]
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=1e-6)
    told = json.loads((tmp_path / "c" / "metrics.json").read_text())
    assert told["provenance"]["checkpoint"] == f"{members[1].name} + {members[0].name}"
    assert told["provenance"]["error_rates"] is None
    assert "nobody has measured" in (tmp_path / "c" / "report.html").read_text()


def test_refuses_what_makes_no_mean(members: list[Checkpoint]) -> None:
    first, second = members
    spec = replace(second.recipe.crop, margins=(0.4, 0.4))
    cut = replace(second, recipe=replace(second.recipe, crop=spec))
    with pytest.raises(UsageError, match=r"cut faces otherwise \(.*margin"):
        combine([first, cut])
    with pytest.raises(UsageError, match=r"a\.ckpt is named twice"):
        combine([first, second, first])
    with pytest.raises(UsageError, match="no checkpoint is named"):
        load_detector([])
    with pytest.raises(UsageError, match="tta='mirror'; expected flip or none"):
        combine([first], "mirror")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_detector([first.path, Path("no.ckpt")])


def test_a_predictor_of_several_remarks_that_nobody_measured_its_limits(
    trained: Trained, tmp_path: Path
) -> None:
    size = load_checkpoint(trained.checkpoint).recipe.crop.size
    other = EmbeddingModel("test_resnet", size, DIM, dropout=0.0)
    second = write_checkpoint(tmp_path / "b.ckpt", trained.crops, embedder=other)
    paths = [trained.checkpoint, second]
    photos = sorted(trained.photos.rglob("*.png"))[:2]
    alone = [list(Predictor.from_checkpoint(path, "cpu").predict(photos)) for path in paths]
    both = Predictor.from_checkpoint(paths, "cpu")
    answers = list(both.predict(photos))
    for answer, first, other_answer in zip(answers, *alone, strict=True):
        assert answer.p_fake is not None
        assert first.p_fake is not None
        assert other_answer.p_fake is not None
        expected = (first.p_fake + other_answer.p_fake) / 2
        assert answer.p_fake == pytest.approx(expected, abs=1e-6)
        assert answer.limits is not None
        assert (answer.limits[0], answer.limits[1]) == pytest.approx(
            (both.judge.limits.real, both.judge.limits.of_fake(answer.n_people))
        )
        told = "limits were chosen on files scored otherwise (averaged over 2 checkpoints"
        assert [remark for remark in answer.remarks if remark.startswith(told)]
        assert not any("averaged" in remark for remark in first.remarks)
    again = pickle.loads(pickle.dumps(both))
    assert list(again.predict(photos)) == answers
    mirrored = Predictor.from_checkpoint(trained.checkpoint, "cpu", tta="flip")
    assert pickle.loads(pickle.dumps(mirrored)).checkpoint.sha256 == mirrored.checkpoint.sha256


def test_a_leak_of_one_member_is_a_leak(crops: Path, members: list[Checkpoint]) -> None:
    manifest = read_manifest(crops)
    assert was_trained_on(combine(members), manifest)
    assert not was_trained_on(combine(members[1:], "flip"), manifest)
    assert any(
        "LEAK" in remark
        for remark in read_evaluation_set(crops, combine(members), split="train").remarks
    )


def test_members_that_divided_the_same_crops_otherwise_are_not_evaluated_on_them(
    tmp_path: Path,
) -> None:
    counts = {"train": (20, 20)}
    crops = write_crop_folder(
        tmp_path / "crops", counts, size=32, edit=lambda row: replace(row, split="")
    )
    paths = [
        write_checkpoint(tmp_path / f"{seed}.ckpt", crops, configuration=f"seed_everything: {seed}")
        for seed in (1, 2)
    ]
    first, second = (load_checkpoint(path) for path in paths)
    twin = replace(first, sha256="another head")
    manifest = read_manifest(crops)
    expected = divide_as_trained(manifest, first)
    assert divide_as_trained(manifest, combine([first, twin])) == expected
    other = replace(second, info=second.info | {"seed": 7})
    with pytest.raises(UsageError, match=r"1\.ckpt and .*2\.ckpt divided the crops in"):
        divide_as_trained(manifest, combine([first, other]))


def test_a_graph_beside_one_of_them_is_not_asked(
    members: list[Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    beside = members[0].path.with_suffix(".onnx")
    beside.write_bytes(b"the graph of the first one")
    try:
        make_scorers(combine(members), [torch.device("cpu")], "auto", 8)
    finally:
        beside.unlink()
    assert "is not used" not in caplog.text


@pytest.mark.slow
def test_it_is_exported_as_one_graph(members: list[Checkpoint]) -> None:
    detector = combine(members, "flip")
    difference = compare(OnnxScorer(make_graph(detector), 1), detector, make_crops(32))
    assert difference.p_fake < 1e-5
