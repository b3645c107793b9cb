"""Scorers: torch is the reference, and it does not care about what surrounds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepfake.errors import JobError
from deepfake.inference.scoring import OnnxScorer, TorchScorer
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from tests.conftest import Trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(trained: Trained) -> Checkpoint:
    return load_checkpoint(trained.checkpoint)


def crops(count: int, size: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_torch_scores_are_those_of_the_checkpoint(checkpoint: Checkpoint) -> None:
    images = crops(3)
    with torch.inference_mode():
        embeddings = checkpoint.embedder(torch.from_numpy(images).permute(0, 3, 1, 2))
        expected = checkpoint.head(embeddings)
    scorer = TorchScorer(checkpoint, CPU, 32)
    p_fake, found = scorer.run(images)
    # Channels-last: the same sums in another order.
    np.testing.assert_allclose(p_fake, expected.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, embeddings.numpy(), rtol=0, atol=1e-6)
    assert scorer.score(images) == p_fake.tolist()


def test_no_half_precision_on_a_cpu_whoever_asks(checkpoint: Checkpoint) -> None:
    images = crops(2)
    scorer = TorchScorer(checkpoint, CPU, 32)
    seen = []
    scorer._embedder.backbone.register_forward_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    expected = scorer.score(images)
    with torch.autocast("cpu", torch.bfloat16):
        other = checkpoint.embedder(torch.from_numpy(images).permute(0, 3, 1, 2))
        assert scorer.score(images) == expected
    assert seen == [False, False]
    # The region would have mattered.
    assert not np.array_equal(other.detach().numpy(), scorer.run(images)[1])


def test_the_checkpoint_stays_where_it_is(checkpoint: Checkpoint) -> None:
    scorer = TorchScorer(checkpoint, CPU, 32)
    with torch.no_grad():
        scorer._embedder.projection.weight.zero_()
    assert checkpoint.embedder.projection.weight.any()


@pytest.mark.parametrize("count", [1, 3, 32])
def test_a_graph_equals_torch_for_any_number_of_crops(
    checkpoint: Checkpoint, graph: bytes, count: int
) -> None:
    images = crops(count)
    p_fake, embeddings = OnnxScorer(graph, 32).run(images)
    expected_p_fake, expected = TorchScorer(checkpoint, CPU, 32).run(images)
    assert p_fake.shape == (count,)
    assert (str(p_fake.dtype), str(embeddings.dtype)) == ("float64", "float32")
    np.testing.assert_allclose(p_fake, expected_p_fake, rtol=0, atol=1e-5)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_a_graph_gives_the_same_bits_again_and_on_any_number_of_threads(graph: bytes) -> None:
    images = crops(4)
    expected = OnnxScorer(graph, 4).score(images)
    torch.set_num_threads(2)
    try:
        other = OnnxScorer(graph, 4)
    finally:
        torch.set_num_threads(1)
    assert other._session.get_session_options().intra_op_num_threads == 2
    assert other.score(images) == expected == other.score(images)
    assert [other.score(images[i : i + 1])[0] for i in range(4)] == pytest.approx(
        expected, abs=1e-6
    )


def test_a_cpu_takes_few_crops_at_once(checkpoint: Checkpoint, graph: bytes) -> None:
    assert TorchScorer(checkpoint, CPU, 500).batch_size <= 8
    assert OnnxScorer(graph, 500).batch_size <= 8
    assert TorchScorer(checkpoint, CPU, 1).batch_size == OnnxScorer(graph, 1).batch_size == 1


def test_out_of_memory_halves_the_batch_of_this_scorer(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = crops(4)
    scorer = TorchScorer(checkpoint, CPU, 4)
    expected = scorer.score(images)
    real, sizes = scorer.run, list[int]()

    def small(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("too much")
        return real(images)

    monkeypatch.setattr(scorer, "run", small)
    assert scorer.score(images) == pytest.approx(expected, abs=1e-6)
    assert scorer.batch_size == 1
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    assert "out of memory; going on with 2 faces a batch" in caplog.text

    def never(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(scorer, "run", never)
    with pytest.raises(torch.OutOfMemoryError, match="too much"):
        scorer.score(images)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_refuses_a_damaged_graph(graph: bytes, share: float) -> None:
    with pytest.raises(JobError, match="this is no graph of deepfake"):
        OnnxScorer(graph[: int(share * len(graph))], 1)


def test_refuses_crops_of_another_size(graph: bytes) -> None:
    with pytest.raises(JobError, match=r"the graph does not score crops: .*64"):
        OnnxScorer(graph, 1).run(crops(1, 48))


def test_refuses_a_foreign_graph(graph: bytes, tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(graph)
    for metadata in ("[1]", "{", '"text"'):
        model.metadata_props[0].value = metadata
        with pytest.raises(JobError, match="this is no graph of deepfake"):
            OnnxScorer(model.SerializeToString(), 1)
    del model.metadata_props[:]
    with pytest.raises(JobError, match="this is no graph of deepfake"):
        OnnxScorer(model.SerializeToString(), 1)


@pytest.mark.gpu
def test_a_gpu_scores_like_the_cpu(checkpoint: Checkpoint) -> None:
    images = crops(3)
    expected = TorchScorer(checkpoint, CPU, 32).score(images)
    assert TorchScorer(checkpoint, torch.device("cuda"), 32).score(images) == pytest.approx(
        expected, abs=1e-3
    )


def test_an_embedding_that_is_no_number_is_no_score(checkpoint: Checkpoint) -> None:
    """Whatever the head makes of it."""

    class Overflowing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = checkpoint.embedder(images)
            rows[1, 0] = torch.inf
            rows[2, 5] = torch.nan
            rows[3] = 0
            return rows

    scorer = TorchScorer(checkpoint, CPU, 32)
    plain = scorer.score(crops(4))
    scorer._embedder = Overflowing()  # type: ignore[assignment]
    scorer._head = lambda rows: torch.zeros(len(rows), dtype=torch.float64)  # type: ignore[assignment]
    scores = scorer.score(crops(4))
    assert np.isfinite(plain).all()
    assert np.isnan(scores).tolist() == [False, True, True, True]
