"""Takes files from the queue and answers them: killable processes decode, one scorer scores.

A lane is a thread with one worker process of its own. Whatever goes wrong with a file is written to
its row; no file waits for ever. Knows no HTTP.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from threading import Condition, Lock, Thread
from typing import Any, TypeVar

from deepfake import __version__
from deepfake.errors import DeepfakeError, JobError, UsageError, one_line
from deepfake.evaluation.explain import explain_extraction
from deepfake.evaluation.job import describe_origin
from deepfake.inference.predictor import Predictor
from deepfake.jobs.folder import hash_file
from deepfake.jobs.workers import Failure, WorkerPool
from deepfake.media.inspection import FileFacts
from deepfake.records import Extraction, Result, Source, Status
from deepfake.reports.evidence import describe_run, describe_settings
from deepfake.reports.explain_page import format_explanation
from deepfake.storage import write_atomic
from deepfake.web.answers import explanation_path, keep_answer, load_settings
from deepfake.web.frames import FramesSoFar, make_reader, read_views
from deepfake.web.queue import State, StoredFile
from deepfake.web.store import Store

logger = logging.getLogger(__name__)

_REMEMBERED = 50  # durations that the time left is guessed from
_STOP_TIMEOUT_S = 10.0
_PAUSE_S = 1.0  # between two tries at a queue that cannot be read or written
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Model:
    """A detector that the server offers.

    Args:
        key: How requests name it: the first 12 digits of its SHA-256.
        name: How people see it.
        sentence: What it was trained on, and what was measured.
        predictor: Scores with it.
    """

    key: str
    name: str
    sentence: str
    predictor: Predictor


def describe_provenance(
    model: Model, files: Sequence[StoredFile], anew: datetime | None = None
) -> dict[str, Any]:
    """Where the answers of files come from, as their pages say it: model, settings, times.

    Args:
        model: Gave them.
        files: Have them.
        anew: When they began to be scored once more, as the model does now.
    """
    times = [time for file in files for time in (file.began, file.ended) if time is not None]
    first, last = (datetime.fromtimestamp(time, UTC) for time in (min(times), max(times)))
    if anew is not None:
        first, last = anew, datetime.now(UTC)
    origin = describe_origin(model.predictor.checkpoint, "deepfake serve")
    kept = [file.answer for file in files if file.answer is not None]
    told = [load_settings(answer) for answer in kept] if anew is None else []
    settings: dict[str, Any] = {}
    for name in _settings_of(model.predictor):
        values = [one[name] for one in told if name in one]
        distinct = [one for place, one in enumerate(values) if one not in values[:place]]
        settings |= {name: distinct[0] if len(distinct) == 1 else distinct} if distinct else {}
    return origin | {"run": describe_run(model.predictor, (first, last), **settings)}


def _settings_of(predictor: Predictor) -> dict[str, Any]:
    """What a server that starts again may do otherwise, by the names that pages have for it."""
    return describe_settings(predictor) | {"scored_by": f"deepfake {__version__}"}


class Engine:
    """All lanes of one server.

    Args:
        store: The queue, and its files.
        models: By key; the first is the default.
        on_ended: Told, from another thread, the id of each file that has ended.
    """

    def __init__(
        self,
        store: Store,
        models: Mapping[str, Model],
        on_ended: Callable[[str], None] = lambda file_id: None,
    ) -> None:
        self.store, self.models = store, models
        self.on_ended = on_ended
        workers = next(iter(models.values())).predictor.workers
        self._lanes = [_Lane(self, number) for number in range(max(1, workers.processes))]
        self._scoring = {key: Lock() for key in models}
        self._news = Condition()
        self._is_stopping = False
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def n_lanes(self) -> int:
        """How many files are worked on at once."""
        return len(self._lanes)

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more shall be begun."""
        return self._is_stopping

    def start(self) -> None:
        """Begin with what waits."""
        for lane in self._lanes:
            lane.thread.start()

    def stop(self) -> None:
        """Kill the workers and wait for the lanes; what was in hand is queued again."""
        with self._news:
            self._is_stopping = True
            self._news.notify_all()
        for lane in self._lanes:
            lane.give_up()
        for lane in self._lanes:
            lane.thread.join(_STOP_TIMEOUT_S)

    def wake(self) -> None:
        """Say that there is something new in the queue."""
        with self._news:
            self._news.notify_all()

    def take(self) -> StoredFile | None:
        """Wait for the next file; ``None`` when the server stops."""
        with self._news:
            while not self._is_stopping:
                file = self.store.queue.take_next()
                if file is not None:
                    return file
                self._news.wait()
        return None

    def cancel(self, file_id: str) -> None:
        """Give up a file, whether it waits or is worked on."""
        self.store.queue.cancel(file_id)
        for lane in self._lanes:
            lane.give_up(file_id)
        self.on_ended(file_id)

    def remove(self, file_id: str) -> None:
        """Give up a file and forget all of it."""
        self.cancel(file_id)
        self.store.remove(file_id)

    def frames_so_far(self, file_id: str) -> FramesSoFar:
        """How far a file is that is worked on."""
        for lane in self._lanes:
            if lane.file_id == file_id:
                return lane.frames
        return FramesSoFar()

    def time_left_s(self, owner: str) -> float | None:
        """About how long the last file of an owner will take, if anything is known of that."""
        _, ahead = self.store.queue.count_ahead(owner)
        if not ahead or not self._durations:
            return None
        return fmean(self._durations) * ahead / min(self.n_lanes, ahead)

    def note_duration(self, seconds: float) -> None:
        """Remember how long a file took."""
        self._durations.append(seconds)

    def score(self, model: Model, source: Source, extraction: Extraction) -> Result:
        """Score the faces of one file; one file of a model at a time."""
        with self._scoring[model.key]:
            return model.predictor.answer(source, extraction)

    def explain(
        self,
        model: Model,
        source: Source,
        extraction: Extraction,
        facts: FileFacts,
        file: StoredFile,
        folder: Path,
        began: datetime,
    ) -> str:
        """The page that says what the score of one file rests on."""
        predictor = model.predictor
        extraction = replace(extraction, views=read_views(folder))
        with self._scoring[model.key]:
            explanation = explain_extraction(predictor, source, extraction)
        origin = describe_provenance(model, [file], anew=began)
        aggregation = predictor.aggregation
        return format_explanation(explanation, aggregation, origin, facts, show_failed=False)


