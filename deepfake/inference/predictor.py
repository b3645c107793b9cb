"""Checkpoint and media in, one answer per input out, in input order.

Crops are cut by the checkpoint's own recipe through the path that cut the training crops. Knows
no table format.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepfake.errors import UsageError
from deepfake.faces.extraction import decode_crop
from deepfake.faces.pipeline import check_detect_device, iter_extractions
from deepfake.faces.tracking import link_tracks
from deepfake.inference.aggregation import aggregate
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.media.discovery import list_sources
from deepfake.media.images import MAX_PIXELS
from deepfake.records import (
    LABEL_NAMES,
    Extraction,
    FaceCrop,
    FaceScore,
    MediaScore,
    Policy,
    Sampling,
    Source,
)

logger = logging.getLogger(__name__)


class Predictor:
    """A trained detector that scores files.

    Args:
        checkpoint: As ``load_checkpoint`` gave it.
        device: ``auto`` (CUDA, then Apple's MPS, then CPU) or a torch device.
        batch_size: Faces per call of the network.
        workers: Processes that decode and detect; 0 does it in this process.
        timeout_s: Longest time for one file in seconds; needs ``workers``.
        max_pixels: Larger pictures are ``unreadable``.
        sampling: Which frames of a video; by default as the training crops were sampled.
        aggregation: How the frames of a file make its score, a name of ``POLICIES``; by default,
            and in its numbers always, as the checkpoint says.
        detect_device: Where faces are searched for: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: If the device does not exist or a setting is out of range.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        batch_size: int = 32,
        workers: int = 0,
        timeout_s: float = 60.0,
        max_pixels: int = MAX_PIXELS,
        sampling: Sampling | None = None,
        aggregation: Policy | None = None,
        detect_device: str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}; expected 1 or more")
        check_detect_device(detect_device)
        self.checkpoint = checkpoint
        self.device = choose_device(device)
        self.batch_size, self.workers, self.timeout_s = batch_size, workers, timeout_s
        self.max_pixels, self.detect_device = max_pixels, detect_device
        self.aggregation = checkpoint.aggregation
        if aggregation is not None:
            self.aggregation = replace(self.aggregation, policy=aggregation)
        self.sampling = sampling or checkpoint.sampling
        self._embedder = checkpoint.embedder.to(self.device)
        self._classifier = checkpoint.classifier

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        device: str = "auto",
        batch_size: int = 32,
        workers: int = 0,
        timeout_s: float = 60.0,
        max_pixels: int = MAX_PIXELS,
        sampling: Sampling | None = None,
        aggregation: Policy | None = None,
        detect_device: str = "cpu",
    ) -> Predictor:
        """Load ``model.ckpt`` of a finished run.

        Raises:
            CheckpointError: If the file is missing, damaged, not ours or unfinished.
            UsageError: If the device does not exist or a setting is out of range.
        """
        checkpoint = load_checkpoint(Path(path))
        return cls(
            checkpoint,
            device,
            batch_size,
            workers,
            timeout_s,
            max_pixels,
            sampling,
            aggregation,
            detect_device,
        )

    def predict(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[MediaScore]:
        """Score files, lazily: exactly one ``MediaScore`` per path, in order.

        A file without an answer has ``p_fake=None`` and says why; it is never an exception.
        """
        return self.score(list_sources([os.fspath(path)], Path())[0] for path in paths)

    def score(self, sources: Iterable[Source]) -> Iterator[MediaScore]:
        """Score sources that discovery has found, lazily and in order."""
        for batch in self.score_batches(sources):
            yield from batch

    def score_batches(self, sources: Iterable[Source]) -> Iterator[list[MediaScore]]:
        """The same, in the groups of files whose faces go through the network together.

        Which files form a group depends on the files alone: a job that starts again after a group
        goes on with the groups that it would have had.
        """
        held: list[tuple[Source, Extraction]] = []
        faces = 0
        extractions = iter_extractions(
            sources,
            self.checkpoint.crop_spec,
            self.workers,
            self.timeout_s,
            self.max_pixels,
            self.sampling,
            self.detect_device,
        )
        with closing(extractions):
            for source, extraction in extractions:
                held.append((source, extraction))
                faces += len(extraction.crops)
                # Files without faces fill no batch; they must not pile up either.
                if faces >= self.batch_size or len(held) >= 4 * self.batch_size:
                    yield self._score_held(held)
                    held, faces = [], 0
        if held:
            yield self._score_held(held)

    def _score_held(self, held: list[tuple[Source, Extraction]]) -> list[MediaScore]:
        crops = [crop for _, extraction in held for crop in extraction.crops]
        scores = iter(self._score_crops(crops))
        answers = []
        for source, extraction in held:
            tracks = link_tracks(
                [crop.frame_index for crop in extraction.crops],
                [crop.face for crop in extraction.crops],
            )
            faces = tuple(
                FaceScore(
                    frame_index=crop.frame_index,
                    time_s=crop.time_s,
                    face_index=crop.face_index,
                    box_xyxy=_box_of(crop),
                    confidence=crop.face.confidence,
                    p_fake=next(scores),
                    track=track,
                )
                for crop, track in zip(extraction.crops, tracks, strict=True)
            )
            answers.append(self._answer(source, extraction, faces))
        return answers

    def _answer(
        self, source: Source, extraction: Extraction, faces: tuple[FaceScore, ...]
    ) -> MediaScore:
        threshold = self.checkpoint.threshold
        p_fake = aggregate(faces, self.aggregation)
        return MediaScore(
            path=source.name,
            status=extraction.status,
            reason=extraction.reason,
            p_fake=p_fake,
            label=None if p_fake is None else LABEL_NAMES[int(p_fake >= threshold)],
            threshold=threshold,
            n_faces=len(faces),
            box_xyxy=faces[0].box_xyxy if faces else None,
            faces=faces,
        )

    def _score_crops(self, crops: list[FaceCrop]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(crops), self.batch_size):
            part = crops[start : start + self.batch_size]
            images = np.stack([decode_crop(crop.encoded) for crop in part])
            scores += self._score_what_fits(torch.from_numpy(images))
        return scores

    def _score_what_fits(self, images: Tensor) -> list[float]:
        """Score a batch; where the device's memory cannot hold it, in halves from now on."""
        try:
            return self._score_images(images).tolist()
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        half = len(images) // 2
        self.batch_size = max(1, min(self.batch_size, half))
        logger.warning("the device is out of memory; going on with %d faces a batch", half)
        torch.cuda.empty_cache()
        return self._score_what_fits(images[:half]) + self._score_what_fits(images[half:])

    @torch.inference_mode()
    def _score_images(self, images: Tensor) -> Tensor:
        """``(N, S, S, 3)`` uint8 to ``(N,)`` float64."""
        # The classifier runs on the CPU: Apple's devices have no float64.
        batch = images.permute(0, 3, 1, 2).to(self.device)
        p_fake: Tensor = self._classifier(self._embedder(batch).cpu())
        return p_fake


def choose_device(name: str) -> torch.device:
    """The torch device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: If this machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name!r} is not usable here ({str(error).splitlines()[0]}); "
            "use auto, cpu, cuda or mps"
        ) from error
    return device


def _box_of(crop: FaceCrop) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in crop.face.box_xyxy)
    return (x0, y0, x1, y1)
