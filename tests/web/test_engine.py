"""Lanes: what a file does to its worker is written to its row, and the next file has its turn."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deepfake.inference.predictor import Predictor
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.records import Workers
from deepfake.web.engine import Engine, describe_provenance
from deepfake.web.queue import State, StoredFile
from deepfake.web.server import name_models
from deepfake.web.store import Store
from tests.web.made_server import InlinePool, wait_until

pytestmark = pytest.mark.usefixtures("inline")


@contextmanager
def working(
    root: Path, checkpoint: Path, timeout_s: float = 60.0, **options: Any
) -> Iterator[Engine]:
    root.mkdir(exist_ok=True)
    workers = Workers(1, timeout_s)
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", workers=workers, **options)
    store = Store(root)
    engine = Engine(store, name_models([predictor], lambda predictor: ""))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        store.close()


def upload(engine: Engine, data: bytes, name: str = "a.png") -> str:
    incoming = engine.store.incoming / name
    incoming.write_bytes(data)
    (model,) = engine.models
    file_id = engine.store.add_upload(incoming, "me", name, "", model)
    engine.wake()
    return file_id


def ended(engine: Engine, file_id: str) -> StoredFile:
    def look() -> StoredFile | None:
        file = engine.store.queue.get(file_id)
        assert file is not None
        return file if file.state in (State.DONE, State.FAILED, State.CANCELLED) else None

    found: StoredFile = wait_until(look)
    return found


def test_errors_are_of_one_file_alone(
    tmp_path: Path, checkpoint: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = iter([RuntimeError("unforeseen\n" * 99), OSError("disk is gone"), None])

    def keep_answer(folder: Path, *answer: object) -> dict[str, object]:
        trouble = next(troubles)
        if trouble is not None:
            raise trouble
        return {"fine": True}

    monkeypatch.setattr("deepfake.web.engine.keep_answer", keep_answer)
    with working(tmp_path / "private", checkpoint) as engine:
        heard: list[str] = []
        engine.on_ended = heard.append
        ids = [upload(engine, photo) for _ in range(3)]
        files = [ended(engine, file_id) for file_id in ids]
        wait_until(lambda: heard == ids)
    assert [file.state for file in files] == [State.FAILED, State.FAILED, State.DONE]
    assert files[0].error.startswith("an unforeseen error: RuntimeError('unforeseen")
    assert len(files[0].error) < 300
    assert files[1].error == "disk is gone"


def test_a_running_file_is_cancelled_and_a_stopped_server_goes_on_with_it(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    with working(tmp_path / "private", checkpoint) as engine:
        (lane,) = engine._lanes
        holding = threading.Event()
        real = engine.score

        def score(*arguments: object) -> object:
            holding.wait(60)
            return real(*arguments)  # type: ignore[arg-type]

        engine.score = score  # type: ignore[assignment,method-assign]
        first, second, third = (upload(engine, photo) for _ in range(3))
        wait_until(lambda: lane.file_id == first)
        engine.cancel(first)
        engine.cancel(third)
        assert ended(engine, first).state is State.CANCELLED
        holding.set()
        assert ended(engine, second).state is State.DONE
        assert ended(engine, third).state is State.CANCELLED
        assert engine.time_left_s("me") is None  # nothing waits


def test_what_a_stopped_server_had_in_hand_is_scored_by_the_next(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    with working(tmp_path / "private", checkpoint) as engine:
        ids = [upload(engine, photo) for _ in range(3)]
        (lane,) = engine._lanes
        wait_until(lambda: lane.file_id is not None)
    store = Store(tmp_path / "private")
    states = [file.state for file in store.queue.list_files("me")]
    store.close()
    assert State.RUNNING not in states
    with working(tmp_path / "private", checkpoint) as engine:
        files = [ended(engine, file_id) for file_id in ids]
    assert [file.state for file in files] == [State.DONE] * 3
    assert [file.attempts for file in files] == [1] * 3


def test_kept_answers_are_described_as_they_were_scored(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    with working(tmp_path / "kept", checkpoint) as engine:
        first = upload(engine, photo)
        ended(engine, first)
    with working(tmp_path / "kept", checkpoint, aggregation="max") as engine:
        (model,) = engine.models.values()
        files = [ended(engine, first), ended(engine, upload(engine, photo))]
        settings = [
            describe_provenance(model, part)["run"]["settings"]["aggregation"]
            for part in (files[:1], files[1:], files)
        ]
        anew = describe_provenance(model, files[:1], anew=datetime.now(UTC))["run"]["settings"][
            "aggregation"
        ]
    assert settings[0].startswith("policy mean,")
    assert settings[1].startswith("policy max,")
    assert anew.startswith("policy max,"), "an explanation scores once more, as the server does now"
    assert "policy mean," in settings[2]
    assert "policy max," in settings[2]


def test_a_queue_that_cannot_be_written_for_a_while_ends_no_lane(
    tmp_path: Path, checkpoint: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.web.engine._PAUSE_S", 0.05)
    with working(tmp_path / "private", checkpoint) as engine:
        queue, left = engine.store.queue, {"finish": 1, "put_back": 2}

        def break_first(name: str) -> None:
            real = getattr(queue, name)

            def act(*arguments: object) -> object:
                left[name] -= 1
                if left[name] >= 0:
                    raise sqlite3.OperationalError("database or disk is full")
                return real(*arguments)

            monkeypatch.setattr(queue, name, act)

        for name in left:
            break_first(name)
        assert ended(engine, upload(engine, photo)).state is State.DONE
        assert max(left.values()) < 0


def test_a_file_that_has_changed_is_not_explained(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    with working(tmp_path / "private", checkpoint) as engine:
        file = ended(engine, upload(engine, photo))
        file.path.write_bytes(photo + b"other")
        engine.store.queue.set_explanation(file.id, State.QUEUED)
        engine.wake()

        def look() -> StoredFile | None:
            found = engine.store.queue.get(file.id)
            return found if found and found.explanation is State.FAILED else None

        told: StoredFile = wait_until(look)
    assert told.explanation_error == "the file has changed since it was scored: score it again"


def test_a_file_for_a_model_that_is_gone_says_so(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    with working(tmp_path / "private", checkpoint) as engine:
        incoming = engine.store.incoming / "a"
        incoming.write_bytes(photo)
        file_id = engine.store.add_upload(incoming, "me", "a.png", "", "0123456789ab")
        engine.wake()
        file = ended(engine, file_id)
    assert file.state is State.FAILED
    assert "queued for model 0123456789ab, which this server does not offer" in file.error


def test_a_lane_whose_process_could_not_be_started_at_first_goes_on(
    tmp_path: Path, checkpoint: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([OSError(11, "no more processes")] * 2)

    class Late(InlinePool):
        def start(self) -> None:
            if (problem := next(refusals, None)) is not None:
                raise problem

    monkeypatch.setattr("deepfake.web.engine.WorkerPool", Late)
    with working(tmp_path / "private", checkpoint) as engine:
        first = ended(engine, upload(engine, photo))
        second = ended(engine, upload(engine, photo))
    assert (first.state, second.state) == (State.FAILED, State.DONE)
    assert "no more processes" in first.error


def test_what_was_queued_by_its_path_is_what_was_scored(
    tmp_path: Path, checkpoint: Path, photo: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(photo)
    (tmp_path / "private").mkdir()
    store = Store(tmp_path / "private")
    file_id = store.add_path(
        tmp_path / "a.png", "me", "a.png", load_checkpoint(checkpoint).sha256[:12]
    )
    store.close()
    (tmp_path / "a.png").write_bytes(photo + b"more")
    with working(tmp_path / "private", checkpoint) as engine:
        file = ended(engine, file_id)
    assert file.answer is not None
    assert file.size == file.answer["facts"]["n_bytes"] == len(photo) + 4
    assert file.sha256 == hashlib.sha256(photo + b"more").hexdigest()


def test_what_was_queued_by_its_path_and_has_gone_is_unreadable(
    tmp_path: Path, checkpoint: Path
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "a.png").touch()
    store = Store(tmp_path / "private")
    key = load_checkpoint(checkpoint).sha256[:12]
    file_id = store.add_path(tmp_path / "a.png", "me", "a.png", key)
    store.close()
    (tmp_path / "a.png").unlink()
    with working(tmp_path / "private", checkpoint) as engine:
        file = ended(engine, file_id)
    assert file.answer is not None
    assert (file.answer["status"], file.sha256) == ("unreadable", "")
