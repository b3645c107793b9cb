"""The embedding model on timm's tiny test networks; nothing here reaches a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from deepfake.errors import UsageError
from deepfake.learning.embedder import EmbeddingModel

TINY = "test_efficientnet"


def make(**options: Any) -> EmbeddingModel:
    chosen: dict[str, Any] = {"backbone": TINY, "image_size": 64, "embedding_dim": 32}
    return EmbeddingModel(**(chosen | options))


def draw(batch: int = 4, size: int = 64) -> Tensor:
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backbone", [TINY, "test_vit", "test_convnext"])
def test_embeddings_are_unit_float32(backbone: str, training: bool) -> None:
    model = make(backbone=backbone).train(training)
    embeddings = model(draw())
    assert (embeddings.dtype, tuple(embeddings.shape)) == (torch.float32, (4, 32))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4), rtol=0, atol=1e-5)


def test_embeddings_stay_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = make().eval()(draw())
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4), rtol=0, atol=1e-5)


def test_bytes_and_floats_agree() -> None:
    model, images = make().eval(), draw()
    torch.testing.assert_close(model(images), model(images.float() / 255), rtol=0, atol=1e-6)


def test_evaluation_is_deterministic_and_blind_to_its_neighbours() -> None:
    model, images = make(dropout=0.9, drop_path_rate=0.5).eval(), draw(6)
    together = model(images)
    assert torch.equal(together, model(images))
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    model, images = make(dropout=0.5, backbone="test_vit"), draw()
    assert not torch.equal(model(images), model(images))
    assert torch.equal(make().dropout.train(False)(torch.ones(9)), torch.ones(9))
    assert model.dropout.p == 0.5


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 3, 32, 32), id="size"),
        pytest.param((2, 3, 64, 32), id="not-square"),
        pytest.param((2, 1, 64, 64), id="grey"),
        pytest.param((2, 64, 64, 3), id="channels-last"),
        pytest.param((3, 64, 64), id="no-batch"),
    ],
)
def test_refuses_another_shape_and_names_the_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects \(B, 3, 64, 64\): crop with --size 64"):
        make()(torch.zeros(shape))


def test_head_starts_as_a_keras_dense_layer() -> None:
    head = make(embedding_dim=200).projection
    assert head.in_features == 256
    bound = math.sqrt(6 / (256 + 200))
    weight = head.weight.detach()
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert float(weight.abs().max()) > 0.99 * bound
    assert head.bias.tolist() == [0.0] * 200


@pytest.mark.parametrize(("momentum", "expected"), [(0.01, 0.01), (None, 0.1)], ids=str)
def test_bn_momentum(momentum: float | None, expected: float) -> None:
    model = make(bn_momentum=momentum)
    found = {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert found == {expected}


@pytest.mark.parametrize(("rate", "expected"), [(None, 0.0), (0.3, 0.3)], ids=str)
def test_drop_path_rate(rate: float | None, expected: float) -> None:
    rates = [
        module.drop_prob
        for module in make(drop_path_rate=rate).modules()
        if isinstance(module, timm.layers.DropPath)
    ]
    assert max(rates, default=0.0) <= expected
    assert (max(rates, default=0.0) > 0) == (expected > 0)


def test_refuses_settings_that_a_backbone_does_not_take() -> None:
    with pytest.raises(UsageError, match="backbone 'vgg11' does not take these settings"):
        make(backbone="vgg11", drop_path_rate=0.1)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("test_eficientnet", "did you mean test_efficientnet", id="misspelt"),
        pytest.param("resnet5O", "did you mean resnet50", id="letter-for-digit"),
        pytest.param("@@@@", "timm knows no backbone '@@@@'$", id="nothing-near"),
        pytest.param("hf-hub:someone/model", "timm knows no backbone", id="hub-address"),
    ],
)
def test_unknown_backbone(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        make(backbone=name)


@pytest.mark.parametrize("backbone", [TINY, "test_vit", "tf_efficientnet_b0.ap_in1k"])
def test_normalises_as_timm_says(backbone: str) -> None:
    model = make(backbone=backbone).eval()
    config = timm.get_pretrained_cfg(backbone)
    assert model.mean.flatten().tolist() == pytest.approx(list(config.mean))
    assert model.std.flatten().tolist() == pytest.approx(list(config.std))
    assert {"mean", "std"} <= set(model.state_dict())
    images = draw(2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    features = model.backbone((images.float() / 255 - mean) / std)
    raw = model.projection(features)
    torch.testing.assert_close(model(images), raw / raw.norm(dim=1, keepdim=True))


def test_names_the_weights_tag_that_timm_resolved() -> None:
    assert make().resolved_backbone == "test_efficientnet.r160_in1k"
    plain, tagged = (make(backbone=f"tf_efficientnet_b0{tag}") for tag in ("", ".aa_in1k"))
    assert plain.resolved_backbone == "tf_efficientnet_b0.ns_jft_in1k"
    assert tagged.resolved_backbone == "tf_efficientnet_b0.aa_in1k"


@pytest.mark.parametrize("classes", [0, 7], ids=["without-classifier", "with-classifier"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("backbone", [TINY, "test_convnext"])
def test_local_weights_give_timms_features(
    tmp_path: Path, backbone: str, suffix: str, classes: int
) -> None:
    original = timm.create_model(backbone, num_classes=classes).eval()
    path = tmp_path / f"weights{suffix}"
    save: Callable[[dict[str, Tensor], Path], None] = (
        torch.save if suffix == ".pth" else safetensors.torch.save_file
    )
    save(original.state_dict(), path)
    model = make(backbone=backbone, pretrained=str(path)).eval()
    images = torch.rand(2, 3, 64, 64)
    bare = timm.create_model(backbone, num_classes=0).eval()
    bare.load_state_dict(
        {k: v for k, v in original.state_dict().items() if k in bare.state_dict()}, strict=True
    )
    assert torch.equal(model.backbone(images), bare(images))
    for key, value in bare.state_dict().items():
        assert torch.equal(value, original.state_dict()[key])


def write_weights(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("these are no weights")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "list":
        torch.save([torch.zeros(1)], path)
    elif kind == "pickle":
        torch.save({"weight": print}, path)
    elif kind == "truncated":
        torch.save(timm.create_model(TINY).state_dict(), path)
        path.write_bytes(path.read_bytes()[:50_000])
    else:
        torch.save(timm.create_model(kind).state_dict(), path)


@pytest.mark.parametrize(
    ("kind", "suffix", "problem"),
    [
        pytest.param("text", ".pth", "pretrained=.*holds no weights: ", id="text.pth"),
        pytest.param("text", ".safetensors", "pretrained=.*SafetensorError", id="text.safetensors"),
        pytest.param("empty", ".pth", "pretrained=.*holds no weights: ", id="empty.pth"),
        pytest.param("empty", ".safetensors", "pretrained=.*Safetensor", id="empty.safetensors"),
        pytest.param("list", ".pth", "pretrained=.*holds no weights: ", id="no-state-dict"),
        pytest.param("pickle", ".pth", "pretrained=.*weights_only=True blocked", id="code"),
        pytest.param("truncated", ".pth", "pretrained=.*holds no weights: ", id="truncated"),
        pytest.param("test_resnet", ".pth", f"does not fit backbone '{TINY}'", id="other-network"),
    ],
)
def test_refuses_a_file_that_holds_no_fitting_weights(
    tmp_path: Path, kind: str, suffix: str, problem: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    write_weights(path, kind)
    with pytest.raises(UsageError, match=problem):
        make(pretrained=str(path))


def test_refuses_weights_with_a_missing_layer(tmp_path: Path) -> None:
    state = timm.create_model(TINY).state_dict()
    del state["conv_stem.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"does not fit.*conv_stem\.weight"):
        make(pretrained=str(tmp_path / "w.pth"))


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        make(pretrained=str(tmp_path / "none.pth"))


def test_pretrained_offline_says_what_to_do() -> None:
    # conftest sets HF_HUB_OFFLINE and fails a test that opens a socket.
    with pytest.raises(UsageError, match=r"--model\.pretrained PATH.*--model\.pretrained false"):
        make(pretrained=True)


@pytest.mark.data
def test_given_weights_fit_their_backbone(shared_media: Path) -> None:
    path = shared_media / "weights" / "mobilenetv2_100_torch_nohead.safetensors"
    model = make(backbone="mobilenetv2_100", image_size=96, pretrained=str(path)).eval()
    stored = safetensors.torch.load_file(path)
    state = model.backbone.state_dict()
    assert set(stored) <= set(state)
    assert all(torch.equal(state[key], value) for key, value in stored.items())
    assert tuple(model(draw(2, 96)).shape) == (2, 32)
