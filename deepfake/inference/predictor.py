"""Checkpoint and media in, one answer per input out, in input order.

Crops are cut by the checkpoint's own recipe through the path that cut the training crops. Knows
no table format.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import decode_crop
from deepfake.faces.pipeline import WatchFrames, check_detect_device, iter_extractions
from deepfake.faces.quality import TrainingFaces
from deepfake.inference.aggregation import FileScore, aggregate, choose_crops
from deepfake.inference.backend import choose_devices, make_scorers
from deepfake.inference.inputs import Inputs, iter_sources
from deepfake.inference.people import choose_faces, is_too_small, score_faces
from deepfake.inference.results import PicturedResult, Results
from deepfake.inference.scoring import Backend, Scorer
from deepfake.inference.stored import StoredCrops
from deepfake.jobs.parts import LARGEST_BLOCK
from deepfake.learning.checkpoint import Checkpoint, Tta
from deepfake.learning.checkpoint_names import CheckpointName, NamedCheckpoint
from deepfake.learning.ensemble import load_detector
from deepfake.records import (
    Extraction,
    FaceCrop,
    FaceQuality,
    FacesPerFrame,
    Policy,
    Result,
    Sampling,
    Source,
    Verdict,
    Workers,
    list_differences,
)

_GROUPS_PER_DEVICE = 2  # one that is scored, one that waits: more would only cost memory
_OF_ONE_FRAME = ("faces_per_frame", "min_face_px", "min_confidence")  # settings of an aggregation
IN_THIS_PROCESS = Workers(processes=0)


class _Item(NamedTuple):
    """A file whose faces were cut out, and those of them that are scored."""

    source: Source
    extraction: Extraction
    crops: Sequence[FaceCrop]


class _Scored(NamedTuple):
    """What the scoring of a crop gives."""

    p_fake: float
    quality: FaceQuality


_Group = list[_Item]
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
        self.limits = checkpoint.limits
        if checkpoint.training_faces is None:
            raise UsageError(f"{checkpoint.path} holds no head; give it one with deepfake fit-head")
        self._faces = checkpoint.training_faces
        self.sampling = sampling or checkpoint.recipe.sampling
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
        return self._compare_with_limits(is_clip=True)

    def _compare_with_limits(self, is_clip: bool) -> str:
        chosen = self.checkpoint.chosen_for
        others = list_differences(self.sampling, chosen.sampling)
        others += list_differences(self.aggregation, chosen.aggregation)
        if not is_clip:  # a photo is one frame, however clips are sampled and frames aggregated
            others = [text for text in others if text.startswith(_OF_ONE_FRAME)]
        others = self.checkpoint.differences + others
        if not others:
            return ""
        return (
            f"limits were chosen on files scored otherwise ({', '.join(others)}): their error "
            "rates are not known here"
        )

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

    def _iter_answers(
        self, marked: Iterable[tuple[Source, bool]], keep: KeepCrops | None = None
    ) -> Iterator[list[Result]]:
        """Answers of the groups of files whose faces go through the network together."""
        with ExitStack() as stack:
            groups = stack.enter_context(closing(self._iter_groups(marked)))
            scorers = self._scorers
            if len(scorers) == 1 and self.devices[0].type == "cpu":
                # Workers and network want the same cores; a thread would only make both slower.
                for group in groups:
                    scored = _score_group(scorers[0], group, self._faces)
                    yield self._answer_group(group, scored, keep)
                return
            threads = []
            for number in range(len(scorers)):
                thread = ThreadPoolExecutor(1, f"deepfake-score-{number}")
                stack.callback(thread.shutdown, cancel_futures=True)
                threads.append(thread)
            flying: deque[tuple[_Group, Future[list[_Scored]]]] = deque()
            for number, group in enumerate(groups):
                if len(flying) == _GROUPS_PER_DEVICE * len(scorers):
                    done, scores = flying.popleft()
                    yield self._answer_group(done, scores.result(), keep)
                turn = number % len(scorers)
                job = threads[turn].submit(_score_group, scorers[turn], group, self._faces)
                flying.append((group, job))
            for done, scores in flying:
                yield self._answer_group(done, scores.result(), keep)

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
        group = [self._choose(source, extraction)]
        return self._answer_group(group, _score_group(self._scorers[0], group, self._faces))[0]

    def _iter_groups(self, marked: Iterable[tuple[Source, bool]]) -> Generator[_Group]:
        """Groups of sources; none reaches beyond a source that is marked as the last of a block."""
        marks: deque[bool] = deque()

        def iter_sources() -> Iterator[Source]:
            for source, is_last in marked:
                marks.append(is_last)
                yield source

        held: _Group = []
        faces = 0
        with closing(self.extract(iter_sources())) as extractions:
            for source, extraction in extractions:
                held.append(self._choose(source, extraction))
                faces += len(held[-1].crops)
                # Files without faces fill no batch; they must not pile up either.
                full = faces >= self.batch_size or len(held) >= 4 * self.batch_size
                if marks.popleft() or full:
                    yield held
                    held, faces = [], 0
        if held:
            yield held

    def _choose(self, source: Source, extraction: Extraction) -> _Item:
        return _Item(source, extraction, choose_faces(extraction.crops, self.aggregation))

    def _answer_group(
        self, group: _Group, scored: list[_Scored], keep: KeepCrops | None = None
    ) -> list[Result]:
        scores = iter(scored)
        answers = [self._answer(item, [next(scores) for _ in item.crops]) for item in group]
        if keep is not None:
            for item, answer in zip(group, answers, strict=True):
                keep(item.source, answer, item.crops)
        return answers

    def _answer(self, item: _Item, scored: Sequence[_Scored]) -> Result:
        source, extraction, crops = item
        p_fake, qualities = [one.p_fake for one in scored], [one.quality for one in scored]
        try:
            faces = score_faces(crops, p_fake, self.aggregation, qualities)
        except JobError as error:
            raise JobError(f"{source.name}: {error}") from error
        score = aggregate(faces, self.aggregation)
        if score is None:
            return Result(
                source.name, extraction.status, extraction.reason, n_found=extraction.n_found
            )
        fake_limit = self.limits.of_fake(score.n_people)
        n_frames = len({face.frame_index for face in faces})
        verdict, quality = self.limits.judge(score.p_fake, score.n_people), score.face.quality
        if quality is not None and self._faces.is_far(quality):
            verdict = Verdict.UNCLEAR
        return Result(
            path=source.name,
            status=extraction.status,
            remarks=(
                *([extraction.reason] if extraction.reason else []),
                *(self._faces.remarks_on(quality) if quality is not None else ()),
                *_remark_on_people(score, fake_limit),
                *filter(None, [self._compare_with_limits(is_clip=n_frames > 1)]),
            ),
            p_fake=score.p_fake,
            verdict=verdict,
            limits=(self.limits.real, fake_limit),
            n_found=extraction.n_found,
            n_faces=len(faces),
            n_too_small=sum(is_too_small(crop.face, self.aggregation) for crop in extraction.crops),
            n_people=score.n_people,
            box_xyxy=score.face.box_xyxy,
            quality=quality,
            faces=faces,
            people=score.people,
        )


def find_sources(inputs: Inputs, folder: str, workers: Workers) -> Iterator[Source]:
    """As of ``iter_sources``, by a temporary folder for what is in memory."""
    return iter_sources(inputs, Path(folder), workers.other_stores)


def _mark_blocks(sources: Iterable[Source]) -> Iterator[tuple[Source, bool]]:
    """Each source, and whether it is the last of its block."""
    return ((source, n % LARGEST_BLOCK == 0) for n, source in enumerate(sources, start=1))


def _remark_on_people(score: FileScore, fake_limit: float) -> Iterator[str]:
    """What a reader must know of people who did not count."""
    if not score.n_people:
        (why,) = {one.remark for one in score.people if one.person == score.face.person}
        yield f"nobody in it can be judged with confidence: {why}"
        return
    for one in score.people:
        if not one.counts and one.p_fake >= max(fake_limit, score.p_fake):
            yield f"a person who does not count scores {one.p_fake:.2f}: {one.remark}"


def _load_again(
    names: list[Path | str], tta: Tta | None, sha256: str, settings: dict[str, Any]
) -> Predictor:
    checkpoint = load_detector(names, tta)
    if checkpoint.sha256 != sha256:
        raise UsageError(
            f"{', '.join(map(str, names))} is another checkpoint here than where the job was begun"
        )
    return Predictor(checkpoint, **settings)


def _score_group(scorer: Scorer, group: _Group, faces: TrainingFaces) -> list[_Scored]:
    """Score and quality of every crop of a group, in order."""
    crops = [crop for item in group for crop in item.crops]
    scored: list[_Scored] = []
    while len(scored) < len(crops):
        part = crops[len(scored) : len(scored) + scorer.batch_size]
        images = [decode_crop(crop.encoded) for crop in part]
        p_fake = scorer.score(np.stack(images))
        for crop, image, score in zip(part, images, p_fake, strict=True):
            scored.append(_Scored(score, faces.measure(image, crop.face.box_xyxy)))
    return scored
