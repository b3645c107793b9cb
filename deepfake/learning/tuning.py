"""What a device does best: number and memory format, compiled forward, fused optimiser, memory.

Whatever is found out by timing is found out on copies, so that weights, statistics and random
numbers of the training stay as they were. Knows no loss, no data and no Trainer.
"""

from __future__ import annotations

import copy
import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

CompileMode = Literal["default", "reduce-overhead"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
COMPILER = "inductor"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1
FUSED = ("cuda", "cpu", "mps")
"""Devices for which torch's optimisers have one kernel for all weights."""


def choose_precision(accelerator: str) -> Precision:
    """The fastest number format that the device has circuits for.

    bfloat16 where there are tensor cores for it (compute capability 8 and newer), float16 with a
    scaled gradient on 7.x (a T4 computes bfloat16 in software), float32 elsewhere: on a CPU without
    the instructions bfloat16 is an order of magnitude slower, and Apple's devices gain nothing.

    Args:
        accelerator: As Lightning's Trainer takes it: ``auto``, ``gpu``, ``cuda``, ``cpu``, ...
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    # Processes may get different cards; all of them must compute in one format.
    oldest = min(
        torch.cuda.get_device_capability(index)[0] for index in range(torch.cuda.device_count())
    )
    if oldest >= 8:
        return "bf16-mixed"
    return "16-mixed" if oldest == 7 else "32-true"


def compile_forward(forward: Callable[..., Tensor], mode: CompileMode) -> Callable[..., Tensor]:
    """Compile a forward for batches of one shape.

    A plain function comes back, not a module: the names of the weights stay what they are.

    Args:
        forward: Bound ``forward`` of a module.
        mode: ``default`` fuses kernels; ``reduce-overhead`` also records them as a CUDA graph, so
            that small batches are not held up by launches.
    """
    options: dict[str, Any] = {"mode": mode} if COMPILER == "inductor" else {}
    compiled: Callable[..., Tensor] = torch.compile(
        forward, backend=COMPILER, dynamic=False, **options
    )
    return compiled


def time_memory_formats(
    module: nn.Module,
    images: Tensor,
    context: Callable[[], AbstractContextManager[None]],
    repeats: int = 5,
) -> tuple[float, float]:
    """Seconds of a forward and backward with planar and with interleaved (channels-last) tensors.

    Args:
        module: Network to be trained; copies of it are run.
        images: ``(B, 3, S, S)`` batch on the training's device; its values do not matter.
        context: Makes the context that a training step runs in (autocast).
        repeats: Timed runs of each; both take turns, after two runs that warm up.

    Returns:
        Medians: contiguous, channels last.
    """
    device = images.device
    formats = (torch.contiguous_format, torch.channels_last)
    copies = [copy.deepcopy(module).to(device).train().to(memory_format=form) for form in formats]
    inputs = [images.to(memory_format=form) for form in formats]
    seconds: list[list[float]] = [[], []]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for turn in range(repeats + 2):
            for which, (network, batch) in enumerate(zip(copies, inputs, strict=True)):
                _wait_for(device)
                started_s = time.perf_counter()
                with context():
                    embeddings: Tensor = network(batch)
                embeddings.float().sum().backward()  # type: ignore[no-untyped-call]
                _wait_for(device)
                if turn >= 2:
                    seconds[which].append(time.perf_counter() - started_s)
    del copies, inputs, embeddings
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def keep_freed_memory(device: torch.device) -> bool:
    """Let this process keep what a network on the CPU frees, for its next tensors.

    Activations are blocks of megabytes. glibc fetches such a block from the system and hands it
    back as soon as it is free, so that every layer of every batch waits for thousands of pages to
    be found and zeroed again. Kept, a forward pays for them once; the peak grows a little, because
    blocks of other sizes lie between.

    Args:
        device: Where the network runs; for other devices nothing is changed.

    Returns:
        Whether it is so now; not with other C libraries than glibc.

    References:
        ``mallopt(3)``: ``M_MMAP_MAX``, ``M_TRIM_THRESHOLD``.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
