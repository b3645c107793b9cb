"""Networks of every family at sizes of their own choice, and weights from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from deepfake.errors import UsageError
from deepfake.learning.backbone import make_backbone
from deepfake.learning.embedder import EmbeddingModel

TINY = "test_efficientnet"


def make(**options: Any) -> EmbeddingModel:
    chosen: dict[str, Any] = {"backbone": TINY, "image_size": 64, "embedding_dim": 32}
    return EmbeddingModel(**(chosen | options))


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        pytest.param(TINY, 64, id="efficientnet"),
        pytest.param("legacy_xception", 96, id="xception", marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", 96, id="inception-resnet", marks=pytest.mark.slow),
        pytest.param("test_resnet", 64, id="resnet"),
        pytest.param("test_convnext", 64, id="convnext"),
        pytest.param("vit_tiny_patch16_224", 64, id="vit"),
        pytest.param("vit_small_patch14_dinov2", 56, id="dinov2"),
        pytest.param("vit_xsmall_patch16_clip_224", 64, id="clip"),
        pytest.param("swin_tiny_patch4_window7_224", 64, id="swin", marks=pytest.mark.slow),
        pytest.param("mobilevit_xxs", 64, id="mobilevit"),
        pytest.param("efficientvit_b0", 64, id="efficientvit-mit", marks=pytest.mark.slow),
        pytest.param("efficientvit_m0", 64, id="efficientvit-msra"),
        pytest.param("mobilenetv4_conv_small", 64, id="features-wider-than-filters"),
    ],
)
def test_every_family_takes_a_step_at_a_size_that_is_not_its_own(backbone: str, size: int) -> None:
    model = make(backbone=backbone, image_size=size, drop_path_rate=0.1)
    assert timm.get_pretrained_cfg(backbone).input_size[-1] != size
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    embeddings = model(images)
    assert tuple(embeddings.shape) == (2, 32)
    before = [parameter.detach().clone() for parameter in model.backbone.parameters()]
    embeddings[:, 0].sum().backward()
    optimizer.step()
    after = list(model.backbone.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in after)


def test_a_size_that_was_trained_on_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def note(name: str, size: int, settings: set[str]) -> tuple[dict[str, Any], int]:
        tried.append(name)
        return {}, 7

    network, n_features = make_backbone(TINY, 64)
    monkeypatch.setattr("deepfake.learning.backbone._try_size", note)
    again, same = make_backbone(TINY, 64, n_features=n_features)
    assert (tried, same) == ([], n_features)
    assert again.state_dict().keys() == network.state_dict().keys()
    assert make_backbone(TINY, 64, n_features=n_features + 1)[1] == 7  # it gives another number
    assert make_backbone("test_vit", 160, n_features=64)[1] == 7  # it depends on the size
    assert tried == [TINY, "test_vit"]


@pytest.mark.parametrize(
    ("backbone", "size", "problem"),
    [
        pytest.param(
            "vit_tiny_patch16_224",
            380,
            r"380 px \(its patches of 16 px do not divide it\); .* 320, 352, 368, 384$",
            id="vit",
            marks=pytest.mark.slow,
        ),
        pytest.param("test_vit", 380, "patches of 16 px .* work: 320, 352, 368, 384$", id="any"),
        pytest.param("test_convnext", 382, "patches of 4 px .* 320, 352, 380, 384$", id="convnext"),
        pytest.param(
            "inception_resnet_v2",
            64,
            r"Kernel size.*work: 80, 96, 128, 299$",
            id="small",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "efficientformer_l1",
            380,
            "sizes that work: 224$",
            id="one-size-only",
            marks=pytest.mark.slow,
        ),
        pytest.param(TINY, 0, "does not take crops of 0 px", id="nothing"),
    ],
)
def test_refuses_a_size_and_names_others(backbone: str, size: int, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        make(backbone=backbone, image_size=size)
    assert "\n" not in str(caught.value)


def test_a_sketch_draws_no_random_number() -> None:
    torch.manual_seed(3)
    ours = make(backbone="test_resnet", image_size=96).backbone.state_dict()
    torch.manual_seed(3)
    theirs = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_stochastic_depth_is_left_out_where_it_is_not_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    make(backbone="legacy_xception", image_size=96, drop_path_rate=0.2)
    assert "legacy_xception has no stochastic depth: drop_path_rate is left out" in caplog.text
    caplog.clear()
    make(backbone="legacy_xception", image_size=96, drop_path_rate=0.0)
    make(drop_path_rate=0.2)
    assert not caplog.records


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
        pytest.param("text", ".safetensors", "no weights: .*header", id="text.safetensors"),
        pytest.param("empty", ".pth", "pretrained=.*holds no weights: ", id="empty.pth"),
        pytest.param("empty", ".safetensors", "no weights: .*header", id="empty.safetensors"),
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


@pytest.mark.parametrize(
    ("backbone", "source"),
    [("test_vit3", "file"), ("test_vit3", "cache"), ("swin_tiny_patch4_window7_224", "file")],
)
def test_weights_of_another_size_are_resampled_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, source: str
) -> None:
    path = tmp_path / "weights.safetensors"
    stored = timm.create_model(backbone).state_dict()
    safetensors.torch.save_file(stored, path)
    if source == "cache":
        cached = "deepfake.learning.hub.find_cached"
        monkeypatch.setattr(cached, lambda repository, file: str(path))
    torch.manual_seed(1)
    model = make(backbone=backbone, pretrained=True if source == "cache" else str(path))
    state = model.backbone.state_dict()
    positions = [name for name in state if state[name].shape != stored[name].shape]
    assert positions
    for name, value in state.items():
        assert name in positions or torch.equal(value, stored[name]), name
    if backbone == "test_vit3":
        expected = timm.layers.resample_abs_pos_embed(
            stored["pos_embed"], new_size=[4, 4], num_prefix_tokens=count_prefix_tokens(model)
        )
        torch.testing.assert_close(state["pos_embed"], expected, rtol=0, atol=1e-6)
    assert "state_dict" not in model.backbone.pretrained_cfg  # type: ignore[operator]
    if source == "file":
        torch.manual_seed(1)
        random = make(backbone=backbone)
        assert torch.equal(random.projection.weight, model.projection.weight)


def count_prefix_tokens(model: EmbeddingModel) -> int:
    backbone: Any = model.backbone
    return 0 if backbone.no_embed_class else int(backbone.num_prefix_tokens)


@pytest.mark.data
@pytest.mark.parametrize(
    ("backbone", "file", "size"),
    [
        pytest.param("mobilenetv2_100", "mobilenetv2_100_torch_nohead", 96, id="mobilenet"),
        pytest.param("tf_efficientnet_lite0", "tf_efficientnet_lite0_fp16", 96, id="lite0"),
        pytest.param("tf_efficientnet_lite2", "tf_efficientnet_lite2_fp16", 96, id="lite2"),
        pytest.param("vit_small_patch14_dinov2", "vit_small_patch14_dinov2_fp16", 98, id="dinov2"),
    ],
)
def test_given_weights_fit_at_another_size(
    shared_media: Path, backbone: str, file: str, size: int
) -> None:
    path = shared_media / "weights" / f"{file}.safetensors"
    model = make(backbone=backbone, image_size=size, pretrained=str(path)).eval()
    stored = safetensors.torch.load_file(path)
    state = model.backbone.state_dict()
    for name, value in state.items():
        if name != "pos_embed":
            assert torch.equal(stored[name].to(value.dtype), value), name
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    assert tuple(model(images).shape) == (2, 32)