class _Lane:
    """One thread, and the worker process that it drives."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine = engine
        self.file_id: str | None = None
        self.frames = FramesSoFar()
        self.thread = Thread(target=self._run, name=f"deepfake-lane-{number}", daemon=True)
        self._pool: WorkerPool[FileFacts] | None = None
        self._predictor: Predictor | None = None

    def give_up(self, file_id: str | None = None) -> None:
        """Kill what works on a file; without a name, on whatever it is."""
        pool, own = self._pool, self.file_id
        if pool is not None and own is not None and file_id in (None, own):
            pool.cancel(own)

    def _run(self) -> None:
        try:
            # It takes seconds to start; the first file need not wait for that. Where it cannot be
            # started now, that is tried again for each file.
            try:
                self._open_pool(next(iter(self.engine.models.values())).predictor)
            except (DeepfakeError, OSError) as error:
                logger.warning("no worker process could be started: %s", error)
            while not self._is_over():
                pass
        finally:
            self._close_pool()

    def _is_over(self) -> bool:
        """Wait for a file and work on it; whether there will be none any more."""
        file = self._in_time(self.engine.take)
        if file is None:
            return True
        self.file_id, self.frames = file.id, FramesSoFar()
        try:
            self._work(file)
        except sqlite3.Error:
            logger.exception("what became of a file cannot be written; it is put back")
            time.sleep(_PAUSE_S)
            self._in_time(partial(self.engine.store.queue.put_back, file.id))
        finally:
            self.file_id = None
            if self._pool is not None:
                self._pool.forget(file.id)
            # Removed while it was worked on: what was written since goes, too.
            self._in_time(partial(self.engine.store.remove_orphan, file.id))
            self.engine.on_ended(file.id)
        return False

    def _in_time(self, ask: Callable[[], Answer]) -> Answer | None:
        """Ask the queue until it answers, or the server stops: a full disk may be emptied."""
        was_told = False
        while True:
            try:
                return ask()
            except sqlite3.Error as error:
                if not was_told:
                    logger.warning("the queue does not answer (%s); it is asked again", error)
                    was_told = True
                if self.engine.is_stopping:
                    return None
                time.sleep(_PAUSE_S)

    def _work(self, file: StoredFile) -> None:
        store = self.engine.store
        is_score = file.state is State.RUNNING
        try:
            began = time.monotonic()
            if is_score:
                self._score(file)
                self.engine.note_duration(time.monotonic() - began)
            else:
                self._explain(file)
        except _StoppedError:
            store.queue.put_back(file.id)
        except (DeepfakeError, OSError) as error:
            self._fail(file.id, is_score, one_line(str(error)))
        except sqlite3.Error:
            raise
        # Whatever it is: a lane that ends would leave its file, and others, waiting for ever.
        except Exception as error:
            logger.exception("an unforeseen error")
            self._fail(file.id, is_score, f"an unforeseen error: {one_line(repr(error))}")

    def _fail(self, file_id: str, is_score: bool, problem: str) -> None:
        if is_score:
            self.engine.store.queue.fail(file_id, problem)
        else:
            self.engine.store.queue.set_explanation(file_id, State.FAILED, problem)

    def _score(self, file: StoredFile) -> None:
        model = self._model_of(file)
        folder = self.engine.store.folder_of(file.id)
        source = _source_of(file)
        # What was queued by its path may have changed since.
        sha256, size = (file.sha256 if file.is_upload else "") or hash_file(file.path), file.size
        with suppress(OSError):  # it has gone: who reads it says so
            size = file.path.stat().st_size
        extraction, facts = self._read(model, source)
        facts = replace(facts, sha256=sha256, n_bytes=size)
        result = self.engine.score(model, source, extraction)
        settings = _settings_of(model.predictor)
        answer = keep_answer(folder, result, extraction, facts, settings)
        self.engine.store.queue.finish(file.id, answer, sha256, size)

    def _explain(self, file: StoredFile) -> None:
        model = self._model_of(file)
        folder = self.engine.store.folder_of(file.id)
        source, began = _source_of(file), datetime.now(UTC)
        if hash_file(file.path) != file.sha256:
            raise JobError("the file has changed since it was scored: score it again")
        extraction, facts = self._read(model, source)
        if extraction.status is Status.UNREADABLE:
            raise JobError(f"it could not be read again: {extraction.reason}")
        facts = replace(facts, sha256=file.sha256, n_bytes=file.size)
        page = self.engine.explain(model, source, extraction, facts, file, folder, began)
        write_atomic(explanation_path(folder), page)
        self.engine.store.queue.set_explanation(file.id, State.DONE)

    def _read(self, model: Model, source: Source) -> tuple[Extraction, FileFacts]:
        """Have the worker process cut the faces out and inspect the file, within its limits.

        Raises:
            _StoppedError: If the server stops meanwhile.
        """
        pool = self._open_pool(model.predictor)
        if self.engine.is_stopping or not self._is_wanted(source.id):
            pool.cancel(source.id)
        told: list[Extraction] = []

        def listen(source: Source, progress: FramesSoFar | Extraction) -> None:
            if isinstance(progress, Extraction):
                told.append(progress)
            else:
                self.frames = progress

        try:
            ((_, facts),) = pool.run(iter([source]), listen)
        except BaseException:
            self._close_pool()  # it was left in the middle of something
            raise
        if self.engine.is_stopping:
            raise _StoppedError
        if not isinstance(facts, Failure):
            return told[-1], facts
        failed = Extraction(Status.UNREADABLE, facts.reason)
        return told[-1] if told else failed, FileFacts(problem=facts.reason)

    def _open_pool(self, predictor: Predictor) -> WorkerPool[FileFacts]:
        """The worker process that cuts by the recipe of a model, started."""
        if self._pool is None or self._predictor is not predictor:
            self._close_pool()
            make = partial(
                make_reader,
                predictor.crop,
                predictor.workers.max_pixels,
                predictor.sampling,
                predictor.workers.detect_device,
                self.engine.store.files_root,
            )
            pool = WorkerPool(make, replace(predictor.workers, processes=1))
            try:
                pool.start()
            except BaseException:
                pool.close()
                raise
            self._predictor, self._pool = predictor, pool
        return self._pool

    def _is_wanted(self, file_id: str) -> bool:
        file = self.engine.store.queue.get(file_id)
        return file is not None and State.RUNNING in (file.state, file.explanation)

    def _model_of(self, file: StoredFile) -> Model:
        model = self.engine.models.get(file.model)
        if model is None:
            raise UsageError(
                f"it was queued for model {file.model}, which this server does not offer; "
                "remove the file and upload it again"
            )
        return model

    def _close_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


class _StoppedError(Exception):
    """The server stops, and what is in hand shall be begun anew by the next one."""


def _source_of(file: StoredFile) -> Source:
    # It was resolved when it was allowed: a link that leads elsewhere has come since.
    if not file.is_upload and file.path.resolve() != file.path:
        raise UsageError(f"{file.name}: a link has come into its path; name it anew")
    return Source(id=file.id, path=file.path, name=file.name)
