"""What is chosen for which device, and that choosing leaves no trace."""

from __future__ import annotations

import copy
import platform
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from deepfake.learning import tuning
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.tuning import (
    FUSED,
    choose_precision,
    compile_forward,
    keep_freed_memory,
    time_memory_formats,
)


def pretend_cards(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])


@pytest.mark.parametrize(
    ("cards", "accelerator", "expected"),
    [
        pytest.param([(9, 0)], "auto", "bf16-mixed", id="h100"),
        pytest.param([(8, 6)], "gpu", "bf16-mixed", id="3090"),
        pytest.param([(7, 5)], "cuda", "16-mixed", id="t4"),
        pytest.param([(9, 0), (7, 0)], "auto", "16-mixed", id="the-older-of-two"),
        pytest.param([(6, 1)], "auto", "32-true", id="no-tensor-cores"),
        pytest.param([(9, 0)], "cpu", "32-true", id="cpu-on-purpose"),
        pytest.param([], "auto", "32-true", id="no-card"),
        pytest.param([], "mps", "32-true", id="apple"),
    ],
)
def test_precision(
    monkeypatch: pytest.MonkeyPatch,
    cards: list[tuple[int, int]],
    accelerator: str,
    expected: str,
) -> None:
    pretend_cards(monkeypatch, *cards)
    assert choose_precision(accelerator) == expected


def test_timing_leaves_no_trace() -> None:
    model = EmbeddingModel("test_efficientnet", 32, 16, dropout=0.5)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    planar_s, interleaved_s = time_memory_formats(model, images, nullcontext, repeats=2)
    assert planar_s > 0
    assert interleaved_s > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.stride() == before[name].stride()


class _Watched(nn.Module):
    """Notes how its images lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.seen: list[tuple[bool, bool]] = []

    def __deepcopy__(self, memo: object) -> _Watched:
        twin = _Watched()
        twin.seen = self.seen
        return twin

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        form = torch.channels_last
        weight = self.convolution.weight
        self.seen.append((images.is_contiguous(memory_format=form), weight.is_contiguous()))
        result: torch.Tensor = self.convolution(images)
        return result


def test_timing_takes_turns_with_both_formats() -> None:
    module = _Watched()
    time_memory_formats(module, torch.zeros(2, 3, 8, 8), nullcontext, repeats=1)
    assert module.seen == [(False, True), (True, False)] * 3


def test_fused_optimisers_exist_where_they_are_said_to() -> None:
    assert "cpu" in FUSED
    parameter = torch.zeros(3, requires_grad=True)
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        optimizer = kind([parameter], lr=0.1, fused=True)
        parameter.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@pytest.mark.slow
def test_compiled_forward_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "COMPILER", "eager")  # no C++ compiler needed
    model = EmbeddingModel("test_efficientnet", 32, 16, dropout=0.0).train()
    twin = copy.deepcopy(model)
    images = torch.rand(4, 3, 32, 32)
    found, expected = compile_forward(model.forward, "default")(images), twin(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not any("_orig_mod" in name for name in model.state_dict())


_COUNT_PAGE_FAULTS = """
import resource, torch
from deepfake.learning.tuning import keep_freed_memory
def count():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(16 << 20).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = count()
assert keep_freed_memory(torch.device("cpu"))
count()
print(plain, count())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_used_again() -> None:
    """Twenty blocks of 64 MB, one after the other."""
    # In a process of its own: what an earlier test has freed and kept would serve the first count.
    command = [sys.executable, "-c", _COUNT_PAGE_FAULTS]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    plain, kept = map(int, printed.split())
    assert kept < plain / 5


def test_memory_is_left_alone_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not keep_freed_memory(torch.device("cuda", 0))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory(torch.device("cpu"))
