"""The embedding model on timm's tiny test networks; nothing here reaches a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from deepfake.errors import UsageError
from deepfake.learning.backbone import keep_stages
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.learning.checkpoint_copy import to_safetensors
from deepfake.learning.checkpoint_file import FORMAT, KEY, seal
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.trained import freeze
from tests.conftest import Trained

TINY = "test_efficientnet"


def make(**options: Any) -> EmbeddingModel:
    chosen: dict[str, Any] = {"backbone": TINY, "image_size": 64, "embedding_dim": 32}
    return EmbeddingModel(**(chosen | options))


def write_checkpoint(path: Path, model: EmbeddingModel, **hyper: Any) -> Path:
    """What training writes in its middle, as far as it concerns the embedder."""
    described = {"backbone": TINY, "image_size": 64, "embedding_dim": 32, "levels": model.levels}
    described |= hyper
    state = {f"embedder.{name}": value for name, value in model.state_dict().items()}
    ours = {"format": FORMAT, "labels": {0: "real", 1: "fake"}}
    content = {"state_dict": state, "hyper_parameters": described, KEY: ours}
    seal(content)
    torch.save(content, path)
    return path


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


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_checkpoint_of_ours_is_taken_over_whole(tmp_path: Path, suffix: str) -> None:
    source = make()
    source.mean.fill_(0.25)
    path = write_checkpoint(tmp_path / "last.ckpt", source)
    if suffix == ".safetensors":
        path = tmp_path / "model.safetensors"
        path.write_bytes(to_safetensors(tmp_path / "last.ckpt"))
    model = make(pretrained=str(path))
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_finished_run_is_a_start(trained: Trained) -> None:
    finished = load_checkpoint(trained.checkpoint)
    hyper = finished.info["hyper_parameters"]
    size, width = hyper["image_size"], hyper["embedding_dim"]
    for path in sorted(trained.run.rglob("*.ckpt")):
        model = EmbeddingModel(hyper["backbone"], size, width, pretrained=str(path)).eval()
        if path == trained.checkpoint:
            images = draw(2, size)
            assert torch.equal(model(images), finished.embedder(images))


def test_an_embedding_of_another_width_starts_from_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = make()
    path = write_checkpoint(tmp_path / "model.ckpt", source)
    model = make(embedding_dim=8, pretrained=str(path))
    assert "has a projection of 256 features to 32: it is not taken" in caplog.text
    state = source.backbone.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.backbone.state_dict().items())
    assert tuple(model(draw()).shape) == (4, 8)


def test_a_checkpoint_serves_another_image_size(tmp_path: Path) -> None:
    names = {"backbone": "vit_tiny_patch16_224", "image_size": 96}
    source = make(**names)
    path = write_checkpoint(tmp_path / "model.ckpt", source, **names)
    model = make(**names | {"image_size": 64}, pretrained=str(path))
    assert torch.equal(model.projection.weight, source.projection.weight)
    assert model.backbone.state_dict()["pos_embed"].shape == (1, 17, 192)
    assert tuple(model(draw()).shape) == (4, 32)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param({"backbone": "test_resnet"}, "has backbone 'test_resnet', not", id="other"),
        pytest.param({"format": 2}, "has format 2, this version of deepfake", id="old"),
        pytest.param({"foreign": True}, "was not written by deepfake", id="foreign"),
        pytest.param({"without": "projection.bias"}, "is damaged: 'bias'", id="damaged"),
        pytest.param({"without": "mean"}, "is damaged: 'mean'", id="no-mean"),
        pytest.param(
            {"without": "backbone.conv_stem.weight"},
            r"does not fit .*conv_stem\.weight",
            id="no-stem",
        ),
    ],
)
def test_refuses_a_checkpoint_that_does_not_fit(
    tmp_path: Path, damage: dict[str, Any], problem: str
) -> None:
    path = write_checkpoint(tmp_path / "model.ckpt", make())
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] |= {k: v for k, v in damage.items() if k == "backbone"}
    content[KEY] |= {k: v for k, v in damage.items() if k == "format"}
    content["state_dict"].pop(f"embedder.{damage.get('without')}", None)
    if damage.get("foreign"):
        del content[KEY]
    else:
        seal(content)
    torch.save(content, path)
    with pytest.raises(UsageError, match=problem) as caught:
        make(pretrained=str(path))
    assert "\n" not in str(caught.value)


def test_never_runs_what_a_checkpoint_holds(tmp_path: Path) -> None:
    torch.save({"state_dict": print}, tmp_path / "model.ckpt")
    with pytest.raises(UsageError, match="it was not opened, because it could run code"):
        make(pretrained=str(tmp_path / "model.ckpt"))
    with pytest.raises(UsageError, match="there is no such file"):
        make(pretrained=str(tmp_path / "none.ckpt"))


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit", "test_resnet"])
def test_levels_are_means_and_deviations_of_the_last_stages(backbone: str) -> None:
    model = make(backbone=backbone, levels=2).eval()
    whole = make(backbone=backbone).eval()
    left = model.backbone.state_dict()
    whole.backbone.load_state_dict(left, strict=False)
    model.standardise.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    model.standardise.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        look: Any = whole.backbone.forward_intermediates
        crops = draw()
        images = (crops.float() / 255 - model.mean) / model.std
        parts = []
        for stage in look(images, intermediates_only=True)[-2:]:
            maps = [stage.mean(dim=(2, 3)), stage.std(dim=(2, 3), correction=0)]
            parts += maps
        rows = torch.cat(parts, dim=1)
        assert rows.shape[1] == model.projection.in_features
        assert model.standardise.running_mean is not None
        assert model.standardise.running_var is not None
        rows = (rows - model.standardise.running_mean) / (
            model.standardise.running_var + 1e-5
        ) ** 0.5
        expected = nn.functional.normalize(model.projection(rows))
        torch.testing.assert_close(model(crops), expected, rtol=1e-4, atol=1e-5)
    assert len(left) < len(whole.backbone.state_dict()) or backbone == "test_resnet"


def test_levels_learn_the_statistics_of_a_frozen_network() -> None:
    model = make(levels=3)
    freeze(model, "head")
    model.train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    assert model.standardise.running_mean is not None
    for _ in range(3):
        model(draw()).sum().backward()
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert bool(model.standardise.running_mean.any())
    gradient = model.projection.weight.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())


def test_one_place_has_no_deviation_and_a_gradient() -> None:
    model = make(backbone="test_resnet", image_size=32, levels=1)
    model(draw(size=32)).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("levels", "told"), [(9, "expected 1 to 5"), (-1, "expected 1 to 5")])
def test_refuses_stages_that_there_are_not(levels: int, told: str) -> None:
    with pytest.raises(UsageError, match=rf"network.levels={levels}; {told}"):
        make(levels=levels)


def test_refuses_a_network_that_gives_no_stages() -> None:
    with pytest.raises(UsageError, match=r"network.levels=2: Sequential gives no stages"):
        keep_stages(nn.Sequential(nn.Flatten()), 2)


def test_refuses_stages_of_another_network(tmp_path: Path) -> None:
    model = make(levels=2)
    path = write_checkpoint(tmp_path / "model.ckpt", model)
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["embedder.backbone.conv_stem.weight"]
    seal(content)
    torch.save(content, path)
    with pytest.raises(UsageError, match=r"does not fit: .*conv_stem"):
        make(levels=2, pretrained=str(path))


def test_levels_go_on_from_a_checkpoint_with_or_without_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, whole = make(levels=2), make()
    model.standardise.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    same = make(levels=2, pretrained=str(write_checkpoint(tmp_path / "a.ckpt", model)))
    wanted = model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in same.state_dict().items())
    of_whole = make(levels=2, pretrained=str(write_checkpoint(tmp_path / "b.ckpt", whole)))
    wanted = whole.backbone.state_dict()
    taken = of_whole.backbone.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in taken.items())


def test_levels_go_on_from_other_levels_and_from_another_image_size(tmp_path: Path) -> None:
    three = make(levels=3)
    path = write_checkpoint(tmp_path / "three.ckpt", three)
    two = make(levels=2, pretrained=str(path))
    wanted = three.backbone.state_dict()
    assert all(torch.equal(v, wanted[name]) for name, v in two.backbone.state_dict().items())
    assert two.projection.in_features != three.projection.in_features
    with pytest.raises(UsageError, match="does not fit backbone"):  # stages alone are no network
        make(backbone="test_vit", pretrained=str(cut(tmp_path / "cut.ckpt")))
    names = {"backbone": "vit_tiny_patch16_224", "image_size": 96}
    path = write_checkpoint(tmp_path / "vit.ckpt", make(**names), **names)
    model = make(**names | {"image_size": 64}, levels=2, pretrained=str(path))
    assert model.backbone.state_dict()["pos_embed"].shape == (1, 17, 192)


def cut(path: Path) -> Path:
    return write_checkpoint(path, make(backbone="test_vit", levels=2), backbone="test_vit")


def test_of_several_networks_the_one_with_as_many_levels_is_taken(tmp_path: Path) -> None:
    whole, three = make(), make(levels=3)
    other = make(backbone="test_resnet")
    inner = nn.Module()
    inner.members = nn.ModuleList([whole, three])
    outer: Any = nn.Module()
    outer.members, outer.levels = nn.ModuleList([other, inner]), 0
    plain = {"backbone": TINY, "image_size": 64, "embedding_dim": 32}
    members = [{"backbone": "test_resnet"}, {"members": [plain, plain | {"levels": 3}]}]
    path = str(write_checkpoint(tmp_path / "several.ckpt", outer, members=members))
    for levels, wanted in ((0, whole), (3, three)):
        taken, state = make(levels=levels, pretrained=path), wanted.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in taken.state_dict().items())
    with pytest.raises(UsageError, match=f"'test_resnet' and '{TINY}' and '{TINY}', not 'test_vi"):
        make(backbone="test_vit", pretrained=path)


def test_bn_momentum_reaches_what_standardises_stages() -> None:
    assert make(levels=2, bn_momentum=0.02).standardise.momentum == 0.02
