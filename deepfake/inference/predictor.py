"""Checkpoint and media in, one answer per input out, in input order.

Crops are cut by the checkpoint's own recipe through the path that cut the training crops. Knows
no table format.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfake.errors import UsageError
from deepfake.faces.extraction import decode_crop
from deepfake.faces.pipeline import check_detect_device, iter_extractions
from deepfake.faces.tracking import link_tracks
from deepfake.inference.aggregation import aggregate
from deepfake.inference.backend import choose_devices, make_scorers
from deepfake.inference.results import Results
from deepfake.inference.scoring import Backend, Scorer
from deepfake.jobs.parts import LARGEST_BLOCK
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.media.discovery import list_sources
from deepfake.records import (
    Extraction,
    FaceCrop,
    FaceScore,
    Policy,
    Result,
    Sampling,
    Source,
    Workers,
    list_differences,
)

_GROUPS_PER_DEVICE = 2  # one that is scored, one that waits: more would only cost memory
_Group = list[tuple[Source, Extraction]]
IN_THIS_PROCESS = Workers(processes=0)


class Predictor:
    """A trained detector that scores files.

    Args:
        checkpoint: As ``load_checkpoint`` gave it.
        device: ``auto`` (CUDA, then Apple's MPS, then CPU) or a torch device; several devices of
            one kind share the work, the answers stay in order.
        batch_size: Faces that go through the network together; a CPU takes a few of them at once.
        workers: How files are read and searched for faces; by default in this process.
        sampling: Which frames of a video; by default as the training crops were sampled.
        aggregation: How the frames of a file make its score, a name of ``POLICIES``; by default,
            and in its numbers always, as the checkpoint says.
        backend: ``torch``, ``onnx`` (ONNX Runtime, on a CPU) or ``auto``.
        expected_faces: About as many will be scored; helps ``auto`` to choose.

    Raises:
        UsageError: If the device does not exist, the backend is not installed, or a setting is
            out of range.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str | Sequence[str] = "auto",
        batch_size: int = 32,
        workers: Workers = IN_THIS_PROCESS,
        sampling: Sampling | None = None,
        aggregation: Policy | None = None,
        backend: str = "auto",
        expected_faces: int = 0,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}; expected 1 or more")
        check_detect_device(workers.detect_device)
        self.checkpoint = checkpoint
        self.devices = choose_devices(device)
        self.batch_size, self.workers = batch_size, workers
        self.aggregation = checkpoint.recipe.aggregation
        if aggregation is not None:
            self.aggregation = replace(self.aggregation, policy=aggregation)
        self.limits = checkpoint.limits
        self.sampling = sampling or checkpoint.recipe.sampling
        self.policy_remark = self._compare_with_limits()
        self._scorers = make_scorers(checkpoint, self.devices, backend, batch_size, expected_faces)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        device: str | Sequence[str] = "auto",
        batch_size: int = 32,
        workers: Workers = IN_THIS_PROCESS,
        sampling: Sampling | None = None,
        aggregation: Policy | None = None,
        backend: str = "auto",
    ) -> Predictor:
        """Load ``model.ckpt`` of a finished run, or its copy as ``.safetensors``.

        Raises:
            CheckpointError: If the file is missing, damaged, not ours or unfinished.
            UsageError: If the device does not exist, the backend is not installed, or a setting is
                out of range.
        """
        checkpoint = load_checkpoint(Path(path))
        return cls(checkpoint, device, batch_size, workers, sampling, aggregation, backend)

    def _compare_with_limits(self) -> str:
        """What a reader must know where clips are scored unlike those that chose the limits."""
        chosen = self.checkpoint.chosen_for
        others = list_differences(self.sampling, chosen.sampling)
        others += list_differences(self.aggregation, chosen.aggregation)
        if not others:
            return ""
        return (
            f"limits were chosen on files scored otherwise ({', '.join(others)}): their error "
            "rates are not known here"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled it is its settings: wherever it is wanted, the checkpoint is read again."""
        devices = [str(device) for device in self.devices]
        choice = (self.batch_size, self.workers, self.sampling, self.aggregation.policy)
        checkpoint = (self.checkpoint.path, self.checkpoint.sha256)
        return _load_again, (*checkpoint, devices, *choice, self.backend)

    @property
    def backend(self) -> Backend:
        """What runs the network: scores of another backend differ by up to 1e-5."""
        return self._scorers[0].backend

    def predict(self, paths: Iterable[str | os.PathLike[str]]) -> Results:
        """Score files, lazily: exactly one ``Result`` per path, in order.

        A file without an answer has ``p_fake=None`` and says why; it is never an exception.
        ``predict(paths).to_frame()`` is a table of pandas.
        """
        sources = (list_sources([os.fspath(path)], Path())[0] for path in paths)
        return Results(self.score(sources))

    def score(self, sources: Iterable[Source]) -> Iterator[Result]:
        """Score sources that discovery has found, lazily and in order."""
        marked = ((source, n % LARGEST_BLOCK == 0) for n, source in enumerate(sources, start=1))
        for answers in self._iter_answers(marked):
            yield from answers

    def score_blocks(self, blocks: Iterable[Sequence[Source]]) -> Iterator[list[Result]]:
        """Score files block by block, lazily: the answers of each, in order.

        Which faces go through the network together depends on the files of a block alone: a block
        has the same scores, to the last digit, whatever stands before or behind it.
        """
        sizes: deque[int] = deque()

        def mark() -> Iterator[tuple[Source, bool]]:
            for block in blocks:
                sizes.append(len(block))
                yield from ((source, n == len(block)) for n, source in enumerate(block, start=1))

        answers: list[Result] = []
        for group in self._iter_answers(mark()):
            answers += group
            # A block may be empty: nothing of it was left to score.
            while sizes and len(answers) >= sizes[0]:
                size = sizes.popleft()
                yield answers[:size]
                answers = answers[size:]
        yield from ([] for _ in sizes)

    def _iter_answers(self, marked: Iterable[tuple[Source, bool]]) -> Iterator[list[Result]]:
        """Answers of the groups of files whose faces go through the network together."""
        with ExitStack() as stack:
            groups = stack.enter_context(closing(self._iter_groups(marked)))
            scorers = self._scorers
            if len(scorers) == 1 and self.devices[0].type == "cpu":
                # Workers and network want the same cores; a thread would only make both slower.
                for group in groups:
                    yield self._answer_group(group, _score_group(scorers[0], group))
                return
            threads = []
            for number in range(len(scorers)):
                thread = ThreadPoolExecutor(1, f"deepfake-score-{number}")
                stack.callback(thread.shutdown, cancel_futures=True)
                threads.append(thread)
            flying: deque[tuple[_Group, Future[list[float]]]] = deque()
            for number, group in enumerate(groups):
                if len(flying) == _GROUPS_PER_DEVICE * len(scorers):
                    done, scores = flying.popleft()
                    yield self._answer_group(done, scores.result())
                turn = number % len(scorers)
                job = threads[turn].submit(_score_group, scorers[turn], group)
                flying.append((group, job))
            for done, scores in flying:
                yield self._answer_group(done, scores.result())

    def answer(self, source: Source, extraction: Extraction) -> Result:
        """Score one source whose faces were extracted with this recipe and sampling already."""
        group = [(source, extraction)]
        return self._answer_group(group, _score_group(self._scorers[0], group))[0]

    def _iter_groups(self, marked: Iterable[tuple[Source, bool]]) -> Generator[_Group]:
        """Groups of sources; none reaches beyond a source that is marked as the last of a block."""
        marks: deque[bool] = deque()

        def iter_sources() -> Iterator[Source]:
            for source, is_last in marked:
                marks.append(is_last)
                yield source

        held: _Group = []
        faces = 0
        extractions = iter_extractions(
            iter_sources(),
            self.checkpoint.recipe.crop,
            self.workers,
            self.sampling,
        )
        with closing(extractions):
            for source, extraction in extractions:
                held.append((source, extraction))
                faces += len(extraction.crops)
                # Files without faces fill no batch; they must not pile up either.
                full = faces >= self.batch_size or len(held) >= 4 * self.batch_size
                if marks.popleft() or full:
                    yield held
                    held, faces = [], 0
        if held:
            yield held

    def _answer_group(self, group: _Group, p_fake: list[float]) -> list[Result]:
        scores = iter(p_fake)
        answers = []
        for source, extraction in group:
            people = link_tracks(
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
                    person=person,
                )
                for crop, person in zip(extraction.crops, people, strict=True)
            )
            answers.append(self._answer(source, extraction, faces))
        return answers

    def _answer(
        self, source: Source, extraction: Extraction, faces: tuple[FaceScore, ...]
    ) -> Result:
        p_fake = aggregate(faces, self.aggregation)
        if p_fake is None:
            return Result(source.name, extraction.status, extraction.reason)
        # A photo has one frame, however clips are sampled and their frames make a score.
        is_clip = len({face.frame_index for face in faces}) > 1
        policy_remark = self.policy_remark if is_clip else ""
        return Result(
            path=source.name,
            status=extraction.status,
            remarks=tuple(filter(None, (extraction.reason, policy_remark))),
            p_fake=p_fake,
            verdict=self.limits.judge(p_fake),
            limits=(self.limits.real, self.limits.of_fake()),
            n_found=len(faces),
            n_faces=len(faces),
            n_people=len({face.person for face in faces}),
            box_xyxy=faces[0].box_xyxy,
            faces=faces,
        )


def _load_again(path: Path, sha256: str, *settings: Any) -> Predictor:
    checkpoint = load_checkpoint(path)
    if checkpoint.sha256 != sha256:
        raise UsageError(f"{path} is another checkpoint here than where the job was begun")
    return Predictor(checkpoint, *settings)


def _score_group(scorer: Scorer, group: _Group) -> list[float]:
    """``p_fake`` of every crop of a group, in order."""
    crops = [crop for _, extraction in group for crop in extraction.crops]
    scores: list[float] = []
    while len(scores) < len(crops):
        part = crops[len(scores) : len(scores) + scorer.batch_size]
        scores += scorer.score(np.stack([decode_crop(crop.encoded) for crop in part]))
    return scores


def _box_of(crop: FaceCrop) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in crop.face.box_xyxy)
    return (x0, y0, x1, y1)
