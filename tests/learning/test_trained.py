"""What learns, what stands still, and at which rate."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from deepfake.errors import UsageError
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.trained import Trained, freeze, parameter_groups, scale_rates

ALL_FAMILIES = (
    "test_efficientnet",
    "test_resnet",
    "test_convnext",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_xxs",
    "efficientvit_b0",
    "efficientvit_m0",
)
LARGE = ("swin_tiny_patch4_window7_224", "efficientvit_b0")


def make(backbone: str = "test_efficientnet") -> EmbeddingModel:
    return EmbeddingModel(backbone, 64, 16, dropout=0.0, drop_path_rate=0.3)


def take_step(model: EmbeddingModel) -> set[str]:
    """Names of what a step of training changes, buffers included."""
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=0.1)
    model.train()
    model(torch.rand(4, 3, 64, 64))[:, 0].sum().backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


@pytest.mark.parametrize(
    ("backbone", "trained"),
    [("test_efficientnet", "head"), ("vit_tiny_patch16_224", "head")]
    + [
        pytest.param(family, part, marks=[pytest.mark.slow] if family in LARGE else [])
        for family in ALL_FAMILIES
        for part in ("norm", 1)
    ],
)
def test_only_what_is_chosen_changes(backbone: str, trained: Trained) -> None:
    model = make(backbone)
    freeze(model, trained)
    changed = take_step(model)
    assert "projection.weight" in changed
    within = {name for name in changed if name.startswith("backbone.")}
    if trained == "head":
        assert not within
        assert not any(module.training for module in model.backbone.modules())
    elif trained == "norm":
        modules = {model.get_submodule(name.rpartition(".")[0]) for name in within}
        assert modules
        assert {type(module).__name__ for module in modules} <= {
            "BatchNorm2d",
            "BatchNormAct2d",
            "BatchNorm1d",
            "LayerNorm",
            "LayerNorm2d",
        }
        every = {m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)}
        assert not every or every <= modules
    else:
        assert within
        names = [name for name, _ in model.backbone.named_parameters()]
        trained_names = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
        assert names[-1] in trained_names
        assert names[0] not in trained_names
        assert len(trained_names) < len(names)


def test_frozen_blocks_drop_nothing_and_keep_their_statistics() -> None:
    model = make()
    freeze(model, 1)
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.training == norm.weight.requires_grad
    assert {norm.training for norm in norms} == {True, False}
    freeze(model, "all")
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    freeze(model.eval(), "head")
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("backbone", "trained", "problem"),
    [
        pytest.param("test_vit", 0, "expected all, head, norm, or a number from 1 on", id="none"),
        pytest.param("test_vit", "last", "trained='last'; expected all", id="word"),
        pytest.param("test_vit", True, "trained=True; expected all", id="flag"),
        pytest.param("test_vit", 8, "trained=8, but the backbone has 7 blocks", id="many"),
        pytest.param("test_nfnet", "norm", "no normalisation layers", id="no-norm"),
        pytest.param("poolformer_s12", 1, "does not say what its blocks are", id="no-blocks"),
    ],
)
def test_refuses_what_a_backbone_does_not_have(backbone: str, trained: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        freeze(make(backbone), trained)


def test_two_groups_in_their_order_without_layer_decay() -> None:
    model, extra = make(), nn.Linear(16, 2)
    groups = parameter_groups(model, extra.parameters())
    optimizer = torch.optim.SGD(groups, lr=0.3, weight_decay=0.05)
    scale_rates(optimizer)
    decayed, others = optimizer.param_groups
    assert (decayed["lr"], decayed["weight_decay"]) == (0.3, 0.05)
    assert (others["lr"], others["weight_decay"]) == (0.3, 0.0)
    every = [*model.parameters(), *extra.parameters()]
    head = model.projection.weight
    for group, wanted in (
        (decayed, [p for p in every if p.ndim >= 2 and p is not head]),
        (others, [p for p in every if p.ndim < 2 or p is head]),
    ):
        assert list(map(id, group["params"])) == list(map(id, wanted))


def test_weight_decay_spares_positions_and_tokens() -> None:
    model = make("vit_tiny_patch16_224")
    _, others = parameter_groups(model)
    spared = {id(parameter) for parameter in others["params"]}
    backbone: Any = model.backbone
    assert {id(backbone.pos_embed), id(backbone.cls_token)} <= spared


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "inception_resnet_v2"])
def test_layer_decay_slows_each_block_down(backbone: str) -> None:
    size = 64 if "vit" in backbone else 96
    model = EmbeddingModel(backbone, size, 16)
    optimizer = torch.optim.AdamW(parameter_groups(model, layer_decay=0.5), lr=1.0)
    scale_rates(optimizer)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.projection.weight)] == rates[id(model.projection.bias)] == 1.0
    network: Any = model.backbone
    if backbone == "inception_resnet_v2":
        assert 0 < min(rates.values()) < 0.01
        return
    for number, block in enumerate(network.blocks):
        assert {rates[id(p)] for p in block.parameters()} == {0.5 ** (12 - number)}
    assert rates[id(network.norm.weight)] == 0.5
    assert rates[id(network.pos_embed)] == rates[id(network.patch_embed.proj.weight)] == 0.5**13


def test_a_schedule_keeps_the_rates_apart() -> None:
    model = make("test_vit")
    freeze(model, 2)
    optimizer = torch.optim.SGD(parameter_groups(model, layer_decay=0.5), lr=1.0)
    scale_rates(optimizer)
    scale_rates(optimizer)  # a second time it has nothing left to do
    peaks = [group["lr"] for group in optimizer.param_groups]
    assert sorted(set(peaks)) == [0.25, 0.5, 1.0]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peaks, total_steps=9)
    for _ in range(9):
        rates = schedule.get_last_lr()
        torch.testing.assert_close(
            torch.tensor(rates) / torch.tensor(peaks),
            torch.full((len(rates),), rates[0] / peaks[0]),
        )
        optimizer.step()
        if schedule.last_epoch < 8:
            schedule.step()


@pytest.mark.parametrize("layer_decay", [0.0, -1.0, 1.5], ids=str)
def test_refuses_a_layer_decay_out_of_range(layer_decay: float) -> None:
    with pytest.raises(UsageError, match="expected more than 0 and at most 1"):
        parameter_groups(make(), layer_decay=layer_decay)


@pytest.mark.parametrize("trained", ["head", "norm", 2], ids=str)
def test_distributed_training_waits_for_no_frozen_weight(trained: Trained, tmp_path: Any) -> None:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = make()
        freeze(model, trained)
        parallel = DistributedDataParallel(model.train())
        for _ in range(2):  # it is the second forward that refuses weights without a gradient
            parallel(torch.rand(4, 3, 64, 64))[:, 0].sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert model.projection.weight.grad is not None
