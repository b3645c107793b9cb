"""The prediction job: files in, their answers in the folder of a job, tables from there.

All tables are written from the shards, a block at a time, so no job holds its answers in memory.
Knows no format of a table.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import ZipFile, ZipInfo

from deepfake import __version__
from deepfake.errors import JobError
from deepfake.inference.aggregation import choose_crops
from deepfake.jobs.engine import Block, Digest, Executor, Job, count_bytes, run_here
from deepfake.jobs.folder import OF_INPUTS, TIMES_FILE, JobFolder, Shard, read_shard
from deepfake.jobs.parts import JobPart, choose_block_size
from deepfake.media.discovery import path_uri
from deepfake.records import (
    FaceCrop,
    FaceQuality,
    FaceScore,
    PersonScore,
    Result,
    Source,
    Status,
    Verdict,
)
from deepfake.storage import Confinement, write_atomic
from deepfake.stores.objects import may_come_back
from deepfake.tables import format_lines, parse_json

if TYPE_CHECKING:
    from deepfake.inference.predictor import KeepCrops

KIND = "predict"
_ANSWERS_FILE, _CROPS_FILE = "answers.jsonl", "crops.zip"
_PLAN_COLUMNS = ("path_uri", "bytes")
_PACKAGES = ("facenet-pytorch", "torch", "numpy", "pillow", "av", "opencv-python-headless")


class Scores(Protocol):
    """What a job asks of ``Predictor``."""

    def score_blocks(
        self, blocks: Iterable[Sequence[Source]], keep: KeepCrops | None = None
    ) -> Iterator[list[Result]]:
        """Score files block by block, lazily: the answers of each, in order."""
        ...


class PredictionJob:
    """The answers of one job, or of one part of it.

    Args:
        root: Folder of the job; it exists, and is held by this process alone.
        sources: All inputs, in order.
        settings: Everything that an answer depends on, in plain types.
        part: Answer only this part of them.
        anew: Begin anew where the folder holds a job of other settings.
        digest: As of ``Job``, where the sources are crops that were cut already.

    Raises:
        UsageError: If the folder holds anything else, or a job of other settings.
    """

    def __init__(
        self,
        root: Path,
        sources: Sequence[Source],
        settings: Mapping[str, Any],
        part: JobPart | None = None,
        anew: bool = False,
        digest: Digest | None = None,
    ) -> None:
        self.folder, self._tries_again = JobFolder(root, KIND), digest is None
        self.job = Job(self.folder, sources, choose_block_size(len(sources)), part, digest)
        plan = format_lines(_PLAN_COLUMNS, ([path_uri(s.name), count_bytes(s)] for s in sources))
        versions = {"deepfake": __version__} | {name: version(name) for name in _PACKAGES}
        self.settings = {**settings, "versions": versions}
        self.job.begin(plan, self.settings, anew=anew)
        self.todo = self.job.find_todo()
        self._times_path = Confinement(root).path_of(TIMES_FILE)
        if not self.folder.holds_shards():
            now = datetime.now(UTC)
            self._write_times(now, now)

    @property
    def is_finished(self) -> bool:
        """Whether every input has its answer already."""
        return not self.todo

    def run(
        self,
        predictor: Scores,
        advance: Callable[[int], None],
        keep_crops: bool = False,
        execute: Executor = run_here,
    ) -> Iterator[Result]:
        """Answer what has no answer yet, and keep it before anybody sees it.

        Args:
            predictor: Scores the files.
            advance: Told how many more inputs have their answer.
            keep_crops: Also keep the most suspicious crop of each person, for ``read_crops``.
            execute: Who does the work.
        """
        waiting, done = deque(self.todo), set[int]()
        work = ScoreBlocks(predictor, keep_crops, self._tries_again)
        sealed = self.job.run(self.todo, work, execute)
        with closing(sealed):
            for number in sealed:
                advance(self.job.count_inputs([number]))
                done.add(number)
                # Blocks may be sealed in any order, answers come in that of the inputs.
                while waiting and waiting[0] in done:
                    yield from iter_answers(self.folder.folder_of(waiting.popleft()))
        if self.todo:
            self._write_times(self.times[0], datetime.now(UTC))
        self.todo = []

    @property
    def times(self) -> tuple[datetime, datetime]:
        """When the job began with nothing, and when it last answered something; for people.

        They are in its folder and not in its shards, which are the same whenever they are made.
        """
        try:
            content = json.loads(self._times_path.read_text(encoding="utf-8"))
            began, ended = (datetime.fromisoformat(content[key]) for key in ("began", "ended"))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return (datetime.now(UTC),) * 2
        return began, ended

    def _write_times(self, began: datetime, ended: datetime) -> None:
        times = {"began": began.isoformat(), "ended": ended.isoformat()}
        write_atomic(self._times_path, json.dumps(times) + "\n")

    def count_answered(self) -> int:
        """How many inputs have their answer."""
        return self.job.count_inputs() - self.job.count_inputs(self.todo)

    def answers(self) -> Iterator[Result]:
        """The answers that are kept, in input order."""
        for number in self.job.blocks:
            # Their inputs are counted, and not made: each table reads all answers.
            places = range(self.job.count_inputs([number]))
            answers = iter_answers(self.folder.folder_of(number))
            yield from (answer for _, answer in zip(places, answers, strict=True))

    def pairs(self) -> Iterator[tuple[Source, Result]]:
        """Each input with the answer that is kept of it, in input order."""
        for number in self.job.blocks:
            answers = iter_answers(self.folder.folder_of(number))
            yield from zip(self.job.inputs_of(number), answers, strict=True)

    def read_crops(self, places: Iterable[int]) -> dict[int, dict[int, bytes]]:
        """The crops that are kept of some inputs.

        Args:
            places: Which inputs, by their place among all.

        Returns:
            By place the encoded crops by person; files of which none were kept are not in it.
        """
        by_block: dict[int, list[int]] = defaultdict(list)
        for place in places:
            by_block[place // self.job.block_size].append(place)
        kept: dict[int, dict[int, bytes]] = {}
        for number, some in by_block.items():
            crops = _read_crops(self.folder.folder_of(number))
            found = {place: crops.get(self.job.sources[place].id) for place in some}
            kept |= {place: own for place, own in found.items() if own}
        return kept


def describe_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the scores of a job depend on, whether it was one or merged of parts."""
    return {k: value for k, value in settings.items() if k not in (*OF_INPUTS, "part")}


