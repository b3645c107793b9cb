"""A copy that only scores: the same embeddings without batch normalisation."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from deepfake.learning.backbone import make_backbone
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.folding import copy_for_scoring, fold_batch_norm
from deepfake.learning.joined import EnsembleEmbedder

NORMS = (nn.BatchNorm2d, BatchNormAct2d)
SIZE = 64


def shake(network: nn.Module) -> nn.Module:
    """Statistics, factors and offsets as a training leaves them: none is 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, NORMS):
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return network.eval()


def count_norms(network: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in network.modules())


def draw(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "name",
    # timm's layer of normalisation and activation, also with TensorFlow's padding; torch's own,
    # and one that stands before its convolutions as well.
    ["tf_efficientnet_lite0", "mobilenetv2_050", "tf_efficientnet_b0", "resnet18", "densenet121"],
)
def test_folded_is_equal(name: str) -> None:
    backbone = shake(make_backbone(name, SIZE)[0])
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    folded = fold_batch_norm(backbone, SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        expected, found = backbone(draw()), folded(draw())
    assert not expected.isnan().any()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    left = {"densenet121": 62}.get(name, 0)  # those before a convolution stay
    assert count_norms(folded) == left < count_norms(backbone)
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module._forward_hooks for module in backbone.modules())


def test_without_batch_norm_nothing_is_copied() -> None:
    backbone = make_backbone("vit_tiny_patch16_224", SIZE)[0].eval()
    assert fold_batch_norm(backbone, SIZE) is backbone


class _Odd(nn.Module):
    """What may not be folded, each for a reason of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        if self.kind == "output used twice":
            return torch.as_tensor((self.norm(made) + made).mean((2, 3)))
        if self.kind == "two norms":
            return torch.as_tensor((self.norm(made) + self.other(made)).mean((2, 3)))
        if self.kind == "called twice":
            return torch.as_tensor(
                (self.norm(made) + self.norm(self.conv(images.flip(-1)))).mean((2, 3))
            )
        return torch.as_tensor(self.norm(made.relu()).mean((2, 3)))


@pytest.mark.parametrize("kind", ["output used twice", "two norms", "called twice", "not next"])
def test_what_is_not_the_same_folded_stays(kind: str) -> None:
    network = shake(_Odd(kind))
    assert fold_batch_norm(network, SIZE) is network


def test_copy_for_scoring() -> None:
    model = EmbeddingModel("tf_efficientnet_lite0", SIZE, embedding_dim=8)
    shake(model)
    model.train()
    both = EnsembleEmbedder([model], "flip")
    for network, wanted in ((model, model), (both, both)):
        made = copy_for_scoring(network, torch.device("cpu"))
        assert not made.training
        assert model.training
        assert count_norms(made) == 0
        assert count_norms(model) > 0
        with torch.no_grad():
            torch.testing.assert_close(made(draw()), wanted.eval()(draw()), rtol=0, atol=1e-5)
        model.train()


@pytest.mark.parametrize(
    # Cut behind their stages, the last two answer with no vector any more.
    "name",
    ["tf_efficientnet_lite0", "resnet18", "coat_tiny", "hrnet_w18_small"],
)
def test_a_network_that_is_asked_for_its_stages_is_folded_by_them(name: str) -> None:
    model = EmbeddingModel(name, SIZE, embedding_dim=8, levels=2)
    shake(model)
    made = copy_for_scoring(model, torch.device("cpu"))
    assert count_norms(made) < count_norms(model) or name == "coat_tiny"
    with torch.no_grad():
        torch.testing.assert_close(made(draw()), model.eval()(draw()), rtol=0, atol=1e-4)


def test_other_devices_get_a_plain_copy() -> None:
    model = EmbeddingModel("tf_efficientnet_lite0", SIZE, embedding_dim=8)
    made = copy_for_scoring(model, torch.device("meta"))
    assert count_norms(made) == count_norms(model) > 0
    assert {tensor.device.type for tensor in made.state_dict().values()} == {"meta"}
