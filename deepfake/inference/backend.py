"""Chooses where and by what the network runs: devices, torch or ONNX Runtime, and whose graph.

What ``auto`` takes depends on what is installed, on what lies beside the checkpoint and on the
size of the job, but never on what earlier jobs left behind: the same command gives the same bytes.
Knows no media and no table.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from deepfake.errors import JobError, UsageError
from deepfake.inference.export import compare, export_versions, make_crops, make_graph, require
from deepfake.inference.graphs import (
    ONNX_SUFFIX,
    cache_folder,
    is_recorded,
    keep_graph,
    record_graph,
)
from deepfake.inference.scoring import OnnxScorer, Scorer, TorchScorer
from deepfake.learning.checkpoint import Checkpoint
from deepfake.media.discovery import is_called_video
from deepfake.records import Sampling, Source

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "torch", "onnx")
# For each thread. Making a graph of an EfficientNet-B4 takes 15 s whatever the threads; then it
# saves 0.1 to 0.15 s of one thread's time on every face.
_PAYS_FROM_FACES = 128
_FRAMES_OF_A_CLIP = 16  # a guess, where the sampling names no number


def choose_devices(device: str | Sequence[str]) -> tuple[torch.device, ...]:
    """The torch devices of a name, or of several names.

    Args:
        device: ``auto`` (CUDA, then MPS, then the CPU) or torch's name of a device; a sequence of
            such names for several.

    Raises:
        UsageError: If this machine does not have one of them, or they are of different kinds.
    """
    names = [device] if isinstance(device, str) else list(device)
    if not names:
        raise UsageError("no device is named; use auto, cpu, cuda or mps")
    devices = tuple(_choose_device(name) for name in names)
    if len({device.type for device in devices}) > 1:
        raise UsageError(
            f"devices {', '.join(names)} are of different kinds and would not give the same "
            "scores; name devices of one kind"
        )
    return devices


def parse_devices(text: str) -> list[str]:
    """Names of devices: ``2`` means the first two CUDA devices, ``cuda:0,cuda:2`` means those.

    Raises:
        UsageError: If there are not as many.
    """
    if not text.strip().isdigit():
        return [name.strip() for name in text.split(",")]
    wanted, there = int(text), torch.cuda.device_count()
    if not 1 <= wanted <= there:
        raise UsageError(
            f"devices={wanted}: this machine has {there} CUDA devices; ask for 1 to {there}, or "
            "name devices like cuda:0,cuda:2"
            if there
            else f"devices={wanted}: this machine has 0 CUDA devices; use --device instead"
        )
    return [f"cuda:{number}" for number in range(wanted)]


def expect_faces(sources: Iterable[Source], sampling: Sampling) -> int:
    """How many faces a job will score, roughly: one of a photo, one a frame of a video."""
    frames = min(sampling.frames or _FRAMES_OF_A_CLIP, sampling.max_frames)
    return sum(frames if is_called_video(source.path.name) else 1 for source in sources)


def make_scorers(
    checkpoint: Checkpoint,
    devices: Sequence[torch.device],
    backend: str,
    batch_size: int,
    expected_faces: int = 0,
) -> list[Scorer]:
    """One scorer a device, all of the same backend, which is said in one line of the log.

    Args:
        checkpoint: The detector.
        devices: Of one kind.
        backend: ``torch``; ``onnx``, on a CPU; ``auto`` takes ONNX Runtime on a CPU where it is
            installed and a graph lies beside the checkpoint or is worth making.
        batch_size: Most crops at once.
        expected_faces: About as many will be scored; 0 where nobody knows.

    Raises:
        UsageError: If there is no such backend, or it is not for this device, or not installed.
        JobError: If ``onnx`` was asked for and the network cannot be exported to it.
    """
    if backend not in BACKENDS:
        raise UsageError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    on_cpu = devices[0].type == "cpu"
    if backend == "onnx":
        if not on_cpu:
            raise UsageError(
                f"backend onnx scores on the CPU, not on {devices[0]}; pass device cpu, or "
                "backend torch"
            )
        require("onnxruntime")
    scorers: list[Scorer] = []
    origin = ""
    if on_cpu and backend != "torch":
        found = _find_graph(checkpoint, backend == "onnx", expected_faces)
        if found is not None:
            graph, origin = found
            scorers = [OnnxScorer(graph, batch_size) for _ in devices]
    if not scorers:
        scorers = [TorchScorer(checkpoint, device, batch_size) for device in devices]
    names = ", ".join(map(str, devices))
    logger.info("%s scores on %s%s", scorers[0].name, names, origin)
    return scorers


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    # A torch built without CUDA says so by an AssertionError, one without that kind of device by a
    # NotImplementedError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name!r} is not usable here ({str(error).splitlines()[0]}); "
            "use auto, cpu, cuda or mps"
        ) from error
    return device


def _find_graph(
    checkpoint: Checkpoint, demanded: bool, expected_faces: int
) -> tuple[bytes, str] | None:
    """The graph to score with and words on where it is from; ``None`` where torch shall score."""
    try:
        require("onnxruntime")
        if not checkpoint.differences:  # else there is no file that one could lie beside
            beside = checkpoint.path.with_suffix(ONNX_SUFFIX)
            graph = _read_graph(beside, checkpoint)
            if graph is not None:
                return graph, f", with {beside}"
        if not demanded and expected_faces < _PAYS_FROM_FACES * torch.get_num_threads():
            return None
        require("onnx", "onnxscript")
        return _make_or_recall(checkpoint)
    except UsageError:
        if demanded:
            raise
        return None  # not installed: torch is what there is
    except JobError as error:
        if demanded:
            raise
        logger.warning("%s", error)
        return None


def _make_or_recall(checkpoint: Checkpoint) -> tuple[bytes, str]:
    """This user's graph of a checkpoint, made now if need be."""
    key = json.dumps([checkpoint.sha256, checkpoint.tta, export_versions()])
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{ONNX_SUFFIX}"
    path = cache_folder() / name
    graph = _read_graph(path, checkpoint)
    if graph is None:
        logger.info("making a graph for ONNX Runtime, once for this checkpoint ...")
        graph = make_graph(checkpoint)
        compare(OnnxScorer(graph, 1), checkpoint, make_crops(checkpoint.recipe.crop.size))
        record_graph(graph, checkpoint.sha256)
        keep_graph(path.name, graph)
    else:
        with suppress(OSError):
            os.utime(path)  # the graphs that were used last are kept
    return graph, ""


def _read_graph(path: Path, checkpoint: Checkpoint) -> bytes | None:
    """The graph in a file, if this user has made it of this checkpoint and it is equal to torch."""
    try:
        if not path.exists():
            return None
        if not path.is_file():  # a pipe would block, a device never end
            raise OSError("it is no regular file")
        graph = path.read_bytes()
    except OSError as error:
        logger.warning("the graph %s cannot be read (%s)", path, error)
        return None
    try:
        if not is_recorded(graph, checkpoint.sha256):
            raise JobError("it is not as you have made it of this checkpoint on this machine")
        scorer = OnnxScorer(graph, 1)
        if scorer.description.get("checkpoint_sha256") != checkpoint.sha256:
            raise JobError("it was made from another checkpoint")
        # Two crops: enough to notice another network, and soon done.
        compare(scorer, checkpoint, make_crops(checkpoint.recipe.crop.size)[:2])
    except JobError as error:
        advice = (
            f"deepfake export --checkpoint {shlex.quote(str(checkpoint.path))} --format onnx "
            "--overwrite makes it anew; remove it to read this no more"
        )
        logger.warning("the graph %s is not used: %s; %s", path, error, advice)
        return None
    return graph