def iter_answers(shard: Path) -> Iterator[Result]:
    """The answers in a shard, in order.

    Raises:
        JobError: If one of them is none; it names the line.
    """
    path = shard / _ANSWERS_FILE
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield read_result(parse_json(line))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise JobError(
                    f"{path}:{number} holds no answer ({error}); remove its folder and run the "
                    "same command again"
                ) from error


@dataclass(frozen=True, slots=True)
class ScoreBlocks:
    """The work of a prediction job: fills blocks with answers.

    Args:
        predictor: Scores the files; where it is pickled, it loads its checkpoint again.
        keep_crops: Also keep the most suspicious crop of each person.
        tries_again: Whether what could not be read may be another time; crops that were cut already
            stay as they are.
    """

    predictor: Scores
    keep_crops: bool = False
    tries_again: bool = True

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """See ``deepfake.jobs.engine.Work``."""
        flying: deque[Block] = deque()
        crops: dict[str, dict[int, bytes]] = {}

        def keep(source: Source, score: Result, found: Sequence[FaceCrop]) -> None:
            crops[source.id] = choose_crops(score, found)

        def find_todo() -> Iterator[Sequence[Source]]:
            for block in blocks:
                flying.append(block)
                yield [source for source in block.inputs if source.id not in block.kept]

        fresh_blocks = self.predictor.score_blocks(find_todo(), keep if self.keep_crops else None)
        for fresh in fresh_blocks:
            block = flying.popleft()
            answers = iter(fresh)
            kept = _read_kept(block)
            if self.keep_crops:
                crops |= _read_kept_crops(block)
                own = {source.id: crops.pop(source.id, {}) for source in block.inputs}
                _write_crops(block.folder, own)
            with (block.folder / _ANSWERS_FILE).open("w", encoding="utf-8", newline="\n") as file:
                for source in block.inputs:
                    score = kept.get(source.id) or next(answers)
                    if self.tries_again and may_come_back(source, score.reason):
                        block.lose(source)
                    row = _list_fields(score) | {"path": source.name}
                    file.write(_ENCODER.encode(row) + "\n")
            yield block


