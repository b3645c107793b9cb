"""Checkpoint and media in, one answer per input out, in input order.

Crops are cut by the checkpoint's own recipe through the path that cut the training crops. Knows
no table format.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from deepfake.errors import UsageError
from deepfake.faces.pipeline import WatchFrames, check_detect_device, iter_extractions
from deepfake.inference.aggregation import choose_crops
from deepfake.inference.backend import choose_devices, make_scorers
from deepfake.inference.groups import Group, ItemToScore, ScoredFace, iter_groups, score_groups
from deepfake.inference.inputs import Inputs, iter_sources
from deepfake.inference.judging import Judge
from deepfake.inference.results import PicturedResult, Results
from deepfake.inference.scoring import Backend
from deepfake.inference.stored import StoredCrops
from deepfake.jobs.parts import LARGEST_BLOCK
from deepfake.learning.checkpoint import Checkpoint
from deepfake.learning.checkpoint_names import CheckpointName, NamedCheckpoint
from deepfake.learning.ensemble import load_detector
from deepfake.learning.joined import Tta
from deepfake.records import (
    Extraction,
    FaceCrop,
    FacesPerFrame,
    Policy,
    Result,
    Sampling,
    Source,
    Workers,
)

IN_THIS_PROCESS = Workers(processes=0)
KeepCrops = Callable[[Source, Result, Sequence[FaceCrop]], None]
"""Takes a file, its answer, and the crops that it rests on."""


class Predictor:
    """A trained detector that scores files.

    Args:
        checkpoint: As ``load_checkpoint`` gave it.
        device: ``auto`` (CUDA, then Apple's MPS, then CPU) or a torch device; several devices of
            one kind share the work, the answers stay in order.
        batch_size: Faces that go through the network together; a CPU takes a few of them at once.
        workers: How files are read and searched for faces; by default in this process.
        sampling: Which frames of a video; by default as the training crops were sampled.
        aggregation: How the frames of a person make their score, a name of ``POLICIES``; by
            default, and in its numbers always, as the checkpoint says.
        backend: ``torch``, ``onnx`` (ONNX Runtime, on a CPU) or ``auto``.
        expected_faces: About as many will be scored; helps ``auto`` to choose.
        faces_per_frame: ``all``, or ``largest``: that one alone; by default as the checkpoint says.
        stored: Crops that were cut already; nothing else is scored then.

    Attributes:
        judge: Makes answers of scores.
        watch: Told how far it is within a file; for a bar of progress.
        elsewhere: Settings, by the names of the arguments, that are others where it is pickled to.

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
        faces_per_frame: FacesPerFrame | None = None,
        stored: StoredCrops | None = None,
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
        if faces_per_frame is not None:
            self.aggregation = replace(self.aggregation, faces_per_frame=faces_per_frame)
        self.crop = checkpoint.recipe.crop.for_scoring(self.aggregation.faces_per_frame)
        self.sampling = sampling or checkpoint.recipe.sampling
        self.judge = Judge(checkpoint, self.sampling, self.aggregation)
        self.stored = stored
        self.watch: WatchFrames | None = None
        self.elsewhere: Mapping[str, Any] = {}
        self._scorers = make_scorers(checkpoint, self.devices, backend, batch_size, expected_faces)

    @classmethod
    def from_checkpoint(
        cls,
        path: CheckpointName | Sequence[CheckpointName] | None = None,
        device: str | Sequence[str] = "auto",
        batch_size: int = 32,
        workers: Workers = IN_THIS_PROCESS,
        sampling: Sampling | None = None,
        aggregation: Policy | None = None,
        backend: str = "auto",
        faces_per_frame: FacesPerFrame | None = None,
        tta: Tta | None = None,
    ) -> Predictor:
        """Load a checkpoint: by default the one in the box, else as ``find_checkpoint`` finds it.

        Several are scored as one, and with ``tta="flip"`` each face is also looked at in a mirror:
        the mean of what they say (``load_detector``). By default a checkpoint looks as it did when
        its limits were chosen.

        Raises:
            CheckpointError: If the file is missing, damaged, not ours or unfinished.
            UsageError: If the device does not exist, the backend is not installed, or a setting is
                out of range.
        """
        checkpoint = load_detector(path, tta)
        return cls(
            checkpoint,
            device,
            batch_size,
            workers,
            sampling,
            aggregation,
            backend,
            faces_per_frame=faces_per_frame,
        )

    @property
    def policy_remark(self) -> str:
        """What a reader must know where clips are scored unlike those that chose the limits."""
        return self.judge.compare_with_limits(is_clip=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled it is its settings: wherever it is wanted, the checkpoint is read again."""
        settings = {
            "device": [str(device) for device in self.devices],
            "batch_size": self.batch_size,
            "workers": self.workers,
            "sampling": self.sampling,
            "aggregation": self.aggregation.policy,
            "backend": self.backend,
            "faces_per_frame": self.aggregation.faces_per_frame,
            "stored": self.stored,
        }
        members = self.checkpoint.members or [self.checkpoint]
        # Elsewhere a model in the box, or one of a hub, may lie under another path.
        found = [NamedCheckpoint(one.path, one.name) for one in members]
        names = [one.path if one.is_own_file else one.name for one in found]
        told = (names, self.checkpoint.tta, self.checkpoint.sha256, {**settings, **self.elsewhere})
        return _load_again, told

    @property
    def backend(self) -> Backend:
        """What runs the network: scores of another backend differ by up to 1e-5."""
        return self._scorers[0].backend

    def predict(self, inputs: Inputs) -> Results:
        """Score photos and videos, lazily: exactly one ``Result`` per file, in order.

        A file without an answer has ``p_fake=None`` and says why; it is never an exception.
        ``predict(inputs).to_frame()`` is a table of pandas.

        Args:
            inputs: A path, a folder, a pattern, a list file or CSV, or the address of one in a
                store (``s3://bucket/photos/``); an array of RGB pixels, ``(H, W, 3)`` uint8; a
                picture of Pillow; the ``bytes`` of a photo or video file; or any number of these. A
                string is always a path or an address. What is in memory is written into a temporary
                folder that goes when the results end.

        Raises:
            UsageError: If an input is something else, or a folder or pattern names no file.
        """
        return Results(self._predict(inputs))

    def _predict(self, inputs: Inputs) -> Iterator[Result]:
        with tempfile.TemporaryDirectory(prefix="deepfake-") as folder:
            yield from self.score_pictured(find_sources(inputs, folder, self.workers))

    def score_pictured(self, sources: Iterable[Source]) -> Iterator[Result]:
        """Score sources with the crop of each face beside its answer, lazily and in order."""
        pictures: deque[Mapping[int, bytes]] = deque()

        def keep(source: Source, answer: Result, crops: Sequence[FaceCrop]) -> None:
            pictures.append(choose_crops(answer, crops))

        for answers in self._iter_answers(_mark_blocks(sources), keep):
            for answer in answers:
                known = {part.name: getattr(answer, part.name) for part in fields(answer)}
                yield PicturedResult(**known, crops=pictures.popleft())

    def score(self, sources: Iterable[Source]) -> Iterator[Result]:
        """Score sources that discovery has found, lazily and in order."""
        for answers in self._iter_answers(_mark_blocks(sources)):
            yield from answers

    def score_blocks(
        self, blocks: Iterable[Sequence[Source]], keep: KeepCrops | None = None
    ) -> Iterator[list[Result]]:
        """Score files block by block, lazily: the answers of each, in order.

        Which faces go through the network together depends on the files of a block alone: a block
        has the same scores, to the last digit, whatever stands before or behind it.

        Args:
            blocks: Of sources.
            keep: Is given the crops of each file before its block is yielded.
        """
        sizes: deque[int] = deque()

        def mark() -> Iterator[tuple[Source, bool]]:
            for block in blocks:
                sizes.append(len(block))
                yield from ((source, n == len(block)) for n, source in enumerate(block, start=1))

        answers: list[Result] = []
        for group in self._iter_answers(mark(), keep):
            answers += group
            # A block may be empty: nothing of it was left to score.
            while sizes and len(answers) >= sizes[0]:
                size = sizes.popleft()
                yield answers[:size]
                answers = answers[size:]
        yield from ([] for _ in sizes)

    def extract(
        self, sources: Iterable[Source], view_px: int = 0
    ) -> Generator[tuple[Source, Extraction]]:
        """The faces of sources as they are scored; arguments as of ``iter_extractions``."""
        if self.stored is not None:
            return self.stored.iter_extractions(sources)
        return iter_extractions(
            sources, self.crop, self.workers, self.sampling, view_px=view_px, watch=self.watch
        )

    def answer(self, source: Source, extraction: Extraction) -> Result:
        """Score one source of ``extract``."""
        group = [self.judge.choose(source, extraction)]
        (scored,) = score_groups([group], self._scorers[:1], self.judge.faces, threads=False)
        return self._answer_group(*scored)[0]

    def _iter_answers(
        self, marked: Iterable[tuple[Source, bool]], keep: KeepCrops | None = None
    ) -> Generator[list[Result]]:
        """Answers of the groups of files whose faces go through the network together."""
        # Workers and network want the same cores; a thread would only make both slower.
        threads = len(self._scorers) > 1 or self.devices[0].type != "cpu"
        with (
            closing(self._iter_items(marked)) as items,
            closing(iter_groups(items, self.batch_size)) as groups,
            closing(score_groups(groups, self._scorers, self.judge.faces, threads)) as scored,
        ):
            for group, scores in scored:
                yield self._answer_group(group, scores, keep)

    def _iter_items(
        self, marked: Iterable[tuple[Source, bool]]
    ) -> Generator[tuple[ItemToScore, bool]]:
        """The faces of each source that are scored; sources and marks as of ``iter_groups``."""
        marks: deque[bool] = deque()

        def iter_sources() -> Iterator[Source]:
            for source, is_last in marked:
                marks.append(is_last)
                yield source

        with closing(self.extract(iter_sources())) as extractions:
            for source, extraction in extractions:
                yield self.judge.choose(source, extraction), marks.popleft()

    def _answer_group(
        self, group: Group, scored: list[ScoredFace], keep: KeepCrops | None = None
    ) -> list[Result]:
        scores = iter(scored)
        answers = [self.judge.answer(item, [next(scores) for _ in item.crops]) for item in group]
        if keep is not None:
            for item, answer in zip(group, answers, strict=True):
                keep(item.source, answer, item.crops)
        return answers


def find_sources(inputs: Inputs, folder: str, workers: Workers) -> Iterator[Source]:
    """As of ``iter_sources``, by a temporary folder for what is in memory."""
    return iter_sources(inputs, Path(folder), workers.other_stores)


def _mark_blocks(sources: Iterable[Source]) -> Iterator[tuple[Source, bool]]:
    """Each source, and whether it is the last of its block."""
    return ((source, n % LARGEST_BLOCK == 0) for n, source in enumerate(sources, start=1))


def _load_again(
    names: list[Path | str], tta: Tta | None, sha256: str, settings: dict[str, Any]
) -> Predictor:
    checkpoint = load_detector(names, tta)
    if checkpoint.sha256 != sha256:
        raise UsageError(
            f"{', '.join(map(str, names))} is another checkpoint here than where the job was begun"
        )
    return Predictor(checkpoint, **settings)