def _read_kept(block: Block) -> dict[str, Result]:
    """Old answers of the inputs of a block that have not changed."""
    kept: dict[str, Result] = {}
    for folder in set(block.kept.values()):
        shard: Shard | None = read_shard(folder)
        if shard is not None:
            rows = zip(shard.inputs, iter_answers(folder), strict=True)
            kept |= {source: row for source, row in rows if block.kept.get(source) == folder}
    return kept


def _write_crops(folder: Path, crops: Mapping[str, Mapping[int, bytes]]) -> None:
    with ZipFile(folder / _CROPS_FILE, "w") as archive:  # stored: crops are compressed already
        for source, people in crops.items():
            for person, encoded in people.items():
                archive.writestr(ZipInfo(f"{source}/{person}"), encoded)  # the date is 1980


def _read_crops(folder: Path) -> dict[str, dict[int, bytes]]:
    """The crops in a shard, by source and person; empty where it has none."""
    crops: dict[str, dict[int, bytes]] = defaultdict(dict)
    if (folder / _CROPS_FILE).exists():
        with ZipFile(folder / _CROPS_FILE) as archive:
            for name in archive.namelist():
                source, _, person = name.partition("/")
                crops[source][int(person)] = archive.read(name)
    return crops


def _read_kept_crops(block: Block) -> dict[str, dict[int, bytes]]:
    """Old crops of the inputs of a block that have not changed."""
    kept: dict[str, dict[int, bytes]] = {}
    for folder in set(block.kept.values()):
        crops = _read_crops(folder)
        kept |= {source: own for source, own in crops.items() if block.kept.get(source) == folder}
    return kept


def _list_fields(record: Any) -> dict[str, Any]:
    """What ``asdict`` makes of a record, but for the records in it, which stay as they are."""
    return {name: getattr(record, name) for name in _FIELDS[type(record)]}


_FIELDS = {
    kind: [field.name for field in fields(kind)]
    for kind in (Result, PersonScore, FaceScore, FaceQuality)
}
_ENCODER = json.JSONEncoder(default=_list_fields)  # four times as fast as by ``asdict``


def read_result(item: dict[str, Any]) -> Result:
    """A result from the plain types that ``asdict`` made of it, by way of JSON."""
    item = dict(item)
    for one in (item, *item["faces"], *item["people"]):
        if one["p_fake"] is not None and not 0 <= one["p_fake"] <= 1:
            raise ValueError(f"score {one['p_fake']}")
    item["status"] = Status(item["status"])
    item["box_xyxy"] = None if item["box_xyxy"] is None else tuple(item["box_xyxy"])
    item["verdict"] = None if item["verdict"] is None else Verdict(item["verdict"])
    item["remarks"] = tuple(item["remarks"])
    item["limits"] = None if item["limits"] is None else tuple(item["limits"])
    item["quality"] = _to_quality(item["quality"])
    item["faces"] = tuple(map(_to_face, item["faces"]))
    item["people"] = tuple(PersonScore(**person) for person in item["people"])
    return Result(**item)


def _to_face(item: dict[str, Any]) -> FaceScore:
    item = dict(item)
    item["box_xyxy"] = tuple(item["box_xyxy"])
    item["quality"] = _to_quality(item["quality"])
    return FaceScore(**item)


def _to_quality(item: dict[str, Any] | None) -> FaceQuality | None:
    return None if item is None else FaceQuality(**item)
